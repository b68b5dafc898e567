"""The life of a server process, with a small server in vLLM's place."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redecode.replay.engine import server
from redecode.replay.engine.errors import (
    EngineBusy,
    EngineNotRunning,
    EngineStartFailed,
    EngineStateCorrupt,
    ModelNotFound,
    PortTaken,
    VllmMissing,
)
from redecode.replay.engine.launch import Device, EngineOptions
from redecode.replay.engine.processes import boot_id, group_members, memory_bytes, read_process
from redecode.replay.engine.state import EngineState

FAKE = Path(__file__).with_name("fake_server.py")

Start = Callable[..., EngineState]


def fake(*behaviours: str) -> server.Command:
    def command(_model: Path, port: int, _options: EngineOptions, _device: Device) -> list[str]:
        return [sys.executable, str(FAKE), str(port), *behaviours]

    return command


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "store" / "engine"
    yield home
    if (home / "engine.json").exists():
        with contextlib.suppress(EngineNotRunning, EngineStateCorrupt):
            server.stop(home, grace_s=0.1)


@pytest.fixture
def start(tmp_path: Path, home: Path) -> Start:
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text("{}")

    def start(*behaviours: str, **settings: Any) -> EngineState:
        given: dict[str, Any] = {"model": model, "home": home, "command": fake(*behaviours), "timeout_s": 20.0}
        return server.start(**(given | settings))

    return start


def test_it_starts_is_found_again_and_stops(start: Start, home: Path) -> None:
    state = start("worker")
    assert len(group_members(state.pgid)) == 2
    assert state.served_name == "tiny"
    assert Path(state.log).is_file()
    assert Path(state.step_log).is_file()
    assert state.start_s is not None
    assert 0 < state.start_s < 20
    assert (memory_bytes(group_members(state.pgid)) or 0) > 2**20
    assert memory_bytes([2**22 + 1]) is None  # no such process
    found = server.status(home)
    assert (found.state, found.healthy) == (state, True)
    assert server.stop(home) == state
    assert group_members(state.pgid) == []
    assert server.status(home).state is None
    assert not (home / "engine.json").exists()


def test_one_that_does_not_stop_is_killed(start: Start, home: Path) -> None:
    state = start("stubborn", "worker")
    words: list[str] = []
    server.stop(home, grace_s=0.3, on_wait=words.append)
    assert words == ["asked to stop", "did not stop in time, killing"]
    assert group_members(state.pgid) == []


def test_a_second_one_is_refused_and_told_where_the_first_is(start: Start) -> None:
    state = start()
    with pytest.raises(EngineBusy, match=state.base_url):
        start()
    assert state.is_alive()


def test_killed_from_outside_it_is_gone_and_so_are_its_workers(start: Start, home: Path) -> None:
    state = start("worker")
    os.kill(state.pid, signal.SIGKILL)
    wait_until(lambda: not state.is_alive())
    found = server.status(home)
    assert (found.state, found.healthy) == (None, False)
    assert state.log in found.note
    assert group_members(state.pgid) == []
    with pytest.raises(EngineNotRunning):
        server.stop(home)
    start()  # and the way is free


@pytest.mark.parametrize("change", ["start_ticks", "boot_id"])
def test_a_pid_that_is_another_program_now_is_left_alone(start: Start, home: Path, change: str) -> None:
    state = start()
    server.stop(home)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        process = read_process(stranger.pid)
        assert process is not None
        other: dict[str, Any] = {"pid": stranger.pid, "pgid": stranger.pid, "start_ticks": process.start_ticks}
        other |= {"start_ticks": process.start_ticks - 1} if change == "start_ticks" else {"boot_id": "before"}
        (home / "engine.json").write_text(json.dumps(state.model_dump() | other))
        assert server.status(home).state is None
        assert not (home / "engine.json").exists()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_what_a_dead_server_said_is_in_the_error(start: Start, home: Path) -> None:
    with pytest.raises(EngineStartFailed, match="ValueError: the model is upside down") as caught:
        start("die=(EngineCore pid=7) ERROR 11-21 10:07:56 [core.py:1510] ValueError: the model is upside down")
    assert caught.value.tail == ("ValueError: the model is upside down",)
    assert "ended with code 3" in str(caught.value)
    assert not (home / "engine.json").exists()


def test_the_torchvision_trap_is_named_with_its_way_out(start: Start) -> None:
    with pytest.raises(VllmMissing, match="pip uninstall -y torchvision torchaudio torchcodec"):
        start("die=RuntimeError: operator torchvision::nms does not exist")


def test_one_that_never_gets_healthy_is_ended(start: Start, home: Path) -> None:
    seen: list[float] = []
    with pytest.raises(EngineStartFailed, match="not healthy after 1 s"):
        start("sick", timeout_s=1.0, on_progress=lambda elapsed_s, _words: seen.append(elapsed_s))
    assert seen == sorted(seen)
    assert seen[-1] >= 1.0
    assert not (home / "engine.json").exists()


def test_an_interrupt_while_starting_leaves_nothing(start: Start, home: Path) -> None:
    pgids: list[int] = []

    def interrupt(_elapsed_s: float, _words: str) -> None:
        pgids.append(json.loads((home / "engine.json").read_text())["pgid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start("sick", on_progress=interrupt)
    assert group_members(pgids[0]) == []
    assert not (home / "engine.json").exists()


def test_a_taken_port_is_refused_before_anything_starts(start: Start, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            start(port=port)
    assert not (home / "logs").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "fields"), ('{"version": 1}', "fields"), (None, "version 2")],
    ids=["no JSON", "fields missing", "newer version"],
)
def test_a_state_file_that_cannot_be_read_is_not_taken_for_empty(
    start: Start, home: Path, content: str | None, problem: str
) -> None:
    state = start()
    kept = (home / "engine.json").read_text()
    text = json.dumps(state.model_dump() | {"version": 2}) if content is None else content
    (home / "engine.json").write_text(text)
    for ask in (lambda: server.status(home), lambda: server.stop(home), start):
        with pytest.raises(EngineStateCorrupt, match=problem):
            ask()
    (home / "engine.json").write_text(kept)  # the fixture stops it


def test_a_model_that_is_none_is_named(start: Start, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such folder"):
        start(model=tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        start(model=tmp_path)


def test_old_logs_go_and_the_newest_stay(start: Start, home: Path) -> None:
    for number in range(12):
        with pytest.raises(EngineStartFailed):
            start(f"die=Error: {number}", now_ns=lambda: 0)
    logs = sorted((home / "logs").iterdir(), key=lambda log: log.stat().st_mtime_ns)
    assert len(logs) == 10
    assert logs[-1].read_text() == "Error: 11\n"


def test_a_process_is_known_by_its_start_and_not_by_its_pid() -> None:
    me = read_process(os.getpid())
    assert me is not None
    assert me.pgid == os.getpgid(0)
    assert read_process(2**22 + 1) is None
    assert boot_id() == boot_id()


def wait_until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
