"""Plans carried out while they are written: results as of one step after another, and nothing left of a bad plan."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.agents.pipelined import Done, PlanRejected, RollbackFailed, Step, pipelined
from redecode.agents.plan_parts import JsonParts, Lines

Op = tuple[str, str, int, bool, bool]
"""Its name, what it does ("add" to the ledger, or "read" it), how many turns of the loop it takes, whether it can be
undone, whether it fails."""


class World:
    """A ledger that steps write in, and what they did."""

    def __init__(self) -> None:
        self.ledger: list[str] = []
        self.log: list[str] = []

    def step(self, op: Op) -> Step:
        name, what, turns, undone, fails = op

        async def run(results: Sequence[Any]) -> Any:
            self.log.append(f"begin {name}")
            for _ in range(turns):
                await asyncio.sleep(0)
            if fails:
                raise LookupError(name)
            if what == "read":
                return tuple(self.ledger)
            self.ledger.append(name)
            self.log.append(f"end {name}")
            return (name, tuple(r for r in results if r is not None))

        async def undo(result: Any) -> None:
            self.log.append(f"undo {name}")
            if name in self.ledger:
                self.ledger.remove(name)

        return Step(name=name, run=run, side_effect=what == "add", undo=undo if undone else None)


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    places = [0, *sorted({c % (len(text) + 1) for c in cuts}), len(text)]
    return [text[a:b] for a, b in pairwise(places)]


async def written(parts: Sequence[str], pause: int = 1, broken: Exception | None = None) -> AsyncIterator[str]:
    for part in parts:
        for _ in range(pause):
            await asyncio.sleep(0)
        yield part
    if broken is not None:
        raise broken


def plan_of(ops: Sequence[Op]) -> str:
    return json.dumps({"why": 'a "reason" [', "steps": [list(op) for op in ops], "cost": 12})


def carried_out(
    world: World, ops: Sequence[Op], cuts: Sequence[int], *, ahead: bool, rejects: bool = False, pause: int = 1
) -> Done:
    def accept(text: str, parts: Sequence[Any]) -> None:
        assert [tuple(p) for p in parts] == list(ops) and text == plan_of(ops)
        if rejects:
            raise PlanRejected("too dear")

    words = written(pieces(plan_of(ops), cuts), pause)
    return asyncio.run(
        pipelined(words, JsonParts(within="steps"), lambda part: world.step(tuple(part)), accept, ahead=ahead)
    )


async def one_after_another(world: World, ops: Sequence[Op]) -> list[Any]:
    """What a plan comes to without any of this."""
    steps = [world.step(op) for op in ops]
    results: list[Any] = []
    last = 0
    for n, step in enumerate(steps):
        seen = results if step.side_effect else [*results[:last], *[None] * (n - last)]
        results.append(await step.run(seen))
        last = n + 1 if step.side_effect else last
    return results


names = st.integers(0, 99).map(lambda n: f"s{n}")
ops_strategy = st.lists(
    st.tuples(names, st.sampled_from(["add", "read", "read"]), st.integers(0, 4), st.booleans(), st.booleans()),
    max_size=6,
    unique_by=lambda op: op[0],
)
cuts_strategy = st.lists(st.integers(0, 500), max_size=30)


@settings(max_examples=120, deadline=None)
@given(ops_strategy, cuts_strategy, st.integers(0, 3), st.booleans())
def test_the_results_and_effects_are_those_of_one_step_after_another(
    ops: list[Op], cuts: list[int], pause: int, ahead: bool
) -> None:
    ours, theirs = World(), World()
    failed = None
    try:
        results: Any = asyncio.run(one_after_another(theirs, ops))
    except LookupError as error:
        failed = str(error)
    if failed is None:
        assert list(carried_out(ours, ops, cuts, ahead=ahead, pause=pause).results) == results
    else:
        with pytest.raises(LookupError) as raised:
            carried_out(ours, ops, cuts, ahead=ahead, pause=pause)
        assert str(raised.value) == failed
    assert ours.ledger == theirs.ledger


@settings(max_examples=120, deadline=None)
@given(ops_strategy, cuts_strategy, st.integers(0, 3), st.sampled_from(["rejected", "broken off", "stream breaks"]))
def test_of_a_plan_that_comes_to_nothing_no_effect_remains(
    ops: list[Op], cuts: list[int], pause: int, how: str
) -> None:
    world = World()
    if how == "rejected":
        with pytest.raises(PlanRejected, match="too dear"):
            carried_out(world, ops, cuts, ahead=True, rejects=True, pause=pause)
    else:
        text = plan_of(ops)[:-1]
        broken = OSError("gone") if how == "stream breaks" else None
        words = written(pieces(text, cuts), pause, broken)
        with pytest.raises(OSError if broken else PlanRejected):
            asyncio.run(pipelined(words, JsonParts(within="steps"), lambda part: world.step(tuple(part))))
    assert world.ledger == []
    begun = [line.split()[1] for line in world.log if line.startswith("begin")]
    held = {op[0] for op in ops if op[1] == "add" and not op[3]}
    assert not held & set(begun)  # what cannot be undone did not even begin
    effects = [op[0] for op in ops if op[1] == "add" and op[0] in begun]
    assert [line.split()[1] for line in world.log if line.startswith("undo")] == effects[::-1]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=4), cuts_strategy)
def test_parts_of_json_are_the_same_however_it_is_cut(plan: Any, cuts: list[int]) -> None:
    for text in (json.dumps(plan), json.dumps(plan, indent=1, ensure_ascii=False)):
        reader = JsonParts()
        found = [part for piece in pieces(text, cuts) for part in reader.feed(piece)]
        assert [*found, *reader.end()] == (list(plan.items()) if isinstance(plan, dict) else plan)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=4))
def test_a_part_is_told_once_and_never_changes(plan: dict[str, Any]) -> None:
    text, reader, found = json.dumps(plan), JsonParts(), []
    for end, ch in enumerate(text, 1):
        found += reader.feed(ch)
        for name, value in found:
            assert plan[name] == value
        if end < len(text):
            with pytest.raises(PlanRejected):
                _copy(reader).end()


def _copy(reader: JsonParts) -> JsonParts:
    import copy

    return copy.copy(reader)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=4),
    st.sampled_from(["```json\n{}\n```", " \n```\r\n{}```\n", "```JSON \n{}\n\n``` \n", "```\n{}", "```json\n{}\n"]),
    cuts_strategy,
)
def test_a_plan_in_a_code_fence_is_the_plan_however_it_is_cut(
    plan: dict[str, Any], fence: str, cuts: list[int]
) -> None:
    text = fence.replace("{}", json.dumps(plan))
    for some in (pieces(text, cuts), list(text)):
        reader = JsonParts()
        found = [part for piece in some for part in reader.feed(piece)]
        assert [*found, *reader.end()] == list(plan.items())


@pytest.mark.parametrize(
    "text",
    [
        "no plan",
        '{"a": 1,}',
        "[1 2]",
        '{"a" 1}',
        "[1]}",
        '{"a": 1, "a": 2}',
        "[1}",
        '{"a": tru, "b": 1}',
        "[,1]",
        '"x"',
        "```json\n",
        "```json\n```",
        '```json {"a": 1}\n```',
        '``\n{"a": 1}',
        '````json\n{"a": 1}\n````',
        'Sure:\n```json\n{"a": 1}\n```',
        '```\n```\n{"a": 1}\n```',
        '```json\n{"a": 1}\n``',
        '```json\n{"a": 1}\n```\n```',
        '```json\n{"a": 1}\n``` Well.',
        '```json\n{"a": 1}\nWell.',
        '```json\n{"a": 1',
        '{"a": 1}\n```',
        '{```\n"a": 1}',
    ],
)
def test_what_is_no_json_is_no_plan(text: str) -> None:
    reader = JsonParts()
    with pytest.raises(PlanRejected):
        for ch in text:
            reader.feed(ch)
        reader.end()


def test_a_plan_without_its_steps_is_none() -> None:
    with pytest.raises(PlanRejected, match="no 'steps'"):
        JsonParts(within="steps").feed('{"why": [1]}')
    with pytest.raises(PlanRejected, match="an array in 'steps'"):
        JsonParts(within="steps").feed('{"steps": {"a": 1}}')
    with pytest.raises(PlanRejected, match="an object"):
        JsonParts(within="steps").feed("[1]")


def test_lines_are_told_when_they_are_whole() -> None:
    reader = Lines()
    assert [reader.feed(p) for p in ("one\nt", "wo\n\nth", "ree")] == [["one"], ["two"], []]
    assert reader.end() == ["three"]


def test_a_step_begins_before_the_plan_is_whole_and_what_has_effects_after() -> None:
    world = World()
    ops: list[Op] = [
        ("look", "read", 0, False, False),
        ("book", "add", 0, True, False),
        ("mail", "add", 0, False, False),
    ]

    def accept(text: str, parts: Sequence[Any]) -> None:
        world.log.append("accepted")

    words = written([*plan_of(ops)], pause=3)
    done = asyncio.run(pipelined(words, JsonParts(within="steps"), lambda part: world.step(tuple(part)), accept))
    assert world.log == ["begin look", "begin book", "end book", "accepted", "begin mail", "end mail"]
    assert done.early == 2


def test_whoever_is_cancelled_leaves_nothing_either() -> None:
    world = World()
    ops: list[Op] = [("book", "add", 0, True, False), ("slow", "add", 50, True, False)]

    async def cancelled() -> None:
        endless = written([plan_of(ops)[:-1], *[""] * 10_000])
        task = asyncio.ensure_future(
            pipelined(endless, JsonParts(within="steps"), lambda part: world.step(tuple(part)))
        )
        while "begin slow" not in world.log:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert world.ledger == []
    # Half an effect cannot be undone: the slow one was let through first.
    assert world.log[-3:] == ["end slow", "undo slow", "undo book"]


def test_an_effect_that_cannot_be_undone_after_all_is_said() -> None:
    world = World()

    def stubborn(part: Any) -> Step:
        step = world.step(tuple(part))

        async def undo(_: Any) -> None:
            raise OSError("the desk is closed")

        return Step(name=step.name, run=step.run, side_effect=True, undo=undo if step.name == "book" else step.undo)

    ops: list[Op] = [("book", "add", 0, True, False), ("note", "add", 0, True, False)]
    with pytest.raises(RollbackFailed, match="book: OSError: the desk is closed") as raised:
        asyncio.run(pipelined(written([*plan_of(ops)][:-1], 3), JsonParts(within="steps"), stubborn))
    assert isinstance(raised.value.__cause__, PlanRejected)
    assert world.ledger == ["book"]


@pytest.mark.parametrize("after", range(0, 60, 3))
def test_whoever_is_cancelled_at_any_time_leaves_nothing_half_done(after: int) -> None:
    """Also once the plan is accepted: a step with effects ends, and is undone; without an undo it is named."""
    ops: list[Op] = [
        ("a", "add", 6, True, False),
        ("r", "read", 6, False, False),
        ("b", "add", 6, after % 2 == 0, False),
    ]
    world, by_name = World(), {op[0]: op for op in ops}

    async def cancelled() -> Any:
        words = written(["a\n", "r\n", "b\n"])
        task = asyncio.create_task(pipelined(words, Lines(), lambda name: world.step(by_name[str(name).strip()])))
        for _ in range(after):
            await asyncio.sleep(0)
        if task.cancel():
            await asyncio.wait([task])
            return task.exception() if not task.cancelled() else asyncio.CancelledError()
        return task.result()

    found = asyncio.run(cancelled())
    begun = [line.split()[1] for line in world.log if line.startswith("begin") and "r" not in line.split()[1]]
    ended = [line.split()[1] for line in world.log if line.startswith("end")]
    assert begun == ended
    if isinstance(found, Done):
        assert world.ledger == ["a", "b"]
    elif isinstance(found, RollbackFailed):
        assert world.ledger == ["b"] == list(found.errors) and "has no undo" in str(found)
    else:
        assert isinstance(found, asyncio.CancelledError) and world.ledger == []
