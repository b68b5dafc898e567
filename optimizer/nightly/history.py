"""Which configuration is in use, since when and why. Only ever added to.

The history is the truth and `current.toml` a copy of what its last line says. A kill between the two is mended at the
next start (`pending` says that there was one); a file that somebody has edited is seen, and kept word for word as a
configuration, also after a kill. It is written over only when another one is to be used, and is kept before.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from redecode.optimizer.configuration import context_of, read_context, tables_of, toml
from redecode.optimizer.errors import BadSpec
from redecode.optimizer.nightly.carrying import carried
from redecode.optimizer.nightly.errors import BadNight
from redecode.optimizer.nightly.home import Home, write_whole


class Change(StrEnum):
    """How a configuration came into use."""

    BEGUN = "begun"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    EDITED = "edited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of the history.

    Attributes:
        config: the configuration in use from then on; `before` the one until then.
        night: that did it.
    """

    at_ns: int
    change: Change
    config: str
    before: str | None = None
    night: str | None = None
    why: str = ""

    @property
    def at(self) -> str:
        """ISO 8601, UTC."""
        return datetime.fromtimestamp(self.at_ns / 1e9, UTC).isoformat(timespec="seconds")

    def to_json(self) -> dict[str, Any]:
        """Its inverse is `from_json`."""
        return {"at": self.at, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Event:
        """Its inverse is `to_json`."""
        rest = {k: v for k, v in data.items() if k != "at"}
        return cls(**{**rest, "change": Change(rest["change"])})


def config_id(context: Mapping[str, Any]) -> str:
    """Of a configuration, by what its file says: equal for equal ones."""
    found = tables_of(context)
    said = found if "placement" in found else found["context"]
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


class Loaded(NamedTuple):
    """What an agent loads now; no `config`: there is no such file. `note`: how it is not as the history says."""

    config: str | None
    context: Mapping[str, Any]
    note: str | None


class History:
    """Of one job. What changes it wants `home.moving()` held.

    Args:
        tell: told in words what else than a configuration was in a file that has been replaced.
    """

    def __init__(self, home: Home, tell: Callable[[str], None] = lambda _: None) -> None:
        self.home, self.tell = home, tell
        self._path = home.root / "history.jsonl"
        self._pending = home.root / "pending"

    def events(self) -> list[Event]:
        """Oldest first; a last line that a kill has torn is none.

        Raises:
            BadNight: another line is damaged.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        out = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                out.append(Event.from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise BadNight(f"{self._path}, line {number} is damaged: {error}") from error
        return out

    @property
    def config(self) -> str | None:
        """The configuration in use; `None` before there is one."""
        events = self.events()
        return events[-1].config if events else None

    def context(self, config: str) -> dict[str, Any]:
        """What a configuration says.

        Raises:
            BadSpec: its file is gone or damaged.
        """
        return read_context(self._file(config))

    def _file(self, config: str) -> Path:
        return self.home.root / "configurations" / f"{config}.toml"

    def put(self, event: Event, context: Mapping[str, Any], found: bytes | None = None) -> None:
        """Have a configuration be in use from now on.

        Args:
            found: `current.toml`, if that is where it comes from: kept as it is, and left alone.
        """
        if found is None:
            self._can_be_written()
            self.write_down(context, _words(event))
        else:
            self._keep(event.config, found)
        write_whole(self._pending, json.dumps(event.to_json()))
        self._append(event)
        if found is None:
            self._copy(event)
        self._pending.unlink()

    def write_down(self, context: Mapping[str, Any], comment: str) -> str:
        """Keep a configuration; returns its id. One that is there stays as it is."""
        name = config_id(context)
        if not self._file(name).exists():
            self._keep(name, toml(context, [f"configuration {name}", " ".join(comment.split())]).encode())
        return name

    def _keep(self, config: str, data: bytes) -> None:
        """Keep a file of a configuration; an earlier one that says something else besides becomes ID.1.toml."""
        path = self._file(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.read_bytes() if path.exists() else b""
        if kept == data:
            return
        if not set(kept.splitlines()) <= set(data.splitlines()):
            number = 1
            while (aside := path.with_name(f"{config}.{number}.toml")).exists():
                number += 1
            write_whole(aside, kept)
        write_whole(path, data)

    def _append(self, event: Event) -> None:
        with self._path.open("a+b") as file:
            file.seek(0)
            whole = file.read()
            if whole and not whole.endswith(b"\n"):  # torn by a kill: never was
                file.truncate(whole.rfind(b"\n") + 1)
            file.write(json.dumps(event.to_json()).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _copy(self, event: Event) -> None:
        """Replace `current.toml`; what is there is kept, and what it says besides a configuration goes along.

        A rollback brings back the file as it was then; else only the configuration is another one.
        """
        current, file = self.home.current, self._file(event.config)
        kept = file.read_bytes()
        try:
            was = current.read_bytes()
            before = config_id(context_of(was, current))
        except (OSError, BadSpec):
            self._write(kept)
            return
        self._keep(before, was)
        bare = toml(context_of(kept, file), [f"configuration {event.config}", _words(event)]).encode()
        made = carried(was, kept if event.change is Change.ROLLED_BACK else bare)
        self._write(made.data)
        if made.along:
            self.tell(f"{current.name} has {', '.join(made.along)} of configuration {before} still")
        if made.back:
            self.tell(
                f"{current.name} has {', '.join(made.back)} again, as when configuration {event.config} was in use"
            )
        if made.left:
            self.tell(f"{current.name} lost {', '.join(made.left)} of configuration {before}: see {self._file(before)}")

    def _can_be_written(self) -> None:
        try:
            folder = self.home.current.resolve().parent
        except (OSError, RuntimeError) as error:  # a link to itself
            raise BadNight(f"{self.home.current} cannot be followed: {error}") from error
        if not folder.is_dir():
            raise BadNight(
                f"{self.home.current} names a file in {folder}, which is not there; mend the link, or remove it"
            )

    def _write(self, data: bytes) -> None:
        self._can_be_written()
        try:
            write_whole(self.home.current, data)
        except OSError as error:
            raise BadNight(f"{self.home.current.resolve()} cannot be written: {error.strerror}") from error

    def settle(self, now_ns: int, check: Callable[[Mapping[str, Any]], None] = lambda _: None) -> str | None:
        """Make `current.toml` and history say the same; returns what was done, in words, if anything was.

        After a kill a file that is not as `put` left it or found it was edited since, and is taken over as ever. One
        that is there before there is a history is what is in use, and begins it.

        Args:
            check: raises if a file that is to be taken over cannot be.

        Raises:
            BadNight: `current.toml` is no configuration.
        """
        events = self.events()
        torn = self._pending.exists()
        if not events and not self.home.current.exists():
            self._pending.unlink(missing_ok=True)
            return None
        if not events:
            return self._found(now_ns, check)
        last = events[-1]
        if not self.home.current.exists():
            self._copy(last)
            self._pending.unlink(missing_ok=True)
            return f"{self.home.current.name} was gone; it is configuration {last.config} again"
        found, data = self._read()
        name = config_id(found)
        if name == last.config:
            self._pending.unlink(missing_ok=True)
            return None
        if torn and name == last.before and self._not_copied(last):
            self._copy(last)
            self._pending.unlink()
            return f"{self.home.current.name} is configuration {last.config}, as was decided before a kill"
        check(found)
        why = f"{self.home.current.name} was changed by hand"
        self.put(Event(at_ns=now_ns, change=Change.EDITED, config=name, before=last.config, why=why), found, data)
        return f"{why}: it is configuration {name}, and the incumbent from now on"

    def _found(self, now_ns: int, check: Callable[[Mapping[str, Any]], None]) -> str:
        """Begin with the file that is there."""
        found, data = self._read()
        check(found)
        name = config_id(found)
        why = f"{self.home.current.name} was there before the first night"
        self.put(Event(at_ns=now_ns, change=Change.BEGUN, config=name, why=why), found, data)
        return f"{why}: it is configuration {name}, and the incumbent from now on"

    def _read(self) -> tuple[dict[str, Any], bytes]:
        """The file that the agent loads.

        Raises:
            BadNight: it is no configuration.
        """
        path = self.home.current
        try:
            data = path.read_bytes()
            if data.startswith(codecs.BOM_UTF8):
                raise BadSpec(f"{path} begins with a byte order mark, with which no tomllib loads it")
            return context_of(data, path), data
        except OSError as error:
            raise BadNight(f"{path} cannot be read: {error.strerror}") from error
        except BadSpec as error:
            raise BadNight(f"{error}; mend it, or remove it: it is written anew") from error

    def loaded(self) -> Loaded:
        """What `current.toml` says now. Nothing is changed: what the next start would take over is only told."""
        name, events = self.home.current.name, self.events()
        last = events[-1] if events else None
        if not self.home.current.exists():
            return Loaded(None, {}, None if last is None else f"{name} is gone; the next start writes {last.config}")
        try:
            context, _ = self._read()
        except BadNight as error:
            return Loaded(None, {}, f"{name} is broken: {error}")
        found, note = config_id(context), None
        if last is None:
            note = f"{name} was there before the first night: configuration {found}"
        elif found == last.before and self._pending.exists() and self._not_copied(last):
            note = f"{name} is configuration {found} still; the next start writes {last.config}"
        elif found != last.config:
            note = f"{name} was changed by hand since: configuration {found}"
        return Loaded(found, context, note)

    def _not_copied(self, last: Event) -> bool:
        """Whether a kill came between the last line of the history and its copy: what is there is older than `put`.

        By the times of change, which a copied or moved file does not bring along: what somebody has put there since is
        his own, though it be the configuration before.
        """
        try:
            begun = Event.from_json(json.loads(self._pending.read_bytes()))
        except (ValueError, KeyError, TypeError):
            return False
        return begun == last and self.home.current.stat().st_ctime_ns <= self._pending.stat().st_ctime_ns

    # -- back --

    def earlier(self) -> list[str]:
        """Configurations one could step back to, the last first: a promotion goes on top, a rollback takes off."""
        stack: list[str] = []
        for event in self.events():
            if event.change is Change.ROLLED_BACK and event.config in stack:
                del stack[len(stack) - stack[::-1].index(event.config) :]
            else:
                stack.append(event.config)
        return stack[-2::-1]

    def roll_back(self, to: str | None, *, now_ns: int, why: str = "") -> Event:
        """Have an earlier configuration be in use again.

        Args:
            to: a configuration's id (its beginning), or a night: the one in use when it ended. By default the one
                before the present one.

        Raises:
            BadNight: there is none such.
        """
        present = self.config
        if present is None:
            raise BadNight("no configuration is in use yet: no night has ended")
        target = self._target(to)
        if target == present:
            raise BadNight(f"configuration {present} is in use already; there are: {', '.join(self._known())}")
        event = Event(at_ns=now_ns, change=Change.ROLLED_BACK, config=target, before=present, why=why or "by hand")
        self.put(event, self.context(target))
        return event

    def _target(self, to: str | None) -> str:
        if to is None:
            earlier = self.earlier()
            if not earlier:
                raise BadNight("there is no configuration before the present one")
            return earlier[0]
        night = next((n for n in self.home.nights() if n.id == to), None)
        if night is not None:
            done = night.step("done")
            if done is None:
                raise BadNight(f"night {to} has not ended; it changed nothing")
            if done["config"] is None:
                raise BadNight(f"no configuration was in use yet when night {to} ended")
            return str(done["config"])
        found = [c for c in self._known() if c.startswith(to.lower())]
        if len(found) != 1:
            which = (
                "no night and no configuration is called" if not found else f"{len(found)} configurations begin with"
            )
            raise BadNight(f"{which} {to}; there are: {', '.join(self._known())}")
        return found[0]

    def _known(self) -> list[str]:
        return list(dict.fromkeys(e.config for e in self.events()))

    def rejected(self) -> dict[str, int]:
        """Configurations that were rolled back from, and are not in use again → when, ns UTC."""
        out: dict[str, int] = {}
        for event in self.events():
            if event.change is Change.ROLLED_BACK and event.before is not None:
                out[event.before] = event.at_ns
            out.pop(event.config, None)
        return out


def _words(event: Event) -> str:
    night = f" in night {event.night}" if event.night else ""
    return f"{event.change}{night}{': ' if event.why else ''}{' '.join(event.why.split())}"


def since_words(events: Sequence[Event]) -> list[str]:
    """A history in lines, newest first."""
    out = []
    for event in reversed(events):
        night = f" by night {event.night}" if event.night else ""
        before = f" in place of {event.before}" if event.before else ""
        why = f": {event.why}" if event.why else ""
        out.append(f"{event.at}  {event.config}  {event.change.value}{night}{before}{why}")
    return out
