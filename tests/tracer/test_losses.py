"""What could not be written down is counted once, whatever the disk does, and recording goes on when it can."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redecode.tracer import Recorder, SpanKind, Store, spool
from redecode.tracer.losses import losses_path, read_losses
from redecode.tracer.spool import JournalWriter


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def fill(store: Path) -> None:
    """No journal may grow any more."""
    longest = max(path.stat().st_size for path in (store / "spool").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))


def ended_on_a_full_disk(store: Path, runs: int = 1) -> list[str]:
    """Runs that began, and whose ends found no room."""
    recorder = Recorder(store)
    begun = [recorder.start_run("a") for _ in range(runs)]
    recorder.end(recorder.start(SpanKind.NODE, "n", begun[0], "x" * 5000))  # longer than what is kept beside it
    fill(store)
    for run in begun:
        recorder.end(run)
    recorder.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return [run.run_id for run in begun]


def test_what_a_full_disk_swallowed_is_told_by_the_run(store: Path) -> None:
    (run_id,) = ended_on_a_full_disk(store)
    run = Store(store).load(run_id).run
    assert (run.status, run.lost) == ("open", 1)
    ((_, lost, why),) = Store(store).health().dropped
    assert (lost, "File too large" in why or "No space" in why) == (1, True)
    assert list((store / "spool").iterdir()) == []


def test_a_reader_that_died_before_it_could_tidy_up_counts_nothing_twice(store: Path, tmp_path: Path) -> None:
    (run_id,) = ended_on_a_full_disk(store)
    shutil.copytree(store / "spool", tmp_path / "spool")
    assert Store(store).load(run_id).run.lost == 1
    shutil.copytree(tmp_path / "spool", store / "spool", dirs_exist_ok=True)
    assert any((store / "spool").iterdir())
    assert Store(store).load(run_id).run.lost == 1
    assert not any((store / "spool").iterdir())


def test_more_runs_than_there_is_room_to_name(store: Path) -> None:
    ended_on_a_full_disk(store, runs=200)
    assert [path.stat().st_size for path in (store / "spool").glob("*.lost")] == [4096]
    ((_, lost, _),) = Store(store).health().dropped
    assert lost == 200


def test_a_killed_writer_leaves_its_count(store: Path) -> None:
    child = os.fork()
    if not child:
        recorder = Recorder(store)
        run = recorder.start_run("a", attributes={"redecode.run.input": '"' + "x" * 5000 + '"'})
        fill(store)
        for _ in range(3):
            recorder.end(recorder.start(SpanKind.NODE, "n", run, "n"))
        os._exit(0)
    os.waitpid(child, 0)
    (found,) = Store(store).runs()
    assert (found.status, found.lost) == ("open", 6)


def test_what_a_process_lost_is_not_its_childs(store: Path) -> None:
    recorder = Recorder(store)
    run = recorder.start_run("a", attributes={"redecode.run.input": '"' + "x" * 5000 + '"'})
    fill(store)
    recorder.end(run)
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        recorder.start_run("b")
        recorder.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list((store / "spool").glob("*.lost"))) == 1
    recorder.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert {r.agent: r.lost for r in Store(store).runs()} == {"a": 1, "b": 0}


def waited(until: Callable[[], Any]) -> Any:
    for _ in range(500):
        if found := until():
            return found
        time.sleep(0.01)
    raise AssertionError("it never happened")


def test_a_store_that_can_be_made_later_has_the_rest_and_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SYNC_S", 0.01)
    place = tmp_path / "disk"
    place.write_text("not mounted yet")
    recorder = Recorder(place / "store", patient=True)
    early = recorder.start_run("early")
    place.unlink()
    waited(lambda: list((place / "store" / "spool").glob("*.journal")))
    recorder.end(early)
    recorder.end(recorder.start_run("late"))
    recorder.close()
    late, first = Store(place / "store").runs()
    assert (late.agent, late.status, late.lost) == ("late", "ok", 0)
    assert (first.agent, first.status, first.lost) == ("early", "ok", 1)  # its end holds all; its start is missing


def test_a_deleted_journal_is_noticed_and_another_begun(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SYNC_S", 0.01)
    recorder = Recorder(store)
    run = recorder.start_run("a")
    (journal,) = (store / "spool").glob("*.journal")
    shutil.rmtree(store)
    waited(lambda: list((store / "spool").glob("*.journal")))
    recorder.end(run)
    recorder.close()
    (found,) = Store(store).runs()
    assert (found.status, found.lost) == ("ok", 1)
    assert not journal.exists()


def test_a_deleted_journal_is_counted_once_while_there_is_no_place_for_another(store: Path) -> None:
    recorder = Recorder(store)
    run = recorder.start_run("a")
    shutil.rmtree(store)
    store.write_text("in the way")
    for _ in range(3):
        recorder.journal._mend()
    store.unlink()
    recorder.end(run)  # there is nowhere to write it: nobody has looked again
    recorder.close()
    (found,) = Store(store).health().dropped
    assert found[1] == 2


def test_what_was_told_in_a_deleted_journal_is_told_again(store: Path) -> None:
    recorder = Recorder(store)
    recorder.lose("r", "this", ValueError("x"))
    recorder.lose("r", "that", ValueError("y"))
    shutil.rmtree(store)
    recorder.close()
    (found,) = Store(store).health().dropped
    assert found[1] == 2


def test_what_the_collector_acknowledges_is_not_in_a_deleted_file(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "spool", "test", lambda: {"t": "process"})
    shutil.rmtree(tmp_path / "spool")
    writer.commit([b'{"t":"x"}'])
    (journal,) = (tmp_path / "spool").glob("*.journal")
    assert b'{"t":"x"}' in journal.read_bytes()
    writer.close()


def test_beside_a_journal_that_lost_nothing_there_is_nothing_left(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, "test", lambda: {"t": "process"}, rotate_bytes=100)
    for n in range(20):
        writer.write({"t": "x", "text": f"{n}" * 20})
    journals = sorted(tmp_path.glob("*.journal"))
    assert [losses_path(path).exists() for path in journals] == [False] * (len(journals) - 1) + [True]
    writer.close()
    assert not list(tmp_path.glob("*.lost"))
    assert all(read_losses(path) == [] for path in journals)


def test_a_journal_removed_before_it_was_locked_is_begun_anew(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(store).drain()
    real = fcntl.flock
    removed: list[Path] = []

    def reader_is_quicker(fd: int, how: int) -> None:
        if not removed:
            removed.extend((store / "spool").glob("*.journal"))
            monkeypatch.setattr(fcntl, "flock", real)
            Store(store).drain()
            assert not removed[0].exists()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", reader_is_quicker)
    recorder = Recorder(store)
    assert len(removed) == 1
    Store(store).drain()  # it is locked now
    recorder.end(recorder.start_run("a"))
    recorder.close()
    assert [(r.agent, r.status, r.lost) for r in Store(store).runs()] == [("a", "ok", 0)]


def test_nothing_of_ours_runs_while_a_process_forks(tmp_path: Path) -> None:
    """From 3.12 on Python warns of forking beside threads, and a warning may be an error."""
    others = set(threading.enumerate())
    recorder = Recorder(tmp_path / "store")

    def syncing() -> set[threading.Thread]:
        return set(threading.enumerate()) - others

    recorder.start_run("before")
    assert syncing()
    child = os.fork()
    if not child:
        os._exit(len(threading.enumerate()) - 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not syncing()
    recorder.start_run("after")
    assert syncing()
    recorder.close()
