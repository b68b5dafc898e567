"""What if: the run's graph with other durations, gaps or edges, gone through once more. Exact as long as nothing else
changes: the structure, and the time of everything that was not asked to change.

An engine is shared: FM calls that come to run beside others than before would take other times there. That is what the
other tiers are for (a replay measures it); this one takes milliseconds, and says that it is this one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from redecode.replay.analysis.activities import END, RunActivities
from redecode.replay.analysis.changes import (
    CacheHit,
    Change,
    FewerTokens,
    OffBarrier,
    Remove,
    Scale,
    Shorten,
    nearest,
)
from redecode.replay.analysis.errors import BadChange
from redecode.replay.analysis.graph import Graph, build_graph
from redecode.replay.analysis.model import ActivityKind
from redecode.replay.closed_loop.scaling import names_of
from redecode.tracer import Edge, Provenance, SpanKind

TIER = "algebraic (ms)"
_FM = frozenset(
    {ActivityKind.QUEUE, ActivityKind.PREFILL, ActivityKind.DECODE, ActivityKind.FM, ActivityKind.TRANSPORT}
)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A prediction.

    Attributes:
        tier: how it was made.
        recorded_ns, predicted_ns: the run's duration; `gain_ns` is the difference.
        path: ids of the activities on the critical path that it would have.
        relied_on: the edges of that path; if one of them was guessed from times (or only declared) so is the answer.
        notes: what it takes for granted, in words.
    """

    tier: str
    changes: tuple[str, ...]
    recorded_ns: int
    predicted_ns: int
    path: tuple[str, ...]
    relied_on: tuple[Edge, ...]
    notes: tuple[str, ...]

    @property
    def gain_ns(self) -> int:
        """Recorded − predicted."""
        return self.recorded_ns - self.predicted_ns

    def to_json(self) -> dict[str, Any]:
        """Plain data; edges counted by kind and provenance."""
        counts = Counter(f"{e.kind} {e.provenance}" for e in self.relied_on)
        return {
            "tier": self.tier,
            "changes": list(self.changes),
            "recorded_ns": self.recorded_ns,
            "predicted_ns": self.predicted_ns,
            "gain_ns": self.gain_ns,
            "path": list(self.path),
            "relied_on": dict(sorted(counts.items())),
            "notes": list(self.notes),
        }


def what_if(cut: RunActivities, changes: Sequence[Change]) -> WhatIf:
    """The run's duration after all of these changes together.

    Raises:
        BadChange: a step that is not there, or a change that means nothing for it.
        AnalysisError: as `analyze`.
    """
    world = _World(cut)
    for change in changes:
        world.make(change)
    return world.outcome(tuple(map(str, changes)))


class _World:
    """A run that can be changed."""

    def __init__(self, cut: RunActivities) -> None:
        self.cut = cut
        self.graph: Graph = build_graph(cut.activities, cut.edges, start_ns=cut.start_ns, end=cut.end)
        g = self.graph
        self.release = g.releases()
        self.durations = [f - s for s, f in zip(g.start, g.finish, strict=True)]
        self.gaps = [s - r for s, r in zip(g.start, self.release, strict=True)]
        self.before: list[list[int]] = list(g.before)
        self._of_span: dict[str, list[int]] = {}
        for n, a in enumerate(g.activities):
            self._of_span.setdefault(a.span_id or a.id, []).append(n)
        self._below: dict[str, list[str]] = {}
        for span_id, parent in cut.parents.items():
            self._below.setdefault(parent, []).append(span_id)

    # -- what is meant --

    def _spans(self, step: str) -> list[str]:
        """Ids of the spans that are called that; of a whole step key one."""
        found = [i for i, span in self.cut.spans.items() if step in (i, span.step_key)]
        if not found:
            found = [i for i, span in self.cut.spans.items() if step in names_of(span) or step == self._label(i)]
        if not found and step in self._of_span:
            found = [step]  # an activity that is no span's
        chosen = set(found)
        found = [i for i in found if not self._above(i) & chosen]  # what is below another that is meant counts with it
        if not found:
            known = {name for span in self.cut.spans.values() for name in names_of(span)} or self.graph.at.keys()
            raise BadChange(f"no step '{step}' in run {self.cut.run.run_id}{nearest(step, known)}")
        return found

    def _label(self, span_id: str) -> str:
        mine = self._of_span.get(span_id)
        return self.graph.activities[mine[0]].label if mine else ""

    def _above(self, span_id: str) -> set[str]:
        out: set[str] = set()
        at = self.cut.parents.get(span_id)
        while at is not None and at not in out:
            out.add(at)
            at = self.cut.parents.get(at)
        return out

    def _subtree(self, span_id: str) -> set[str]:
        out, waiting = set[str](), [span_id]
        while waiting:
            at = waiting.pop()
            if at not in out:
                out.add(at)
                waiting += self._below.get(at, ())
        return out

    def _gap_owner(self, n: int) -> str:
        """The span in which the gap before an activity passed."""
        a = self.graph.activities[n]
        return a.span_id if a.part == END else self.cut.parents.get(a.span_id, a.span_id)

    # -- changes --

    def make(self, change: Change) -> None:
        """Change the run."""
        if not isinstance(change, OffBarrier) and change.step in self.graph.at and change.step not in self.cut.spans:
            self._one(self.graph.at[change.step], change)
            return
        for span_id in self._spans(change.step):
            match change:
                case Scale():
                    self._scale(span_id, change)
                case Shorten():
                    self._shorten(span_id, change.by_ns, change.step)
                case FewerTokens():
                    self._fewer_tokens(span_id, change)
                case Remove():
                    self._empty(span_id, 0, begun=True)
                case CacheHit():
                    self._empty(span_id, change.hit_ns, begun=False)
                case OffBarrier():
                    self._loosen(span_id)

    def _one(self, n: int, change: Change) -> None:
        """Of one activity, named by its id."""
        match change:
            case Scale():
                self.durations[n] = round(self.durations[n] * _factor(change))
            case Shorten():
                self.durations[n] -= min(max(change.by_ns, 0), self.durations[n])
            case Remove():
                self.durations[n] = self.gaps[n] = 0
            case CacheHit():
                self.durations[n] = change.hit_ns
            case _:
                raise BadChange(f"{change}: name the step, not a part of it")

    def _scale(self, span_id: str, change: Scale) -> None:
        factor, inside = _factor(change), self._subtree(span_id)
        span = self.cut.spans.get(span_id)
        calls = span is not None and span.kind is SpanKind.DECODE
        for n, a in enumerate(self.graph.activities):
            if a.span_id in inside and (calls or a.kind not in _FM):
                self.durations[n] = round(self.durations[n] * factor)
            if self.gaps[n] > 0 and self._gap_owner(n) in inside:
                self.gaps[n] = round(self.gaps[n] * factor)

    def _shorten(self, span_id: str, by_ns: int, step: str) -> None:
        if span_id in self._below:
            raise BadChange(f"'{step}' has steps of its own; name the one to shorten")
        self._take(span_id, max(by_ns, 0), None)

    def _take(self, span_id: str, by_ns: int, kinds: frozenset[ActivityKind] | None) -> None:
        """Take time from a span's end on."""
        for n in reversed(self._of_span[span_id]):
            if kinds is None or self.graph.activities[n].kind in kinds:
                taken = min(by_ns, self.durations[n])
                self.durations[n] -= taken
                by_ns -= taken

    def _fewer_tokens(self, span_id: str, change: FewerTokens) -> None:
        tpot = self.cut.tpot_ns.get(span_id)
        if tpot is None:
            raise BadChange(f"{change}: its time per output token is not known")
        told = [self.graph.activities[n].tokens for n in self._of_span[span_id]]
        after_first = sum(t for t in told if t is not None)
        if any(t is not None for t in told) and not 0 <= change.tokens <= after_first:
            raise BadChange(f"{change}: it has {after_first} after its first")
        self._take(span_id, round(change.tokens * tpot), frozenset({ActivityKind.DECODE, ActivityKind.FM}))

    def _empty(self, span_id: str, hit_ns: int, *, begun: bool) -> None:
        """All below a step takes no time; it may have taken time to begin it, too."""
        inside = self._subtree(span_id)
        for n, a in enumerate(self.graph.activities):
            if a.span_id in inside:
                self.durations[n] = 0
            if self._gap_owner(n) in inside:
                self.gaps[n] = 0
        first, at = self.cut.ends[span_id][0], self.graph.at
        own = self._of_span[span_id][0] if span_id in self._of_span else at[first]
        if begun:
            self.gaps[at[first]] = self.gaps[own] = 0
            if first == f"{span_id}/before":
                self.durations[at[first]] = 0
        else:
            self.durations[own] = hit_ns

    def _loosen(self, span_id: str) -> None:
        """A node waits for its data alone, and only who needs its data, or its graph's end, waits for it."""
        entry, end = (self.graph.at[i] for i in self.cut.ends[span_id])
        g, let_go = self.graph, set[int]()
        if entry in g.data_before:
            freed, done = self.release[entry], set(g.order[g.order.index(entry) :])
            self.before[entry] = [i for i in g.data_before[entry] if g.finish[i] <= freed and i in done]
            let_go.update(set(g.before[entry]).difference(self.before[entry]))
        for n, needed in g.data_before.items():
            if end in self.before[n] and end not in needed and end in g.before[n]:
                self.before[n] = [i for i in self.before[n] if i != end]
                let_go.add(end)
        if not let_go:
            raise BadChange(f"'{self.cut.spans[span_id].step_key}' waits at no barrier that is known to be one only")
        parent = self.cut.parents.get(span_id)
        if parent is not None:  # where nothing else waits for them, the graph still does
            last = g.at[self.cut.ends[parent][1]]
            self.before[last] = sorted({*self.before[last], *let_go})

    # -- what comes of it --

    def outcome(self, said: tuple[str, ...]) -> WhatIf:
        """The forward pass."""
        g, finish = self.graph, [0] * len(self.durations)
        for n in reversed(g.order):
            waits = self.before[n]
            release = max([finish[i] for i in waits]) if waits else g.origin_ns
            finish[n] = release + self.gaps[n] + self.durations[n]
        last = g.last if g.last is not None else max(range(len(finish)), key=lambda i: (finish[i], i))
        path = [last]
        while waits := self.before[path[-1]]:
            path.append(max(waits, key=lambda i: (finish[i], i)))
        ids = [g.activities[n].id for n in reversed(path)]
        steps = set(pairwise(ids))
        on_path = {(e.src, e.dst): e for e in self.cut.edges if (e.src, e.dst) in steps}
        on_path |= {
            (e.src, e.dst): e
            for e in self.cut.edges
            if (e.src, e.dst) in steps and e.provenance is not Provenance.DECLARED
        }
        relied = tuple(on_path[step] for step in pairwise(ids))
        recorded = g.finish[last] - g.origin_ns
        return WhatIf(TIER, said, recorded, finish[last] - g.origin_ns, tuple(ids), relied, tuple(self._notes(relied)))

    def _notes(self, relied: tuple[Edge, ...]) -> list[str]:
        notes = []
        if any(a.kind in _FM for a in self.graph.activities):
            notes.append("FM calls keep their recorded times, whatever would now run beside them on their engine")
        guessed = sum(e.provenance is Provenance.TIME for e in relied)
        if guessed:
            notes.append(f"{guessed} of the edges it relies on are guessed from times")
        declared = sum(e.provenance is Provenance.DECLARED for e in relied)
        if declared:
            notes.append(f"{declared} of the edges it relies on are declared reads: the data may not have been needed")
        return notes


def _factor(change: Scale) -> float:
    if not math.isfinite(change.factor) or change.factor < 0:
        raise BadChange(f"{change}: the factor is a number from 0 on")
    return change.factor
