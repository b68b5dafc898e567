"""What the publishing tests share: runs of any shape in a store, and equality of what is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from redecode.tracer import Dataset, EdgeKind, RecordedRun, SpanKind, Store
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.spool import JournalWriter
from redecode.tracer.store.publish import Published, publish_runs
from tests.tracer.export.recorded_runs import Builder

DAY_NS = 86_400_000_000_000


def keep_foreign(path: Path, spans: Iterable[OtlpSpan]) -> None:
    """Spans of another tracer, as the collector writes them."""
    number = len(list(path.rglob("*")))
    journal = JournalWriter(path / "spool", f"collector-{number}", lambda: {"t": "process", "argv": []})
    for span in spans:
        journal.append(span.payload(), span.run)
    journal.close()


def some_run(number: int, agent: str = "agent", *, days: float = 0, tokens: int = 3) -> RecordedRun:
    """A run with a decode and a tool."""
    run = Builder(agent, f"{number:032x}")
    root = run.span(SpanKind.RUN, "invoke_agent", 0, 100)
    call = run.decode(
        "chat", 1, 50, root, list(range(40)), tokens, messages=[{"content": f"said {number}"}], engine_id="e1"
    )
    tool = run.tool("search", 51, 60, root)
    run.edge(root, call, EdgeKind.CALL)
    run.edge(call, tool)
    built, later_ns = run.build(), round(days * DAY_NS)
    return replace(
        built,
        run=replace(built.run, started_ns=built.run.started_ns + later_ns),
        spans=[replace(s, start_ns=s.start_ns + later_ns, end_ns=(s.end_ns or 0) + later_ns) for s in built.spans],
        decodes=[replace(d, sent_ns=d.sent_ns + later_ns, done_ns=d.sent_ns + 1) for d in built.decodes],
    )


def same(run: RecordedRun) -> RecordedRun:
    """Edges have no order."""
    return replace(run, edges=sorted(run.edges, key=str))


def equal(store: Store, dataset: Dataset) -> bool:
    """Whether the dataset has the runs of the store, field by field."""
    runs = {run.run_id: run for run in store.runs()}
    assert {run.run_id: run for run in dataset.runs()} == runs
    whole = {run_id: store.load(run_id) for run_id in runs}
    for run_id, run in whole.items():
        assert same(dataset.load(run_id)) == same(run)
    together = dataset.load_many([*runs, "f" * 32])
    assert [same(run) for run in together] == [same(whole[run.run.run_id]) for run in together]
    assert {run.run.run_id for run in together} == runs.keys() == {thin.run.run_id for thin in dataset.structures()}
    return True


def files(dest: Path) -> dict[str, bytes]:
    """What lies in a folder."""
    return {str(p.relative_to(dest)): p.read_bytes() for p in sorted(dest.rglob("*")) if p.is_file()}


def publish(store: Store, dest: str | Path) -> tuple[int, int, int, int]:
    """Publish; returns the numbers of runs that are new, updated, there already, and waiting."""
    done: Published = publish_runs(store, dest)
    assert bool(done.files) == bool(done.runs or done.updated)
    return done.runs, done.updated, done.present, done.waiting
