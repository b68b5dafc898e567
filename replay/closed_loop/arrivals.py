"""When the runs of a replay begin: as recorded, as a Poisson process, or as given."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Any

from redecode.replay.errors import ReplayError


class Arrivals(StrEnum):
    """Where the beginnings of runs come from."""

    RECORDED = "recorded"
    POISSON = "poisson"
    GIVEN = "given"


class BadArrivals(ReplayError):
    """The arrivals asked for make no sense; says why."""


def recorded_offsets(started_ns: Sequence[int], speed: float = 1.0) -> list[float]:
    """Seconds after the first recorded beginning, `speed` times closer together; 0 is all at once."""
    if not math.isfinite(speed) or speed < 0:
        raise BadArrivals(f"a speed is a number above 0, or 0 for all at once, not {speed}")
    first = min(started_ns, default=0)
    return [(at - first) / 1e9 / speed if speed else 0.0 for at in started_ns]


def poisson_offsets(count: int, rate_per_s: float, seed: int) -> list[float]:
    """The first at 0, then exponential gaps of mean 1 / rate: the same for the same seed on every machine."""
    if not math.isfinite(rate_per_s) or rate_per_s <= 0:
        raise BadArrivals(f"--rate is a number of runs a second above 0, not {rate_per_s}")
    rng = random.Random(seed)
    return list(accumulate((rng.expovariate(rate_per_s) for _ in range(count - 1)), initial=0.0))[:count]


def given_offsets(path: Path, count: int, speed: float = 1.0) -> list[float]:
    """Seconds from a file: a JSON list of numbers, or CSV whose first column they are (a header may name it).

    Raises:
        BadArrivals: it cannot be read, holds something else, or fewer than `count`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadArrivals(
            f"the arrivals in {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    offsets = _from_json(path, text) if text.lstrip().startswith(("[", "{")) else _from_csv(path, text)
    if wrong := [at for at in offsets if not math.isfinite(at) or at < 0]:
        raise BadArrivals(f"{path}: an arrival is a number of seconds from 0 on, not {wrong[0]}")
    if len(offsets) < count:
        raise BadArrivals(f"{path} has {len(offsets)} arrivals for {count} runs; give one for each")
    return recorded_offsets([round(at * 1e9) for at in offsets[:count]], speed)


def _from_json(path: Path, text: str) -> list[float]:
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise BadArrivals(f"{path} is no JSON: {error}") from error
    if not isinstance(value, list) or any(isinstance(x, bool) or not isinstance(x, int | float) for x in value):
        raise BadArrivals(f"{path}: want a JSON list of seconds, like [0, 0.5, 2]")
    return [float(x) for x in value]


def _from_csv(path: Path, text: str) -> list[float]:
    rows = [row for row in csv.reader(text.splitlines()) if row and row[0].strip()]
    offsets: list[float] = []
    for place, row in enumerate(rows):
        try:
            offsets.append(float(row[0]))
        except ValueError:
            if place:  # the first may be a header
                raise BadArrivals(f"{path}: want seconds in the first column, not {row[0]!r}") from None
    return offsets
