"""Being on time: a timer that is accurate to tens of microseconds, and how late what it was for has happened.

asyncio's own timer is good to a millisecond (epoll's unit). Rejected: yielding in a loop for the last millisecond,
which with hundreds of sessions takes a core away from the engine that is being measured.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from typing import Any

LATE_S = 0.005
"""A schedule error above this is told, however long the waits are."""
LATE_SHARE = 0.05
"""A schedule error above this share of the median wait is told."""
SHORTEST_WAIT_NS = 10_000_000
"""Below it are a framework's own steps: they are kept to as well as the others, and are no measure for them."""


@dataclass(frozen=True, slots=True)
class ScheduleError:
    """How much later than due the points of a replay happened: the replay's own error, not the engine's.

    A point is the start or the end of a span, or the sending of an FM call. It is due when what it waits for has
    happened, plus its recorded (or scaled) gap. Errors do not add up: a wait begins when the one before it was due
    to end.

    Attributes:
        points: how many there were.
        median_wait_s: of the waits of 10 ms and more (tools, think times); `None` if there were none.
    """

    points: int
    p50_s: float
    p99_s: float
    max_s: float
    median_wait_s: float | None

    @classmethod
    def of(cls, late_ns: Sequence[int], waits_ns: Sequence[int]) -> ScheduleError:
        """From the lateness of each point, and the wait before it."""
        late = sorted(late_ns) or [0]
        waits = [w for w in waits_ns if w >= SHORTEST_WAIT_NS]
        return cls(
            points=len(late_ns),
            p50_s=late[len(late) // 2] / 1e9,
            p99_s=late[min(len(late) - 1, -(-99 * len(late) // 100) - 1)] / 1e9,
            max_s=late[-1] / 1e9,
            median_wait_s=median(waits) / 1e9 if waits else None,
        )

    @property
    def warning(self) -> str | None:
        """Why the timing of this replay should not be trusted; `None` if it may be."""
        if self.p99_s > LATE_S:
            return f"a point in a hundred happened {self.p99_s * 1e3:.1f} ms or more after it was due"
        if self.median_wait_s is not None and self.p99_s > LATE_SHARE * self.median_wait_s:
            share = self.p99_s / self.median_wait_s
            return (
                f"a point in a hundred happened {self.p99_s * 1e3:.2f} ms or more after it was due, {share:.0%} of the "
                f"median wait ({self.median_wait_s * 1e3:.1f} ms)"
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "warning": self.warning}


class Alarm:
    """Calls back once a moment of the monotonic clock is there. One moment at a time: a new one replaces the old.

    On Linux a timerfd, else asyncio's timer.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = _timerfd()
        if self._fd is not None:
            self._loop.add_reader(self._fd, self._rang)

    def set(self, monotonic_ns: int) -> None:
        """Ring at this moment, at once if it has passed."""
        if self._fd is not None:
            _settime(self._fd, max(1, monotonic_ns))  # 0 would disarm it
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0, monotonic_ns - time.monotonic_ns()) / 1e9, self._ring)

    def close(self) -> None:
        """Never ring again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _rang(self) -> None:
        assert self._fd is not None
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew in the meantime
            return
        self._ring()


class _Spec(ctypes.Structure):
    """struct itimerspec: interval, then value, each seconds and ns (64 bits; longs on 32-bit machines)."""

    _fields_ = (
        ("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long)
    )  # fmt: skip


@cache
def _libc() -> ctypes.CDLL | None:
    """The C library if it has timerfd (Python has it from 3.13 on)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.timerfd_create.argtypes = (ctypes.c_int, ctypes.c_int)
        libc.timerfd_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Spec), ctypes.c_void_p)
    except (OSError, AttributeError):
        return None
    return libc


def _timerfd() -> int | None:
    libc = _libc()
    if libc is None:
        return None
    fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    return fd if fd >= 0 else None


def _settime(fd: int, monotonic_ns: int) -> None:
    libc = _libc()
    assert libc is not None
    spec = _Spec(0, 0, *divmod(monotonic_ns, 1_000_000_000))
    absolute = 1  # TFD_TIMER_ABSTIME
    if libc.timerfd_settime(fd, absolute, ctypes.byref(spec), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # system calls; sched_getattr is the next number
_ATTR = struct.Struct("<IIQiIQQQ")  # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
_SLICE_NS = 100_000
"""The shortest slice that Linux takes."""


@contextmanager
def short_slices() -> Iterator[None]:
    """Let this thread run soon after it wakes, though others use the cores: ask for short slices, which needs no right.

    Linux 6.12 and newer (EEVDF's custom slices); elsewhere nothing happens. Measured beside two busy processes on two
    cores: waking up is 0.1 ms late in the 99th percentile instead of 1.6 ms.
    """
    libc, number = _libc(), _SCHED_SETATTR.get(platform.machine())
    before = ctypes.create_string_buffer(_ATTR.size)
    if libc is None or number is None or libc.syscall(number + 1, 0, before, _ATTR.size, 0):
        yield
        return
    fields = list(_ATTR.unpack(before.raw))
    fields[5] = _SLICE_NS
    is_set = not libc.syscall(number, 0, ctypes.create_string_buffer(_ATTR.pack(*fields), _ATTR.size), 0)
    try:
        yield
    finally:
        if is_set:
            libc.syscall(number, 0, before, 0)
