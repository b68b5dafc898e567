"""What-ifs measured from a page: `redecode whatif --measure` in a process of its own, one at a time.

A process, because the engine's calls are timed: this one draws pages for others meanwhile.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

_KEPT = 20
_STOP_S = 10.0


class Measurement:
    """One command, under way or done.

    Attributes:
        arguments: of `redecode whatif`.
        found: what it printed (`measured` of docs/what-if.md), once it is done; `None` if it failed, and then `error`
            says why, in a line.
    """

    def __init__(self, arguments: Sequence[str], location: str) -> None:
        self.arguments = tuple(arguments)
        self.found: dict[str, Any] | None = None
        self.error: str | None = None
        self._begun = time.monotonic()
        self._took_s: float | None = None
        # Open as long as the process is.
        self._out: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._err: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        command = [sys.executable, "-m", "redecode.cli", "whatif", *arguments, "--json", "--store", location]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err)

    @property
    def took_s(self) -> float:
        """Since its beginning, up to its end."""
        return time.monotonic() - self._begun if self._took_s is None else self._took_s

    @property
    def running(self) -> bool:
        """Whether it is under way; what came of it is read as soon as it is not."""
        if self._took_s is not None:
            return False
        if self._process.poll() is None:
            return True
        self._took_s = self.took_s
        said, wrong = self._read(self._out), self._read(self._err)
        try:
            self.found = json.loads(said)["measured"]
        except (ValueError, KeyError, TypeError):
            lines = [line for line in wrong.splitlines() if line.strip()]
            told = lines[-1].removeprefix("redecode: ") if lines else ""
            self.error = told or f"it ended with {self._process.returncode} and said nothing"
        return False

    @staticmethod
    def _read(file: IO[str]) -> str:
        with file:
            file.seek(0)
            return file.read()

    def stop(self) -> None:
        """End it; the replays that are done stay in the store."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Measurements:
    """Those of all users of a dashboard."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], Measurement] = {}
        atexit.register(self.stop)

    def get(self, arguments: Sequence[str]) -> Measurement | None:
        """The newest with these arguments."""
        with self._lock:
            return self._known.get(tuple(arguments))

    def begin(self, arguments: Sequence[str], location: str) -> bool:
        """Begin one, if none is under way: two at a time would measure each other."""
        with self._lock:
            if any(one.running for one in self._known.values()):
                return False
            self._known.pop(tuple(arguments), None)
            self._known[tuple(arguments)] = Measurement(arguments, location)
            while len(self._known) > _KEPT:
                self._known.pop(next(iter(self._known)))
            return True

    def stop(self) -> None:
        """End what is under way."""
        with self._lock:
            for one in self._known.values():
                one.stop()
