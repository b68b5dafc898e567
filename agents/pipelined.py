"""Running a plan while the FM is still writing it, with the way back if its end turns out to be bad.

    done = await pipelined(words, JsonParts(within="steps"), step_of, accept)

`words` is the stream of the answer. A step begins when its part of the plan is complete. What may begin that early is
declared: a step without side effects, or one that can be undone. Any other waits until the plan is whole and `accept`
has found nothing wrong with it. If it does, or the stream breaks off, or whoever waits is cancelled (at any time),
steps that are under way are cancelled, effects are undone, the last first, and nothing of the plan remains.

The results are those of the steps run one after another: a step that has effects waits for all before it, and every
step for the last one before it that has effects, so reading steps alone run beside each other. A step that fails ends
the plan as it would there: what comes after it and has effects does not run.

A recorded run shows each step with an edge from the part of the stream that launched it. The seed: "Pipelining the
execution of cognitive code as it is being generated" (Software Performance Engineering for FM-Powered Software, III-A).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

from redecode.tracer import step as recorded_step

Undo = Callable[[Any], Awaitable[None]]


class PlanRejected(Exception):
    """The plan is none; says what is wrong with it."""


class RollbackFailed(Exception):
    """Effects of a plan that came to nothing remain: some could not be undone. `errors`: by step."""

    def __init__(self, errors: dict[str, BaseException]) -> None:
        told = "; ".join(f"{name}: {type(e).__name__}: {e}" for name, e in errors.items())
        super().__init__(f"could not be undone: {told}")
        self.errors = errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a part of a plan asks for.

    Attributes:
        run: given the results of the steps before it, as far as they are there: all, for a step that has effects; those
            up to the last one with effects (others are None), for one that has none.
        side_effect: whether it does anything but answer.
        undo: takes its effect back, given its result, or what it raised. Called once, for a step that has begun.
            Without one a step that has begun is let through, and `RollbackFailed` names it.
        recorded: whether a recording shows it as a step of its own; `False` if it calls what shows itself, a tool say.
    """

    name: str
    run: Callable[[Sequence[Any]], Awaitable[Any]]
    side_effect: bool
    undo: Undo | None = None
    recorded: bool = True

    @property
    def may_be_early(self) -> bool:
        """Whether it may begin before the plan is whole."""
        return not self.side_effect or self.undo is not None


class Reads(Protocol):
    """Finds the parts of a plan while it is being written."""

    def feed(self, text: str) -> Sequence[Any]:
        """Parts that are complete now, each once, in order.

        Raises:
            PlanRejected: what has come cannot be the beginning of a plan.
        """

    def end(self) -> Sequence[Any]:
        """Parts that only the end of the text completes.

        Raises:
            PlanRejected: the plan is not complete.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A plan that was carried out. `early`: how many steps had begun before it was whole."""

    text: str
    parts: tuple[Any, ...]
    results: tuple[Any, ...]
    early: int


async def pipelined(
    words: AsyncIterable[str],
    reader: Reads,
    step_of: Callable[[Any], Step | None],
    accept: Callable[[str, Sequence[Any]], None] = lambda text, parts: None,
    *,
    ahead: bool = True,
) -> Done:
    """Carry out a plan as it is being written.

    Args:
        words: the answer, in pieces.
        step_of: the step of a part; `None`: it asks for nothing.
        accept: looks at the whole plan, and raises (`PlanRejected` say) if it must not be carried out.
        ahead: `False`: no step begins before the plan is whole.

    Raises:
        PlanRejected: by the reader, `step_of` or `accept`; whatever these, the stream or a step raise.
        RollbackFailed: and effects remain.
    """
    plan = _Plan(step_of=step_of, ahead=ahead)
    text: list[str] = []
    try:
        try:
            async for piece in words:
                text.append(piece)
                plan.extend(reader.feed(piece))
        finally:
            close = getattr(words, "aclose", None)
            if close is not None:  # of a plan that is rejected half way nothing more is paid for
                await close()
        plan.extend(reader.end())
        accept("".join(text), plan.parts)
    except BaseException as why:
        await _to_the_end(plan.roll_back(), why)
        raise
    early = sum(s.state is not _State.HELD for s in plan.steps)
    return Done(
        text="".join(text), parts=tuple(plan.parts), results=tuple(await plan.finish()), early=early if ahead else 0
    )


class _State(Enum):
    HELD = auto()
    WAITING = auto()
    BEGUN = auto()


@dataclass(eq=False, slots=True)
class _Running:
    step: Step
    state: _State = _State.HELD
    task: asyncio.Task[Any] | None = None


class _NoWayBackError(Exception):
    """A step's effect stays."""


class _NotRunError(Exception):
    """A step before it has failed."""


@dataclass(slots=True, kw_only=True)
class _Plan:
    step_of: Callable[[Any], Step | None]
    ahead: bool
    parts: list[Any] = field(default_factory=list)
    steps: list[_Running] = field(default_factory=list)

    def extend(self, parts: Sequence[Any]) -> None:
        """Further parts are complete."""
        for part in parts:
            self.parts.append(part)
            step = self.step_of(part)
            if step is None:
                continue
            self.steps.append(_Running(step))
            if self.ahead and step.may_be_early and all(s.state is not _State.HELD for s in self._before(-1)):
                self._launch(len(self.steps) - 1)

    def _before(self, place: int) -> list[_Running]:
        """The steps that one waits for."""
        place %= len(self.steps)
        earlier = self.steps[:place]
        if self.steps[place].step.side_effect:
            return earlier
        last = max((n for n, s in enumerate(earlier) if s.step.side_effect), default=-1)
        return earlier[: last + 1]

    def _launch(self, place: int) -> None:
        mine = self.steps[place]
        mine.state = _State.WAITING
        before = [s.task for s in self._before(place) if s.task is not None]
        mine.task = asyncio.create_task(_one(mine, before, place))

    async def finish(self) -> list[Any]:
        """The plan is good: run the rest; the results in order."""
        for place, mine in enumerate(self.steps):
            if mine.task is None:
                self._launch(place)
        tasks = [s.task for s in self.steps if s.task is not None]
        try:
            for task in tasks:
                await asyncio.wait([task])  # whoever waits may be cancelled; the step is not
                if task.cancelled() or task.exception() is not None:
                    break
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError as why:
            await _to_the_end(self.roll_back(), why)
            raise
        return [task.result() for task in tasks]  # the first that failed is what one after another would raise

    async def roll_back(self) -> None:
        """Nothing of the plan remains.

        Raises:
            RollbackFailed: something does.
        """
        for mine in self.steps:
            # One that has effects and has begun is let through: half an effect cannot be undone.
            if mine.task is not None and not (mine.state is _State.BEGUN and mine.step.side_effect):
                mine.task.cancel()
        tasks = [s.task for s in self.steps if s.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        errors: dict[str, BaseException] = {}
        for mine in reversed(self.steps):
            if mine.state is not _State.BEGUN or not mine.step.side_effect or mine.task is None:
                continue
            if mine.step.undo is None:
                errors[mine.step.name] = _NoWayBackError("it was carried out, and has no undo")
                continue
            outcome = None if mine.task.cancelled() else mine.task.exception() or mine.task.result()
            try:
                with _shown(f"undo {mine.step.name}", mine.step):
                    await mine.step.undo(outcome)
            except Exception as error:  # whatever somebody's way back does; the others are gone all the same
                errors[mine.step.name] = error
        if errors:
            raise RollbackFailed(errors)


async def _one(mine: _Running, before: Sequence[asyncio.Task[Any]], place: int) -> Any:
    if before:
        await asyncio.wait(before)
    if any(t.cancelled() or t.exception() is not None for t in before):
        raise _NotRunError(f"a step before {mine.step.name} has failed")
    results = [t.result() for t in before] + [None] * (place - len(before))
    mine.state = _State.BEGUN
    with _shown(mine.step.name, mine.step):
        return await mine.step.run(results)


def _shown(name: str, step: Step) -> AbstractContextManager[None]:
    return recorded_step(name) if step.recorded else nullcontext()


async def _to_the_end(work: Awaitable[None], why: BaseException) -> None:
    """Wait for it whoever cancels meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if task.exception() is not None:
        raise task.exception() from why  # type: ignore[misc]
