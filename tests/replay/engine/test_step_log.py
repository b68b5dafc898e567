"""The step clock's file and index: torn lines, rotation, repeats, bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from redecode.replay.engine.step_log import Step, StepIndex, StepLogTail, StepLogWriter


def make_step(t_ns: int, *recorded: tuple[str, int], rows: int = 1) -> Step:
    return Step(t_ns, t_ns - 5, rows, 100, 0, list(recorded))


def times(steps: object) -> list[int]:
    return [step.t_ns for step in steps]  # type: ignore[attr-defined]


def test_a_step_survives_its_line() -> None:
    step = Step(10, 5, 3, 120, 40, [("a", 0), ("é\n", 7)])
    assert Step.decode(step.encode()) == step


@pytest.mark.parametrize(
    "line",
    [b"", b"[1,2,3", b"[1,2,3]", b"{}", b"null", b'[1,2,3,4,5,["a"]]', b'[1,2,3,4,5,[["a"]]]', b"\xff\xfe"],
    ids=["empty", "torn", "short", "object", "null", "row no pair", "row short", "bytes"],
)
def test_what_is_no_step_is_none(line: bytes) -> None:
    assert Step.decode(line) is None


def test_the_tail_reads_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    tail = StepLogTail(path)
    assert times(tail.poll()) == []  # no file yet
    writer = StepLogWriter(path)
    writer.write(make_step(1, ("a", 0)))
    writer.write(make_step(2, ("a", 1)))
    assert times(tail.poll()) == [1, 2]
    assert times(tail.poll()) == []
    writer.write(make_step(3, ("a", 2)))
    assert times(tail.poll()) == [3]
    writer.close()
    tail.close()


def test_a_torn_line_waits_for_its_rest(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    line = make_step(7, ("a", 0)).encode()
    tail = StepLogTail(path)
    with path.open("ab", buffering=0) as file:
        file.write(line[:9])
        assert times(tail.poll()) == []
        file.write(line[9:])
        assert times(tail.poll()) == [7]
    assert tail.bad_lines == 0
    tail.close()


def test_a_line_that_stays_torn_is_counted_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b"[1,2\n" + make_step(3, ("a", 0)).encode())
    tail = StepLogTail(path)
    assert times(tail.poll()) == [3]
    assert tail.bad_lines == 1
    tail.close()


def test_nothing_is_lost_over_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    writer, tail = StepLogWriter(path, rotate_bytes=400), StepLogTail(path)
    seen: list[int] = []
    for i in range(100):
        writer.write(make_step(i, ("a", i)))
        if i % 3 == 0:
            seen += times(tail.poll())
    seen += times(tail.poll())
    assert seen == list(range(100))
    assert path.with_name("steps.jsonl.1").exists()
    assert path.stat().st_size < 800
    writer.close()
    tail.close()


def test_a_full_disk_ends_the_clock_and_not_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    writer = StepLogWriter(Path("/dev/full"))
    writer.write(make_step(1, ("a", 0)))
    writer.write(make_step(2, ("a", 1)))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "/dev/full" in caplog.text


def test_the_log_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    StepLogWriter(path).close()
    assert path.stat().st_mode & 0o077 == 0


def ks(index: StepIndex, rid: str) -> list[int] | None:
    track = index.get(rid)
    return None if track is None else list(track.k)


def test_the_index_sorts_steps_by_request() -> None:
    index = StepIndex()
    index.add([make_step(1, ("a", 0)), make_step(2, ("a", 1), ("b", 0), rows=2), make_step(3, ("b", 1))])
    track = index.get("a")
    assert track is not None
    assert track.as_dict() == {
        "t_ns": [1, 2],
        "start_ns": [-4, -3],
        "rows": [1, 2],
        "k": [0, 1],
        "context_tokens": [100, 100],
        "prefill_tokens": [0, 0],
    }
    assert ks(index, "b") == [0, 1]
    assert index.get("c") is None


def test_the_last_step_with_a_k_made_the_token() -> None:
    index = StepIndex()  # a prefill cut in three chunks
    index.add(make_step(t, ("a", 0)) for t in (1, 2, 3))
    track = index.get("a")
    assert track is not None
    assert (list(track.t_ns), list(track.k)) == ([3], [0])


def test_an_id_used_again_starts_again() -> None:
    index = StepIndex()
    index.add([make_step(1, ("a", 0)), make_step(2, ("a", 1)), make_step(9, ("a", 0))])
    track = index.get("a")
    assert track is not None
    assert list(track.t_ns) == [9]


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda: StepIndex(max_requests=2), ["r1", "r2"]),
        (lambda: StepIndex(max_steps=4), ["r1", "r2"]),
        (lambda: StepIndex(max_steps=1), ["r2"]),
    ],
    ids=["by requests", "by steps", "never the only one"],
)
def test_the_oldest_requests_are_forgotten_first(make: Callable[[], StepIndex], kept: list[str]) -> None:
    index = make()
    index.add(make_step(t, (f"r{rid}", k)) for t, (rid, k) in enumerate((r, k) for r in range(3) for k in range(2)))
    assert [rid for rid in ("r0", "r1", "r2") if index.get(rid) is not None] == kept
    assert len(index) == len(kept)
