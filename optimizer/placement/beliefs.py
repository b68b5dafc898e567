"""What may be expected of a call before it is made: by step, from recorded runs.

Of every call of every recorded run: how many tokens it made, and what came after it on the longest way to the end of
its run (the tail: FM calls, tools and gaps). Both together, since a long answer and a long way to go often come
together; a quantile of their sum is then one of the sum, not a sum of quantiles. At most `KEPT` of each step are kept.

A step never seen is believed to be like, in this order: the step of another agent, its node in another superstep, its
agent's calls, its model's, any call; with nothing recorded it makes as many tokens as its caller allows (`Source`).
The true lengths of a call that is to be placed are nowhere in here. `Truth` has them, for the bound and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from redecode.optimizer.placement.work import Model, Speed, Typical, Work
from redecode.replay.simulator.costs import PS, prefill_pairs
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import CallView
from redecode.replay.simulator.workload import Call, Shape, Workload

KEPT = 64
_GUESS_TOKENS = 256
_FALLBACK = Typical(256.0, 256.0 * 257 / 2, float(_GUESS_TOKENS), 384.0)


class Source(StrEnum):
    """Where a belief comes from."""

    STEP = "this step of its agent"
    OTHER_AGENT = "this step of another agent"
    NODE = "this node in another superstep"
    AGENT = "its agent's calls"
    MODEL = "its model's calls"
    ALL = "any call recorded"
    LIMIT = "the limit its caller set"
    GUESS = f"nothing recorded: {_GUESS_TOKENS} tokens"
    TRUTH = "its true lengths"


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded call: its output, and what came after it.

    Attributes:
        waits_s: tools and gaps of the tail.
        later: its FM calls, by model.
        rest: all FM calls that wait for it, on whatever way, by model.
    """

    output_tokens: int
    waits_s: float = 0.0
    later: tuple[tuple[str, Work], ...] = ()
    rest: tuple[tuple[str, Work], ...] = ()


@dataclass(frozen=True, slots=True)
class Belief:
    """Of one call.

    Attributes:
        key: equal for equal samples; to keep what is derived from them.
        output_tokens: the mean.
    """

    key: tuple[str, ...]
    source: Source
    samples: tuple[Sample, ...]
    output_tokens: float

    @classmethod
    def of(cls, key: tuple[str, ...], source: Source, samples: Sequence[Sample]) -> Belief:
        """With its mean."""
        return cls(key, source, tuple(samples), sum(s.output_tokens for s in samples) / len(samples))


class Believer(Protocol):
    """Knows what may be expected of calls."""

    typical: Mapping[str, Typical]

    def of(self, call: CallView) -> Belief:
        """Of this call."""


def node_of(step: str) -> str:
    """A step key without supersteps, tasks and counts: the nodes of the graph it names."""
    return re.sub(r"@\d+|\[[^]]*\]|#\d+", "", step)


def fresh_tokens(call: Call, earlier: Iterable[Call], block_size: int) -> int:
    """Tokens of its prompt that its own run has not sent or made before: one replica's prefix cache has the rest."""
    found = 0
    for other in earlier:
        same = 0
        for a, b in zip(call.hashes, other.hashes, strict=False):
            if a != b:
                break
            same += 1
        found = max(found, same)
    return max(1, call.prompt_tokens - min(found, (call.prompt_tokens - 1) // block_size) * block_size)


def works_of(shape: Shape, block_size: int = 16) -> list[Work]:
    """What each of its calls asks of an engine that has made those before it."""
    out, before = [], _before(shape)
    for place, call in enumerate(shape.calls):
        fresh = fresh_tokens(call, (shape.calls[i] for i in before[place]), block_size)
        pairs = prefill_pairs(call.prompt_tokens - fresh, fresh)
        out.append(Work(1, fresh, pairs, call.prompt_tokens, call.output_tokens))
    return out


def tails_of(shape: Shape, works: Sequence[Work], speeds: Mapping[str, Speed]) -> list[Sample]:
    """Of each of its calls: its output, and what comes after it on the longest way to the end at these speeds."""
    count = len(shape.calls)
    tails: list[tuple[float, float, dict[str, Work]]] = [(0.0, 0.0, {})] * count
    took = [speeds[c.model].time_s(w) if c.model in speeds else 0.0 for c, w in zip(shape.calls, works, strict=True)]
    for place in reversed(_order(shape)):
        longest = (shape.last.get(place, 0) / PS, shape.last.get(place, 0) / PS, dict[str, Work]())
        for after, gap_ps in shape.after[place]:
            length, waits, later = tails[after]
            length += gap_ps / PS + took[after]
            if length > longest[0]:
                model = shape.calls[after].model
                longest = (length, waits + gap_ps / PS, {**later, model: later.get(model, Work()) + works[after]})
        tails[place] = longest
    rest: list[dict[str, Work]] = [{} for _ in range(count)]
    for place, before in enumerate(_before(shape)):
        model = shape.calls[place].model
        for earlier in before:
            rest[earlier][model] = rest[earlier].get(model, Work()) + works[place]
    return [
        Sample(call.output_tokens, waits, tuple(sorted(later.items())), tuple(sorted(all_.items())))
        for call, (_, waits, later), all_ in zip(shape.calls, tails, rest, strict=True)
    ]


class Beliefs:
    """From recorded runs.

    Args:
        shapes: of the runs; of several agents if there are.
        engines: that calls may go to; on the ways to the end, each model is as fast as the first of its own that is
            listed (they only choose which way is the longest).
    """

    def __init__(self, shapes: Iterable[Shape], engines: Sequence[Engine] = ()) -> None:
        shapes = list(shapes)
        size = engines[0].limits.block_size if engines else 16
        works = [works_of(shape, size) for shape in shapes]
        self.typical: Mapping[str, Typical] = typical_calls(shapes, works)
        speeds: dict[str, Speed] = {}
        for engine in engines:
            typical = self.typical.get(engine.model) or self.typical.get("") or _FALLBACK
            speeds.setdefault(engine.model, Model(engine, typical).speed(1))
        for name in self.typical:  # engines that serve any model
            if name not in speeds and "" in speeds:
                speeds[name] = speeds[""]
        groups: dict[tuple[str, ...], list[Sample]] = {}
        for shape, work in zip(shapes, works, strict=True):
            for call, sample in zip(shape.calls, tails_of(shape, work, speeds), strict=True):
                for _, key in _keys(call.step, shape.name, call.model):
                    groups.setdefault(key, []).append(sample)
        self._known = {key: _thin(samples) for key, samples in groups.items()}
        self._found: dict[tuple[str, str, str, int | None], Belief] = {}

    def of(self, call: CallView) -> Belief:
        """Of this call, or of those most like it."""
        asked = (call.step, call.agent, call.model, call.max_tokens)
        found = self._found.get(asked)
        if found is None:
            found = self._found[asked] = self._look(call)
        return found

    def _look(self, call: CallView) -> Belief:
        for source, key in _keys(call.step, call.agent, call.model):
            if (samples := self._known.get(key)) is not None:
                limit = call.max_tokens
                if limit is not None and any(s.output_tokens > limit for s in samples):
                    samples = tuple(replace(s, output_tokens=min(s.output_tokens, limit)) for s in samples)
                    key = (*key, f"≤{limit}")
                return Belief.of(key, source, samples)
        tokens = call.max_tokens or _GUESS_TOKENS
        source = Source.LIMIT if call.max_tokens else Source.GUESS
        return Belief.of((source.name, str(tokens)), source, [Sample(tokens)])


class Truth:
    """The lengths a call and its run will really have. Nobody has them: for the bound that is called `oracle`."""

    def __init__(self, workload: Workload, engines: Sequence[Engine] = ()) -> None:
        beliefs = Beliefs(workload.shapes, engines)
        self.typical: Mapping[str, Typical] = beliefs.typical
        size = engines[0].limits.block_size if engines else 16
        speeds = {e.model: Model(e, beliefs.typical.get(e.model, _FALLBACK)).speed(1) for e in reversed(engines)}
        for name in beliefs.typical:
            if name not in speeds and "" in speeds:
                speeds[name] = speeds[""]
        self._which = workload.which
        self._samples = [tails_of(shape, works_of(shape, size), speeds) for shape in workload.shapes]
        self._bases = [0]
        for shape in workload.which:
            self._bases.append(self._bases[-1] + len(workload.shapes[shape].calls))

    def of(self, call: CallView) -> Belief:
        """What it will be."""
        shape, place = self._which[call.run], call.call - self._bases[call.run]
        return Belief.of(("truth", str(shape), str(place)), Source.TRUTH, [self._samples[shape][place]])


def typical_calls(shapes: Sequence[Shape], works: Sequence[Sequence[Work]]) -> dict[str, Typical]:
    """Means over all calls, by model; under "" over those of all models."""
    sums: dict[str, list[float]] = {}
    for shape, work in zip(shapes, works, strict=True):
        for call, w in zip(shape.calls, work, strict=True):
            context = call.prompt_tokens + call.output_tokens / 2
            for name in {call.model, ""}:
                total = sums.setdefault(name, [0.0] * 5)
                for place, value in enumerate(
                    (1, w.prompt_tokens, w.pairs, w.output_tokens, w.output_tokens * context)
                ):
                    total[place] += value
    return {
        name: Typical(prompt / count, pairs / count, output / count, context / max(1.0, output))
        for name, (count, prompt, pairs, output, context) in sums.items()
    }


def _keys(step: str, agent: str, model: str) -> tuple[tuple[Source, tuple[str, ...]], ...]:
    node = node_of(step)
    return (
        (Source.STEP, ("step", agent, step, model)),
        (Source.OTHER_AGENT, ("step", "*", step, model)),
        (Source.NODE, ("node", agent, node, model)),
        (Source.AGENT, ("agent", agent, model)),
        (Source.MODEL, ("model", model)),
        (Source.ALL, ("all",)),
    )


def _thin(samples: list[Sample]) -> tuple[Sample, ...]:
    """At most `KEPT`, evenly over all of them by the work they are."""
    samples.sort(key=lambda s: (s.output_tokens + sum(w.output_tokens for _, w in s.later), s.waits_s))
    if len(samples) <= KEPT:
        return tuple(samples)
    last = len(samples) - 1
    return tuple(samples[round(i * last / (KEPT - 1))] for i in range(KEPT))


def _before(shape: Shape) -> list[set[int]]:
    """Of each call all calls that have ended when it is sent."""
    before: list[set[int]] = [set() for _ in shape.calls]
    for place in _order(shape):
        for after, _ in shape.after[place]:
            before[after] |= before[place] | {place}
    return before


def _order(shape: Shape) -> list[int]:
    """Its calls, each after all it waits for."""
    left = [0] * len(shape.calls)
    for edges in shape.after:
        for place, _ in edges:
            left[place] += 1
    ready = [place for place, count in enumerate(left) if not count]
    order = []
    while ready:
        place = ready.pop()
        order.append(place)
        for after, _ in shape.after[place]:
            left[after] -= 1
            if not left[after]:
                ready.append(after)
    return order
