"""The server's log files: keep the newest few, and find the lines that say why it died."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

_TAIL_BYTES = 64 * 2**10
_FOLLOW_POLL_S = 0.2
#: "(APIServer pid=1) ERROR 11-21 10:00:00 [core.py:1] text": who, when and where are noise here.
_PREFIX = re.compile(r"^(?:\([\w ]+ pid=\d+\) ?)?(?:(?:DEBUG|INFO|WARNING|ERROR) [\d-]+ [\d:.]+ \[[^\]]*\] ?)?")
#: The exception's own line, argparse's, and the reasons that pydantic indents below its own.
_CAUSE = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b|\berror: |^\s+Value error, |does not exist")
_FRAME = re.compile(r'^\s*(?:File "|Traceback|\^|~|raise |return |self\.)')


def new_file(folder: Path, name: str, *, keep: int) -> Path:
    """Create an empty file with this name, a number added if it exists; only the newest `keep` stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    number = 1
    while path.exists():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    path.touch(mode=0o600)
    by_age = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for old in by_age[:-keep]:
        old.unlink()
    return path


def last_line(log: Path) -> str:
    """Return the last line that says something, without its prefix."""
    lines = _tail_lines(log)
    return lines[-1] if lines else ""


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last `count` lines as they are, all of them if it is 0."""
    with log.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in (deque(file, count) if count else file)]


def follow(log: Path, alive: Callable[[], bool]) -> Iterator[str]:
    """Lines as they are written, from now on until nobody is alive to write any."""
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, 2)
        rest, ended = "", False
        while True:
            *whole, rest = (rest + file.read()).split("\n")
            yield from whole
            if ended:
                break
            ended = not alive()
            time.sleep(_FOLLOW_POLL_S)
        if rest:
            yield rest


def meaningful_tail(log: Path, *, lines: int = 6) -> list[str]:
    """Return the last distinct lines that name an error; the last lines as they are when none does."""
    tail = _tail_lines(log)
    causes = [line for line in tail if _CAUSE.search(line) and not _FRAME.search(line)]
    return list(dict.fromkeys(causes or tail))[-lines:]


def _tail_lines(log: Path) -> list[str]:
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    stripped = (_PREFIX.sub("", line).rstrip() for line in text.splitlines())
    return [line for line in stripped if line]
