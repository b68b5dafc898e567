"""A published run is the run: field by field what the store gives, whatever it is and whatever its agent is called."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from redecode.tracer import AmbiguousRun, Dataset, RecordedRun, Recorder, Store, UnknownRun
from redecode.tracer import conventions as c
from redecode.tracer.events import with_arrays
from redecode.tracer.export import otlp
from redecode.tracer.privacy.redaction import Privacy
from redecode.tracer.store.layout import TABLES
from tests.tracer.export.recorded_runs import keep, runs
from tests.tracer.privacy.support import record
from tests.tracer.publish.support import equal, files, keep_foreign, publish, some_run

ODD = [
    "a/b", "..", "a=b", "50%", "%2F", "müller", "日本語", "🦊", "", " ", "it's", 'a"b', "a\nb", "a\\b", "*?[x]{y}#:",
    "123", "true", "2026-11-21", "NULL", "a" * 500, "日" * 200, "__HIVE_DEFAULT_PARTITION__", "_x",
]  # fmt: skip


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.generate],  # shrinking would take minutes of databases
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(some=st.lists(runs(), min_size=1, max_size=5, unique_by=lambda run: run.run.run_id))
def test_any_run_comes_back_as_it_was(some: list[RecordedRun], tmp_path: Path) -> None:
    here = Path(tempfile.mkdtemp(dir=tmp_path))
    store = keep(here / "store", some)
    assert publish(store, here / "dest") == (len(some), 0, 0, 0)
    assert equal(store, Dataset(here / "dest"))
    before = files(here / "dest")
    assert publish(store, here / "dest") == (0, 0, len(some), 0)
    assert files(here / "dest") == before


def test_agents_of_any_name(tmp_path: Path) -> None:
    store = keep(tmp_path / "store", [some_run(n, agent) for n, agent in enumerate(ODD, 1)])
    dest = tmp_path / "dest"
    assert publish(store, dest) == (len(ODD), 0, 0, 0)
    assert equal(store, Dataset(dest))
    names = [agent or "invoke_agent" for agent in ODD]  # a run without one has its span's
    assert sorted(run.agent for run in Dataset(dest).runs()) == sorted(names)
    tables = {path.name for path in dest.iterdir() if not path.name.startswith("_")}
    assert tables == {"decodes", "edges", "runs", "spans", "tool_steps"}  # no name leads out of its partition
    for table in tables:
        days = list((dest / table).iterdir())
        assert [day.name for day in days] == ["day=2027-01-15"]
        assert len(list(days[0].iterdir())) == len(ODD)

    # Readers who know nothing of us: every row, the agent from the partition where it can be one.
    pattern = str(dest / "runs" / "**" / "*.parquet")
    kinds = "hive_types = {'day': DATE, 'agent': VARCHAR}"
    rows = duckdb.execute(f"SELECT agent_name, agent FROM read_parquet('{pattern}', hive_partitioning = true, {kinds})")
    by_duckdb = dict(rows.fetchall())
    schema = pyarrow.schema([("day", pyarrow.date32()), ("agent", pyarrow.string())])
    hive = pyarrow.dataset.partitioning(schema, flavor="hive")
    table = pyarrow.dataset.dataset(dest / "runs", partitioning=hive).to_table(columns=["agent_name", "agent"])
    by_arrow = {row["agent_name"]: row["agent"] for row in table.to_pylist()}
    whole = [agent for agent in names if len(agent) < 200 and agent != "__HIVE_DEFAULT_PARTITION__"]
    assert {agent: by_duckdb[agent] for agent in whole} == {agent: agent for agent in whole}
    assert {agent: by_arrow[agent] for agent in whole} == {agent: agent for agent in whole}
    assert len(by_duckdb) == len(by_arrow) == len(ODD)
    assert by_duckdb["a" * 500].startswith("a" * 100)


@pytest.mark.parametrize("table", list(TABLES))
def test_every_file_of_a_table_has_the_same_columns(tmp_path: Path, table: str) -> None:
    """Without a value in them too: or readers that take the first file's schema would stumble over the next."""
    full, bare = some_run(1), some_run(2)
    bare = replace(bare, decodes=[replace(bare.decodes[0], prompt_ids=None, sampled_ids=None, messages=None)])
    for name, run in (("one", full), ("two", bare)):
        store = keep(tmp_path / name, [replace(run, run=replace(run.run, lost=1))])
        recorder = Recorder(tmp_path / name)
        recorder.journal.write({"t": "engine", "id": "e1", "info": {"device": "cpu"}})
        recorder.close()
        publish(store, tmp_path / "dest")
    paths = sorted((tmp_path / "dest" / table).rglob("*.parquet"))
    schemas = [pyarrow.parquet.read_schema(path) for path in paths]
    if table == "decode_choices":
        assert schemas == []
        return
    assert len(schemas) == 2
    assert [(f.name, f.type) for f in schemas[0]] == [(f.name, f.type) for f in schemas[1]]
    for order in (paths, paths[::-1]):
        rows = pyarrow.dataset.dataset(order, partitioning="hive").to_table().to_pylist()
        assert len(rows) == sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
        if table == "decodes":
            assert {row["messages"] for row in rows} == {'[{"content":"said 1"}]', None}


def test_clocks_engines_choices_losses_and_what_was_withheld(tmp_path: Path) -> None:
    recorded = record(tmp_path / "store", None)
    private = record(tmp_path / "store", Privacy(content=False))
    recorder, decode = Recorder(tmp_path / "store"), recorded.decodes[0]
    clock = {c.TOKEN_GAPS: c.pack([400, 300], "i"), c.BATCH_ROWS: c.pack([2, 1], "i")}
    timing = {"t": "timing", "span": decode.span_id, "run": decode.run_id, "same_host": True}
    recorder.journal.append(with_arrays(timing, clock))
    recorder.journal.write({"t": "engine", "id": "e1", "info": {"device": "cpu"}})
    recorder.journal.lose(recorded.run.run_id, "test")
    recorder.close()
    store = keep(tmp_path / "store", [some_run(1)])
    publish(store, tmp_path / "dest")
    dataset = Dataset(tmp_path / "dest")
    assert equal(store, dataset)
    assert dataset.load(recorded.run.run_id).decodes[0].batch_rows == (2, 1)
    assert dataset.load(private.run.run_id).decodes[0].prompt_hashes is not None
    assert dataset.engine("e1") == store.engine("e1") == {"device": "cpu"}
    assert dataset.engine("e2") is dataset.engine(None) is None
    health = dataset.health()
    assert (health.runs, health.spans, health.decodes, health.lost, len(health.stores)) == (3, 9, 3, 1, 1)


def test_the_runs_of_other_tracers(tmp_path: Path) -> None:
    spans = otlp.otlp_spans(some_run(1))
    theirs = [replace(s, scope="theirs", attributes={"openinference.span.kind": "CHAIN"}) for s in spans]
    store = Store(tmp_path / "store")
    keep_foreign(store.path, theirs)
    assert publish(store, tmp_path / "dest")[0] == 1
    assert equal(store, Dataset(tmp_path / "dest"))


def test_runs_are_found_as_in_a_store(tmp_path: Path) -> None:
    store = keep(tmp_path / "store", [some_run(n, days=n) for n in (0x11, 0x12, 0x21)])
    publish(store, tmp_path / "dest")
    dataset = Dataset(tmp_path / "dest")
    ids = [run.run_id for run in store.runs()]
    assert [run.run_id for run in dataset.runs(limit=2)] == ids[:2]
    assert [run.run_id for run in dataset.runs(run_ids=ids[1:])] == ids[1:]
    assert dataset.runs(run_ids=[]) == []
    assert dataset.find("0" * 30 + "21") == f"{0x21:032x}"
    with pytest.raises(AmbiguousRun, match="'00' could be any of 3 runs"):
        dataset.find("00")
    with pytest.raises(UnknownRun, match=f"no run starts with 'ff' in {tmp_path / 'dest'}"):
        dataset.load("ff")
