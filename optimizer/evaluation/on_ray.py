"""Workers on a Ray cluster (an `Evaluates`): the driver asks and tells here, actors evaluate wherever Ray puts them.

An actor is what a worker process is (`session.Session`), so it needs what that needs: the agent's code, the store's
folder (a shared file system, on several machines), and the engine that the environment names. One that dies is started
again by Ray, and its block evaluated again; what it had paid is in the memo.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from redecode.optimizer.debugger import debugger_kept
from redecode.optimizer.errors import OptimizerError
from redecode.optimizer.evaluation.process import asked
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.evaluation.worker import KINDS
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.spec import Case
from redecode.tracer import RedecodeError

_DEATHS = 2
_PASSED_ON = ("OPENAI_", "REDECODE_")
"""Beginnings of the environment's names that agents are told of."""


class _Evaluating:
    """What runs in an actor. Errors come back as data: an exception of ours need not be there to be unpickled."""

    def __init__(self, settings: Mapping[str, Any], folder: str) -> None:
        with suppress(OSError):  # another machine: its modules must be installed there
            os.chdir(folder)
        sys.path.insert(0, folder)
        self._here = InProcess(Settings.from_json(settings))

    def evaluate(self, document: Mapping[str, Any]) -> dict[str, Any]:
        block = Block(**{**document, "cases": [Case(**case) for case in document["cases"]]})
        try:
            return {"outcomes": [o.to_json() for o in self._here.evaluate(block)]}
        except RedecodeError as error:
            kind = next((k for k, cls in KINDS.items() if isinstance(error, cls)), "other")
            return {"error": str(error), "kind": kind}

    def close(self) -> None:
        self._here.close()


class RayWorkers:
    """So many actors, started when they are needed.

    Args:
        address: of a cluster, "auto", or "local" to start one on this machine for as long as this lasts.

    Raises:
        OptimizerError: Ray is not installed, or no cluster answers there.
    """

    def __init__(self, settings: Settings, workers: int, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own parts
                import ray
        except ImportError as error:
            raise OptimizerError("workers on Ray need the extra 'ray' (redecode[ray])") from error
        self.workers, self._settings, self._ray = workers, settings, ray
        passed = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
        try:
            with debugger_kept():
                ray.init(
                    address=address,
                    runtime_env={"env_vars": passed},
                    include_dashboard=False if address == "local" else None,
                    num_cpus=workers if address == "local" else None,
                    log_to_driver=False,
                    configure_logging=False,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise OptimizerError(f"no Ray cluster at {address}: {error}") from error
        self._actor = ray.remote(num_cpus=1, max_restarts=_DEATHS, max_task_retries=_DEATHS)(_Evaluating)
        self._free: list[Any] = []
        self._all: list[Any] = []
        self._lock = threading.Lock()

    def evaluate(self, block: Block) -> list[Outcome]:
        """As `Evaluates` says."""
        actor = self._take()
        try:
            answer = self._ray.get(actor.evaluate.remote(asked(block)))
        except self._ray.exceptions.RayError as error:
            raise OptimizerError(f"a worker on Ray died {_DEATHS + 1} times on this candidate: {error}") from error
        with self._lock:
            self._free.append(actor)
        if "error" in answer:
            raise KINDS[answer["kind"]](answer["error"])
        return [Outcome.from_json(o) for o in answer["outcomes"]]

    def _take(self) -> Any:
        with self._lock:
            if self._free:
                return self._free.pop()
            actor = self._actor.remote(self._settings.to_json(), str(Path.cwd()))
            self._all.append(actor)
            return actor

    def close(self) -> None:
        """End them: each writes the rest down first."""
        with self._lock:
            ending, self._all, self._free = self._all, [], []
        for actor in ending:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(actor.close.remote(), timeout=20)
        self._ray.shutdown()
