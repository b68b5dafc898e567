"""The journal: whole records survive whatever happens to the rest."""

from __future__ import annotations

import os
import struct
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.tracer.errors import CorruptJournal, StoreUnwritable
from redecode.tracer.spool import SUFFIX, JournalWriter, frame, read_journal, writer_is_gone


def writer(spool: Path, **options: Any) -> JournalWriter:
    return JournalWriter(spool, "test", lambda: {"t": "process"}, **options)


def events(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(p) for batch in read_journal(path) for p in batch.payloads]


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    for n in range(5):
        journal.write({"t": "x", "n": n})
    (path,) = tmp_path.glob("*.journal")
    assert [e.get("n") for e in events(path)] == [None, 0, 1, 2, 3, 4]
    journal.close()


@given(cut=st.integers(min_value=0, max_value=400))
def test_a_torn_end_hides_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "a.journal"
    records = [orjson.dumps({"t": "x", "n": n, "text": "x" * n}) for n in range(12)]
    data = b"".join(struct.pack("<II", len(r), zlib.crc32(r)) + r for r in records)
    path.write_bytes(data[:cut])
    whole, end = 0, 0
    for r in records:
        end += 8 + len(r)
        whole += end <= cut
    assert [e["n"] for e in events(path)] == list(range(whole))


def test_a_batch_smaller_than_a_record_still_gets_through(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    journal.write({"t": "big", "text": "y" * 10_000})
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    kinds = [orjson.loads(p)["t"] for batch in read_journal(path, batch_bytes=100) for p in batch.payloads]
    assert kinds == ["process", "big"]


def test_a_changed_record_is_named_and_all_others_are_read(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    for t in ("good", "bad!", "fine"):
        journal.write({"t": t})
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    path.write_bytes(path.read_bytes().replace(b"bad!", b"bad?"))
    batches = list(read_journal(path))
    assert [orjson.loads(p)["t"] for batch in batches for p in batch.payloads] == ["process", "good", "fine"]
    (damage,) = [damage for batch in batches for damage in batch.damage]
    assert isinstance(damage, CorruptJournal)
    assert path.name in str(damage)


@given(data=st.data(), finished=st.booleans())
def test_flipped_bytes_cost_the_records_they_are_in(
    data: st.DataObject, finished: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("flipped") / "a.journal"
    records = [frame(orjson.dumps({"t": "x", "n": n, "text": "x" * (n % 7)})) for n in range(20)]
    whole, broken = bytearray(b"".join(records)), set[int]()
    for at in data.draw(st.sets(st.integers(0, len(whole) - 1), max_size=3)):
        whole[at] ^= data.draw(st.integers(1, 255))
        ends = accumulate(len(r) for r in records)
        broken.add(next(n for n, end in enumerate(ends) if at < end))
    path.write_bytes(whole)
    batches = list(read_journal(path, finished=finished, batch_bytes=data.draw(st.sampled_from([64, 1 << 20]))))
    got = [orjson.loads(p)["n"] for batch in batches for p in batch.payloads]
    kept = [n for n in range(20) if n not in broken]
    if finished:
        assert got == kept
    else:  # a length that now reaches behind the end looks torn: what follows waits for the writer to go
        assert got == kept[: len(got)]


def test_a_large_journal_is_rotated_and_the_finished_one_released(tmp_path: Path) -> None:
    journal = writer(tmp_path, rotate_bytes=100)
    for n in range(10):
        journal.write({"t": "x", "n": n, "pad": "z" * 50})
    paths = sorted(tmp_path.glob("*.journal"))
    assert len(paths) > 2
    assert [writer_is_gone(p) for p in paths] == [True] * (len(paths) - 1) + [False]
    assert [e["n"] for p in paths for e in events(p) if e["t"] == "x"] == list(range(10))
    journal.close()
    assert writer_is_gone(paths[-1])


def test_a_journal_that_has_only_just_been_made_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    """Its writer is about to lock it, or died before it could: a reader removes it under the lock (test_losses)."""
    path = tmp_path / f"new{SUFFIX}"
    path.touch()
    assert not writer_is_gone(path)


def test_a_forked_child_writes_a_journal_of_its_own(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        journal.after_fork()
        journal.write({"t": "child"})
        os.write(write_end, b"x")
        os._exit(0)
    os.read(read_end, 1)
    os.waitpid(pid, 0)
    journal.write({"t": "parent"})
    assert sorted(tuple(e["t"] for e in events(p)) for p in tmp_path.glob("*.journal")) == [
        ("process", "child"),
        ("process", "parent"),
    ]
    journal.close()


def test_a_full_disk_is_counted_and_never_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = writer(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    keep, journal._fd = journal._fd, full
    journal.write({"t": "lost"})
    journal.write({"t": "lost"})
    assert journal.lost == 2
    assert len(caplog.records) == 1
    journal._fd = keep
    os.close(full)
    journal.close()


def test_an_unusable_spool_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritable, match="choose another store"):
        writer(tmp_path / "file" / "spool")
