"""Running a graph on cases, several at a time in one event loop, and what the tracer saw of each run."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from redecode.optimizer.besides import checkpointer_of, contexts
from redecode.optimizer.caching.steps import Elsewhere, elsewhere
from redecode.optimizer.cases import MODE, by_words, scorers
from redecode.optimizer.conversations import before
from redecode.optimizer.errors import BadSpec, EngineGone, ScorerFailed
from redecode.optimizer.evaluation.memo import FIRST
from redecode.optimizer.evaluation.reaching import dropped, not_there
from redecode.optimizer.evaluation.warming import Warming
from redecode.optimizer.evaluation.watch import Seen, Watch
from redecode.optimizer.inputs import as_came, as_given
from redecode.optimizer.knobs import as_json
from redecode.optimizer.objectives import Outcome, together
from redecode.optimizer.spec import Case, Spec, memory_of
from redecode.tracer import begun_for
from redecode.tracer import conventions as c

T = TypeVar("T")
AGAIN_S = (0.5, 2.0, 5.0)
"""How long an engine that does not answer is waited for before each further try of a run."""
_CACHE = "__pregel_cache"
"""LangGraph's own cache of nodes, in a run's configuration; a graph's, and its subgraphs', where it is not there."""
_ONLY_AWAITED = ("No synchronous function provided", "Cannot invoke a coroutine function")
"""What LangGraph and LangChain say where something is invoked that can only be awaited."""


@dataclass(frozen=True, slots=True)
class _Built:
    """A candidate's graph.

    Attributes:
        name: the same of graphs that are alike: where they are built, each block has its own.
    """

    graph: Any
    name: str


@dataclass(frozen=True, slots=True)
class _Tried:
    """A run as it was tried: invoked in a thread (`sync`), or awaited."""

    sync: bool
    output: Any
    failed: Exception | None
    seen: Seen | None
    took: float

    @property
    def wrong_way(self) -> bool:
        """Whether it may have failed since its graph can only be run the other way; a node may say the same."""
        if isinstance(self.failed, NotImplementedError):
            return True
        return self.sync and isinstance(self.failed, TypeError) and any(w in str(self.failed) for w in _ONLY_AWAITED)


@dataclass(slots=True)
class Runner:
    """Runs candidates' graphs.

    Args:
        timeout_s: a run that takes longer has failed.

    Attributes:
        _invoked: names of graphs that could not be awaited, and could be invoked.
    """

    spec: Spec
    watch: Watch
    concurrency: int = 4
    timeout_s: float = 120.0
    again_s: Sequence[float] = AGAIN_S
    warming: Warming | None = None
    _number: int = 0
    _invoked: set[str] = field(default_factory=set)

    async def block(
        self,
        values: Mapping[str, Any],
        cases: Sequence[Case],
        labels: Mapping[str, Any],
        withheld: Sequence[str] = (),
    ) -> list[Outcome]:
        """One candidate on some cases, in their order.

        Args:
            labels: of every run, under `tune`.
            withheld: held-out runs, of which the caches of other cases know nothing.

        Raises:
            EngineGone: the engine does not answer, also after a while.
            ScorerFailed: the scorer raised.
            BadSpec: the graph cannot be built, or does not take these values.
        """
        built, context = self._candidate(values, cases)
        if self.warming is None:
            ran = await self._all([partial(self._run, built, context(case), case, labels) for case in cases])
            return await self._judged(cases, ran, labels)
        warming, fills = self.warming, {**labels, "fills": True}
        read, first = warming.wanted(built.graph, values, context, cases, withheld)
        filling = [
            partial(self._run, built, context(source), source, fills, warming.of_source(values, source.id))
            for source in first
        ]
        filled = [outcome for outcome, _ in await self._all(filling)]
        for source in first:
            warming.warmed(values, source)
        ran = await self._all(
            [
                partial(self._run, built, context(case), case, labels, warming.of_case(self._token(labels), its))
                for case, its in ((case, read.get(case.id, {})) for case in cases)
            ]
        )
        return besides(await self._judged(cases, ran, labels), filled)

    async def first(self, values: Mapping[str, Any], case: Case, labels: Mapping[str, Any]) -> Outcome:
        """A run before those that count, of what has not run in this process yet: it imports, and it connects.

        Its answers are in no memo, since they took as long.

        Raises:
            EngineGone, BadSpec: as `block`.
        """
        built, context = self._candidate(values, [case])
        caches = None if self.warming is None else self.warming.of_case(self._token(labels), {})
        outcome, _ = await self._run(built, context(case), case, {**labels, "fills": True, FIRST: True}, caches)
        return outcome

    async def recorded(
        self, values: Mapping[str, Any], cases: Sequence[Case], labels: Mapping[str, Any]
    ) -> list[Outcome]:
        """The outcomes of the cases' own runs; their cost is not known here (0).

        Args:
            values: of the configuration in use, whose graph's schema says what was an object in a recorded output.
        """
        try:
            graph = self._candidate(values, cases)[0].graph
        except BadSpec:
            graph = None
        given = scorers(labels)

        async def scored(case: Case) -> Outcome:
            quality = why = None
            try:
                if case.error is None and self.spec.score is not None:
                    quality = await self._scored(as_came(graph, case.output), case, given)
            except ScorerFailed as error:  # a scorer of outputs of graphs that may be others than now
                cause = error.__cause__
                why = (str(error) if cause is None else f"{type(cause).__name__}: {cause}")[:120]
            taken = case.duration_s or 0.0
            return Outcome(
                case=case.id, run_id=case.id, quality=quality, latency_s=taken, error=case.error, unscored=why
            )

        return self._with_judging(await self._all([partial(scored, case) for case in cases]))

    def _candidate(self, values: Mapping[str, Any], cases: Sequence[Case]) -> tuple[_Built, Callable[[Case], Any]]:
        """Its graph, and its context on each case."""
        own = self.spec.own(values)
        name = "" if self.spec.build is None else json.dumps(as_json(values), sort_keys=True)
        return _Built(self.spec.built(own), name), contexts(
            self.spec, own, {name for case in cases for name in case.context}
        )

    async def _judged(
        self, cases: Sequence[Case], ran: Sequence[tuple[Outcome, Any]], labels: Mapping[str, Any]
    ) -> list[Outcome]:
        """Outcomes with their qualities: once no run goes on any more, whose latency a scorer would be a part of."""
        given = scorers(labels)

        async def judged(case: Case, outcome: Outcome, output: Any) -> Outcome:
            if outcome.error is not None:
                return outcome
            return replace(outcome, quality=await self._scored(output, case, given))

        found = await self._all([partial(judged, case, *made) for case, made in zip(cases, ran, strict=True)])
        return self._with_judging(found)

    def _with_judging(self, outcomes: list[Outcome]) -> list[Outcome]:
        used = self.watch.judging()
        return [replace(o, judging=used) if n == 0 and used else o for n, o in enumerate(outcomes)]

    async def _all(self, runs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """So many at a time."""
        gate = asyncio.Semaphore(self.concurrency)

        async def gated(run: Callable[[], Awaitable[T]]) -> T:
            async with gate:
                return await run()

        tasks = [asyncio.ensure_future(gated(run)) for run in runs]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _token(self, labels: Mapping[str, Any]) -> str:
        """A name for a run, to find it again by."""
        self._number += 1
        return f"{labels.get('study')}/{self._number}"

    async def _run(
        self, built: _Built, context: Any, case: Case, labels: Mapping[str, Any], caches: Elsewhere | None = None
    ) -> tuple[Outcome, Any]:
        """What came of a run, not judged yet, and its output."""
        waits, sync, other = iter((*self.again_s, None)), built.name in self._invoked, None
        lost: list[Seen] = []
        while True:
            tried = await self._try(built.graph, context, case, labels, caches, sync=sync)
            if other is None and tried.wrong_way:  # a sync middleware, say, so production did not await it either
                other, sync = tried, not sync
                continue
            if other is not None and tried.wrong_way:
                tried, other = other, tried  # it is the run that fails, whichever way
            elif other is not None and not isinstance(tried.failed, TimeoutError):
                (self._invoked.add if sync else self._invoked.discard)(built.name)
            failed, seen = tried.failed, tried.seen
            # What a node itself could not reach is that run's failure; so it was in production.
            own = failed is None or (seen is not None and not seen.unreached)
            if own or failed is None or (gone := not_there(failed)) is None or await dropped(failed):
                also = [*lost, *([] if other is None or other.seen is None else [other.seen])]
                return _with_calls(self._outcome(case, tried), also), tried.output
            if seen is not None:
                lost.append(seen)
            if (wait_s := next(waits)) is None:
                raise EngineGone(f"the engine does not answer ({gone}); start it again, then go on with --resume")
            await asyncio.sleep(wait_s)

    async def _try(
        self, graph: Any, context: Any, case: Case, labels: Mapping[str, Any], caches: Elsewhere | None, *, sync: bool
    ) -> _Tried:
        token, loop = self._token(labels), asyncio.get_running_loop()
        begun, output, failed = loop.time(), None, None
        try:
            invoked = self._invoke(graph, context, case, labels, token, caches, sync=sync)
            output = await asyncio.wait_for(invoked, self.timeout_s)
        except Exception as error:  # whatever a candidate's graph raises is a failure of the candidate
            failed = error
        took = loop.time() - begun
        seen = self.watch.take(token)
        if failed is None and seen is not None and seen.waits:
            failed = RuntimeError(f"it waits for an answer to an interrupt, which nobody gives here{_asks(output)}")
        return _Tried(sync, output, failed, seen, took)

    async def _invoke(
        self,
        graph: Any,
        context: Any,
        case: Case,
        labels: Mapping[str, Any],
        token: str,
        caches: Elsewhere | None,
        *,
        sync: bool,
    ) -> Any:
        marks = {MODE: {**labels, "case": case.id, "token": token}}
        thread = f"{MODE}/{token}"
        config = {
            "metadata": {c.GIVEN_LABELS: marks},
            "run_name": getattr(graph, "name", None) or self.spec.name,
            **case.limits,
            # A graph with a checkpointer begins anew, or where the case's does. One with a cache of nodes has none: it
            # has answers of other candidates and of production, under a key that need not know what a context sets.
            "configurable": {**case.configurable, "thread_id": thread, _CACHE: None, **_memory(graph, case, thread)},
        }
        given = {} if context is None else {"context": context}
        with nullcontext() if caches is None else elsewhere(caches):
            if sync:  # a thread that goes on after its time has run out cannot be stopped
                return await asyncio.to_thread(graph.invoke, as_given(graph, case.input), config, **given)
            return await graph.ainvoke(as_given(graph, case.input), config, **given)

    def _outcome(self, case: Case, tried: _Tried) -> Outcome:
        failed, seen = tried.failed, tried.seen
        error = None if failed is None else f"{type(failed).__name__}: {failed}"[:500]
        if seen is None:
            return Outcome(case=case.id, run_id=None, quality=None, latency_s=tried.took, error=error)
        return Outcome(
            case=case.id,
            run_id=seen.run_id,
            quality=None,
            latency_s=seen.latency_s,
            error=error,
            usage=seen.usage,
            embeddings=seen.embeddings,
            paid=seen.paid,
            live=seen.live,
            memo=seen.memo,
            cached=seen.cached,
        )

    async def _scored(self, output: Any, case: Case, labels: Mapping[str, Any]) -> float | None:
        try:
            with begun_for(MODE, {MODE: labels}):  # a judge's runs are not the agent's
                found: Any = (self.spec.score or alike)(output, case)
                found = await found if inspect.isawaitable(found) else found
            quality: float | None = None if found is None else float(found)
        except Exception as error:  # whatever somebody's scorer does
            raise ScorerFailed(
                f"the scorer raised {type(error).__name__} on run {case.id[:12]}: {error}; mend it, then go on with "
                "--resume (FM calls that were made are not made again)"
            ) from error
        if quality is not None and not 0 <= quality <= 1:
            raise ScorerFailed(f"the scorer gave {quality:g} for run {case.id[:12]}; a quality is from 0 to 1")
        return quality


def _asks(output: Any) -> str:
    """What a run that was interrupted asks, if it says so."""
    asked = output.get("__interrupt__") if isinstance(output, Mapping) else None
    return "".join(f": {getattr(one, 'value', one)!r}" for one in (asked or ())[:1])[:200]


def _memory(graph: Any, case: Case, thread: str) -> dict[str, Any]:
    """What lets a run read the graph's store and keep what it writes to itself, and its conversation: the store and the
    checkpointer are production's, too.
    """
    store, checkpointer = memory_of(graph), checkpointer_of(graph)
    known = None if case.history is None else before(graph, case)
    if store is None and checkpointer is None and known is None:
        return {}
    from redecode.tracer.langgraph.memory import apart  # LangGraph is the agent's, and there if it has one of them

    return apart(store, checkpointer, thread, known)


def besides(outcomes: Sequence[Outcome], made: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes, the first with the calls of runs that were made beside them: these were paid for, and are no part of
    what a run costs or takes.
    """
    return [_with_calls(o, made) if n == 0 else o for n, o in enumerate(outcomes)]


def _with_calls(outcome: Outcome, made: Sequence[Outcome | Seen]) -> Outcome:
    return replace(
        outcome,
        live=outcome.live + sum(o.live for o in made),
        memo=outcome.memo + sum(o.memo for o in made),
        paid=together(outcome.paid, *(o.paid for o in made)),
    )


def alike(output: Any, case: Case) -> float | None:
    """How much of the recorded output comes out again: the share of equal keys, or whether it is equal."""
    then = by_words(case.output)
    if then is None:
        return None
    if isinstance(then, Mapping) and isinstance(output, Mapping) and then:
        given = by_words(case.input)
        changed = {k for k, v in then.items() if isinstance(given, Mapping) and given.get(k) == v}
        keys = [k for k in then if k not in changed] or list(then)  # what merely went through says nothing
        now: dict[str, Any] = by_words(c.plain(dict(output)))
        return sum(bool(now.get(k) == then[k]) for k in keys) / len(keys)
    return float(bool(by_words(c.plain(output)) == then))
