"""A real agent with a secret in every place: what of them is in any byte of the store, before and after it is read."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redecode import tracer
from redecode.tracer import Fidelity, RecordedRun, SpanKind, Store
from redecode.tracer import conventions as c
from tests.tracer.privacy import hooks
from tests.tracer.privacy.agent import converse
from tests.tracer.privacy.support import bytes_of, values_of

Serve = Callable[..., Any]
SAID = "the answer is planted-output-1"
SAID_IDS = array("i", map(ord, SAID)).tobytes()
SAYABLE = {
    "argument-1", "argument-2", "body-1", "description-1", "error-1", "failure-1", "input-1", "output-1", "prompt-1",
    "prompt-2", "result-1", "state-1", "stop-1",
}  # fmt: skip
"""Content. The rest (header, key, metadata, password, query, tag) is written under no setting."""


def answers(body: dict[str, Any]) -> Any:
    if not body.get("tools"):
        return SAID
    calls = [("call_1", "lookup", "argument-1"), ("call_2", "explode", "argument-2")]
    return {
        "content": None,
        "tool_calls": [
            {"id": i, "type": "function", "function": {"name": name, "arguments": f'{{"what": "planted-{what}"}}'}}
            for i, name, what in calls
        ],
    }


def planted_in(data: bytes) -> set[str]:
    return {found.decode() for found in re.findall(rb"planted-(\w+-\d)", data)}


class Left:
    """What the agent left in a store, looked at in the journal and in the database."""

    def __init__(self, store: Path, serve: Serve, *, fail: bool = False, **settings: Any) -> None:
        url = serve(answers, vllm=True).base_url
        tracer.instrument(store, **settings)
        try:
            self.answer = converse(url, fail=fail)
        except RuntimeError as error:
            assert fail
            self.answer = [str(error)]
        finally:
            tracer.uninstrument()
        self.journal = bytes_of(store)  # nobody has read it yet
        (run,) = Store(store).runs()
        self.run: RecordedRun = Store(store).load(run.run_id)
        self.all = self.journal + bytes_of(store) + values_of(store).encode()

    @property
    def keys(self) -> list[str]:
        return [span.step_key for span in self.run.spans]


WHOLE = [
    "run", "run/ask@1[pull:ask]", "run/ask@1[pull:ask]/chat", "run/tools@2[pull:tools]",
    "run/tools@2[pull:tools]/tool:0:lookup", "run/tools@2[pull:tools]/tool:1:explode", "run/tell@3[pull:tell]",
    "run/tell@3[pull:tell]/chat",
]  # fmt: skip


def test_with_content_all_that_was_said_is_there_and_nothing_else(store: Path, serve: Serve) -> None:
    """What the tests below do not find would be found if it were there."""
    left = Left(store, serve, fail=True)
    assert planted_in(left.journal) == planted_in(left.all) == SAYABLE - {"state-1"}  # a failed run has no output
    assert SAID_IDS in left.journal
    assert Left(store.with_name("other"), serve).all.count(b"planted-state-1") > 0
    assert sorted(left.keys) == sorted(WHOLE)


@pytest.mark.parametrize("fail", [False, True], ids=["", "failing"])
def test_without_content_nothing_that_was_said_is_anywhere(store: Path, serve: Serve, *, fail: bool) -> None:
    left = Left(store, serve, content=False, fail=fail)
    assert planted_in(left.all) == set()
    assert SAID_IDS not in left.all
    assert sorted(left.keys) == sorted(WHOLE)  # structure stays
    _, told = left.run.decodes
    assert (told.fidelity, told.input_tokens, told.output_tokens) == (Fidelity.STRUCTURE, 3, len(SAID))
    assert told.chunk_times_ns is not None
    assert len(told.chunk_times_ns) == len(SAID)
    assert (left.run.run.status, left.run.run.lost) == ("error" if fail else "ok", 0)
    assert {(t.tool, t.error) for t in left.run.tools} == {("lookup", None), ("explode", "ValueError")}


@pytest.mark.parametrize("fail", [False, True], ids=["", "failing"])
def test_what_a_users_function_takes_out_is_nowhere(store: Path, serve: Serve, *, fail: bool) -> None:
    left = Left(store, serve, redact="tests.tracer.privacy.hooks:planted", fail=fail)
    assert planted_in(left.all) == set()
    assert SAID_IDS not in left.all  # the answer's tokens would spell it
    assert sorted(left.keys) == sorted(WHOLE)
    asked, told = left.run.decodes
    assert asked.messages[0]["content"] == "<prompt>"
    assert asked.output[0]["tool_calls"][0]["function"]["arguments"] == '{"what":"<argument>"}'
    assert (told.output[0]["content"], told.redacted) == (
        "the answer is <output>",
        ("tests.tracer.privacy.hooks:planted",),
    )
    assert [t.result for t in left.run.tools if t.tool == "lookup"] == ["<result> of <argument>"]
    assert left.run.run.lost == 0


@pytest.mark.parametrize("hook", ["raises", "gives_bytes", "gives_nothing", "leaves_the_program", "never_ends", "none"])
def test_a_function_that_misbehaves_costs_the_content_not_the_answer(store: Path, serve: Serve, hook: str) -> None:
    left = Left(store, serve, redact=f"tests.tracer.privacy.hooks:{hook}")
    assert left.answer == ["planted-input-1", "planted-state-1", SAID]
    assert planted_in(left.all) == set()
    assert SAID_IDS not in left.all
    assert sorted(left.keys) == sorted(WHOLE)
    assert left.run.run.lost > 0  # told on the run
    assert all(f".hooks:{hook} " in why for _, _, why in Store(store).health().dropped)
    withheld = {span.kind for span in left.run.spans if span.attributes.get(c.REDACTED) == ["content"]}
    assert withheld == {SpanKind.RUN, SpanKind.DECODE, SpanKind.TOOL}


def test_a_function_that_takes_nothing_out_leaves_all(store: Path, serve: Serve) -> None:
    left = Left(store, serve, redact=hooks.leaves)
    assert planted_in(left.all) == SAYABLE - {"failure-1"}
    assert SAID_IDS in left.journal
    assert left.run.decodes[1].fidelity == Fidelity.TOKENS
