"""Folders of files, on this machine or wherever fsspec reaches (S3, GCS, Azure, HDFS, SFTP, …).

A file appears whole or not at all: it is written under another name and moved, and an object store shows an upload
when it is complete. Locally only its owner can read it: what is in it is content.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from redecode.tracer.errors import RedecodeError, StoreError, StoreUnwritable
from redecode.tracer.spool import DATASET_MARKER, make_private, sync_path
from redecode.tracer.store.modes import private_files

if TYPE_CHECKING:
    import duckdb

MARKER = DATASET_MARKER
"""The file that says that a folder is a published dataset."""
STAGED = "publishing"
"""The folder of a store where files wait for their upload."""
_VERSION = {
    "created", "etag", "generation", "ino", "last_modified", "lastmodified", "md5hash", "modificationtime", "mtime",
    "modified", "size", "updated", "version_id", "versionid",
}  # fmt: skip
_PUT_IS_ATOMIC = {"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "r2", "s3", "s3a"}


def local_path(location: str | Path) -> Path | None:
    """The path of a place on this machine, absolute; `None` for a URL of elsewhere."""
    text = os.fspath(location)
    if text.startswith(("file://", "local://")):
        return Path(unquote(urlsplit(text).path)).absolute()
    return None if "://" in text else Path(text).absolute()


def is_dataset(path: Path) -> bool:
    """Whether a folder of this machine holds a published dataset."""
    return (path / MARKER).exists()


def place(location: str | Path) -> LocalPlace | RemotePlace:
    """The folder at a path or URL; nothing is made or asked yet.

    Raises:
        StoreError: the URL's protocol is unknown, or needs a package that is not installed.
    """
    path = local_path(location)
    return LocalPlace(path) if path is not None else RemotePlace.at(str(location))


class LocalPlace:
    """A folder of this machine; what fails raises `OSError`."""

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, str(path)
        if set(self.url) & set("*?["):
            raise StoreError(f"{path} cannot hold a dataset: readers take * ? and [ for patterns; choose another name")

    def make(self) -> None:
        """Make the folder, unless it is there."""
        make_private(self.path)

    def is_empty(self) -> bool:
        """Whether there is nothing in it but what is on its way, or no such folder."""
        return not self.path.exists() or all(p.name.startswith(".") for p in self.path.iterdir())

    def names(self, folder: str) -> list[str]:
        """The files anywhere below a folder, as paths below this place, in order; none if it is not there."""
        return sorted(self.stamps(folder))

    def stamps(self, folder: str) -> dict[str, str]:
        """The files below a folder, each with what changes when it is replaced."""
        found = (p.relative_to(self.path).as_posix() for p in (self.path / folder).rglob("*") if p.name[0] != ".")
        stamps = ((name, self.stamp(name)) for name in found)
        return {name: stamp for name, stamp in stamps if stamp is not None}

    def stamp(self, name: str) -> str | None:
        """What changes when a file is replaced; `None` if it is not there."""
        try:
            status = (self.path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}" if S_ISREG(status.st_mode) else None

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.stamp(name) is not None

    def size(self, folder: str) -> int:
        """Bytes of all files below a folder."""
        return sum((self.path / name).stat().st_size for name in self.names(folder))

    def read(self, name: str) -> bytes | None:
        """A small file; `None` if it is not there."""
        with suppress(FileNotFoundError):
            return (self.path / name).read_bytes()
        return None

    def read_all(self, names: list[str]) -> list[bytes]:
        """Several small files."""
        return [(self.path / name).read_bytes() for name in names]

    @contextmanager
    def staging(self, name: str, _store: Path) -> Iterator[Path]:
        """A private folder on the same disk for files on their way in; what a killed one left there goes."""
        folder = self.path / "_staging" / name
        shutil.rmtree(folder, ignore_errors=True)
        make_private(folder.parent)
        make_private(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def fetch(self, name: str, _into: Path) -> Path | None:
        """The path of a local copy of a file (here the file itself); `None` if it is not there."""
        return self.path / name if self.has(name) else None

    def put(self, source: Path, name: str) -> None:
        """Move a staged file in, in place of what has that name."""
        target = self._ready(name)
        source.chmod(0o600)
        sync_path(source)
        source.replace(target)
        sync_path(target.parent)

    def write(self, name: str, data: bytes) -> None:
        """Put a small file."""
        coming = self._ready(_coming(name))
        with private_files():
            coming.write_bytes(data)
        self.put(coming, name)

    def _ready(self, name: str) -> Path:
        """The path of a file to be, its folders made."""
        path = self.path / name
        for folder in reversed(path.relative_to(self.path).parents):
            make_private(self.path / folder)
        return path

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def uri(self, name: str) -> str:
        """What DuckDB opens."""
        return str(self.path / name)

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read from here."""

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Errors say what could not be used."""
        try:
            yield
        except OSError as error:
            raise StoreUnwritable(f"cannot use {self.url}: {error.strerror or error}; choose another place") from error


class RemotePlace:
    """A folder that fsspec reaches."""

    def __init__(self, files: Any, root: str, url: str) -> None:
        self._files, self._root, self.url = files, root.rstrip("/"), url
        protocols = files.protocol if isinstance(files.protocol, list | tuple) else (files.protocol,)
        self._protocol = protocols[0]
        self._objects = bool(_PUT_IS_ATOMIC & set(protocols))

    @classmethod
    def at(cls, url: str) -> RemotePlace:
        """The folder at a URL."""
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:  # fsspec's words name the package
            raise StoreError(f"{url}: {error}") from error
        except ValueError as error:
            raise StoreError(f"{url}: {error}; it must be a folder, or a URL that fsspec knows") from error
        # fsspec gives the folder of `dir::…` twice: as the file system's own, and as a path below that.
        return cls(files, "" if files.protocol == "dir" else root, url)

    def _path(self, name: str) -> str:
        return "/".join(filter(None, (self._root, name)))

    def _name(self, path: str) -> str:
        return path.removeprefix("/").removeprefix(self._root.removeprefix("/")).removeprefix("/")

    def make(self) -> None:
        """Make the folder, unless it is there or needs no making."""
        if not self._objects:
            self._files.makedirs(self._root, exist_ok=True)

    def is_empty(self) -> bool:
        """As `LocalPlace.is_empty`."""
        self._files.invalidate_cache()
        try:
            return all(self._name(p)[:1] in {"", "."} for p in self._files.ls(self._root, detail=False))
        except FileNotFoundError:
            return True

    def names(self, folder: str) -> list[str]:
        """As `LocalPlace.names`."""
        return sorted(self.stamps(folder))

    def stamps(self, folder: str) -> dict[str, str]:
        """As `LocalPlace.stamps`, as far as the file system tells when a file was written, or its version."""
        self._files.invalidate_cache()
        found = {self._name(path): info for path, info in self._files.find(self._path(folder), detail=True).items()}
        return {name: _stamp(info) for name, info in found.items() if not name.rpartition("/")[2].startswith(".")}

    def stamp(self, name: str) -> str | None:
        """As `LocalPlace.stamp`."""
        self._files.invalidate_cache()
        try:
            info = self._files.info(self._path(name))
        except FileNotFoundError:
            return None
        return _stamp(info) if info["type"] == "file" else None

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._files.isfile(self._path(name)))

    def size(self, folder: str) -> int:
        """Bytes of all files below a folder."""
        return int(self._files.du(self._path(folder))) if self._files.exists(self._path(folder)) else 0

    def read(self, name: str) -> bytes | None:
        """A small file; `None` if it is not there."""
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def read_all(self, names: list[str]) -> list[bytes]:
        """Several small files, at once where the file system can."""
        found = self._files.cat([self._path(name) for name in names]) if names else {}
        by_name = {self._name(path): data for path, data in found.items()}
        return [bytes(by_name[name]) for name in names]

    @contextmanager
    def staging(self, _name: str, store: Path) -> Iterator[Path]:
        """A private folder in the store for files on their way; what a killed one left there goes."""
        folder = store / STAGED
        shutil.rmtree(folder, ignore_errors=True)
        make_private(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def fetch(self, name: str, into: Path) -> Path | None:
        """Copy a file here; `None` if it is not there."""
        self._files.invalidate_cache()
        if not self.has(name):
            return None
        self._files.get_file(self._path(name), str(into))
        return into

    def put(self, source: Path, name: str) -> None:
        """Upload a staged file, in place of what has that name."""
        self._whole(name, lambda path: self._files.put_file(str(source), path))
        source.unlink()

    def write(self, name: str, data: bytes) -> None:
        """Put a small file."""
        self._whole(name, lambda path: self._files.pipe_file(path, data))

    def _whole(self, name: str, upload: Callable[[str], object]) -> None:
        path = self._path(name)
        if self._objects:
            upload(path)
            return
        coming = self._path(_coming(name))
        self._files.makedirs(coming.rpartition("/")[0], exist_ok=True)
        upload(coming)
        try:
            self._files.mv(coming, path)
        except FileExistsError:  # a file system that does not replace: there is a moment without the file
            self._files.rm_file(path)
            self._files.mv(coming, path)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def uri(self, name: str) -> str:
        """What DuckDB opens."""
        path = self._path(name)
        return path if "://" in path else f"{self._protocol}://{path}"

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read from here."""
        try:
            self._files.modified("")
        except NotImplementedError:  # DuckDB asks, to know whether what it has of a file is still in it
            self._files.modified = lambda _path: datetime.fromtimestamp(0, UTC)
            connection.execute("SET enable_external_file_cache = false")
        except Exception:  # it knows, though not of this
            pass
        connection.register_filesystem(self._files)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Errors say what could not be used: each file system raises its own."""
        try:
            yield
        except RedecodeError:
            raise
        except Exception as error:
            raise StoreUnwritable(f"cannot use {self.url}: {type(error).__name__}: {error}") from error


def _stamp(info: dict[str, Any]) -> str:
    """What a file system tells of a file's version; not all it tells, since some count readings, too."""
    return str({key: value for key, value in info.items() if key.lower() in _VERSION})


def _coming(name: str) -> str:
    """Where a file is until it is whole. Of a killed process it is there until the next one overwrites it: only one
    at a time writes a store's files, but several may make the dataset.
    """
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}.{last}.{os.getpid() if name == MARKER else 'coming'}"
