"""A run that was interrupted for a person, and the runs that resumed it, with the waits for the person.

The tracer records each as a run of its own, since nothing works while a person thinks. Put together, the wait is an
activity of the kind `person`, which does not count against an SLO unless that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from redecode.replay.analysis.activities import RunActivities, activities_of
from redecode.replay.analysis.model import Activity, ActivityKind
from redecode.tracer import Edge, EdgeKind, Provenance
from redecode.tracer.conventions import INTERRUPTED

if TYPE_CHECKING:
    from redecode.tracer import ReadableStore, RecordedRun
    from redecode.tracer.store import RunStructure


def resumed(store: ReadableStore, run_id: str) -> list[RunStructure]:
    """A run and, before it, the interrupted runs of its conversation that it goes on with; first to last.

    Raises:
        UnknownRun, AmbiguousRun: as `Store.find`.
    """
    whole = store.find(run_id)
    (run,) = store.runs(run_ids=[whole])
    chain = [run]
    if run.conversation_id is not None:
        earlier = [
            r for r in store.runs()
            if r.conversation_id == run.conversation_id and r.started_ns < run.started_ns and r.source_run_id is None
        ]  # fmt: skip
        chain = [*sorted(earlier, key=lambda r: (r.started_ns, r.run_id)), run]
    found = {s.run.run_id: s for s in store.structures(run_ids=[r.run_id for r in chain])}
    out = [found[whole]]
    for before in reversed(chain[:-1]):
        if not interrupted(found[before.run_id]):
            break
        out.insert(0, found[before.run_id])
    return out


def interrupted(run: RunStructure | RecordedRun) -> bool:
    """Whether a run stopped to be resumed."""
    return any(INTERRUPTED in s.attributes for s in run.spans if s.parent_span_id is None)


def joined(runs: Sequence[RunStructure | RecordedRun]) -> RunActivities:
    """Runs that went on with one another as one, from the start of the first to the end of the last.

    Its `run` is the last: what it may take is the SLO of that one.
    """
    cuts = [activities_of(run) for run in runs]
    activities: list[Activity] = []
    edges: list[Edge] = []
    before: RunActivities | None = None
    for cut in cuts:
        if before is not None:
            left = max(a.end_ns for a in before.activities if a.id == before.end)
            person = f"{cut.run.run_id}/person"
            activities.append(
                Activity(person, min(left, cut.start_ns), cut.start_ns, ActivityKind.PERSON, part="waits for a person")
            )
            edges.append(Edge(before.end, person, EdgeKind.CALL, Provenance.RECORDED))
            edges.append(Edge(person, _first(cut), EdgeKind.CALL, Provenance.RECORDED))
        activities += cut.activities
        edges += cut.edges
        before = cut
    last = cuts[-1]
    return RunActivities(
        run=last.run,
        activities=tuple(activities),
        edges=tuple(edges),
        start_ns=cuts[0].start_ns,
        end=last.end,
        status=last.status,
        spans={i: s for cut in cuts for i, s in cut.spans.items()},
        parents={i: p for cut in cuts for i, p in cut.parents.items()},
        ends={i: e for cut in cuts for i, e in cut.ends.items()},
        tpot_ns={i: t for cut in cuts for i, t in cut.tpot_ns.items()},
        warnings=tuple(w for cut in cuts for w in cut.warnings),
    )


def _first(cut: RunActivities) -> str:
    """The activity that a run begins with."""
    (root,) = set(cut.spans) - set(cut.parents)
    return cut.ends[root][0]
