"""Acknowledged means on the disk: written, fsynced, and only then answered."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from redecode.tracer import conventions as c
from redecode.tracer.collector import bodies
from redecode.tracer.collector.intake import Intake
from redecode.tracer.collector.limits import Limits
from redecode.tracer.collector.refusals import Busy, TooLarge, Unwritable
from redecode.tracer.collector.signals import TRACES
from redecode.tracer.spool import JournalWriter, read_journal
from tests.tracer.collector.support import span_ids, trace_request, written

Disk = tuple[list[str], threading.Event]


@pytest.fixture
def journal(store: Path) -> Iterator[JournalWriter]:
    writer = JournalWriter(store / "spool", "test", lambda: {"t": "process"})
    yield writer
    writer.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """What reaches the disk, in order, and whether an fsync may end."""
    log: list[str] = []
    free = threading.Event()
    free.set()
    real = os.fsync

    def fsync(fd: int) -> None:
        if not committing():  # the journal's own timer
            return real(fd)
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        log.append(f"fsync {name} of {os.fstat(fd).st_size}")
        assert free.wait(30)
        real(fd)
        return log.append(f"done {name}")

    monkeypatch.setattr(os, "fsync", fsync)
    return log, free


def committing() -> bool:
    """Whether this is the thread that commits: nothing else is to be disturbed."""
    return threading.current_thread().name.startswith("redecode-commit")


def take_in(store: Path, journal: JournalWriter, limits: Limits | None = None) -> Intake:
    return Intake(journal, store / "spool", limits=limits or Limits(), on_first=lambda _: None)


async def send(intake: Intake, seed: int, spans: int = 2) -> list[str]:
    request = trace_request(spans, random.Random(seed))
    with intake.admit() as ticket:
        await intake.receive(ticket, TRACES, request.SerializeToString(), bodies.IDENTITY, is_json=False)
    return span_ids(request)


async def test_nothing_is_answered_before_its_fsync_has_ended(store: Path, journal: JournalWriter, disk: Disk) -> None:
    log, free = disk
    intake = take_in(store, journal)
    free.clear()
    sending = asyncio.create_task(send(intake, 1))
    while not log:
        await asyncio.sleep(0.005)
    (path,) = (store / "spool").glob("*.journal")
    assert log == [f"fsync {path.name} of {path.stat().st_size}"]
    assert len(list(written(store))) == 2  # written before, and not answered yet
    await asyncio.sleep(0.1)
    assert not sending.done()
    assert intake.accepted == 0
    free.set()
    await sending
    assert log[1:] == [f"done {path.name}", "fsync spool of " + log[2].rpartition(" ")[2], "done spool"]
    assert intake.accepted == 2
    await intake.close()


async def test_requests_that_wait_together_share_one_fsync(store: Path, journal: JournalWriter, disk: Disk) -> None:
    log, free = disk
    intake = take_in(store, journal)
    await send(intake, 0)  # the first of a journal puts its name on the disk too
    log.clear()
    free.clear()
    sending = [asyncio.create_task(send(intake, 1))]
    while not log:
        await asyncio.sleep(0.005)
    sending += [asyncio.create_task(send(intake, n)) for n in range(2, 42)]
    while len(intake._group._waiting) < 40:
        await asyncio.sleep(0.005)
    free.set()
    sent = [span for each in await asyncio.gather(*sending) for span in each]
    assert len([line for line in log if line.startswith("fsync")]) == 2
    assert sorted(event["span"] for event in written(store) if event["span"] in sent) == sorted(sent)
    assert intake.accepted == 84
    await intake.close()


async def test_a_failed_fsync_is_never_answered_as_done(
    store: Path, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = take_in(store, journal)
    first = await send(intake, 1)
    real = os.fsync

    def broken(fd: int) -> None:
        if committing():
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(Unwritable, match="Input/output error") as raised:
        await send(intake, 2)
    assert raised.value.retry_after_s == Limits().retry_after_s
    assert (intake.accepted, intake.health()["ok"]) == (2, False)
    monkeypatch.setattr(os, "fsync", real)
    again = await send(intake, 2)
    assert (intake.accepted, intake.health()["ok"]) == (4, True)
    await intake.close()
    # What the disk holds of the first journal is unknown, so nothing was written behind it.
    old, new = sorted((store / "spool").glob("*.journal"))
    assert [event["span"] for event in written(store)] == first + again + again
    assert len([p for batch in read_journal(new) for p in batch.payloads]) == 1 + len(again)
    assert old.name.endswith("-0000.journal")


async def test_what_an_engine_said_of_itself_is_written_once_and_again_if_that_failed(
    store: Path, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = take_in(store, journal)
    request = trace_request(1, random.Random(1))
    engines = request.resource_spans[0].resource.attributes.add(key=c.ENGINES)
    engines.value.string_value = json.dumps({"e1": {"version": "1"}})

    async def again() -> None:
        with intake.admit() as ticket:
            await intake.receive(ticket, TRACES, request.SerializeToString(), bodies.IDENTITY, is_json=False)

    def told() -> list[bytes]:
        """In journals that nobody doubts: of the first, what the disk holds is unknown."""
        paths = sorted((store / "spool").glob("*.journal"))[1:]
        return [p for path in paths for batch in read_journal(path) for p in batch.payloads if b'"engine"' in p]

    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(5, "no")) if committing() else real(fd))
    with pytest.raises(Unwritable):
        await again()
    monkeypatch.setattr(os, "fsync", real)
    for _ in range(3):
        await again()
    await intake.close()
    assert len(told()) == 1


async def test_a_reader_that_is_ahead_of_a_full_disk_misses_nothing(
    store: Path, journal: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of a batch; a reader takes what is whole, and goes on behind it."""
    intake = take_in(store, journal)
    real_write, real_truncate = os.write, os.ftruncate
    (path,) = (store / "spool").glob("*.journal")
    taken: list[bytes] = []
    offset = 0

    def read() -> None:
        nonlocal offset
        for batch in read_journal(path, offset):
            assert batch.damage == []
            taken.extend(batch.payloads)
            offset = batch.end

    def write(fd: int, data: bytes) -> int:
        if not committing():
            return real_write(fd, data)
        if len(data) > 3000:
            return real_write(fd, data[:3000])
        raise OSError(28, "No space left on device")

    def truncate(fd: int, size: int) -> None:
        if committing():
            read()
        real_truncate(fd, size)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "ftruncate", truncate)
    with pytest.raises(Unwritable, match="No space left"):
        await send(intake, 1, spans=5)
    before = len(taken)
    assert before > 1
    monkeypatch.undo()
    sent = await send(intake, 2)
    read()
    assert [json.loads(payload)["span"] for payload in taken[before:]] == sent
    await intake.close()


async def test_a_request_that_would_fill_the_journal_is_too_large(store: Path, journal: JournalWriter) -> None:
    intake = take_in(store, journal, Limits(stored_bytes=2000))
    with pytest.raises(TooLarge, match="more than 2000 bytes"):
        await send(intake, 1, spans=10)
    await intake.close()


async def test_what_all_requests_hold_is_bounded_and_given_back(store: Path, journal: JournalWriter) -> None:
    intake = take_in(store, journal, Limits(in_flight_bytes=10_000))
    with intake.admit() as ticket:
        ticket.hold(9_500)
        with pytest.raises(Busy):
            await send(intake, 1)
    assert len(await send(intake, 1)) == 2
    assert (intake._bytes, intake._requests) == (0, 0)
    await intake.close()


async def test_one_that_gives_up_waiting_does_not_take_the_others_with_it(
    store: Path, journal: JournalWriter, disk: Disk
) -> None:
    log, free = disk
    intake = take_in(store, journal)
    free.clear()
    sending = [asyncio.create_task(send(intake, 0))]
    while not log:
        await asyncio.sleep(0.005)
    sending += [asyncio.create_task(send(intake, n)) for n in (1, 2)]
    while len(intake._group._waiting) < 2:
        await asyncio.sleep(0.005)
    sending[0].cancel()
    sending[1].cancel()
    free.set()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert [isinstance(outcome, list) for outcome in outcomes] == [False, False, True]
    assert len(list(written(store))) == 6  # the work of those who left was under way
    await intake.close()
