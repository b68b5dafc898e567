"""Workers: processes that evaluate blocks of cases (an `Evaluates`, as others could be, on Ray say).

A worker that dies (killed, out of memory) is started again, and its block is evaluated again: the FM calls it had made
are in the memo.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from redecode.optimizer.errors import OptimizerError
from redecode.optimizer.evaluation.session import Block, Settings
from redecode.optimizer.evaluation.worker import KINDS
from redecode.optimizer.knobs import as_json
from redecode.optimizer.objectives import Outcome

_DEATHS = 2


class Worker:
    """One process; it ends with this one, also if that is killed."""

    def __init__(self, settings: Settings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "redecode.optimizer.evaluation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        try:
            self.ask(settings.to_json())
        except BaseException:
            self.close()
            raise

    def ask(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """What the worker answers.

        Raises:
            BrokenPipeError: it is dead.
            OptimizerError: as it says.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(document, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BrokenPipeError(f"the worker ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise KINDS[answer["kind"]](answer["error"])
        return answer

    def close(self) -> None:
        """End it: it writes the rest down first. Safe to call twice."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Workers:
    """So many workers, started when they are needed."""

    def __init__(self, settings: Settings, workers: int = 1) -> None:
        self.workers = workers
        self._settings = settings
        self._free: list[Worker] = []
        self._all: list[Worker] = []
        self._lock = threading.Lock()

    def evaluate(self, block: Block) -> list[Outcome]:
        """As `Evaluates` says."""
        document = asked(block)
        for death in range(_DEATHS + 1):
            worker = self._take()
            try:
                answer = worker.ask(document)
            except OSError as error:
                worker.close()
                if death == _DEATHS:
                    raise OptimizerError(f"a worker died {_DEATHS + 1} times on this candidate: {error}") from error
                continue
            except OptimizerError:
                self._give(worker)
                raise
            self._give(worker)
            return [Outcome.from_json(o) for o in answer["outcomes"]]
        raise AssertionError  # the loop returns or raises

    def _take(self) -> Worker:
        with self._lock:
            if self._free:
                return self._free.pop()
        worker = Worker(self._settings)
        with self._lock:
            self._all.append(worker)
        return worker

    def _give(self, worker: Worker) -> None:
        with self._lock:
            self._free.append(worker)

    def close(self) -> None:
        """End all of them, those in the middle of a block too."""
        with self._lock:
            ending, self._all, self._free = self._all, [], []
        for worker in ending:
            worker.close()


def asked(block: Block) -> dict[str, Any]:
    """A block as plain data: the arguments of `Block`, cases as those of `Case`; `Spec.own` has the values again."""
    return {
        "values": as_json(block.values),
        "cases": [{f.name: _plain(getattr(case, f.name)) for f in fields(case)} for case in block.cases],
        "labels": dict(block.labels),
        "memo": block.memo,
        "first": block.first,
        "withheld": list(block.withheld),
        "recorded": block.recorded,
    }


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
