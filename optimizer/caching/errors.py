"""What can be wrong with a cache, or with the data that should speak for one."""

from __future__ import annotations

from redecode.tracer import RedecodeError


class CachingError(RedecodeError):
    """A cache cannot be used, or a question about one has no answer; says what would help."""


class CacheUnusable(CachingError):
    """The file of a cache cannot be opened, or is something else."""


class NeverCached(CachingError):
    """A step that has, or may have, effects: an answer from a cache would leave them out."""


class NoKey(CachingError):
    """A question cannot be told from another by its text or by what it holds, so a cache has no key for it."""


class VectorsUnusable(CachingError):
    """The encoder of texts is not installed, or its weights are not there."""
