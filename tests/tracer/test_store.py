"""The store: everything arrives once, several processes can use it, damage is named."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import duckdb
import pytest

from redecode import tracer
from redecode.tracer import EdgeKind, Provenance, Recorder, SpanKind, Store
from redecode.tracer.errors import AmbiguousRun, StoreError, StoreUnwritable, StoreVersion, UnknownRun
from redecode.tracer.store.schema import MIGRATIONS


def record_runs(path: Path, count: int) -> list[str]:
    recorder = Recorder(path)
    ids = []
    for _ in range(count):
        run = recorder.start_run("agent")
        node = recorder.start(SpanKind.NODE, "n", run, "n")
        recorder.end(node)
        recorder.end(run)
        ids.append(run.run_id)
    recorder.close()
    return ids


def test_runs_come_back_newest_first(store: Path) -> None:
    ids = record_runs(store, 3)
    found = Store(store).runs()
    assert [r.run_id for r in found] == ids[::-1]
    assert {r.status for r in found} == {"ok"}
    assert [r.run_id for r in Store(store).runs(limit=1)] == ids[-1:]


def test_draining_twice_changes_nothing_and_finished_journals_go(store: Path) -> None:
    record_runs(store, 2)
    opened = Store(store)
    assert opened.drain() > 0
    assert opened.drain() == 0
    assert not list((store / "spool").glob("*.journal"))
    assert len(opened.runs()) == 2


def test_a_live_run_is_seen_and_completed_later(store: Path) -> None:
    recorder = Recorder(store)
    run = recorder.start_run("agent")
    node = recorder.start(SpanKind.NODE, "n", run, "n")
    opened = Store(store)
    assert [r.status for r in opened.runs()] == ["open"]
    assert {s.status for s in opened.load(run.run_id).spans} == {"open"}
    recorder.end(node)
    recorder.end(run)
    assert [r.status for r in opened.runs()] == ["ok"]
    whole = opened.load(run.run_id)
    assert [s.status for s in whole.spans] == ["ok", "ok"]
    assert {(e.kind, e.provenance) for e in whole.edges} == {
        (EdgeKind.CALL, Provenance.RECORDED),
        (EdgeKind.RETURN, Provenance.RECORDED),
    }
    recorder.close()


def test_two_processes_and_many_threads_use_one_store(store: Path) -> None:
    program = textwrap.dedent(f"""
        from pathlib import Path
        from redecode.tracer import Recorder, SpanKind, Store
        path = Path({str(store)!r})
        for _ in range(4):
            recorder = Recorder(path)
            for _ in range(5):
                run = recorder.start_run("agent")
                recorder.end(recorder.start(SpanKind.NODE, "n", run, "n"))
                recorder.end(run)
            recorder.close()
            Store(path).runs()
    """)
    others = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: Store(store).runs(), range(6)))
    assert [p.wait() for p in others] == [0, 0]
    found = Store(store)
    assert len(found.runs()) == 40
    assert len({r.run_id for r in found.runs()}) == 40
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        assert db.execute("SELECT count(*), count(DISTINCT span_id) FROM spans").fetchall() == [(80, 80)]


def test_a_damaged_journal_is_set_aside_and_named(store: Path) -> None:
    record_runs(store, 2)
    (journal,) = (store / "spool").glob("*.journal")
    data = bytearray(journal.read_bytes())
    data[-5] ^= 0xFF
    journal.write_bytes(data)
    opened = Store(store)
    assert opened.runs()  # the first run is whole
    assert [name for name, _ in opened.health().corrupt] == [journal.name]
    assert [p.suffix for p in (store / "spool").iterdir()] == [".corrupt"]


def test_what_could_not_be_written_is_counted_where_a_user_sees_it(store: Path) -> None:
    recorder = Recorder(store)
    run = recorder.start_run("agent")
    keep, recorder.journal._fd = recorder.journal._fd, os.open("/dev/full", os.O_WRONLY)
    recorder.end(recorder.start(SpanKind.NODE, "n", run, "n"))
    os.close(recorder.journal._fd)
    recorder.journal._fd = keep
    recorder.end(run)
    recorder.close()
    opened = Store(store)
    assert opened.runs()[0].status == "ok"
    ((_, lost, why),) = opened.health().dropped
    assert lost == recorder.journal.lost == opened.runs()[0].lost == 2  # the node's start and its end
    assert "No space left" in why


def test_on_a_full_disk_nothing_is_lost_and_it_is_said(store: Path) -> None:
    ids = record_runs(store, 1)
    Store(store).runs()
    ids += record_runs(store, 200)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"Failed to commit.* stays there: where the disk is full, make room"):
            Store(store).runs()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {run.run_id for run in Store(store).runs()} == set(ids)


def test_what_is_recorded_is_the_owners_alone(store: Path) -> None:
    record_runs(store, 1)
    (journal,) = (store / "spool").iterdir()
    assert [oct(p.stat().st_mode & 0o777) for p in (store, store / "spool", journal)] == ["0o700", "0o700", "0o600"]


def test_finding_runs(store: Path) -> None:
    ids = record_runs(store, 30)
    opened = Store(store)
    assert opened.find(ids[0][:20].upper()) == ids[0]
    with pytest.raises(UnknownRun, match="no run starts with 'ffffffffffffffffff'"):
        opened.find("f" * 18)
    with pytest.raises(UnknownRun, match="hex digits"):
        opened.find("no%such")
    shared = next(p for p in "0123456789abcdef" if sum(i.startswith(p) for i in ids) > 1)
    with pytest.raises(AmbiguousRun, match="give more digits"):
        opened.find(shared)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"storage_version": 99}', "storage version 99"), ("hello", "not a redecode store")],
    ids=["newer", "something else"],
)
def test_a_foreign_store_is_refused(store: Path, content: str, message: str) -> None:
    Store(store)
    (store / "meta").write_text(content)
    with pytest.raises(StoreVersion, match=message):
        Store(store)


def test_a_damaged_database_is_named_with_the_way_out(store: Path) -> None:
    record_runs(store, 1)
    (store / "runs.duckdb").write_text("junk")
    with pytest.raises(StoreError, match="Move it aside to go on with what is still in the spool"):
        Store(store).runs()
    (store / "runs.duckdb").rename(store / "aside")
    assert len(Store(store).runs()) == 1


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        Store(tmp_path / "none", create=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritable, match="choose another"):
        Store(tmp_path / "file")


def test_a_database_of_a_newer_redecode_is_refused(store: Path) -> None:
    record_runs(store, 1)
    Store(store).drain()
    with duckdb.connect(str(store / "runs.duckdb")) as db:
        db.execute("INSERT INTO migrations VALUES ('999_future', 1)")
    record_runs(store, 1)
    with pytest.raises(StoreVersion, match="999_future"):
        Store(store).runs()


def test_a_newer_database_is_refused_by_whoever_only_reads(store: Path) -> None:
    record_runs(store, 1)
    Store(store).drain()
    with duckdb.connect(str(store / "runs.duckdb")) as db:
        db.execute("INSERT INTO migrations VALUES ('999_future', 1)")
    with pytest.raises(StoreVersion, match="upgrade"):
        Store(store).runs()


def test_a_database_of_something_else_is_refused_and_left_as_it_was(store: Path) -> None:
    record_runs(store, 1)
    with duckdb.connect(str(store / "runs.duckdb")) as db:
        db.execute("CREATE TABLE invoices (amount INTEGER)")
    with pytest.raises(StoreError, match=r"something else .it has invoices.; move it aside"):
        Store(store).runs()
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        assert db.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("invoices",)]
    (store / "runs.duckdb").unlink()
    assert len(Store(store).runs()) == 1


def test_the_schema_is_what_it_was(store: Path) -> None:
    """A released migration is never edited; a change is a new one (then this number changes with it)."""
    Store(store).drain()
    with duckdb.connect(str(store / "runs.duckdb")) as db:
        rows = db.execute(
            "SELECT table_name, string_agg(column_name || ' ' || data_type, ', ' ORDER BY column_index) "
            "FROM duckdb_columns() WHERE NOT internal GROUP BY table_name ORDER BY table_name"
        ).fetchall()
    schema = dict(rows)
    assert [name for name, _ in MIGRATIONS] == ["001_first_record", "002_decode_splits"]
    assert set(schema) == {
        "decode_choices", "decode_splits", "decode_steps", "decodes", "edges", "engines", "journals", "losses",
        "migrations", "otlp_spans", "processes", "prompt_blocks", "runs", "span_starts", "spans", "tool_steps",
    }  # fmt: skip
    assert schema["edges"] == "run_id VARCHAR, src VARCHAR, dst VARCHAR, kind VARCHAR, provenance VARCHAR"
    assert schema["spans"].startswith("run_id VARCHAR, span_id VARCHAR, parent_span_id VARCHAR, kind VARCHAR")
    assert "sampled_ids INTEGER[], logprobs FLOAT[]" in schema["decodes"]


def test_the_tracer_door_is_what_it_says() -> None:
    assert all(hasattr(tracer, name) for name in tracer.__all__)


def test_many_runs_are_read_as_each_of_them(store: Path) -> None:
    opened = Store(store)
    recordings = Path(str(files("redecode.agents"))) / "recordings"
    opened.spool.mkdir(parents=True, exist_ok=True)
    shutil.copy(recordings / "demo.journal", opened.spool / "0-demo.journal")
    ids = [run.run_id for run in opened.runs()]
    assert len(ids) > 5
    assert opened.load_many(ids[::-1]) == [opened.load(run_id) for run_id in ids]
    assert opened.load_many([ids[3], "f" * 32]) == [opened.load(ids[3])]
    assert opened.load_many([]) == []
