"""Which recorded runs are searched on and decided on, and why others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.cases import MODE, by_words, kept, of_runs, past_of, read_expected, same_input, select
from redecode.optimizer.errors import BadSpec, NoRuns
from redecode.optimizer.spec import Spec
from redecode.tracer import Run

HOUR_NS = 3600 * 10**9


class Graph:
    name, nodes = "a", ()

    async def ainvoke(self, state: Any, config: Any) -> Any:
        return state


SPEC = Spec(name="a", graph=Graph())


def run(number: int, **changes: Any) -> Run:
    given: dict[str, Any] = {
        "run_id": f"{number:032x}", "agent": "a", "status": "ok", "started_ns": number * HOUR_NS,
        "ended_ns": number * HOUR_NS + 10**9, "fidelity": None, "decodes": 1, "tools": 0, "tokens": 1,
        "prompt_tokens": 1, "input": {"n": number}, "output": {"n": number},
    }  # fmt: skip
    return Run(**{**given, **changes})


def ids(cases: Any) -> set[int]:
    return {int(c.id, 16) for c in cases}


def test_the_newest_are_kept_apart() -> None:
    found = select([run(i) for i in range(12, 0, -1)], SPEC, "all", now_ns=0)
    assert ids(found.search) == set(range(1, 9)) and ids(found.decide) == set(range(9, 13))
    again = select([run(i) for i in range(12, 0, -1)], SPEC, "all", now_ns=99)
    assert [c.id for c in found.search] == [c.id for c in again.search] and found.digest == again.digest
    other = select([run(i) for i in range(12, 0, -1)], SPEC, "all", now_ns=0, seed=5)
    assert [c.id for c in found.search] != [c.id for c in other.search] and ids(other.search) == ids(found.search)


def test_a_conversation_and_an_input_are_on_one_side_only() -> None:
    runs = [run(i, conversation_id="c" if i in (2, 11) else None) for i in range(12, 0, -1)]
    runs.insert(0, run(13, input={"n": 1}))
    found = select(runs, SPEC, "all", now_ns=0)
    assert 11 in ids(found.search) and 11 not in ids(found.decide)
    assert 13 not in ids(found.search) | ids(found.decide)
    assert found.left_out == {"with the input of another one": 1}


def test_of_the_runs_those_that_are_asked_for() -> None:
    runs = [run(i) for i in range(12, 0, -1)]
    now_ns = 12 * HOUR_NS + 1
    assert ids(select(runs, SPEC, "last-3h", now_ns=now_ns, held_out=0).search) == {10, 11, 12}
    assert ids(select(runs, SPEC, "last-2", now_ns=now_ns, held_out=0).search) == {11, 12}
    assert ids(select(runs, SPEC, f"{5:032x}, {6:032x}", now_ns=now_ns, held_out=0).search) == {5, 6}
    few = ids(select(runs, SPEC, "all", now_ns=now_ns, held_out=0, most=3).search)
    assert sorted((number - 1) // 4 for number in few) == [0, 1, 2]
    for bad in ("last", "last-3y", "yesterday", ""):
        with pytest.raises(BadSpec, match="last-24h"):
            select(runs, SPEC, bad, now_ns=now_ns)
    with pytest.raises(NoRuns, match="no run starts with ffff"):
        select(runs, SPEC, "ffff", now_ns=now_ns)


def test_of_kinds_of_runs_that_take_turns_all_are_searched_on() -> None:
    runs = [run(i) for i in range(240, 0, -1)]
    for seed in range(20):
        found = select(runs, SPEC, "all", now_ns=0, most=40, seed=seed)
        kinds = [number % 4 for number in ids(found.search)]
        assert len(kinds) == 40 and all(kinds.count(kind) >= 2 for kind in range(4)), seed
        again = select(runs, SPEC, "all", now_ns=99, most=40, seed=seed)
        assert [c.id for c in again.search] == [c.id for c in found.search]


def test_when_none_is_left_each_reason_is_told() -> None:
    runs = [run(4, agent="b"), run(3, status="open"), run(2, input=None)]
    with pytest.raises(
        NoRuns,
        match=r"1 of other agents than a; 1 still open; 1 without a recorded input .--no-content leaves it out. "
        r".b; a spec's `agents`",
    ):
        select(runs, SPEC, "all", now_ns=0)
    with pytest.raises(NoRuns, match="none was recorded in that time"):
        select([run(1)], SPEC, "last-1h", now_ns=99 * HOUR_NS)
    with pytest.raises(NoRuns, match="without an expected answer"):
        select([run(1)], SPEC.model_copy(update={"needs_expected": True}), "all", now_ns=0)


def test_evaluations_and_replays_are_never_cases() -> None:
    runs = [run(3, labels={MODE: {"trial": 1}}), run(2, source_run_id="x", replay_mode="force"), run(1)]
    assert ids(select(runs, SPEC, "all", now_ns=0).search) == {1}


def test_expected_answers_come_from_labels_or_from_a_file_which_goes_first(tmp_path: Path) -> None:
    runs = [run(2, labels={"expected": "label"}), run(1, labels={"expected": "label"})]
    (tmp_path / "e.jsonl").write_text(f'{{"run_id": "{1:032x}", "expected": "file"}}\n\n')
    expected = read_expected(tmp_path / "e.jsonl", runs)
    found = select(runs, SPEC, "all", now_ns=0, held_out=0, expected=expected)
    assert {int(c.id, 16): c.expected for c in found.search} == {1: "file", 2: "label"}
    (tmp_path / "bad.jsonl").write_text('{"run_id": "1"}')
    with pytest.raises(BadSpec, match="line 1"):
        read_expected(tmp_path / "bad.jsonl", runs)


def test_a_study_that_is_gone_on_with_has_its_own_cases_in_its_order() -> None:
    cases = of_runs([run(i) for i in (1, 2, 3)])
    found = kept(cases, [f"{3:032x}", f"{1:032x}"], [f"{2:032x}"])
    assert [int(c.id, 16) for c in (*found.search, *found.decide)] == [3, 1, 2]
    with pytest.raises(NoRuns, match="1 of the study's runs no more"):
        kept(cases, [f"{9:032x}"], [])


def test_the_second_half_of_an_interrupted_run_is_no_case() -> None:
    answer: Any = {"graph": None, "update": None, "resume": "fine", "goto": []}
    runs = [run(i, input=answer if i % 2 else {"n": i}) for i in range(12, 0, -1)]
    found = select(runs, SPEC, "all", now_ns=0)
    assert len(found.search) + len(found.decide) == 6 == len(past_of(runs, SPEC))
    assert found.left_out == {"that go on after an interrupt: their input is the answer to it": 6}


LANGCHAIN: dict[str, Any] = {"content": "hi", "additional_kwargs": {}, "response_metadata": {}, "type": "human"}
OPENAI: dict[str, Any] = {"role": "user", "content": "hi"}
SERIALIZED: dict[str, Any] = {"lc": 1, "type": "constructor", "id": ["langchain", "HumanMessage"]}


def of_input(given: Any) -> str:
    return same_input(of_runs([run(1, input=given)])[0])


@pytest.mark.parametrize(
    "message",
    [
        lambda i: {**LANGCHAIN, "id": i},
        lambda i: {**OPENAI, "id": i},
        lambda i: {**SERIALIZED, "kwargs": {"content": "hi", "type": "human", "id": i}},
        lambda i: {**LANGCHAIN, "content": [{"type": "text", "text": "hi", "id": i}]},
        lambda i: {"role": "tool", "content": "7", "tool_call_id": i},
        lambda i: {**LANGCHAIN, "type": "ai", "tool_calls": [{"name": "t", "args": {"a": 1}, "id": i}]},
        lambda i: {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": i, "type": "function", "function": {"name": "t", "arguments": "{}"}}],
        },
    ],
)
def test_messages_that_say_the_same_are_one_input_whatever_their_ids(message: Any) -> None:
    runs = [run(i, input={"messages": [message(f"id-{i}")], "q": i % 6}) for i in range(12, 0, -1)]
    found = select(runs, SPEC, "all", now_ns=0)
    assert found.left_out == {"with the input of another one": 6}
    assert len({same_input(c) for c in of_runs(runs)}) == 6
    assert same_input(of_runs([run(1, input=[message("x")])])[0]) == same_input(
        of_runs([run(2, input=[message("y")])])[0]
    )


def test_what_messages_say_and_all_that_is_no_message_is_an_input_s_own() -> None:
    file = {"type": "file", "id": "f1"}
    inputs = [
        OPENAI, {**OPENAI, "content": "ho"}, {**OPENAI, "role": "system"}, {**OPENAI, "name": "Ann"},
        {**OPENAI, "language": "de"}, {**OPENAI, "content": [file]}, {**OPENAI, "content": [{**file, "id": "f2"}]},
        {"type": "order", "content": "hi", "id": 1}, {"type": "order", "content": "hi", "id": 2},
        {"role": "buyer", "content": "hi", "id": 1}, {"role": "buyer", "content": "hi", "id": 2}, {"id": 1}, {"id": 2},
        {**SERIALIZED, "kwargs": {"template": "a"}}, {**SERIALIZED, "kwargs": {"template": "b"}},
        {**LANGCHAIN, "type": "ai", "tool_calls": [{"name": "t", "args": {"a": 1}}]},
        {**LANGCHAIN, "type": "ai", "tool_calls": [{"name": "t", "args": {"a": 2}}]},
        {**LANGCHAIN, "type": "chat", "role": "a"}, {**LANGCHAIN, "type": "chat", "role": "b"},
    ]  # fmt: skip
    assert len({of_input({"messages": [i]}) for i in inputs}) == len(inputs)


def test_a_message_is_the_same_in_each_of_its_forms() -> None:
    call = {"name": "t", "arguments": '{"a": 1}'}
    asked = {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": call}]}
    forms = [LANGCHAIN, OPENAI, {**SERIALIZED, "kwargs": {"content": "hi", "type": "human"}}]
    assert len({of_input({"messages": [f]}) for f in forms}) == 1
    assert by_words(asked) == by_words(
        {**LANGCHAIN, "type": "ai", "content": "", "tool_calls": [{"name": "t", "args": {"a": 1}, "id": "d"}]}
    )
