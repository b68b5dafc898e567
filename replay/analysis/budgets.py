"""Latency budgets: the deadline's time shared out over the activities, and who burnt more than their share.

`budget = T · p / L`: p the expected duration, L the longest expected path through the activity. The shares of no path
add up to more than T, those of the longest one to T (less what rounding down takes).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

from redecode.replay.analysis.graph import Graph
from redecode.replay.analysis.model import ActivityKind
from redecode.replay.analysis.passes import Floats


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of the activities, by position; `profiled[n]` is `None` where the recorded duration stands in.

    Attributes:
        left_out: positions whose duration does not count.
        through_ns: the longest expected path from the run's start through n to its end; `None`: it leads nowhere.
    """

    duration_ns: list[int]
    gap_ns: list[int]
    profiled: list[int | None]
    left_out: frozenset[int]
    through_ns: list[int | None]

    def budgets(self, total_ns: int) -> tuple[list[int | None], list[int | None]]:
        """Shares of `total_ns` for each activity, and for the gap before it."""
        paths = [None if t is None else max(t, 1) for t in self.through_ns]  # through 0 all are expected to take 0
        own = [None if t is None else total_ns * d // t for d, t in zip(self.duration_ns, paths, strict=True)]
        for n in self.left_out:
            own[n] = None
        return (
            own,
            [None if t is None else total_ns * g // t for g, t in zip(self.gap_ns, paths, strict=True)],
        )


def expect(
    graph: Graph,
    found: Floats,
    gaps: list[int],
    profiles: Mapping[str, int] | None,
    gap_profiles: Mapping[str, int] | None,
    *,
    count_person: bool,
) -> Expected:
    """Expected durations and paths: profiles where there are any, else what was recorded.

    Waiting for a person is expected to take no time unless it counts.
    """
    profiles, gap_profiles = profiles or {}, gap_profiles or {}
    durations = list(map(operator.sub, graph.finish, graph.start))
    expected_gaps = [gap if gap > 0 else 0 for gap in gaps]
    profiled: list[int | None] = [None] * len(durations)
    left_out: set[int] = set()
    if not count_person:
        left_out = {n for n, a in enumerate(graph.activities) if a.kind == ActivityKind.PERSON}
    for id_, known in profiles.items():
        durations[graph.at[id_]] = profiled[graph.at[id_]] = known
    for id_, known in gap_profiles.items():
        expected_gaps[graph.at[id_]] = known
    for n in left_out:
        durations[n] = 0
    if profiles or gap_profiles or left_out or min(gaps) < 0:
        through = _through(graph, durations, expected_gaps)
    else:  # as it was: the longest path through an activity is shorter than the run by its float
        length = found.end_ns - graph.origin_ns
        through = [
            None if late == math.inf else length - (int(late) - f)
            for late, f in zip(found.latest, graph.finish, strict=True)
        ]
    return Expected(durations, expected_gaps, profiled, frozenset(left_out), through)


def _through(graph: Graph, durations: list[int], gaps: list[int]) -> list[int | None]:
    before = graph.before
    head = [0] * len(durations)
    for n in reversed(graph.order):
        waits = before[n]
        head[n] = (max([head[i] for i in waits]) if waits else 0) + gaps[n] + durations[n]
    tail: list[int | None] = [0 if graph.last is None else None] * len(durations)
    if graph.last is not None:
        tail[graph.last] = 0
    for n in graph.order:
        after = tail[n]
        if after is None:
            continue
        after += gaps[n] + durations[n]
        for i in before[n]:
            known = tail[i]
            if known is None or after > known:
                tail[i] = after
    return [None if t is None else h + t for h, t in zip(head, tail, strict=True)]
