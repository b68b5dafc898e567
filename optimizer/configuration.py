"""A configuration as a file, `tuned.toml` or `current.toml`: what a graph loads as its context."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any

import tomlkit

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.evaluation.placing import KNOWN, PLACEMENT, placement_of, without_placement

TABLES = ("context", "placement")
"""Of the file: what the graph is given, and what is none of the graph's."""


def toml(config: Mapping[str, Any], comment: Sequence[str] = ()) -> str:
    """A configuration as TOML, in a table `context`; what TOML cannot say (None) is left out.

    A graph loads it: `Context(**tomllib.load(file)["context"])`. What is none of the graph's is in a table `placement`.
    """
    document = tomlkit.document()
    for line in comment:
        document.add(tomlkit.comment(line))
    for name, said in tables_of(config).items():
        table = tomlkit.table()
        for key, value in said.items():
            table.add(tomlkit.key([key]), value)
        document.add(name, table)
    return tomlkit.dumps(document).rstrip("\n") + "\n"


def tables_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables of its file; without any placement there is only the first."""
    said = _plain(config)
    context, placement = without_placement(said), placement_of(said)
    return {"context": dict(context), **({"placement": dict(placement)} if placement else {})}


def _plain(value: Any) -> Any:
    """As TOML has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, bool | int | float | date | time) else str(value)


def read_context(path: Path) -> dict[str, Any]:
    """The configuration of a `tuned.toml`; its placement, if it has one, under the names of the knobs of it.

    Raises:
        BadSpec: it cannot be read, or has no table `context`.
    """
    try:
        return context_of(path.read_bytes(), path)
    except OSError as error:
        raise BadSpec(f"{path} cannot be read: {error.strerror}") from error


def context_of(data: bytes, path: Path) -> dict[str, Any]:
    """As `read_context`, of what was read.

    Raises:
        BadSpec: it is no configuration.
    """
    try:
        whole = tomllib.loads(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSpec(f"{path} is no TOML: {error}") from error
    found, placed = whole.get("context"), whole.get("placement", {})
    if not isinstance(found, dict):
        raise BadSpec(f"{path} has no table [context]")
    if not isinstance(placed, dict) or (unknown := [n for n in placed if PLACEMENT + n not in KNOWN]):
        what = "is no table" if not isinstance(placed, dict) else f"has no {unknown[0]}"
        raise BadSpec(
            f"{path}: placement {what}; it is a table of {', '.join(n.removeprefix(PLACEMENT) for n in KNOWN)}"
        )
    return {**found, **{PLACEMENT + name: value for name, value in placed.items()}}
