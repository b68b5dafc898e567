"""Advice: given where there is evidence, with it, and not where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from redecode.replay.analysis.advice import Advice, advise
from redecode.replay.analysis.models import smaller_models
from redecode.tracer import Decode, RecordedRun, SpanKind
from tests.replay.analysis.recordings import BARRIER, CALL, DATA, RETURN, decode, recorded, span


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text, "finish_reason": "stop"}]


def chat(name: str, start: int, end: int, asked: str, answer: str, **more: Any) -> Decode:
    return decode(name, start, end, messages=user(asked), output=said(answer), **more)


def in_a_row(*calls: Decode) -> RecordedRun:
    """FM calls of one program, one after another."""
    end = max(c.done_ns or 0 for c in calls) + 10
    names = [c.span_id for c in calls]
    spans = [span("root", None, 0, end)]
    spans += [span(c.span_id, "root", c.sent_ns, c.done_ns, SpanKind.DECODE) for c in calls]
    edges = [("root", names[0], CALL)]
    edges += [(a, b, RETURN) for a, b in pairwise(names)]
    return recorded(spans, [*edges, (names[-1], "root", RETURN)], list(calls))


def of(kind: str, run: RecordedRun) -> list[Advice]:
    found = [a for a in advise(run) if a.kind == kind]
    for a in found:
        assert json.dumps(a.to_json())
    return found


def test_equal_calls_in_one_run() -> None:
    first, again = chat("a", 10, 110, "Is it?", "yes"), chat("b", 120, 220, "Is it?", "yes")
    (advice,) = of("repeated call", in_a_row(first, again))
    assert advice.step_keys == ("run/a", "run/b")
    assert advice.gain_ns == 100  # the gap before it stays
    assert advice.evidence["calls"] == 2 and advice.evidence["answers"] == 1
    (advice,) = of("repeated call", in_a_row(first, replace(again, output=said("no"), seed=7)))
    assert "2 different answers" in advice.text


@pytest.mark.parametrize(
    "other",
    [
        {"messages": user("Is it not?")},
        {"sampling": {"temperature": 0.9}},
        {"model": "other"},
        {"messages": None},
        {"redacted": ("content",)},
        {"error": "boom"},
        {"tool_definitions": [{"name": "look"}]},
    ],
)
def test_calls_that_differ_or_were_withheld_are_not_equal(other: dict[str, Any]) -> None:
    first, again = chat("a", 10, 110, "Is it?", "yes"), chat("b", 120, 220, "Is it?", "yes")
    assert of("repeated call", in_a_row(first, replace(again, **other))) == []


def test_calls_in_a_row_of_which_the_second_shows_nothing_of_the_first() -> None:
    first = chat("a", 10, 110, "Long article.\nWho?", "Nadia Petrov")
    apart = chat("b", 120, 240, "Long article.\nWhere?", "Utrecht")
    (advice,) = of("sequential calls", in_a_row(first, apart))
    assert (advice.step_keys, advice.gain_ns) == (("run/a", "run/b"), 100)
    assert advice.evidence["answer"] == "Nadia Petrov" and advice.evidence["new_in_second_prompt"] == "Where?"
    asks = chat("b", 120, 240, "Long article.\nWhere does Nadia live?", "Utrecht")
    assert of("sequential calls", in_a_row(first, asks)) == []
    told = replace(asks, messages=[*user("Long article.\nWho?"), *said("Nadia Petrov"), *user("Where?")])
    assert of("sequential calls", in_a_row(first, told)) == []
    assert of("sequential calls", in_a_row(first, replace(apart, messages=None))) == []
    assert of("sequential calls", in_a_row(replace(first, output=None), apart)) == []


def test_a_tool_in_between_orders_them() -> None:
    run = recorded(
        [span("root", None, 0, 300), span("a", "root", 0, 100, SpanKind.DECODE), span("t", "root", 100, 200),
         span("b", "root", 200, 300, SpanKind.DECODE)],
        [("root", "a", CALL), ("a", "t", RETURN), ("t", "b", RETURN), ("b", "root", RETURN)],
        [chat("a", 0, 100, "x", "y"), chat("b", 200, 300, "z", "w")],
    )  # fmt: skip
    assert of("sequential calls", run) == []
    (advice,) = of("tool", run)
    assert (advice.step_keys, advice.gain_ns, advice.text) == (("run/t",), 100, "one tool is 33% of the run")


def test_a_barrier_that_holds_up_a_step_with_all_its_data() -> None:
    run = recorded(
        [span("root", None, 0, 112), span("slow", "root", 0, 80, superstep=1),
         span("fast", "root", 0, 20, superstep=1), span("next", "root", 82, 110, superstep=2)],
        [("root", "slow", CALL), ("root", "fast", CALL), ("slow", "next", BARRIER), ("fast", "next", BARRIER),
         ("fast", "next", DATA), ("next", "root", RETURN)],
    )  # fmt: skip
    (advice,) = of("barrier", run)
    assert (advice.step_keys, advice.gain_ns) == (("run/slow",), 30)
    assert advice.evidence == {"makespan_ns": 112, "data_only_ns": 82, "barrier_wait_ns": 60}
    assert of("barrier", RecordedRun(run.run, run.spans, [e for e in run.edges if e.kind is not DATA], [], [])) == []


def test_a_long_prompt_sent_again_and_read_again() -> None:
    ids = tuple(range(600))
    first = chat("a", 10, 110, "p", "one", prompt_ids=ids, input_tokens=600, cached_tokens=0)
    again = chat("b", 120, 220, "q", "two", prompt_ids=(*ids[:500], *range(9000, 9100)), input_tokens=600,
                 cached_tokens=0, prefill_ns=60)  # fmt: skip
    (advice,) = of("prefix", in_a_row(first, again))
    assert advice.step_keys == ("run/a", "run/b")
    assert advice.evidence["shared_tokens"] == 500 and advice.gain_ns == 50
    hashed = [replace(d, prompt_ids=None, prompt_hashes=tuple(bytes([i]) for i in range(n)))
              for d, n in ((first, 37), (again, 32))]  # fmt: skip
    assert of("prefix", in_a_row(*hashed))[0].evidence["shared_tokens"] == 512
    for other in (
        {"cached_tokens": 400},  # reused
        {"cached_tokens": None},  # not known
        {"base_url": "http://other"},  # another engine
        {"prompt_ids": None},
        {"prompt_ids": (5, *ids)},
    ):
        assert of("prefix", in_a_row(first, replace(again, **other))) == []
    beside = replace(again, sent_ns=50)  # sent before the first was done: nothing to reuse yet
    assert of("prefix", in_a_row(first, beside)) == []


def test_a_faster_fm_that_gives_the_same_answers() -> None:
    def runs(agree: int, *, fast_ns: int = 20) -> list[RecordedRun]:
        out = []
        for n in range(10):
            slow = chat("ask", 0, 100, f"question {n}", f"answer {n}", model="big")
            answer = f"answer {n}" if n < agree else "?"
            fast = chat("ask", 0, fast_ns, f"question {n}", answer, model="small")
            out += [in_a_row(slow), in_a_row(fast)]
        return out

    (advice,) = smaller_models(runs(10))
    assert (advice.step_keys, advice.gain_ns) == (("run/ask",), 80)
    assert advice.text == "small gave the answer of big to 10 of 10 equal prompts, and faster"
    assert advice.evidence["median_e2e_ns"] == {"big": 100, "small": 20}
    assert smaller_models(runs(9)) == ()
    assert smaller_models(runs(10)[:8]) == ()  # too few to say
    assert smaller_models(runs(10, fast_ns=100)) == ()


def test_a_run_with_nothing_to_say_about_it() -> None:
    assert advise(in_a_row(chat("a", 0, 100, "x", "y"))) == ()
    assert advise(recorded([span("root", None, 0, None)], [])) == ()
