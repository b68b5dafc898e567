"""Forgetting runs: no byte of them is left in the store, and everything else is as it was."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from redecode.tracer import Decode, Fidelity, LiveSpan, RecordedRun, Recorder, SpanKind, Store, decode_attributes
from redecode.tracer import conventions as c
from redecode.tracer.errors import StoreError, UnknownRun
from redecode.tracer.store.forget import forget
from tests.tracer.privacy.support import bytes_of

SHARED = tuple(range(5000, 5064))
"""The beginning of every prompt: four blocks."""


def own(number: int) -> tuple[int, ...]:
    """What only this run has in its prompts: two blocks and a bit."""
    return tuple(range(100_000 * number, 100_000 * number + 35))


def begin(recorder: Recorder, number: int, **attributes: Any) -> LiveSpan:
    said = f"planted-{number}"
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: c.to_json(f"{said}-input"), **attributes})
    span = recorder.start(SpanKind.DECODE, "chat m", run, "chat")
    decode = Decode(
        run_id=run.run_id, span_id=span.span_id, step_key=span.step_key, model="m", fidelity=Fidelity.TOKENS,
        sent_ns=1, first_chunk_ns=None, done_ns=2, prompt_ids=SHARED + own(number), sampled_ids=own(number),
        messages=[{"content": f"{said}-prompt"}], output=[{"content": f"{said}-output"}], engine_id=f"engine-{number}",
    )  # fmt: skip
    recorder.end(span, attributes=decode_attributes(decode))
    tool = recorder.start(SpanKind.TOOL, "execute_tool t", run, "tool:t", attributes={c.TOOL_NAME: "t"})
    recorder.end(tool, attributes={c.TOOL_RESULT: c.to_json(f"{said}-result")}, error=f"{said}-error")
    return run


def finish(recorder: Recorder, run: LiveSpan) -> str:
    recorder.end(run)
    return run.run_id


def whole(recorder: Recorder, number: int, **attributes: Any) -> str:
    return finish(recorder, begin(recorder, number, **attributes))


def numbers_in(store: Path) -> set[int]:
    """Of the runs of which something is among the bytes of the store."""
    return {int(found) for found in re.findall(rb"planted-(\d+)-", bytes_of(store))}


def loaded(store: Path, *runs: str) -> list[RecordedRun]:
    found = [Store(store).load(run) for run in runs]
    for run in found:
        run.edges.sort(key=str)
    return found


def blocks_in(store: Path) -> int:
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        return int(db.execute("SELECT count(*) FROM prompt_blocks").fetchall()[0][0])


@pytest.fixture
def three(store: Path) -> list[str]:
    recorder = Recorder(store)
    ids = [whole(recorder, number) for number in (1, 2, 3)]
    for number in (1, 2, 3):
        recorder.journal.write({"t": "engine", "id": f"engine-{number}", "info": {"n": number}})
    recorder.journal.lose(ids[1], "planted-2-loss")
    recorder.close()
    return ids


@pytest.mark.parametrize("read_before", [False, True], ids=["from the journal", "from the database"])
def test_no_byte_is_left_and_the_others_are_as_they_were(store: Path, three: list[str], read_before: bool) -> None:
    assert numbers_in(store) == {1, 2, 3}
    kept = loaded(store, three[0], three[2]) if read_before else None
    assert numbers_in(store) == {1, 2, 3}  # the database does not hide it from this test
    done = forget(Store(store), runs=[three[1]])
    assert numbers_in(store) == {1, 3}
    assert (done.runs, done.replays, done.spans, done.decodes, done.tools) == ((three[1],), 0, 3, 1, 1)
    assert (done.tokens, done.prompt_tokens, done.blocks) == (35, 99, 2)
    with pytest.raises(UnknownRun):
        Store(store).load(three[1])
    assert kept is None or loaded(store, three[0], three[2]) == kept
    assert [run.run_id for run in Store(store).runs()] == [three[2], three[0]]
    assert Store(store).load(three[0]).decodes[0].prompt_ids == SHARED + own(1)  # the blocks it shared are there
    assert blocks_in(store) == 4 + 2 + 2
    assert [Store(store).engine(f"engine-{n}") for n in (1, 2, 3)] == [{"n": 1}, None, {"n": 3}]


def test_every_table_with_a_run_in_it_is_free_of_it(store: Path, three: list[str]) -> None:
    """Tables that come with later migrations too."""
    Store(store).drain()
    with duckdb.connect(str(store / "runs.duckdb")) as db:
        query = "SELECT table_name FROM duckdb_columns() WHERE column_name = 'run_id' AND NOT internal"
        tables = [name for (name,) in db.execute(query).fetchall()]
        assert len(tables) > 8
        for table in set(tables) - {"runs"}:
            db.execute(f"INSERT INTO {table} (run_id) VALUES (?), (?)", three[:2])
    forget(Store(store), runs=[three[0]])
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        for table in tables:
            found = {run for (run,) in db.execute(f"SELECT DISTINCT run_id FROM {table}").fetchall()}
            assert three[0] not in found, table
            assert three[1] in found, table


def test_what_it_says_it_freed_is_what_the_files_lost(store: Path) -> None:
    recorder = Recorder(store)
    ids = [whole(recorder, number, filler="x".join(map(str, range(20_000)))) for number in range(40)]
    recorder.close()

    def size() -> int:
        return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())

    before = size()
    done = forget(Store(store), runs=ids[:30])
    assert done.freed_bytes == done.bytes_before - done.bytes_after > before / 3
    assert abs(before - size() - done.freed_bytes) < 5000  # lock and marker
    assert forget(Store(store), runs=ids[30:]).bytes_after < before / 10


def test_a_dry_one_says_the_same_and_changes_nothing(store: Path, three: list[str]) -> None:
    Store(store).drain()
    said = forget(Store(store), runs=three[:2], dry=True)
    before = bytes_of(store)
    assert forget(Store(store), runs=three[:2], dry=True) == said
    assert bytes_of(store) == before
    done = forget(Store(store), runs=three[:2])
    counted = ("runs", "spans", "decodes", "tools", "tokens", "prompt_tokens", "blocks")
    assert [getattr(done, name) for name in counted] == [getattr(said, name) for name in counted]
    assert done.blocks == 4


def test_replays_go_with_what_they_repeat(store: Path, three: list[str]) -> None:
    recorder = Recorder(store)
    replay = whole(recorder, 4, **{c.SOURCE_RUN: three[0]})
    of_that = whole(recorder, 5, **{c.SOURCE_RUN: replay})
    other = whole(recorder, 6, **{c.SOURCE_RUN: three[1]})
    recorder.close()
    done = forget(Store(store), runs=[three[0]])
    assert (set(done.runs), done.replays) == ({three[0], replay, of_that}, 2)
    assert numbers_in(store) == {2, 3, 6}
    assert forget(Store(store), runs=[other]).runs == (other,)  # and not the other way round
    assert numbers_in(store) == {2, 3}


def test_by_age_and_agent_and_again(store: Path) -> None:
    for agent, number in (("a", 1), ("b", 2), ("a", 3)):
        recorder = Recorder(store, agent=agent)
        whole(recorder, number)
        recorder.close()
    ends = sorted(run.ended_ns or 0 for run in Store(store).runs())
    assert forget(Store(store), before_ns=ends[0]).runs == ()
    assert len(forget(Store(store), before_ns=ends[1]).runs) == 1
    assert numbers_in(store) == {2, 3}
    assert len(forget(Store(store), before_ns=ends[2] + 1, agent="b").runs) == 1
    assert numbers_in(store) == {3}
    again = forget(Store(store), before_ns=ends[2] + 1, agent="b")
    assert (again.runs, again.spans, again.blocks, again.scrubbed) == ((), 0, 0, 0)
    assert numbers_in(store) == {3}


def test_a_run_that_goes_on_stays_and_one_whose_process_died_goes(store: Path, three: list[str]) -> None:
    recorder = Recorder(store)
    live = begin(recorder, 4)
    with pytest.raises(StoreError, match=f"run {live.run_id[:12]} is being recorded just now; end its program first"):
        forget(Store(store), runs=[live.run_id])
    done = forget(Store(store), before_ns=live.start_ns + 10**12)
    assert (set(done.runs), done.still_open) == (set(three), (live.run_id,))
    assert numbers_in(store) == {4}
    assert Store(store).load(live.run_id).run.status == "open"
    recorder.close()  # without its end, as when it is killed
    assert forget(Store(store), runs=[live.run_id]).runs == (live.run_id,)
    assert numbers_in(store) == set()


def test_a_journal_still_being_written_loses_its_records_too(store: Path) -> None:
    recorder = Recorder(store)
    gone, stays = whole(recorder, 1), whole(recorder, 2)
    (journal,) = (store / "spool").glob("*.journal")
    size, inode = journal.stat().st_size, journal.stat().st_ino
    done = forget(Store(store), runs=[gone])
    assert done.scrubbed == 6  # three spans, each begun and ended
    assert (journal.stat().st_size, journal.stat().st_ino) == (size, inode)  # its writer has it open
    assert numbers_in(store) == {2}
    later = whole(recorder, 3)
    assert {run.run_id for run in Store(store).runs()} == {stays, later}
    (store / "runs.duckdb").unlink()  # and read again from its beginning, it is a whole journal without that run
    assert {run.run_id for run in Store(store).runs()} == {stays, later}
    assert Store(store).health().corrupt == []
    recorder.close()


def test_damaged_journals_are_told_of_overwritten_and_deleted_when_asked(store: Path, three: list[str]) -> None:
    (journal,) = (store / "spool").glob("*.journal")
    data = bytearray(journal.read_bytes())
    data[data.index(b"planted-3-result")] ^= 1
    journal.write_bytes(data)
    Store(store).drain()
    (aside,) = (store / "spool").iterdir()
    assert aside.suffix == ".corrupt"
    done = forget(Store(store), runs=[three[0]])
    assert (done.corrupt, done.corrupt_deleted, done.scrubbed) == ((aside.name,), 0, 6)
    assert numbers_in(store) == {2, 3}
    done = forget(Store(store), runs=[three[2]])
    assert numbers_in(store) == {2, 3}  # the damaged record could be anybody's
    assert done.corrupt == (aside.name,)
    assert forget(Store(store), corrupt=True).corrupt_deleted == 1
    assert numbers_in(store) == {2}
    assert Store(store).health().corrupt == []


def test_what_a_killed_one_left_behind_goes(store: Path, three: list[str]) -> None:
    Store(store).drain()
    left = ["runs.forgetting.duckdb", "runs.forgetting.duckdb.wal", "runs.duckdb.tmp/part", "publishing/part"]
    for name in left:
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).write_text("planted-9-part")
    forget(Store(store), runs=[three[0]])
    assert numbers_in(store) == {2, 3}
    assert {path.name for path in store.iterdir()} <= {"LOCK", "PUBLISH", "meta", "runs.duckdb", "spool"}


_NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from redecode.tracer import Store
from redecode.tracer.errors import StoreError
from redecode.tracer.store.forget import forget
store = Store(Path(sys.argv[1]))
store.drain()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    forget(store, runs=sys.argv[2:])
except StoreError as error:
    print(error)
"""


def test_without_room_for_the_copy_nothing_is_forgotten(store: Path, three: list[str]) -> None:
    command = [sys.executable, "-c", _NO_ROOM, str(store), three[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("nothing was forgotten: "), done.stderr
    assert sorted(path.name for path in store.iterdir()) == ["LOCK", "meta", "runs.duckdb", "spool"]
    assert {run.run_id for run in Store(store).runs()} == set(three)
    assert forget(Store(store), runs=[three[0]]).runs == (three[0],)
    assert numbers_in(store) == {2, 3}
