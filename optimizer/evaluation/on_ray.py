"""Workers on a Ray cluster (an `Evaluates`): the driver asks and tells here, actors evaluate wherever Ray puts them.

An actor is what a worker process is (`session.Session`), so it needs what that needs: the agent's code, the store's
folder (a shared file system, on several machines), and the engine that the environment names. Where one of the first
two is missing the study ends with a sentence that names the machine. An actor that dies, alone or with its node, is
begun anew where there is room, and its block evaluated again; what it had paid is in the memo.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from redecode.optimizer.debugger import debugger_kept
from redecode.optimizer.errors import BadSpec, OptimizerError, Stopped
from redecode.optimizer.evaluation.process import asked
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.evaluation.worker import KINDS, kind_of
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.spec import Case
from redecode.tracer import RedecodeError

_DEATHS = 2
_LOOK_S = 1.0
_ALONE_S = 60.0
"""How long a cluster may have no node that could evaluate: one may be on its way."""
_PASSED_ON = ("OPENAI_", "REDECODE_")
"""Beginnings of the environment's names that agents are told of."""


class _Evaluating:
    """What runs in an actor. Errors come back as data: an exception of ours need not be there to be unpickled.

    Args:
        folders: where modules are imported from, the first one being the current one, as far as they are here.
        mark: a file in the store, by which it is known to be the driver's.
    """

    def __init__(self, settings: Mapping[str, Any], folders: Sequence[str], mark: str) -> None:
        self._settings, self._folders, self._mark = Settings.from_json(settings), folders, Path(mark)
        self._open: InProcess | None = None

    def up(self) -> bool:
        """Answered once there is room for it."""
        return True

    def evaluate(self, document: Mapping[str, Any]) -> dict[str, Any]:
        try:
            block = Block(**{**document, "cases": [Case(**case) for case in document["cases"]]})
            return {"outcomes": [o.to_json() for o in self._here().evaluate(block)]}
        except RedecodeError as error:
            return {"error": f"{error} (on Ray, machine {socket.gethostname()})", "kind": kind_of(error)}

    def _here(self) -> InProcess:
        """What evaluates, opened when it is first needed, so that what is wrong can be told.

        Raises:
            OptimizerError: the store or the agent's code is not on this machine.
        """
        if self._open is not None:
            return self._open
        if not self._mark.exists():
            raise OptimizerError(
                f"{self._mark.parent} is not the store that the study is in: every machine of the cluster needs that "
                "folder at the same place, on a disk that they share"
            )
        there = [folder for folder in self._folders if Path(folder).is_dir()]
        sys.path[:0] = there
        if there[:1] == [self._folders[0]]:
            os.chdir(there[0])
        try:
            self._open = InProcess(self._settings)
        except BadSpec as error:
            gone = [folder for folder in self._folders if folder not in there]
            where = f"{' and '.join(gone)} is not there: " if gone else ""
            raise OptimizerError(
                f"{error}; {where}install the agent's package on every machine of the cluster, or have its folder at "
                "the same place on all of them"
            ) from error
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()


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
        self.workers, self._address = workers, address
        self._ray: Any = ray
        self._settings = replace(settings, store=settings.store.absolute(), source=settings.source.absolute())
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
        # No restarts by Ray: it counts those of an actor's whole life, and a long study may outlive many nodes.
        self._actor = ray.remote(num_cpus=1)(_Evaluating)
        ray._private.worker._worker_logs_enabled = False  # what its daemons say of a lost node goes to our stdout
        given = [Path(p).absolute() for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        self._folders = [str(p) for p in dict.fromkeys([Path.cwd(), *given])]
        handle, self._mark = tempfile.mkstemp(prefix=".on-ray-", dir=self._settings.store)
        os.close(handle)
        self._free: list[Any] = []
        self._all: list[Any] = []
        self._lock = threading.Lock()

    def evaluate(self, block: Block) -> list[Outcome]:
        """As `Evaluates` says.

        Raises:
            Stopped: the cluster has nowhere left to evaluate.
        """
        document = asked(block)
        deaths, lost_s = 0, 0.0
        while True:
            actor = self._take()
            up = actor.up.remote()
            try:
                answer = self._answer(actor, up, document)
            except self._ray.exceptions.RayActorError as error:  # it died, or its node did
                self._drop(actor)
                self._check_begun(error)
                if self._began(up):
                    deaths += 1
                else:  # it was sent to a node that is gone, which the cluster does not know yet
                    lost_s += _LOOK_S
                    time.sleep(_LOOK_S)
                if deaths > _DEATHS or lost_s > _ALONE_S:
                    first = str(error).strip().partition("\n")[0]
                    times = f"died {deaths} times on this candidate" if deaths > _DEATHS else "never began"
                    raise OptimizerError(f"a worker on Ray {times}: {first}") from error
                continue
            except self._ray.exceptions.RayError as error:
                last = str(error).strip().rpartition("\n")[2]
                raise OptimizerError(f"a worker on Ray failed: {last}") from error
            if answer is None:  # another one has become free first
                self._drop(actor)
                continue
            with self._lock:
                self._free.append(actor)
            if "error" in answer:
                raise KINDS[answer["kind"]](answer["error"])
            return [Outcome.from_json(o) for o in answer["outcomes"]]

    def _check_begun(self, error: Exception) -> None:
        """Raise if an actor cannot even be made: trying again would not help."""
        text = str(error)
        if "creation task" in text:
            last = text.strip().rpartition("\n")[2]
            raise OptimizerError(
                f"a worker on Ray cannot begin: {last}; redecode must be installed on every machine of the cluster"
            ) from error

    def _began(self, up: Any) -> bool:
        try:
            return bool(self._ray.get(up, timeout=0))
        except self._ray.exceptions.RayError:
            return False

    def _answer(self, actor: Any, up: Any, document: Mapping[str, Any]) -> Any:
        """What it answers, however long that takes, as long as there is a node that it could be on.

        `None`: there was no room for it yet, and another actor is free: it is not to wait for a node that may never
        come while there is one that does nothing.
        """
        answer = actor.evaluate.remote(document)
        alone_s = waited_s = 0.0
        while not self._ray.wait([answer], timeout=_LOOK_S)[0]:
            room = self._ray.cluster_resources().get("CPU", 0)
            with self._lock:
                free, held = len(self._free), len(self._all)
            waited_s += _LOOK_S
            if free and (room < held or waited_s > _ALONE_S) and not self._ray.wait([up], timeout=0)[0]:
                return None
            alone_s = 0.0 if room >= 1 else alone_s + _LOOK_S
            if alone_s >= _ALONE_S:
                raise Stopped(
                    f"the Ray cluster at {self._address} has no node with a CPU any more; start one, and go on with "
                    "--resume"
                )
        return self._ray.get(answer)

    def _take(self) -> Any:
        with self._lock:
            if self._free:
                return self._free.pop()
            actor = self._actor.remote(self._settings.to_json(), self._folders, self._mark)
            self._all.append(actor)
            return actor

    def _drop(self, actor: Any) -> None:
        with self._lock:
            self._all.remove(actor)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)  # one that could only not be reached

    def close(self) -> None:
        """End them: each writes the rest down first."""
        with self._lock:
            ending, self._all, self._free = self._all, [], []
        closing = [actor.close.remote() for actor in ending]
        with suppress(self._ray.exceptions.RayError):
            self._ray.wait(closing, num_returns=len(closing), timeout=20) if closing else None
        self._ray.shutdown()
        Path(self._mark).unlink(missing_ok=True)
