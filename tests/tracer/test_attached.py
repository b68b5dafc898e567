"""Stores are read by one DuckDB of the process, which holds no file that nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest

from redecode.tracer import Recorder, Store
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


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_with_a_duckdb_of_its_own(database: Path) -> None:
    with reading(database):
        child = os.fork()
        if not child:
            os._exit(17 + counted(database))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert counted(database) == 0 and written(database) == 0
