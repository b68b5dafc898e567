"""Publishing again and again: only what is new is written, what has more is written anew, nothing is there twice."""

from __future__ import annotations

import fcntl
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from redecode.tracer import Dataset, Recorder, SpanKind, Store
from redecode.tracer import conventions as c
from redecode.tracer.errors import StoreError, StoreUnwritable, StoreVersion
from redecode.tracer.events import with_arrays
from redecode.tracer.export import otlp
from redecode.tracer.store import publish as module
from redecode.tracer.store.forget import forget
from redecode.tracer.store.manifest import Manifest
from redecode.tracer.store.publish import publish_runs
from tests.tracer.export.recorded_runs import keep
from tests.tracer.publish.support import equal, files, keep_foreign, publish, some_run


def count(dest: Path, table: str, what: str = "count(*)") -> int:
    query = f"SELECT {what} FROM read_parquet('{dest}/{table}/**/*.parquet', hive_partitioning = true)"
    (row,) = duckdb.execute(query).fetchall()
    return int(row[0])


def more_of(store: Path, number: int) -> None:
    """The step clock of a run, which comes after its end."""
    recorder, run = Recorder(store), some_run(number)
    timing = {"t": "timing", "span": run.decodes[0].span_id, "run": run.run.run_id, "same_host": True}
    recorder.journal.append(with_arrays(timing, {c.TOKEN_GAPS: c.pack([4, 3, 2], "i")}))
    recorder.close()


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


def test_only_what_is_new_is_written(store: Path, dest: Path) -> None:
    assert publish(keep(store, [some_run(1), some_run(2, "b")]), dest) == (2, 0, 0, 0)
    before = files(dest)
    assert publish(Store(store), dest) == (0, 0, 2, 0)
    assert files(dest) == before
    assert publish(keep(store, [some_run(3, days=1)]), dest) == (1, 0, 2, 0)
    after = files(dest)
    assert {name: data for name, data in after.items() if name in before} == before
    assert any("day=2027-01-16" in name for name in after)
    assert equal(Store(store), Dataset(dest))


def test_a_small_part_takes_in_what_comes_and_a_large_one_does_not(
    store: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        publish(keep(store, [some_run(number)]), dest)
    assert [len(list((dest / t).rglob("*.parquet"))) for t in ("runs", "spans", "decodes")] == [1, 1, 1]
    monkeypatch.setattr(module, "PART_RUNS", 5)
    publish(keep(store, [some_run(6)]), dest)
    assert len(list((dest / "runs").rglob("*.parquet"))) == 2
    monkeypatch.setattr(module, "GROW_BYTES", 10)
    publish(keep(store, [some_run(7), some_run(8)]), dest)
    assert len(list((dest / "runs").rglob("*.parquet"))) == 3
    monkeypatch.setattr(module, "PART_TOKENS", 50)
    publish(keep(store, [some_run(9, "b"), some_run(10, "b", tokens=600), some_run(11, "b")]), dest)
    assert len(list((dest / "runs").rglob("*.parquet"))) == 6
    assert equal(Store(store), Dataset(dest))
    assert count(dest, "runs") == count(dest, "runs", "count(DISTINCT run_id)") == 11


def test_a_run_that_got_more_is_published_again_and_not_doubled(store: Path, dest: Path) -> None:
    theirs = [replace(span, scope="theirs") for span in otlp.otlp_spans(some_run(1))]
    keep(store, [some_run(2)])
    keep_foreign(store, theirs[:2])
    assert publish(Store(store), dest) == (2, 0, 0, 0)
    keep_foreign(store, theirs[2:])
    assert publish(Store(store), dest) == (0, 1, 1, 0)
    more_of(store, 2)
    assert publish(Store(store), dest) == (0, 1, 1, 0)
    assert publish(Store(store), dest) == (0, 0, 2, 0)
    assert equal(Store(store), Dataset(dest))
    assert Dataset(dest).load(f"{2:032x}").decodes[0].token_times_ns == (4000, 7000, 9000)
    assert (count(dest, "runs"), count(dest, "spans"), count(dest, "edges")) == (2, 6, count(dest, "edges"))
    assert count(dest, "edges", "count(DISTINCT (run_id, src, dst, kind))") == count(dest, "edges")


def test_an_open_run_waits_until_it_ends_or_cannot_any_more(store: Path, dest: Path) -> None:
    recorder = Recorder(store)
    ends, dies = recorder.start_run("agent"), recorder.start_run("agent")
    assert publish(Store(store), dest) == (0, 0, 0, 2)
    recorder.end(ends)
    assert publish(Store(store), dest) == (1, 0, 0, 1)
    recorder.end(recorder.start(SpanKind.NODE, "n", dies, "n"))
    recorder.close()
    assert publish(Store(store), dest) == (1, 0, 1, 0)
    assert publish(Store(store), dest) == (0, 0, 2, 0)
    assert equal(Store(store), Dataset(dest))
    assert Dataset(dest).load(dies.run_id).run.status == "open"


def test_what_was_published_stays_though_the_store_forgets_it(store: Path, dest: Path) -> None:
    publish(keep(store, [some_run(1), some_run(2)]), dest)
    forget(Store(store), runs=[f"{1:032x}"])
    assert publish(keep(store, [some_run(3)]), dest) == (1, 0, 1, 0)  # into the same part
    assert {run.run_id for run in Dataset(dest).runs()} == {f"{n:032x}" for n in (1, 2, 3)}
    assert (count(dest, "runs"), count(dest, "spans")) == (3, 9)
    assert Dataset(dest).load(f"{1:032x}").decodes[0].messages == [{"content": "said 1"}]


def test_a_partition_that_was_removed_stays_removed(store: Path, dest: Path) -> None:
    publish(keep(store, [some_run(1), some_run(2, "b")]), dest)
    for folder in list(dest.glob("*/day=*/agent=b")):
        shutil.rmtree(folder)
    more_of(store, 2)
    assert publish(keep(store, [some_run(3), some_run(4, "b")]), dest)[:2] == (2, 0)
    assert {run.run_id for run in Dataset(dest).runs()} == {f"{n:032x}" for n in (1, 3, 4)}
    assert publish(Store(store), dest)[:2] == (0, 0)
    more_of(store, 2)
    assert publish(Store(store), dest)[:2] == (0, 0)
    assert count(dest, "runs") == 3


def test_two_who_publish_a_store_do_so_one_after_the_other(store: Path, dest: Path) -> None:
    opened, waits, done = keep(store, [some_run(1)]), threading.Event(), list[int]()
    with (store / "PUBLISH").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: done.append(publish_runs(opened, dest, on_wait=waits.set).runs))
        second.start()
        assert waits.wait(20)
        second.join(0.2)
        assert (done, dest.exists()) == ([], False)
    second.join()
    assert done == [1]


def test_one_that_died_before_its_last_word_is_finished_under_the_names_it_planned(
    store: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = Manifest.write, list[int]()

    def write(self: Manifest, place: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(self, place)

    monkeypatch.setattr(Manifest, "write", write)
    with pytest.raises(KeyboardInterrupt):
        publish(keep(store, [some_run(1, "b")]), dest)
    assert publish(keep(store, [some_run(2, "a", days=-0.1)]), dest)[:2] == (2, 0)
    assert equal(Store(store), Dataset(dest))
    assert count(dest, "runs") == 2


def test_some_of_the_runs(store: Path, dest: Path) -> None:
    opened = keep(store, [some_run(1), some_run(2, "b"), some_run(3, days=1), some_run(4, "b", days=1)])
    assert publish_runs(opened, dest, since_ns=some_run(3, days=1).run.started_ns, agent="b").runs == 1
    assert [run.run_id for run in Dataset(dest).runs()] == [f"{4:032x}"]
    assert publish_runs(opened, dest, agent="c").runs == 0
    assert publish(opened, dest) == (3, 0, 1, 0)
    assert equal(opened, Dataset(dest))


def test_a_store_brought_back_from_yesterday_does_not_undo_what_was_published(store: Path, dest: Path) -> None:
    publish(keep(store, [some_run(1)]), dest)
    shutil.copytree(store, store.with_name("yesterday"))
    publish(keep(store, [some_run(2)]), dest)
    shutil.rmtree(store)
    store.with_name("yesterday").rename(store)
    assert publish(keep(store, [some_run(3)]), dest) == (1, 0, 1, 0)
    assert {run.run_id for run in Dataset(dest).runs()} == {f"{n:032x}" for n in (1, 2, 3)}


def test_of_a_run_in_several_stores_the_best_copy_counts(tmp_path: Path, dest: Path) -> None:
    whole = some_run(1)
    less = replace(whole, spans=whole.spans[:2], tools=[], edges=[])
    for name, run in (("one", less), ("two", whole), ("three", less)):
        publish(keep(tmp_path / name, [run]), dest)
    assert count(dest, "runs") == 3
    assert equal(Store(tmp_path / "two"), Dataset(dest))


def test_a_dataset_that_moves_goes_on(store: Path, dest: Path, tmp_path: Path) -> None:
    publish(keep(store, [some_run(1)]), dest)
    moved = tmp_path / "elsewhere"
    dest.rename(moved)
    assert publish(keep(store, [some_run(2)]), moved) == (1, 0, 1, 0)
    assert publish(Store(store), dest) == (2, 0, 0, 0)  # and another one begins from nothing
    assert equal(Store(store), Dataset(moved))
    assert equal(Store(store), Dataset(dest))


def test_places_that_are_none(store: Path, dest: Path, tmp_path: Path) -> None:
    opened = keep(store, [some_run(1)])
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    with pytest.raises(StoreUnwritable, match="holds something else than a published dataset"):
        publish(opened, full)
    assert files(full) == {"thesis.txt": b"mine"}
    with pytest.raises(StoreUnwritable, match=f"cannot use {full / 'thesis.txt'}: "):
        publish(opened, full / "thesis.txt")
    with pytest.raises(StoreUnwritable, match="holds something else"):
        publish(opened, store)  # into itself
    with pytest.raises(StoreError, match="patterns; choose another name"):
        publish(opened, tmp_path / "what?")
    with pytest.raises(StoreError, match="no dataset at"):
        Dataset(tmp_path / "nowhere")
    publish(opened, dest)
    (dest / "_redecode.json").write_text('{"redecode_dataset": 99}')
    with pytest.raises(StoreVersion, match="is a dataset of version 99, this redecode knows 1"):
        publish(opened, dest)
    with pytest.raises(StoreVersion):
        Dataset(dest)
    (dest / "_redecode.json").write_text("broken")
    with pytest.raises(StoreError, match="is not the marker of a published dataset"):
        Dataset(dest)


def test_a_damaged_manifest_is_named_and_the_way_out_works(store: Path, dest: Path) -> None:
    publish(keep(store, [some_run(1)]), dest)
    (manifest,) = (dest / "_publishers").rglob("*.json")
    manifest.write_text("{")
    with pytest.raises(StoreError, match="is damaged; without it"):
        publish(Store(store), dest)
    manifest.unlink()
    assert publish(Store(store), dest) == (1, 0, 0, 0)
    assert equal(Store(store), Dataset(dest))
    assert count(dest, "runs") == 1
