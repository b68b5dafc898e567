"""A batch: the runs replayed together, written down before the first begins, so that it can be gone on with.

`STORE/replays/BATCH.json` says what was to be done; which of it is done the store knows: each replay carries its
batch, its place in it and, from its end on, that it is complete.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from redecode.replay.closed_loop.options import ReplayMode, ReplayOptions
from redecode.replay.errors import ReplayError
from redecode.tracer import Run
from redecode.tracer.store.modes import private_files

FOLDER = "replays"
LABEL = "replay"
"""Of a run's labels: the batch it is of and how it was replayed."""


class UnknownBatch(ReplayError):
    """There is no such batch of replays to go on with."""


@dataclass(frozen=True, slots=True)
class Item:
    """One run of a batch: which, and when it begins, seconds after the batch."""

    run_id: str
    at_s: float


class _File(BaseModel):
    """A batch as it is on disk."""

    model_config = ConfigDict(extra="ignore")

    format: int
    batch: str
    created_ns: int
    mode: ReplayMode
    source: str | None
    engine: str
    options: dict[str, Any]
    items: list[tuple[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Runs replayed together.

    Attributes:
        created_ns: UTC.
        source: where the runs were read from, if not from the store that the replays are recorded in.
        engine: URL, without what lets one in.
    """

    batch_id: str
    created_ns: int
    mode: ReplayMode
    source: str | None
    engine: str
    options: ReplayOptions
    items: tuple[Item, ...]

    def labels(self, place: int) -> dict[str, Any]:
        """What a replay of this batch is labelled with."""
        return {"batch": self.batch_id, "place": place, "engine": self.engine, **self.options.to_json()}

    def save(self, store: Path) -> None:
        """Write it down; whole or not at all."""
        folder = store / FOLDER
        data = orjson.dumps(
            {
                "format": 1,
                "batch": self.batch_id,
                "created_ns": self.created_ns,
                "mode": self.mode.value,
                "source": self.source,
                "engine": self.engine,
                "options": self.options.to_json(),
                "items": [[i.run_id, i.at_s] for i in self.items],
            }
        )
        with private_files():
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f"{self.batch_id}.{os.getpid()}"
            temporary.write_bytes(data)
            temporary.replace(folder / f"{self.batch_id}.json")


def new_batch_id() -> str:
    """An id that no other batch has."""
    return uuid.uuid4().hex[:12]


def load_batch(store: Path, prefix: str) -> Batch:
    """The batch whose id begins so; `last` is the newest.

    Raises:
        UnknownBatch: there is none, there are several, or it cannot be read.
    """
    files = sorted((store / FOLDER).glob("*.json"), key=lambda f: f.stat().st_mtime_ns)
    found = files[-1:] if prefix == "last" else [f for f in files if prefix and f.stem.startswith(prefix.lower())]
    if not found:
        known = ", ".join(f.stem for f in reversed(files[-3:])) or "none"
        raise UnknownBatch(f"no batch of replays '{prefix}' in {store} (the newest: {known})")
    if len(found) > 1:
        raise UnknownBatch(f"'{prefix}' could be any of {len(found)} batches; give more of it")
    try:
        read = _File.model_validate_json(found[0].read_bytes())
        options = ReplayOptions.from_json(read.options)
    except (ValidationError, KeyError, ValueError, TypeError) as error:
        raise UnknownBatch(f"{found[0]} is no batch of replays: {str(error).splitlines()[0]}") from error
    return Batch(
        batch_id=read.batch,
        created_ns=read.created_ns,
        mode=read.mode,
        source=read.source,
        engine=read.engine,
        options=options,
        items=tuple(Item(run_id, at_s) for run_id, at_s in read.items),
    )


def finished(batch: Batch, runs: Iterable[Run]) -> dict[int, Run]:
    """Which places of a batch are done: place → its replay."""
    done = {}
    for run in runs:
        label = run.labels.get(LABEL)
        if isinstance(label, dict) and label.get("batch") == batch.batch_id and label.get("complete"):
            done[int(label["place"])] = run
    return done
