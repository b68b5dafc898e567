"""Redaction: what rules find is gone from everything that is written, and the rest stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.tracer import Fidelity, Recorder, RedecodeError, SpanKind, Store
from redecode.tracer import conventions as c
from redecode.tracer.privacy.redaction import asked_privacy
from redecode.tracer.privacy.rules import Rules
from tests.tracer.privacy.support import MAIL, by, bytes_of, record


def test_what_a_pattern_finds_is_gone_everywhere_and_the_rest_stays(store: Path) -> None:
    recorded = record(store, by("patterns"), f"write to {MAIL}, please")
    (decode,), (tool,) = recorded.decodes, recorded.tools
    assert decode.messages == [{"role": "user", "content": "write to [email], please"}]
    assert decode.output == [{"role": "assistant", "content": "re: write to [email], please"}]
    assert decode.sampling == {"temperature": 0.5, "stop": ["write to [email], please"]}
    assert recorded.run.input == {"ask": "write to [email], please"}
    assert recorded.run.output == ["write to [email], please"]
    assert tool.arguments == {"what": "write to [email], please"}
    assert tool.error == "ValueError: write to [email], please"
    assert MAIL.encode() not in bytes_of(store)
    assert {tuple(s.attributes[c.REDACTED]) for s in recorded.spans} == {("email",)}


def test_a_touched_decode_loses_the_tokens_that_would_spell_it(store: Path, tmp_path: Path) -> None:
    (touched,) = record(store, by("patterns"), "fine", messages=[{"role": "user", "content": MAIL}]).decodes
    assert (touched.prompt_ids, touched.sampled_ids, touched.logprobs, touched.digest) == (None,) * 4
    assert (touched.fidelity, touched.redacted, touched.input_tokens) == (Fidelity.STRUCTURE, ("email",), 40)
    assert touched.prompt_hashes is not None
    (untouched,) = record(tmp_path / "b", by("patterns"), "fine").decodes
    assert untouched.prompt_ids == tuple(range(1000, 1040))
    assert (untouched.sampled_ids, untouched.fidelity, untouched.redacted) == ((7001, 7002), Fidelity.ENGINE, ())
    assert untouched.digest == untouched.content_digest()


@pytest.mark.parametrize(
    "fields",
    [{"messages": [1, 2, 3]}, {"messages": [[1, 2], [3]]}, {"output": [{"role": "assistant", "content": None}]}],
    ids=["prompt of ids", "prompts of ids", "answer without text"],
)
def test_tokens_whose_text_nobody_saw_are_not_written(store: Path, fields: dict[str, Any]) -> None:
    (decode,) = record(store, by("patterns"), "fine", **fields).decodes
    assert (decode.prompt_ids, decode.sampled_ids, decode.redacted) == (None, None, ("unread-tokens",))


def test_logprobs_of_the_caller_do_not_spell_it_either(store: Path) -> None:
    spelled = {"content": [{"token": part, "logprob": -1.0} for part in ("ada.love", "lace@exam", "ple.org")]}
    message = {"content": MAIL, "response_metadata": {"logprobs": spelled, "token_ids": [7]}}
    recorder = Recorder(store, privacy=by("email"))
    run = recorder.start_run("agent")
    recorder.end(run, attributes={c.RUN_OUTPUT: c.to_json({"messages": [message]})})
    recorder.close()
    output = Store(store).load(run.run_id).run.output
    assert output == {"messages": [{"content": "[email]", "response_metadata": {}}]}
    assert b"lace@exam" not in bytes_of(store)


def test_json_in_json_stays_json(store: Path) -> None:
    arguments = json.dumps({"to": MAIL, "card": 4111111111111111, "n": 3, "password": "hunter2", "x": [f'"{MAIL}"']})
    call = {"id": "call_1", "function": {"name": "send", "arguments": arguments}}
    (decode,) = record(store, by("patterns"), output=[{"role": "assistant", "tool_calls": [call]}]).decodes
    function = decode.output[0]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {
        "to": "[email]", "card": "[credit-card]", "n": 3, "password": "[password]", "x": ['"[email]"'],
    }  # fmt: skip
    assert function["name"] == "send"
    assert set(decode.redacted) == {"email", "credit-card", "password"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text() | st.just(MAIL),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=12,
    )
)
def test_any_value_keeps_its_shape_and_loses_what_is_found(value: Any) -> None:
    rules, found = Rules(["email"]), set[str]()
    text = c.to_json(value)
    out = rules.json("x", text, found)
    assert MAIL not in out
    assert orjson.loads(out.replace("[email]", MAIL)) == orjson.loads(text)
    assert bool(found) == (MAIL in text)


def test_names_people_chose_are_looked_at_by_patterns_but_not_by_functions(store: Path) -> None:
    recorder = Recorder(store, privacy=by("email", lambda name, text: "***"), labels={"who": MAIL, "team": 'a"b\\'})
    run = recorder.start_run("agent", attributes={c.CONVERSATION: MAIL})
    recorder.end(recorder.start(SpanKind.NODE, f"ask {MAIL}", run, f"ask {MAIL}@1"))
    recorder.end(run)
    recorder.close()
    recorded = Store(store).load(run.run_id)
    assert [s.step_key for s in recorded.spans] == ["run", "run/ask [email]@1"]
    assert (recorded.run.agent, recorded.run.conversation_id) == ("agent", "[email]")
    assert recorded.run.labels == {"who": "[email]", "team": 'a"b\\'}
    assert MAIL.encode() not in bytes_of(store)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("emails", "no redaction pattern 'emails'; there are patterns"),
        (("x", "(", ""), "is no regex"),
        (3, "is no redaction"),
    ],
)
def test_a_rule_that_is_none_is_named(rule: Any, words: str) -> None:
    with pytest.raises(RedecodeError, match=words):
        asked_privacy(redact=[rule], env={})


def test_the_environment_is_asked_where_the_program_says_nothing() -> None:
    assert asked_privacy(env={}) is None
    off = asked_privacy(env={"REDECODE_CONTENT": "off"})
    assert off is not None
    assert not off.content
    assert asked_privacy(content=True, env={"REDECODE_CONTENT": "off"}) is None
    some = asked_privacy(env={"REDECODE_REDACT": "email, json:dumps"})
    assert some is not None
    assert some.content
    assert some.rules is not None
    with pytest.raises(RedecodeError, match="REDECODE_CONTENT=maybe: want on or off"):
        asked_privacy(env={"REDECODE_CONTENT": "maybe"})
