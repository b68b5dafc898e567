"""Stores are read by one DuckDB of the process, which holds no file that nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest

from redecode.tracer import Recorder, Store, StoreError
from redecode.tracer.store import attached
from redecode.tracer.store.attached import reading

_WRITE = """
import sys, duckdb
with duckdb.connect(sys.argv[1]) as db:
    print(db.execute("INSERT INTO known VALUES (1)").fetchall())
"""


@pytest.fixture(params=["plain", 'it\'s; odd "one"'])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / f"{request.param}.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE TABLE known (n INTEGER)")
    return path


def written(database: Path) -> int:
    """By another process."""
    return subprocess.run([sys.executable, "-c", _WRITE, str(database)], capture_output=True, check=False).returncode


def counted(database: Path) -> int:
    with reading(database) as db:
        found = db.execute("SELECT count(*) FROM known").fetchone()
    assert found is not None
    return int(found[0])


def test_a_file_is_let_go_of_with_its_last_reader(database: Path) -> None:
    assert counted(database) == 0 and written(database) == 0 and counted(database) == 1
    with ExitStack() as readers:
        first, second = (readers.enter_context(reading(database)) for _ in range(2))
        first.execute("SELECT * FROM known")  # and never fetched
        assert written(database) != 0
        first.execute("CREATE TEMP TABLE own AS SELECT 7 AS n")
        with pytest.raises(duckdb.CatalogException):
            second.execute("SELECT * FROM own")
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            second.execute("INSERT INTO known VALUES (2)")
    with pytest.raises(RuntimeError), reading(database) as db:
        db.execute("SELECT * FROM known")
        raise RuntimeError
    assert written(database) == 0 and counted(database) == 2


def test_threads_read_many_files(tmp_path: Path) -> None:
    stores = [Store(tmp_path / str(n)) for n in range(3)]
    for many, store in enumerate(stores):
        recorder = Recorder(store.path)
        for _ in range(many):
            recorder.end(recorder.start_run("agent"))
        recorder.close()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: len(stores[n % 3].runs()), range(240)))
    assert found == [n % 3 for n in range(240)]
    assert attached._current is not None and not attached._current.readers and not attached._current.names


def test_another_spelling_of_a_path_is_the_same_file(database: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(database)
    with reading(database), reading(tmp_path / "link") as db:
        assert db.execute("SELECT count(*) FROM known").fetchone() == (0,)


def test_a_file_that_is_none_leaves_the_others_readable(database: Path, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 5000)
    with reading(database) as db:
        with pytest.raises(duckdb.Error), reading(tmp_path / "junk"):
            pass
        assert db.execute("SELECT count(*) FROM known").fetchone() == (0,)
    assert counted(database) == 0


def test_a_duckdb_that_failed_for_good_is_given_up(database: Path) -> None:
    with pytest.raises(duckdb.FatalException), reading(database):
        raise duckdb.FatalException("invalidated")
    assert attached._current is None and counted(database) == 0


_FORKS = """
import os, sys
from pathlib import Path
from redecode.tracer.store.attached import reading
path, when = Path(sys.argv[1]), sys.argv[2]
def read():
    with reading(path) as db:
        return db.execute("SELECT count(*) FROM known").fetchall()
def fork():
    if not (child := os.fork()):
        print("said", read() if "reads" in when else "", flush=False)
        sys.exit(3)
    print("child", os.waitpid(child, 0)[1] >> 8, flush=True)
read()
if "within" in when:
    with reading(path):
        fork()
else:
    fork()
print(read())
"""


@pytest.mark.parametrize("when", ["idle", "idle, reads", "within", "within, reads"])
def test_a_child_ends_as_it_would(database: Path, when: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FORKS, str(database), when]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = "said [(0,)]" if "reads" in when else "said "
    assert (done.returncode, done.stdout.splitlines()) == (0, [said, "child 3", "[(0,)]"]), done.stderr
    assert "nanobind" not in done.stderr or "within" in when


def test_nothing_is_said_at_an_end_with_a_thread_that_goes_on(database: Path) -> None:
    program = _FORKS.partition("def fork")[0] + "import threading, time\nread()\n"
    program += "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    command = [sys.executable, "-c", program, str(database), ""]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr == ""


def test_another_file_in_its_place_is_another_store(database: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with duckdb.connect(str(other)) as db:
        db.execute("CREATE TABLE known AS SELECT 1 AS n")
    with reading(database) as still:
        other.replace(database)
        assert counted(database) == 1
        assert still.execute("SELECT count(*) FROM known").fetchone() == (0,)
    assert counted(database) == 1 and written(database) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_keeps_no_lock_of_its_parents(store: Path) -> None:
    opened = Store(store)
    opened.drain()
    with opened.held(exclusively=False):
        if not (child := os.fork()):
            time.sleep(30)
            os._exit(0)
    begun = time.monotonic()
    with opened.held(exclusively=True):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert time.monotonic() - begun < 20


def test_a_damaged_block_is_one_clear_error(store: Path) -> None:
    recorder = Recorder(store)
    for _ in range(300):
        recorder.end(recorder.start_run("agent"))
    recorder.close()
    Store(store).runs()
    database = store / "runs.duckdb"
    whole = database.read_bytes()
    database.write_bytes(whole[: 3 * 4096] + bytes(len(whole) - 3 * 4096))
    with pytest.raises(StoreError, match=r"runs\.duckdb"):
        Store(store).runs()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_with_a_duckdb_of_its_own(database: Path) -> None:
    with reading(database):
        child = os.fork()
        if not child:
            os._exit(17 + counted(database))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert counted(database) == 0 and written(database) == 0
