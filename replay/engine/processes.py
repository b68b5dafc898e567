"""Processes by what /proc says of them: is this pid still the process I started, who is in its group.

A pid alone names nobody: it is reused. A process is identified by pid, start time (clock ticks
since boot) and boot. A zombie counts as gone: it holds no port and no memory, and in a container
without an init it may stay for ever. Linux only, like vLLM itself.

Used inside vLLM's processes too, so it imports no other room (`boot_id` is also in tracer/clock.py,
but the tracer's door opens DuckDB).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
_POLL_S = 0.05


def boot_id() -> str | None:
    """Return the identity of this boot of this host: equal ids share one monotonic clock.

    The tracer has the same few lines; the engine side must not import the tracer for them.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One living process. `start_ticks` together with the boot tells it from a later owner of the pid."""

    pid: int
    pgid: int
    start_ticks: int


def read_process(pid: int) -> ProcessInfo | None:
    """Find the process with this pid; None when there is none, or only a zombie."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # "pid (name) state ppid pgrp ... starttime ...": the name may hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    return ProcessInfo(pid=pid, pgid=int(fields[2]), start_ticks=int(fields[19]))


def group_members(pgid: int) -> list[int]:
    """Pids of the living processes of a group."""
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [p.pid for pid in pids if (p := read_process(pid)) is not None and p.pgid == pgid]


def reap(pid: int) -> None:
    """Collect a child that has ended, so that it does not stay as a zombie; nothing if it is no child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def end_group(
    pgid: int, *, grace_s: float, on_wait: Callable[[str], None] = lambda _: None, kill_wait_s: float = 5.0
) -> list[int]:
    """SIGTERM to a process group, SIGKILL after the grace period; returns who is left (nobody)."""
    for sig, wait_s, words in (
        (signal.SIGTERM, grace_s, "asked to stop"),
        (signal.SIGKILL, kill_wait_s, "did not stop in time, killing"),
    ):
        if not group_members(pgid):
            break
        on_wait(words)
        try:
            os.killpg(pgid, sig)
        except ProcessLookupError:
            break
        _wait_for_end(pgid, wait_s)
    return group_members(pgid)


def _wait_for_end(pgid: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        reap(pgid)
        if not group_members(pgid):
            return
        time.sleep(_POLL_S)


def memory_bytes(pids: Sequence[int]) -> int | None:
    """Memory of these processes, what they share counted once (PSS); None when one cannot be asked."""
    total = 0
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            return None
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total or None
