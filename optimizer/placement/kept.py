"""Plans that were made, kept in a store: `STORE/plans/NAME.json`, and what the router decided in one simulation.

`NAME.json` is the document of `redecode place --json` with what was asked for; an answer of "no" is kept, too.
`NAME.decisions.jsonl` has a line for each decision (`decisions.Decision.to_json`), the first so many.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from redecode.optimizer.placement.decisions import Decision
from redecode.optimizer.placement.errors import PlacementError

FOLDER = "plans"
DECISIONS = ".decisions.jsonl"
MOST = 2000
"""Decisions that are kept."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(slots=True)
class First:
    """A log that keeps the first so many decisions."""

    most: int = MOST
    kept: list[Decision] = field(default_factory=list)

    def note(self, decision: Decision) -> None:
        """Keep it, if there is room."""
        if len(self.kept) < self.most:
            self.kept.append(decision)


def name_at(now_ns: int) -> str:
    """A name for a plan made at this time (UTC)."""
    return datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%S")


def check_name(name: str) -> str:
    """The same name, if it can be a file's.

    Raises:
        PlacementError: it cannot.
    """
    if _NAME.fullmatch(name) is None:
        raise PlacementError(f"a plan cannot be called '{name}': letters, digits, dot, dash and underscore, 80 at most")
    return name


def keep(store: Path, name: str, document: Mapping[str, Any], log: First | None = None) -> Path:
    """Write a plan down, each file whole or not at all; returns where it is.

    Raises:
        OSError: it cannot be written.
    """
    folder = store / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = b"".join(orjson.dumps(d.to_json()) + b"\n" for d in log.kept) if log is not None else b""
    decisions = folder / f"{check_name(name)}{DECISIONS}"
    if lines:
        _write(decisions, lines)
    else:
        decisions.unlink(missing_ok=True)  # of an earlier plan of this name
    path = folder / f"{name}.json"
    _write(path, orjson.dumps({"name": name, **document}, default=str, option=orjson.OPT_INDENT_2) + b"\n")
    return path


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
