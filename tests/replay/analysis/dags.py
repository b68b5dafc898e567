"""Random graphs of activities, and the slow, plain truth about them: every path, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hypothesis import strategies as st

from redecode.replay.analysis.model import Activity
from redecode.tracer import Edge, EdgeKind, Provenance


def edge(src: str, dst: str, kind: EdgeKind = EdgeKind.RETURN, provenance: Provenance = Provenance.RECORDED) -> Edge:
    return Edge(src, dst, kind, provenance)


@dataclass(frozen=True)
class Dag:
    """A graph as it was observed: everything began when the last it waited for had finished, plus a gap."""

    activities: list[Activity]
    edges: list[Edge]

    def __repr__(self) -> str:
        rows = ", ".join(f"{a.id}[{a.start_ns},{a.end_ns}]" for a in self.activities)
        return f"{rows}; " + ", ".join(f"{e.src}→{e.dst} {e.kind}/{e.provenance}" for e in self.edges)


@st.composite
def dags(draw: st.DrawFn, *, most: int = 7, gaps: int = 6, least_gap: int = 0) -> Dag:
    """Up to `most` activities, each waiting for any of those before it; several first and last ones."""
    count = draw(st.integers(1, most))
    activities: list[Activity] = []
    edges: list[Edge] = []
    for n in range(count):
        waits = draw(st.lists(st.sampled_from(range(n)), unique=True, max_size=3)) if n else []
        release = max((activities[i].end_ns for i in waits), default=100)
        start = release + draw(st.integers(least_gap if waits else 0, gaps))
        kind = draw(st.sampled_from(["tool", "decode", "code", "queue"]))
        activities.append(Activity(f"a{n}", start, start + draw(st.integers(0, 12)), kind))
        for i in waits:
            how = draw(st.sampled_from([EdgeKind.BARRIER, EdgeKind.DATA, EdgeKind.RETURN, EdgeKind.JOIN]))
            edges.append(edge(f"a{i}", f"a{n}", how))
    return Dag(activities, edges)


class Truth:
    """Every path of a graph, by enumeration; the arithmetic of the definitions and nothing else."""

    def __init__(self, dag: Dag, *, start: int | None = None) -> None:
        self.activities = {a.id: a for a in dag.activities}
        self.before: dict[str, set[str]] = {a.id: set() for a in dag.activities}
        self.data_before: dict[str, set[str]] = {a.id: set() for a in dag.activities}
        for e in dag.edges:
            if e.provenance is not Provenance.DECLARED:
                self.before[e.dst].add(e.src)
            if e.kind not in (EdgeKind.BARRIER, EdgeKind.RESOURCE):
                self.data_before[e.dst].add(e.src)
        self.origin = min(a.start_ns for a in dag.activities) if start is None else start
        self.duration = {a.id: a.end_ns - a.start_ns for a in dag.activities}
        self.gap = {
            a.id: a.start_ns - max((self.activities[i].end_ns for i in self.before[a.id]), default=self.origin)
            for a in dag.activities
        }

    def paths(self, before: dict[str, set[str]] | None = None) -> Iterator[tuple[str, ...]]:
        """Every chain from an activity that waits for nothing, to wherever it may stop."""
        waits = before or self.before

        def back(n: str) -> Iterator[tuple[str, ...]]:
            if not waits[n]:
                yield (n,)
            for i in waits[n]:
                for path in back(i):
                    yield (*path, n)

        for n in self.activities:
            yield from back(n)

    def length(self, path: tuple[str, ...], *, without: str = "", without_gap: str = "") -> int:
        worked = sum(self.duration[n] for n in path if n != without)
        return worked + sum(self.gap[n] for n in path if n != without_gap)

    def longest(self, *, without: str = "", without_gap: str = "") -> int:
        return max(self.length(p, without=without, without_gap=without_gap) for p in self.paths())

    def forward(
        self,
        *,
        longer: dict[str, int] | None = None,
        before: dict[str, set[str]] | None = None,
    ) -> dict[str, int]:
        """Finishes when some activities take longer (or, below zero, shorter)."""
        waits, out = before or self.before, dict[str, int]()

        def finish(n: str) -> int:
            if n not in out:
                release = max((finish(i) for i in waits[n]), default=self.origin)
                out[n] = release + self.gap[n] + self.duration[n] + (longer or {}).get(n, 0)
            return out[n]

        for n in self.activities:
            finish(n)
        return out

    def makespan(self, **how: dict[str, int]) -> int:
        return max(self.forward(**how).values()) - self.origin  # type: ignore[arg-type]

    def data_only(self) -> int:
        """Without waits for a turn; who is known to wait for nothing else keeps those."""
        waits = {n: self.data_before[n] or self.before[n] for n in self.activities}
        return max(self.forward(before=waits).values()) - self.origin


def moved(dag: Dag, change: Callable[[int], int], only: set[str] | None = None) -> Dag:
    """The same with other times."""
    return Dag(
        [
            a._replace(start_ns=change(a.start_ns), end_ns=change(a.end_ns)) if only is None or a.id in only else a
            for a in dag.activities
        ],
        dag.edges,
    )
