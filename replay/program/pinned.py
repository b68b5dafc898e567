"""A playback's clock, random numbers and uuids, so that the program computes the same every time.

The clock stands at the start of the recorded run and goes on to the recorded end of each call that is answered (and by
what the program sleeps); `time.monotonic`, which event loops and timeouts live by, stays real. Random numbers and
uuids come from streams of their own for each step, so that branches side by side do not take each other's.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from redecode.replay.errors import ReplayError

PINS = ("clock", "random", "uuid")
# The functions of `random` that are methods of its hidden generator.
_DRAWS = (
    "betavariate", "binomialvariate", "choice", "choices", "expovariate", "gammavariate", "gauss", "getrandbits",
    "lognormvariate", "normalvariate", "paretovariate", "randbytes", "randint", "random", "randrange", "sample",
    "shuffle", "triangular", "uniform", "vonmisesvariate", "weibullvariate",
)  # fmt: skip


def wanted(names: Iterable[str]) -> frozenset[str]:
    """The pins of that name, "all" being each of them.

    Raises:
        ReplayError: there is no such pin.
    """
    asked = frozenset(PINS) if "all" in (given := tuple(names)) else frozenset(given)
    if unknown := sorted(asked - set(PINS)):
        raise ReplayError(f"{unknown[0]} cannot be pinned; there are {', '.join(PINS)} and all")
    return asked


class Pinned:
    """What is pinned, from `start` to `stop`, which are exact inverses.

    Args:
        pins: of `PINS`.
        step: the step key of the code that is running, `None` outside any step.
    """

    def __init__(self, pins: Iterable[str], step: Callable[[], str | None]) -> None:
        self.pins = wanted(pins)
        self._step = step
        self._seed = ""
        self._streams: dict[str, random.Random] = {}
        self._lock = threading.Lock()
        self._undo: list[Callable[[], None]] = []
        self._traveller: Any = None
        self._now_ns = 0

    def start(self, run_id: str, started_ns: int) -> None:
        """Pin everything to a recorded run, from its start on; another run begins anew."""
        self._seed, self._now_ns = run_id, 0
        self._streams.clear()
        if not self._undo:
            for pin, begin in (("clock", self._pin_clock), ("random", self._pin_random), ("uuid", self._pin_uuid)):
                if pin in self.pins:
                    begin(started_ns)
        if "random" in self.pins:
            state = int(hashlib.sha256(run_id.encode()).hexdigest()[:8], 16)
            random.seed(state)  # noqa: TID251 - what was imported from it by name, before us
            if (numpy := sys.modules.get("numpy")) is not None:
                numpy.random.seed(state)
        if self._traveller is not None:
            self._traveller.move_to(started_ns / 1e9)
            self._now_ns = started_ns

    def stop(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()
        self._traveller = None

    def reach(self, utc_ns: int | None) -> None:
        """The clock goes on to that time; it never goes back."""
        if self._traveller is None or utc_ns is None:
            return
        with self._lock:
            if utc_ns > self._now_ns:
                self._now_ns = utc_ns
                self._traveller.move_to(utc_ns / 1e9)

    def stream(self) -> random.Random:
        """The random numbers of the step that is running."""
        step = self._step() or ""
        with self._lock:
            found = self._streams.get(step)
            if found is None:
                found = self._streams[step] = random.Random(f"{self._seed}/{step}")
        return found

    def _pin_clock(self, started_ns: int) -> None:
        try:
            import time_machine  # only where somebody pins the clock
        except ImportError:
            raise ReplayError("to pin the clock, install time-machine: pip install 'redecode[playback]'") from None
        travel = time_machine.travel(started_ns / 1e9, tick=False)
        self._traveller = travel.start()
        self._undo.append(travel.stop)
        module: Any = time
        sleep = time.sleep

        def slept(seconds: float) -> None:
            until = self._now_ns + round(seconds * 1e9)
            sleep(seconds)
            self.reach(until)

        module.sleep = slept
        self._undo.append(partial(setattr, time, "sleep", sleep))

    def _pin_random(self, started_ns: int) -> None:
        for name in _DRAWS:
            if (original := getattr(random, name, None)) is not None:
                setattr(random, name, partial(self._draw, name))
                self._undo.append(partial(setattr, random, name, original))
        before = random.getstate()
        self._undo.append(partial(random.setstate, before))

    def _draw(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.stream(), name)(*args, **kwargs)

    def _pin_uuid(self, started_ns: int) -> None:
        module: Any = uuid
        module.os = _Urandom(self)  # uuid4 asks it for its bytes, whoever imported the function by name
        self._undo.append(partial(setattr, module, "os", os))


class _Urandom:
    """`os`, as `uuid` sees it."""

    def __init__(self, pinned: Pinned) -> None:
        self._pinned = pinned

    def urandom(self, size: int) -> bytes:
        """Bytes of the running step's stream."""
        return self._pinned.stream().randbytes(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)
