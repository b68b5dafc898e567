"""The folder of Parquet files: DuckDB and pyarrow read it alone, and nothing of the runs is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from redecode.tracer import EdgeKind, RecordedRun, Recorder, SpanKind, Store, TimeSource
from redecode.tracer import conventions as c
from redecode.tracer.errors import ExportError
from redecode.tracer.events import with_arrays
from redecode.tracer.export.spans import span_events
from redecode.tracer.records import Choice
from redecode.tracer.store.parquet import TABLES, write_parquet
from tests.tracer.export.recorded_runs import MS, Builder


def example(run_id: str) -> RecordedRun:
    run = Builder(run_id=run_id)
    root = run.span(SpanKind.RUN, "agent", 0, None)
    call = run.decode(
        "chat", 1, 50, root, list(range(40)), 2, logprobs=(-0.5, -1.5), engine_id="e1",
        token_times_ns=(5 * MS, 9 * MS), token_time_source=TimeSource.CLIENT, more_choices=(Choice((7,), None),),
        messages=[{"role": "user", "content": "hi"}],
    )  # fmt: skip
    tool = run.tool("search", 51, 60, root)
    hung = run.tool("hung", 61, 70, root)
    run.spans[-1] = type(run.spans[-1])(**{**_fields(run.spans[-1]), "end_ns": None, "status": "open"})
    run.tools.pop()
    run.edge(root, call, EdgeKind.CALL)
    run.edge(call, tool)
    run.edge(tool, hung)
    return run.build()


def _fields(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


@pytest.fixture
def recorded(store: Path) -> Store:
    recorder = Recorder(store)
    for number in range(3):
        run = example(f"{number + 1}" * 32)
        events = span_events(run)
        events[1].attributes[c.CHOICES] = 2
        for event in events:
            recorder.journal.append(event.payload())
    clock = {c.TOKEN_GAPS: c.pack([4000, 3000], "i"), c.BATCH_ROWS: c.pack([2, 1], "i")}
    first = example("1" * 32)
    timing = {"t": "timing", "span": first.decodes[0].span_id, "run": first.run.run_id, "same_host": True}
    recorder.journal.append(with_arrays(timing, clock))
    recorder.journal.write({"t": "engine", "id": "e1", "info": {"device": "cpu"}})
    recorder.journal.write({"t": "engine", "id": "e2", "info": {}})
    recorder.journal.lose("1" * 32, "test")
    recorder.close()
    return Store(store)


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """As a reader without DuckDB has them."""
    return pq.read_table(folder / f"{table}.parquet").to_pylist()  # type: ignore[no-any-return]


def test_a_reader_of_parquet_has_the_runs(recorded: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = write_parquet(recorded, ["1" * 32, "2" * 32], out)
    assert counts == {
        "runs": 2, "spans": 8, "decodes": 2, "decode_choices": 2, "tool_steps": 2, "edges": 6, "engines": 1,
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == {f"{table}.parquet" for table in TABLES}

    loaded = recorded.load("1" * 32)
    (run,) = [r for r in rows(out, "runs") if r["run_id"] == "1" * 32]
    assert (run["status"], run["ended_ns"], run["fidelity"], run["decodes"], run["lost"]) == (
        "open",
        None,
        "tokens",
        1,
        1,
    )
    assert run["agent"] == loaded.run.agent
    spans = [r for r in rows(out, "spans") if r["run_id"] == "1" * 32]
    assert [(s["span_id"], s["end_ns"], s["status"]) for s in spans] == [
        (s.span_id, s.end_ns, s.status) for s in loaded.spans
    ]
    assert [json.loads(s["attributes"]) for s in spans] == [s.attributes for s in loaded.spans]
    edges = {(r["src"], r["dst"], r["kind"], r["provenance"]) for r in rows(out, "edges") if r["run_id"] == "1" * 32}
    assert edges == {(e.src, e.dst, e.kind, e.provenance) for e in loaded.edges}
    assert len(edges) == 3

    with_clock, without = sorted(rows(out, "decodes"), key=lambda r: r["run_id"])
    (decode,) = loaded.decodes
    assert tuple(with_clock["prompt_ids"]) == decode.prompt_ids == tuple(range(40))
    assert len(with_clock["prompt_blocks"]) == 2
    assert tuple(with_clock["sampled_ids"]) == decode.sampled_ids
    assert c.times_ns(with_clock["token_gaps_us"]) == decode.token_times_ns == (4 * MS, 7 * MS)
    assert (with_clock["token_time_source"], with_clock["batch_rows"]) == ("engine", [2, 1])
    assert (without["token_time_source"], without["batch_rows"]) == ("client", None)
    assert without["token_gaps_us"] == [5000, 4000]
    assert json.loads(with_clock["messages"]) == decode.messages
    assert rows(out, "decode_choices")[0]["sampled_ids"] == [7]
    assert [json.loads(r["arguments"]) for r in rows(out, "tool_steps")] == [loaded.tools[0].arguments] * 2
    assert rows(out, "engines") == [{"engine_id": "e1", "info": '{"device":"cpu"}'}]


def test_duckdb_reads_it_as_it_is(recorded: Store, tmp_path: Path) -> None:
    write_parquet(recorded, ["1" * 32], tmp_path / "it's here")
    with duckdb.connect() as connection:
        query = "SELECT kind, count(*) FROM read_parquet(?) GROUP BY kind ORDER BY kind"
        assert connection.execute(query, [str(tmp_path / "it's here" / "spans.parquet")]).fetchall() == [
            ("decode", 1), ("run", 1), ("tool", 2),
        ]  # fmt: skip


def test_it_is_private_and_nothing_is_overwritten_unasked(recorded: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_parquet(recorded, ["1" * 32], out)
    assert out.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}
    with pytest.raises(ExportError, match="--force replaces it"):
        write_parquet(recorded, ["2" * 32], out)
    assert rows(out, "runs")[0]["run_id"] == "1" * 32
    write_parquet(recorded, ["2" * 32], out, replace=True)
    assert rows(out, "runs")[0]["run_id"] == "2" * 32
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="no folder of an earlier export"):
        write_parquet(recorded, ["1" * 32], out, replace=True)
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == ["out"]


def test_types_are_what_a_dataset_needs(recorded: Store, tmp_path: Path) -> None:
    """Tables without a row too: an empty file must not change a column's type."""
    write_parquet(recorded, ["3" * 32], tmp_path / "out")
    write_parquet(recorded, [], tmp_path / "none")
    for table in TABLES:
        full, empty = (pq.read_schema(tmp_path / name / f"{table}.parquet") for name in ("out", "none"))
        assert full.equals(empty), table
    schema = pq.read_schema(tmp_path / "out" / "decodes.parquet")
    types = {name: str(schema.field(name).type) for name in ("prompt_ids", "logprobs", "sent_ns", "stream")}
    assert types == {
        "prompt_ids": "list<element: int32>", "logprobs": "list<element: float>", "sent_ns": "int64", "stream": "bool",
    }  # fmt: skip
