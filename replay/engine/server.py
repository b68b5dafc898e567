"""A local vLLM server as a detached process: start it, ask after it, stop it.

One home (STORE/engine) holds at most one engine: `engine.json` says which process it is, `logs/`
keeps what it said, `steps/` its step clock. The server outlives the command that started it and is
found again through `engine.json`; whether that still means the same process is decided by start
time and boot, not by the pid (processes.py). The server leads its own process group, so stopping
the group leaves no engine core behind. Rejected: a supervisor of our own (one more process to
lose), a pid file (says nothing after a pid is reused), systemd (not in a container).
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from redecode.replay.engine import logs
from redecode.replay.engine.errors import (
    EngineBusy,
    EngineNotRunning,
    EngineStartFailed,
    EngineStopFailed,
    PortTaken,
    VllmMissing,
)
from redecode.replay.engine.launch import (
    Device,
    EngineOptions,
    build_env,
    check_model,
    find_device,
    vllm_command,
)
from redecode.replay.engine.processes import boot_id, end_group, group_members, read_process
from redecode.replay.engine.state import STATE_VERSION, EngineState, read_state, remove_state, write_state

_KEPT_LOGS = 10
_HEALTH_POLL_S = 0.25

#: Builds the server's command line; tests put a small server of their own here.
Command = Callable[[Path, int, EngineOptions, Device], list[str]]
#: Called about four times a second while waiting: seconds so far, and what the server said last.
Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What there is in a home. `state` is None when nothing runs; `note` then says what was found."""

    state: EngineState | None
    healthy: bool
    note: str


def start(
    model: Path,
    *,
    home: Path,
    port: int | None = None,
    options: EngineOptions | None = None,
    timeout_s: float = 300.0,
    on_progress: Progress = lambda _elapsed_s, _words: None,
    env: Mapping[str, str] | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    command: Command = vllm_command,
) -> EngineState:
    """Start vLLM with this model and wait until it is healthy.

    Raises ModelNotFound, VllmMissing, EngineBusy, PortTaken, EngineStartFailed; after any of them,
    and after Ctrl-C, no process is left.
    """
    options = options or EngineOptions()
    folder = check_model(model)
    home = home.absolute()
    with _only_starter(home):
        _refuse_second(home)
        port = _free_port(options.host) if port is None else _check_port(options.host, port)
        device = find_device()
        argv = command(folder, port, options, device)
        launch = _Launch(
            argv=argv,
            home=home,
            env=os.environ if env is None else env,
            more_env=options.env,
            device=device,
            base_url=f"http://{_dial_host(options.host)}:{port}",
            model=folder,
            served_name=options.served_name or folder.name,
            started_ns=now_ns(),
        )
        begin = time.monotonic()
        state, process = _spawn(launch)
        try:
            write_state(home, state)
            _wait_until_healthy(state, process, timeout_s, on_progress)
            state = state.model_copy(update={"start_s": round(time.monotonic() - begin, 3)})
            write_state(home, state)
        except BaseException:
            end_group(state.pgid, grace_s=2.0)
            remove_state(home)
            raise
        finally:
            # From here on engine.json owns the process; Popen would warn about a living child.
            process.returncode = process.returncode or 0
    return state


def status(home: Path) -> EngineStatus:
    """Say what runs in this home; a state file whose process is gone is removed, with its leftovers."""
    state = read_state(home)
    if state is None:
        return EngineStatus(state=None, healthy=False, note="no engine was started here")
    if not state.is_alive():
        _clean_up(home, state)
        note = f"the engine (pid {state.pid}) is gone without having been stopped; its log: {state.log}"
        return EngineStatus(state=None, healthy=False, note=note)
    healthy = is_healthy(state.base_url)
    note = "healthy" if healthy else f"the process runs but does not answer; its log: {state.log}"
    return EngineStatus(state=state, healthy=healthy, note=note)


def stop(home: Path, *, grace_s: float = 10.0, on_wait: Callable[[str], None] = lambda _: None) -> EngineState:
    """Stop the engine of this home and see that no process of its group is left."""
    state = read_state(home)
    if state is None:
        raise EngineNotRunning(home)
    if not state.is_alive():
        _clean_up(home, state)
        raise EngineNotRunning(home)
    left = end_group(state.pgid, grace_s=grace_s, on_wait=on_wait)
    if left:
        raise EngineStopFailed(f"processes {left} of the engine in {home} are left after SIGKILL")
    remove_state(home)
    return state


def log_file(home: Path) -> Path | None:
    """The log of the engine of this home, or of the last one there was; `None`: none was ever started."""
    state = read_state(home)
    if state is not None and Path(state.log).is_file():
        return Path(state.log)
    kept = sorted((home / "logs").glob("*.log"), key=lambda file: file.stat().st_mtime_ns)
    return kept[-1] if kept else None


def is_healthy(base_url: str, *, timeout_s: float = 2.0) -> bool:
    """Whether GET /health answers 200."""
    host, _, port = base_url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Launch:
    """One start of a server, everything decided."""

    argv: list[str]
    home: Path
    env: Mapping[str, str]
    more_env: Mapping[str, str]
    device: Device
    base_url: str
    model: Path
    served_name: str
    started_ns: int


def _spawn(launch: _Launch) -> tuple[EngineState, subprocess.Popen[bytes]]:
    stamp = datetime.fromtimestamp(launch.started_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%S")
    log = logs.new_file(launch.home / "logs", f"engine-{stamp}.log", keep=_KEPT_LOGS)
    step_log = logs.new_file(launch.home / "steps", f"steps-{stamp}.jsonl", keep=_KEPT_LOGS)
    with log.open("ab") as output:
        process = subprocess.Popen(
            launch.argv,
            env=build_env(launch.env, step_log, launch.device, launch.more_env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=launch.home,
            start_new_session=True,
        )
    started = read_process(process.pid)
    state = EngineState(
        version=STATE_VERSION,
        pid=process.pid,
        pgid=process.pid,
        start_ticks=started.start_ticks if started is not None else 0,
        boot_id=boot_id(),
        base_url=launch.base_url,
        model=str(launch.model),
        served_name=launch.served_name,
        device=launch.device.value,
        started_ns=launch.started_ns,
        log=str(log),
        step_log=str(step_log),
        argv=launch.argv,
    )
    return state, process


def _wait_until_healthy(
    state: EngineState, process: subprocess.Popen[bytes], timeout_s: float, on_progress: Progress
) -> None:
    begin = time.monotonic()
    log = Path(state.log)
    while not is_healthy(state.base_url):
        elapsed_s = time.monotonic() - begin
        on_progress(elapsed_s, logs.last_line(log))
        code = process.poll()
        if code is not None:
            raise _why_dead(log, f"the server ended with code {code} after {elapsed_s:.0f} s")
        if elapsed_s > timeout_s:
            raise EngineStartFailed(
                f"not healthy after {timeout_s:.0f} s (raise --timeout?)",
                log=log,
                tail=logs.meaningful_tail(log),
            )
        time.sleep(_HEALTH_POLL_S)


def _why_dead(log: Path, reason: str) -> EngineStartFailed | VllmMissing:
    tail = logs.meaningful_tail(log)
    if any("torchvision::nms does not exist" in line for line in tail):
        return VllmMissing.broken_by_torchvision(sys.executable)
    return EngineStartFailed(reason, log=log, tail=tail)


def _refuse_second(home: Path) -> None:
    found = status(home)
    if found.state is not None:
        state = found.state
        raise EngineBusy(
            f"an engine is already running in {home}: {state.served_name} at {state.base_url} "
            f"(pid {state.pid}); stop it with `redecode engine stop`, or use another --store"
        )


@contextlib.contextmanager
def _only_starter(home: Path) -> Iterator[None]:
    """Hold the home while starting; the lock goes with this process, whatever happens to it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "LOCK").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EngineBusy(f"another `redecode engine start` is under way in {home}") from error
        yield


def _dial_host(host: str) -> str:
    """Where a server listening on `host` is reached from here."""
    return "127.0.0.1" if host in ("", "0.0.0.0") else host


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _check_port(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(host, port) from error
    return port


def _clean_up(home: Path, state: EngineState) -> None:
    """After a death: end what is left of the group, unless its id belongs to somebody else by now."""
    owner = read_process(state.pid)
    if owner is None and state.boot_id == boot_id() and group_members(state.pgid):
        end_group(state.pgid, grace_s=2.0)
    remove_state(home)
