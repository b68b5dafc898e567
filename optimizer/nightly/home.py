"""Where everything of a job is: `STORE/nightly/NAME/`.

current.toml         the configuration in use: what the agent loads
history.jsonl        how it came to be that one
configurations/      every one there was, by its id
nights/2026-11-22/   a night: its report, `tuned.toml`, and its steps
measures.csv         of all nights; otava.yaml and otava/ are the same for Apache Otava
LOCK                 held while a night runs
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from redecode.optimizer.nightly.errors import BadNight, Busy
from redecode.optimizer.study.alone import held, holder

FOLDER = "nightly"
DONE = "done"
_NIGHT = re.compile(r"(\d{4}-\d{2}-\d{2})(?:-(\d+))?")
_TMP = "redecode-tmp"
_TEMPORARY = re.compile(rf"\..+\.\d+\.{_TMP}")
_JSON = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS


def write_whole(path: Path, text: str | bytes) -> None:
    """Write a file so that nobody ever sees a part of it, and that it is on the disk afterwards.

    Of a link it is the file that it names, which is what others read. Who may read it stays as it was.
    """
    data = text.encode() if isinstance(text, str) else text
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{_TMP}")
    was = path.stat() if path.exists() else None
    temporary.unlink(missing_ok=True)  # of a kill: its mode may be one that cannot be written
    mode = 0o666 if was is None else 0o600  # without what the process masks
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        if was is not None:
            _as_it_was(file.fileno(), was)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _as_it_was(file: int, was: os.stat_result) -> None:
    """Give a file that nobody could open yet another's owner, group and mode, as far as that is allowed."""
    for owner, group in ((-1, was.st_gid), (was.st_uid, -1)):
        with suppress(OSError):
            os.fchown(file, owner, group)
    mode = stat.S_IMODE(was.st_mode)
    if os.fstat(file).st_gid != was.st_gid:  # what one group may is not for another
        mode &= ~stat.S_IRWXG
    with suppress(OSError):
        os.fchmod(file, mode)


def write_json(path: Path, document: Any) -> None:
    """As `write_whole`."""
    write_whole(path, orjson.dumps(document, default=str, option=_JSON) + b"\n")


@dataclass(frozen=True, slots=True)
class NightFolder:
    """One night's files."""

    path: Path

    @property
    def id(self) -> str:
        """Its date (UTC), and a number from the second of a day on."""
        return self.path.name

    @property
    def finished(self) -> bool:
        """Whether all of it was done."""
        return (self.path / "steps" / f"{DONE}.json").exists()

    def step(self, name: str) -> Any:
        """What a step came to; `None` if it has not been done.

        Raises:
            BadNight: the file is damaged.
        """
        path = self.path / "steps" / f"{name}.json"
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BadNight(f"{path} is damaged ({error}); remove it, and the step is done again") from error

    def forget(self, *names: str) -> None:
        """Steps that are to be done anew."""
        for name in names:
            (self.path / "steps" / f"{name}.json").unlink(missing_ok=True)

    def keep(self, name: str, result: Any) -> Any:
        """Keep what a step came to; returns it as it is read back."""
        (self.path / "steps").mkdir(parents=True, exist_ok=True)
        write_json(self.path / "steps" / f"{name}.json", result)
        return self.step(name)


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of a job.

    Args:
        root: STORE/nightly/NAME.
    """

    root: Path

    @property
    def current(self) -> Path:
        """The configuration in use."""
        return self.root / "current.toml"

    @property
    def stop_file(self) -> Path:
        """The kill switch, if the configuration names no other."""
        return self.root / "stop"

    def nights(self) -> list[NightFolder]:
        """Oldest first."""
        folder = self.root / "nights"
        found = [p for p in folder.iterdir() if _NIGHT.fullmatch(p.name)] if folder.is_dir() else []
        return [NightFolder(p) for p in sorted(found, key=lambda p: _order(p.name))]

    def unfinished(self) -> NightFolder | None:
        """A night that was begun and is not done; not only the newest, whose date may be of a clock that was ahead."""
        nights = [n for n in self.nights() if not n.finished and n.step("begin") is not None]
        return nights[-1] if nights else None

    def new_night(self, now_ns: int) -> NightFolder:
        """The folder of a night that begins now."""
        day = datetime.fromtimestamp(now_ns / 1e9, UTC).date().isoformat()
        taken = [n for n in self.nights() if n.id.startswith(day) and n.step("begin") is not None]
        last = max((_order(n.id)[1] for n in taken), default=0)
        return NightFolder(self.root / "nights" / (day if not taken else f"{day}-{last + 1}"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The right to run a night; it ends with the process, however that ends.

        Raises:
            Busy: another process has it; names it.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.root / "LOCK").open("a+", encoding="utf-8") as file:
            if not held(file):
                raise Busy(
                    f"a night of this job runs already ({holder(self.root / 'LOCK')}); wait for it, or stop it with "
                    f"`touch {self.stop_file}`"
                )
            yield

    @contextmanager
    def moving(self) -> Iterator[None]:
        """The right to change which configuration is in use: held for moments, also while a night runs."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.root / "MOVE").open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def sweep(self) -> None:
        """Remove what kills have left half written.

        Wants `locked` and `moving` held: then nobody writes here. The number in a name does not tell whose it was: in
        containers it is the same every night.
        """
        for path in self.root.rglob(".*"):
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def _order(name: str) -> tuple[str, int]:
    found = _NIGHT.fullmatch(name)
    assert found is not None
    return found[1], int(found[2] or 1)
