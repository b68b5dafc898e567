"""Everything the tracer raises on purpose.

RedecodeError            bad input or a broken store; the message names the thing and the way out
├── StoreError           the store directory cannot be used
│   ├── StoreUnwritable  no permission, not a directory, full disk
│   └── StoreVersion     written by a newer or unknown version
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


class UnknownRun(RedecodeError):
    """No recorded run has this id or prefix."""


class AmbiguousRun(RedecodeError):
    """Several recorded runs start with this prefix."""


class CorruptJournal(RedecodeError):
    """A spool journal holds a record whose checksum is wrong before its end."""
