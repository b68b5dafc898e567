"""What a process that evaluates has open: the graph, the recording, the memo."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from redecode.optimizer.caching.semantic import KEEPING
from redecode.optimizer.cases import past_of
from redecode.optimizer.errors import BadSpec, OptimizerError
from redecode.optimizer.evaluation.memo import Evaluator, Memo, Sources
from redecode.optimizer.evaluation.runs import AGAIN_S, Runner, besides
from redecode.optimizer.evaluation.warming import Warming
from redecode.optimizer.evaluation.watch import Watch
from redecode.optimizer.knobs import as_json
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.spec import Case, load
from redecode.tracer import Store, instrument, play, uninstrument


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A candidate on some cases.

    Attributes:
        values: all that the candidate gives its graph.
        labels: of the recorded runs.
        memo: whether calls that were made before are answered from there.
        first: of this candidate: the memo looks what there is anew.
        withheld: held-out runs, of which the caches of other cases know nothing.
        recorded: nothing runs; what the cases' runs gave is scored.
    """

    values: Mapping[str, Any]
    cases: Sequence[Case]
    labels: Mapping[str, Any] = field(default_factory=dict)
    memo: bool = True
    first: bool = True
    withheld: Sequence[str] = ()
    recorded: bool = False


class Evaluates(Protocol):
    """Evaluates blocks; several threads may ask at a time, as many as there are `workers`."""

    workers: int

    def evaluate(self, block: Block) -> list[Outcome]:
        """The outcome of each case, in order.

        Raises:
            Stopped: something outside must be mended first.
            OptimizerError: the candidate cannot be evaluated at all.
        """
        ...

    def close(self) -> None:
        """End it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every process that evaluates is told once.

    Attributes:
        spec: where it is, as `spec.load` takes it.
        store: where runs are recorded; `source` has the runs that the cases are from.
        concurrency: runs at a time.
        timeout_s: a run that takes longer has failed.
        again_s: how long an engine that does not answer is waited for before each further try.
    """

    spec: str
    store: Path
    source: Path
    concurrency: int = 4
    timeout_s: float = 120.0
    live_tools: Sequence[str] = ()
    again_s: Sequence[float] = AGAIN_S

    def to_json(self) -> dict[str, Any]:
        """Its inverse is `from_json`."""
        return {**asdict(self), "store": str(self.store), "source": str(self.source)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Its inverse is `to_json`."""
        return cls(**{**data, "store": Path(data["store"]), "source": Path(data["source"])})


class Session:
    """Records and evaluates in this process.

    Args:
        alone: the process is there for nothing else.

    Raises:
        BadSpec: there is no such spec.
    """

    def __init__(self, settings: Settings, *, alone: bool = True) -> None:
        watch = Watch()
        recording = instrument(settings.store)
        recording.recorder.listeners.append(watch)
        self._listeners, self._watch = recording.recorder.listeners, watch
        try:
            self._spec = load(settings.spec)
        except BaseException:
            uninstrument()
            raise
        self._answers = _no_answers_of_others()
        self._load = str(settings.concurrency)
        self._memo = Memo(Store(settings.store), self._load)
        tools = {*self._spec.live_tools, *settings.live_tools}
        self._sources = Sources(Store(settings.source), cases=self._spec.stand_in is not None)
        self._players = {
            memo: Evaluator(self._memo if memo else None, tools, self._sources, self._spec.stand_in)
            for memo in (True, False)
        }
        self._met: set[str] | None = None
        self._threaded, self._alone = False, alone
        self._warming = None
        if self._spec.caches:
            past = past_of(Store(settings.source).runs(besides=True), self._spec)
            self._warming = Warming(past, self._spec.caches)
        self._runner = Runner(
            self._spec, watch, settings.concurrency, settings.timeout_s, settings.again_s, self._warming
        )

    async def block(self, block: Block) -> list[Outcome]:
        """As `Evaluates.evaluate`."""
        if not self._threaded:
            self._threads_of_their_own()
        player = self._players[block.memo]
        if block.recorded:
            play(player)
            return await self._runner.recorded(block.values, block.cases, block.labels)
        self._sources.read([case.id for case in block.cases])
        if block.memo and block.first:
            self._memo.refresh()
        play(player)
        labels = {**block.labels, "load": self._load}
        made = await self._meets(block, labels) if block.cases else []
        KEEPING.clear()
        outcomes = besides(await self._runner.block(block.values, block.cases, labels, block.withheld), made)
        if player.refused is not None:
            raise OptimizerError(player.refused)
        for name, why in KEEPING.items():
            if why is not None:
                raise BadSpec(f"the cache around '{name}' can keep none of its answers: {why}")
        return outcomes

    async def _meets(self, block: Block, labels: Mapping[str, Any]) -> list[Outcome]:
        """A run that counts in no latency, before the first with anything that this process has not met: a candidate
        may be the first that asks some engine, or imports something. Numbers choose no such thing.
        """
        own = self._spec.own(block.values)
        chosen = {name: as_json(value) for name, value in own.items() if type(value) not in (int, float)}
        new = {json.dumps(pair, sort_keys=True) for pair in chosen.items()}
        if self._met is not None and new <= self._met:
            return []
        made = [await self._runner.first(block.values, block.cases[0], labels)]
        if self._alone:  # to go through all that was imported takes 0.3 s, of whichever runs go on then
            gc.collect()
            gc.freeze()
        self._met = new | (self._met or set())
        return made

    def _threads_of_their_own(self) -> None:
        """As many threads as each run's own `invoke` would have, for all of them together.

        Nodes that are plain functions run on the loop's default pool: runs would wait for each other's, or for good,
        where one holds a thread while it waits for another.
        """
        many = int(self._load) * min(32, (os.cpu_count() or 1) + 4)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(many, thread_name_prefix="redecode-run"))
        self._threaded = True

    async def close(self) -> None:
        """Let go of what the graph opened."""
        if self._spec.close is not None:
            closing = self._spec.close()
            if inspect.isawaitable(closing):
                await closing

    def end(self) -> None:
        """Write the rest down."""
        gc.unfreeze()  # DuckDB complains of what is left at an end
        play(None)
        if self._warming is not None:
            self._warming.close()
        self._listeners.remove(self._watch)
        if self._answers is not None:
            self._answers[0].set_llm_cache(self._answers[1])
        uninstrument()


def _no_answers_of_others() -> tuple[Any, Any] | None:
    """Set LangChain's cache of all FM calls aside: it has answers of other candidates and of production."""
    module = sys.modules.get("langchain_core.globals")
    if module is None or (cache := module.get_llm_cache()) is None:
        return None
    module.set_llm_cache(None)
    return module, cache


class InProcess:
    """Evaluates here: slower to stop, and a debugger sees it (an `Evaluates`)."""

    workers = 1

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.Runner()
        self._session = Session(settings, alone=False)

    def evaluate(self, block: Block) -> list[Outcome]:
        """As `Evaluates` says."""
        return self._loop.run(self._session.block(block))

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(Exception):  # whatever the agent's own closing does
            self._loop.run(self._session.close())
        self._session.end()
        self._loop.close()
