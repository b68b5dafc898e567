"""Everything the tracer raises on purpose.

RedecodeError            bad input or a broken store; the message names the thing and the way out
├── StoreError           the store directory cannot be used
│   ├── StoreUnwritable  no permission, not a directory, full disk
│   └── StoreVersion     written by a newer or unknown version
├── ExportError          a run cannot leave in the form, or to the place, that was asked for
│   ├── ExportRejected   the backend refuses it; trying again would not help
│   └── BackendUnreachable  no answer, or "busy", for as long as was allowed
├── CollectorError       `redecode collect` cannot listen as it was asked to
├── ImportRefused        a file holds no traces that can be read
├── UnknownRun           no run has that id or prefix
└── AmbiguousRun         several runs start with that prefix

`CorruptJournal` is not raised at the reader: it is recorded in the store and shown by `redecode doctor`,
since one bad record must not hide the good ones.
"""

from __future__ import annotations


class RedecodeError(Exception):
    """Base of every error a user can act on; the command line prints it and exits 2."""


class StoreError(RedecodeError):
    """The store directory cannot be used."""


class StoreUnwritable(StoreError):
    """The store path exists but cannot be written, or cannot be created."""


class StoreVersion(StoreError):
    """The store was written by another version of its format."""


class ExportError(RedecodeError):
    """A run cannot leave in the form, or to the place, that was asked for."""


class ExportRejected(ExportError):
    """The backend will not have it: trying again would not help.

    Attributes:
        spans: how many it rejected; `None` says all that were sent.
    """

    def __init__(self, message: str, *, spans: int | None = None) -> None:
        super().__init__(message)
        self.spans = spans


class BackendUnreachable(ExportError):
    """The backend could not be reached, or stayed busy, for as long as was allowed.

    Attributes:
        retry_after_s: when it asks to be tried again, if it does.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CollectorError(RedecodeError):
    """`redecode collect` cannot listen as it was asked to."""


class ImportRefused(RedecodeError):
    """A file holds no traces that can be read."""


class UnknownRun(RedecodeError):
    """No recorded run has this id or prefix."""


class AmbiguousRun(RedecodeError):
    """Several recorded runs start with this prefix."""


class CorruptJournal(RedecodeError):
    """A spool journal holds a record whose checksum is wrong before its end."""
