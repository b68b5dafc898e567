"""`redecode store forget`: what it asks, says and refuses; what it does is in tests/tracer/test_forget.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.tracer import Recorder, Store
from tests.cli.test_store_publish import told
from tests.tracer.privacy.support import bytes_of
from tests.tracer.test_forget import begin, numbers_in, whole


def forget(store: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["store", "forget", *arguments, "--store", str(store)])


@pytest.fixture
def two(store: Path) -> list[str]:
    recorder = Recorder(store)
    ids = [whole(recorder, number) for number in (1, 2)]
    recorder.close()
    Store(store).drain()
    return ids


def test_it_says_what_it_freed(store: Path, two: list[str]) -> None:
    done = forget(store, "--run", two[0][:10], "--yes")
    assert (done.exit_code, told(done)) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == "removed 1 run: 3 spans, 1 decodes, 35 sampled and 99 prompt tokens"
    said = re.fullmatch(
        r"2 prompt blocks that nothing else used; the store had (\d+) bytes and has (\d+) \((\d+) freed\)", second
    )
    assert said is not None
    before, after, freed = map(int, said.groups())
    assert after == (store / "runs.duckdb").stat().st_size
    assert freed == before - after
    assert numbers_in(store) == {2}


def test_json_is_alone_on_stdout(store: Path, two: list[str]) -> None:
    done = forget(store, "--older-than", "0m", "--yes", "--json")
    said = json.loads(done.stdout)
    assert (done.exit_code, told(done)) == (0, "")
    assert (sorted(said["runs"]), said["spans"], said["dry"], said["still_open"]) == (sorted(two), 6, False, [])
    assert said["freed_bytes"] == said["bytes_before"] - said["bytes_after"]
    again = json.loads(forget(store, "--older-than", "0m", "--yes", "--json").stdout)
    assert (again["runs"], again["spans"]) == ([], 0)


def test_nothing_goes_without_a_yes(store: Path, two: list[str]) -> None:
    before = bytes_of(store)
    done = forget(store, "--run", two[0])
    assert (done.exit_code, done.stdout) == (2, "")
    words = "this would remove 1 run: 3 spans, 1 decodes, 35 sampled and 99 prompt tokens for good; say --yes"
    assert done.stderr.startswith(f"redecode: {words}")
    done = forget(store, "--run", two[0], "--dry-run")
    assert done.stdout.startswith("would remove 1 run: 3 spans")
    assert bytes_of(store) == before
    assert forget(store, "--older-than", "1d", "--agent", "agent").exit_code == 0  # nothing to ask about
    assert bytes_of(store) == before


def test_a_run_that_goes_on(store: Path, two: list[str]) -> None:
    recorder = Recorder(store)
    live = begin(recorder, 3)
    done = forget(store, "--run", live.run_id, "--yes")
    assert done.exit_code == 2
    assert "is being recorded just now; end its program first" in done.stderr
    done = forget(store, "--older-than", "0m", "--yes")
    assert done.exit_code == 0
    assert told(done) == f"redecode: run {live.run_id[:12]} is being recorded just now and stays"
    recorder.close()
    assert numbers_in(store) == {3}


def test_damaged_journals_are_told_of(store: Path, two: list[str]) -> None:
    recorder = Recorder(store)
    whole(recorder, 3)
    recorder.close()
    (journal,) = (store / "spool").glob("*.journal")
    data = bytearray(journal.read_bytes())
    data[data.index(b"planted-3-result")] ^= 1
    journal.write_bytes(data)
    done = forget(store, "--run", two[0], "--yes")
    assert "1 damaged journals are set aside in the spool" in done.stderr
    assert "delete them with --corrupt" in done.stderr
    assert len(list((store / "spool").iterdir())) == 1
    assert forget(store, "--corrupt", "--yes").exit_code == 0
    assert not list((store / "spool").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say which runs: --run ID, or --older-than AGE"),
        (["--run", "ab", "--older-than", "1d"], "say which runs: --run ID, or --older-than AGE"),
        (["--run", "ab", "--agent", "a"], "--agent narrows --older-than"),
        (["--older-than", "soon"], "--older-than soon: want a number and m, h, d or w, as in 30d"),
        (["--older-than", "-1d"], "--older-than -1d: want a number"),
        (["--run", "ffff0000"], "no run starts with 'ffff0000'"),
        (["--run", "what?"], "'what?' is not a run id"),
        (["--run", ""], "'' is not a run id"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_and_exit_2(store: Path, two: list[str], arguments: list[str], words: str) -> None:
    done = forget(store, *arguments, "--yes")
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(told(done).splitlines()) == 1
    assert numbers_in(store) == {1, 2}


def test_where_there_is_no_store_to_forget_from(store: Path, tmp_path: Path, two: list[str]) -> None:
    done = forget(tmp_path / "nowhere", "--older-than", "0m", "--yes")
    assert (done.exit_code, len(told(done).splitlines())) == (2, 1)
    assert "no store at" in done.stderr
    assert not (tmp_path / "nowhere").exists()
    dest = tmp_path / "dataset"
    assert CliRunner().invoke(app, ["store", "publish", str(dest), "--store", str(store)]).exit_code == 0
    before = bytes_of(dest)
    done = forget(dest, "--older-than", "0m", "--yes")
    assert (done.exit_code, len(told(done).splitlines())) == (2, 1)
    assert "is a published dataset, which can only be read" in done.stderr
    assert bytes_of(dest) == before
    assert forget(store, "--older-than", "0m", "--yes").exit_code == 0
    assert numbers_in(store) == set()
    assert bytes_of(dest) == before  # what was published is elsewhere, and stays
