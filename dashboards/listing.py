"""The list of runs: what a filter picks, how often each value is there, and how latencies went over time.

Quantiles are nearest rank, as everywhere here.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from redecode.tracer.store import RunColumns

Mask = NDArray[np.bool_]
_LABEL = re.compile(r"([A-Za-z_][\w.\-]*)=(\S+)")
NONE = "—"
"""How a value that is not there is called in a facet."""
FACETS = ("agent", "version", "status", "slo", "fidelity", "mode")
SORTS = ("newest", "slowest", "fastest", "least headroom", "most tokens", "agent")


@dataclass(frozen=True, slots=True)
class Filter:
    """What runs to show; an empty facet lets everything through.

    Attributes:
        search: words that must all stand in a run's id, agent, version, conversation, source, input or error.
        within: ids of runs, of which it must be one; `None`: any.
    """

    search: str = ""
    agent: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    slo: tuple[str, ...] = ()
    fidelity: tuple[str, ...] = ()
    mode: tuple[str, ...] = ()
    within: frozenset[str] | None = None


def labels_in(search: str) -> tuple[str, list[tuple[str, str]]]:
    """The words to search for, and those that are NAME=VALUE: labels to have."""
    words, labels = [], []
    for word in search.split():
        found = _LABEL.fullmatch(word)
        if found is None:
            words.append(word)
        else:
            labels.append((found[1], found[2]))
    return " ".join(words), labels


@dataclass(frozen=True, slots=True)
class Stretch:
    """Latencies of the runs that began in a stretch of time; quantiles in s, `None` without a finished run.

    Attributes:
        attained: part of those with an SLO that met it.
    """

    start_ns: int
    runs: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    attained: float | None


@dataclass(slots=True)
class Listing:
    """Every run, made ready to be filtered.

    Args:
        target_s: the SLO of runs that were recorded without one.
    """

    columns: RunColumns
    target_s: float | None = None
    started_ns: NDArray[np.int64] = field(init=False)
    duration_s: NDArray[np.float64] = field(init=False)
    slo_s: NDArray[np.float64] = field(init=False)
    values: dict[str, tuple[list[str], NDArray[np.intp]]] = field(init=False)
    _text: list[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        c = self.columns
        self.started_ns = np.array(c.started_ns, dtype=np.int64)
        ended = np.array([np.nan if e is None else e for e in c.ended_ns], dtype=np.float64)
        self.duration_s = np.where(np.isnan(ended), np.nan, 0.0)
        known = ~np.isnan(ended)
        exact = np.array([e or 0 for e in c.ended_ns], dtype=np.int64) - self.started_ns  # ns do not fit a float
        self.duration_s[known] = exact[known] / 1e9
        other = np.nan if self.target_s is None else self.target_s
        self.slo_s = np.array([other if s is None else s for s in c.slo_s], dtype=np.float64)
        met = np.where(self.duration_s <= self.slo_s, "met", "missed")
        met = np.where(np.isnan(self.slo_s) | np.isnan(self.duration_s), NONE, met)
        words = {
            "agent": c.agent,
            "version": c.agent_version,
            "status": c.status,
            "slo": met.tolist(),
            "fidelity": c.fidelity,
            "mode": [m if m or s else "recorded" for m, s in zip(c.replay_mode, c.source_run_id, strict=True)],
        }
        self.values = {name: _coded(column) for name, column in words.items()}

    def __len__(self) -> int:
        return len(self.columns)

    def _matches(self, search: str) -> Mask:
        words = search.lower().split()
        if not words:
            return np.ones(len(self), dtype=np.bool_)
        if self._text is None:
            c = self.columns
            parts = zip(
                c.run_id, c.agent, c.agent_version, c.conversation_id, c.source_run_id, c.input, c.error, strict=True
            )
            self._text = ["\n".join([p for p in row if p]).lower() for row in parts]
        return np.array([all(word in text for word in words) for text in self._text], dtype=np.bool_)

    def _chosen(self, name: str, wanted: Sequence[str]) -> Mask:
        known, codes = self.values[name]
        allowed = np.array([value in wanted for value in known], dtype=np.bool_)
        return allowed[codes] if len(known) else np.zeros(0, dtype=np.bool_)

    def pick(self, wanted: Filter, *, without: str = "") -> Mask:
        """The runs a filter lets through, one of its facets set aside."""
        masks = [self._matches(wanted.search)]
        if wanted.within is not None:
            masks.append(np.array([run_id in wanted.within for run_id in self.columns.run_id], dtype=np.bool_))
        for name in FACETS:
            chosen = getattr(wanted, name)
            if chosen and name != without:
                masks.append(self._chosen(name, chosen))
        return reduce(operator.and_, masks)

    def facets(self, wanted: Filter) -> dict[str, dict[str, int]]:
        """Facet → value → how many runs have it that the rest of the filter lets through, most frequent first.

        What is chosen is listed even where no run has it.
        """
        out = {}
        for name in FACETS:
            known, codes = self.values[name]
            counts = np.bincount(codes[self.pick(wanted, without=name)], minlength=len(known))
            found = {v: int(n) for v, n in zip(known, counts, strict=True) if n or v in getattr(wanted, name)}
            found |= {v: 0 for v in getattr(wanted, name) if v not in found}
            out[name] = dict(sorted(found.items(), key=lambda kv: (-kv[1], kv[0])))
        return out

    def quantiles(self, picked: Mask) -> tuple[float | None, float | None, float | None]:
        """p50, p95, p99 of the latency, s."""
        p50, p95, p99 = _quantiles(self.duration_s[picked])
        return p50, p95, p99

    def attained(self, picked: Mask) -> tuple[int, int]:
        """How many met their SLO, of how many that had one and have ended."""
        judged = picked & ~np.isnan(self.slo_s) & ~np.isnan(self.duration_s)
        return int((judged & (self.duration_s <= self.slo_s)).sum()), int(judged.sum())

    def over_time(self, picked: Mask, most: int = 48) -> list[Stretch]:
        """The time from the first to the last picked run in at most so many equal stretches; empty ones left out."""
        at = np.flatnonzero(picked)
        if not len(at):
            return []
        first, last = int(self.started_ns[at].min()), int(self.started_ns[at].max())
        width = _round_up(max(1, (last - first) // most + 1))
        begin = first - first % width
        place = (self.started_ns[at] - begin) // width
        order = np.argsort(place, kind="stable")
        at, place = at[order], place[order]
        out = []
        for group in np.split(np.arange(len(at)), np.flatnonzero(np.diff(place)) + 1):
            these = at[group]
            mask = np.zeros(len(self), dtype=np.bool_)
            mask[these] = True
            met, judged = self.attained(mask) if not np.isnan(self.slo_s[these]).all() else (0, 0)
            quantiles = _quantiles(self.duration_s[these])
            out.append(
                Stretch(begin + int(place[group[0]]) * width, len(these), *quantiles, met / judged if judged else None)
            )
        return out

    def order(self, picked: Mask, sort: str) -> NDArray[np.intp]:
        """Positions of the picked runs in an order of `SORTS`; what has no such value stands last."""
        at = np.flatnonzero(picked)
        keys: dict[str, NDArray[np.float64]] = {
            "slowest": -self.duration_s,
            "fastest": self.duration_s,
            "least headroom": self.slo_s - self.duration_s,
            "most tokens": -np.array(self.columns.tokens, dtype=np.float64),
        }
        if sort in keys:
            return at[np.argsort(keys[sort][at], kind="stable")]  # NaN sorts last
        if sort == "agent":
            return at[np.argsort(np.array(self.columns.agent, dtype=object)[at], kind="stable")]
        return at


def _coded(column: Sequence[str | None]) -> tuple[list[str], NDArray[np.intp]]:
    """The values there are, and which of them each run has."""
    known: dict[str, int] = {}
    codes = [known.setdefault(NONE if v is None or v == "" else v, len(known)) for v in column]
    return list(known), np.array(codes, dtype=np.intp)


def _quantiles(durations: NDArray[np.float64]) -> tuple[float | None, float | None, float | None]:
    ended = durations[~np.isnan(durations)]
    if not len(ended):
        return None, None, None
    p50, p95, p99 = np.percentile(ended, [50, 95, 99], method="inverted_cdf")
    return float(p50), float(p95), float(p99)


_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 604800)


def _round_up(ns: int) -> int:
    """A stretch of time that people count in."""
    return next((s * 10**9 for s in _STEPS_S if s * 10**9 >= ns), -(-ns // (604800 * 10**9)) * 604800 * 10**9)
