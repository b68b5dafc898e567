"""What is written down under content off and under redaction, and what never is; checked against the bytes on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.tracer import Decode, Fidelity, RecordedRun, Recorder, RedecodeError, SpanKind, Store, decode_attributes
from redecode.tracer import conventions as c
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.privacy import SpanPrivacy
from redecode.tracer.keys import Keyring, public_url
from redecode.tracer.patterns import groups, named, redact
from redecode.tracer.redaction import Privacy, asked_privacy
from redecode.tracer.rules import Rule, Rules

Serve = Callable[..., Any]
MAIL = "ada.lovelace@example.org"


def by(*rules: Rule) -> Privacy:
    return Privacy(rules=Rules(rules))


def bytes_of(store: Path) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file())


def record(store: Path, privacy: Privacy | None, said: str = "hello", **fields: Any) -> RecordedRun:
    """One run with a decode and a tool, all saying `said`; read back, and also still in the journal's bytes."""
    recorder = Recorder(store, privacy=privacy)
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: c.to_json({"ask": said}), "mine": said})
    span = recorder.start(SpanKind.DECODE, "chat m", run, "chat")
    given = {
        "model": "m", "fidelity": Fidelity.ENGINE, "sent_ns": 10, "first_chunk_ns": 20, "done_ns": 30, "seed": 7,
        "messages": [{"role": "user", "content": said}], "output": [{"role": "assistant", "content": f"re: {said}"}],
        "prompt_ids": tuple(range(1000, 1040)), "sampled_ids": (7001, 7002), "logprobs": (-0.5, -0.25),
        "token_times_ns": (1000, 2000), "sampling": {"temperature": 0.5, "stop": [said]}, "finish_reason": "stop",
        "tool_definitions": [{"type": "function", "function": {"name": "look", "description": said}}],
        **fields,
    }  # fmt: skip
    decode = Decode(run_id=run.run_id, span_id=span.span_id, step_key=span.step_key, **given)
    recorder.end(span, attributes=decode_attributes(decode))
    tool = recorder.start(
        SpanKind.TOOL, "execute_tool look", run, "tool:look",
        attributes={c.TOOL_NAME: "look", c.TOOL_ARGUMENTS: c.to_json({"what": said})},
    )  # fmt: skip
    recorder.end(tool, attributes={c.TOOL_RESULT: c.to_json(said)}, error=ValueError(said))
    recorder.end(run, attributes={c.RUN_OUTPUT: c.to_json([said])})
    recorder.close()
    return Store(store).load(run.run_id)


# -- content off --


def test_without_content_structure_lengths_hashes_and_times_stay(store: Path) -> None:
    recorded = record(store, Privacy(content=False), "a very private remark")
    (decode,), (tool,) = recorded.decodes, recorded.tools
    assert [s.step_key for s in recorded.spans] == ["run", "run/chat", "run/tool:look"]
    assert len(recorded.edges) > 2
    assert (decode.model, decode.seed, decode.finish_reason, decode.sampling) == ("m", 7, "stop", {"temperature": 0.5})
    assert (decode.input_tokens, decode.output_tokens, decode.token_times_ns) == (40, 2, (1000, 2000))
    assert (decode.fidelity, decode.redacted, recorded.run.fidelity) == (Fidelity.STRUCTURE, ("content",), "structure")
    assert decode.prompt_hashes is not None
    assert len(decode.prompt_hashes) == 40 // 16
    gone = (
        decode.messages, decode.output, decode.tool_definitions, decode.prompt_ids, decode.sampled_ids,
        decode.logprobs, decode.digest, recorded.run.input, recorded.run.output, tool.arguments, tool.result,
    )  # fmt: skip
    assert gone == (None,) * len(gone)
    assert (tool.tool, tool.error) == ("look", "ValueError")


def test_without_content_no_byte_of_it_is_on_the_disk(store: Path, tmp_path: Path) -> None:
    ids = array("i", range(1000, 1040)).tobytes()
    record(tmp_path / "with", None, "a very private remark")
    assert b"private remark" in bytes_of(tmp_path / "with")
    recorder = Recorder(store, privacy=Privacy(content=False))
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: c.to_json("a very private remark")})
    span = recorder.start(SpanKind.DECODE, "chat m", run, "chat", attributes={c.PROMPT_IDS: ids})
    recorder.end(span, attributes={c.SAMPLED_IDS + ".1": ids, c.LOGPROBS + ".1": ids}, error="what a private remark")
    journal = bytes_of(store)  # nothing has been drained yet: this is what the journal got
    assert span.span_id.encode() in journal
    assert b"private remark" not in journal
    assert ids[:64] not in journal
    recorder.end(run)
    recorder.close()
    Store(store).drain()
    assert b"private remark" not in bytes_of(store)


def test_the_live_span_stays_whole(store: Path) -> None:
    recorder = Recorder(store, privacy=Privacy(content=False))
    heard: list[Any] = []
    recorder.listeners.append(heard.append)
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: c.to_json({"a": 1})})
    recorder.end(run, attributes={c.RUN_OUTPUT: '"answer"'})
    recorder.close()
    assert run.run_input == {"a": 1}  # a playback is matched by it
    assert run.event.attributes[c.RUN_OUTPUT] == '"answer"'
    (written,) = heard  # what is forwarded elsewhere is what was written
    assert c.RUN_OUTPUT not in written.attributes


def test_prompt_hashes_show_shared_beginnings_and_cannot_be_tried_out(store: Path, tmp_path: Path) -> None:
    one, longer, other = tuple(range(64)), tuple(range(80)), (*range(32), *range(900, 932))

    def hashes(key: bytes | None, prompt: tuple[int, ...]) -> tuple[bytes, ...]:
        privacy = Privacy(content=False, hash_key=key)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        found = record(path, privacy, prompt_ids=prompt).decodes[0].prompt_hashes
        assert found is not None
        return found

    key = b"shared by the processes of one team"
    assert hashes(key, one) == hashes(key, longer)[:4]
    assert hashes(key, one)[:2] == hashes(key, other)[:2]
    assert hashes(key, one)[2:] != hashes(key, other)[2:]
    assert not set(hashes(None, one)) & set(hashes(None, one))  # every process has a key of its own
    with_content = record(store, None, prompt_ids=one)
    assert with_content.decodes[0].prompt_hashes is None
    assert with_content.decodes[0].prompt_ids == one


# -- redaction --


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


def test_a_function_of_the_users_sees_every_text_with_its_name(store: Path) -> None:
    seen: list[tuple[str, str]] = []

    def shout(name: str, text: str) -> str:
        seen.append((name, text))
        return text.upper() if name == c.INPUT_MESSAGES else text

    (decode,) = record(store, by(shout, ("ticket", r"T-\d+", "T-?")), "about T-123").decodes
    assert decode.messages == [{"role": "USER", "content": "ABOUT T-?"}]
    assert decode.redacted == ("shout", "ticket")
    assert {name for name, _ in seen} >= {
        c.INPUT_MESSAGES,
        c.OUTPUT_MESSAGES,
        c.TOOL_ARGUMENTS,
        c.RUN_INPUT,
        "error",
        "mine",
    }
    assert ("error", "ValueError: about T-?") in seen


@pytest.mark.parametrize("wrong", ["raises", "gives no text", "is not there", "cannot be imported"])
def test_a_function_that_fails_costs_the_content_and_never_the_run(
    store: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(name: str, text: str) -> Any:
        if wrong == "raises":
            raise ValueError(f"cannot deal with {text}")

    targets: dict[str, Rule] = {"is not there": "json:no_such_function", "cannot be imported": "no_such_module:f"}
    recorded = record(store, by("patterns", targets.get(wrong, fails)), "a very private remark")
    assert recorded.decodes[0].messages is None
    assert (recorded.decodes[0].redacted, recorded.run.status) == (("content",), "ok")
    assert b"private remark" not in bytes_of(store)
    assert recorded.run.lost > 0
    ((_, _, why),) = Store(store).health().dropped
    assert why.startswith("redaction by ")
    assert "private" not in why


def test_a_value_too_deep_to_be_looked_through_is_left_out(store: Path) -> None:
    deep = "[" * 900 + f'"{MAIL}"' + "]" * 900
    recorder = Recorder(store, privacy=by("email"))
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: deep})
    recorder.end(run)
    recorder.close()
    assert MAIL.encode() not in bytes_of(store)
    assert Store(store).load(run.run_id).run.status == "ok"


# -- patterns --

POSITIVE = {
    "email": ["ada@example.org", "a.b+c@sub.example.co.uk", "müller@exämple.de"],
    "phone": ["+49 30 1234567", "+1 (212) 555-0123", "(212) 555-0123", "212-555-0123", "030/1234567", "06 12 34 56 78"],
    "credit-card": ["4111 1111 1111 1111", "5555555555554444", "3782-822463-10005"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "us-ssn": ["078-05-1120"],
    "ip-address": ["192.168.1.20", "2001:db8:85a3:0:0:8a2e:370:7334", "fe80::1ff:fe23:4567:890a"],
    "api-key": ["sk-proj-abcdefghijklmnop1234", "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1" * 18, "hf_" + "Ab3" * 11],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.dozjgNryP4J3jVmNHl0w5N"],
    "private-key": ["-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----"],
    "authorization": ["Authorization: Bearer abc.def-123456", "x-api-key: 0123abcd", "bearer abcdefghijklmnop1234"],
    "url-password": ["https://user:p4ss@host.example/x"],
    "password": ["password=hunter2", '{"api_key": "0123abcd"}', "DB_PASSWORD: hunter2"],
}


def test_every_pattern_is_tested_here() -> None:
    assert set(POSITIVE) == set(groups()) - {"patterns", "secrets", "personal"}


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in POSITIVE.items() for t in texts])
@pytest.mark.parametrize("around", ["{}", "see {} for more", "a\n{}\nb", '("{}")'])
def test_patterns_find(name: str, text: str, around: str) -> None:
    found: set[str] = set()
    out = redact(named([name]), around.format(text), found)
    assert found == {name}
    secret = {"authorization": text.split()[-1], "url-password": "p4ss", "password": "hunter2"}.get(name, text)
    assert secret not in out
    assert f"[{name}]" in out


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112", "DE89370400440532013001", "000-12-3456", "2026-11-21T15:03:11.123456Z", "15:03:11",
        "1763737361000000000", "1.2.3.4.5", "std::vector", "run/ask@1[push:3]/chat#1", "pi is 3.14159265358979",
        "gpt-4-0613", "1,234,567,890", "primary key: id", "bearer of good news", "https://example.com/@me", "user@host",
        "order 88213, 129.90 EUR", "f(x) = 12 + 34 - 56", "0.1 0.2 0.3", "sk-learn", "the password is weak",
    ],
)  # fmt: skip
def test_patterns_leave(text: str) -> None:
    found: set[str] = set()
    assert redact(named(["patterns"]), text, found) is text
    assert not found


def test_a_false_alarm_does_not_hide_what_is_behind_it() -> None:
    found: set[str] = set()
    assert redact(named(["patterns"]), "4111 1111 1111 1112 4111 1111 1111 1111", found).endswith("[credit-card]")
    assert redact(named(["iban"]), "AB12 CDEF 0123 DE89 3704 0044 0532 0130 00", found).endswith("[iban]")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["a", "a.", "a@", "1", "1 ", "-", "ey", "eyJ.", "A1", "x:", "0-", "(", "sk-", "://", "["]
)
def test_no_text_takes_for_ever(piece: str) -> None:
    redact(named(["patterns"]), piece * (100_000 // len(piece)), set())


def test_a_long_text_is_looked_at_once_and_a_changed_one_again() -> None:
    rules, clean = Rules(["email"]), "nothing to see here " * 100
    found: set[str] = set()
    assert rules.text("x", clean, found) == rules.text("x", clean, found) == clean
    assert rules.text("x", clean + MAIL, found) == clean + "[email]"
    assert rules.text("x", clean + MAIL, found) == clean + "[email]"


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


# -- keys are never written --


def test_command_lines_and_addresses_lose_their_keys() -> None:
    keys = Keyring({"SOME_API_KEY": "very-own-key-77", "HOME": "/home/somebody", "SHORT_TOKEN": "none"})
    given = [
        "app.py",
        "--api-key",
        "abc",
        "--token=xyz",
        "--url",
        "https://u:p@h/",
        "very-own-key-77",
        "--n",
        "3",
        "none",
    ]
    assert keys.arguments(given) == [
        "app.py", "--api-key", "[secret]", "--token=[secret]", "--url", "https://[url-password]h/", "[secret]", "--n",
        "3", "none",
    ]  # fmt: skip
    assert public_url("http://u:p@h:80/a?key=1") == "http://h:80/a"


SECRETS = {
    "api_key": "planted-client-key-1", "header": "planted-header-2", "password": "planted-password-3",
    "environment": "planted-environment-4", "argument": "planted-argument-5", "body": "planted-body-6",
}  # fmt: skip
PROGRAM = """
    import sys, openai
    from redecode.tracer import instrument, run
    instrument(sys.argv[1])
    base = sys.argv[2].replace("http://", "http://user:planted-password-3@")
    client = openai.OpenAI(
        base_url=base, api_key="planted-client-key-1", default_headers={"x-planted": "planted-header-2"}, max_retries=0)
    messages = [{"role": "user", "content": "spoken words"}]
    extra = {"extra_headers": {"authorization": "Bearer planted-header-2"}, "extra_body": {"api_key": "planted-body-6"}}
    with run("agent"):
        client.chat.completions.create(model="m", messages=messages, **extra)
        for stream in (False, True):
            list(client.chat.completions.create(model="m", messages=messages, stream=stream, **extra))
    try:
        with run("fails"):
            raise RuntimeError("401 for planted-client-key-1 and planted-environment-4")
    except RuntimeError:
        pass
"""


@pytest.mark.parametrize("vllm", [False, True])
def test_no_key_is_ever_on_the_disk(store: Path, serve: Serve, *, vllm: bool) -> None:
    pytest.importorskip("openai")
    server = serve(vllm=vllm)
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(PROGRAM),
        str(store),
        server.base_url,
        "--password",
        "planted-argument-5",
    ]
    env = {**os.environ, "SERVICE_API_KEY": "planted-environment-4"}
    journals: list[bytes] = []
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    journals.append(bytes_of(store))
    runs = Store(store).runs()
    assert done.returncode == 0, done.stderr
    assert {(r.agent, r.status) for r in runs} == {("agent", "ok"), ("fails", "error")}
    assert sum(r.decodes for r in runs) == 3
    for data in (journals[0], bytes_of(store)):
        assert b"spoken words" in data  # what the test looks through is what was recorded
        for where, secret in SECRETS.items():
            assert secret.encode() not in data, where


# -- the spans of others --

OTHERS = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "m",
    "llm.token_count.prompt": 12,
    "llm.input_messages.0.message.content": MAIL,
    "llm.invocation_parameters": json.dumps({"temperature": 0.5, "stop": [MAIL], "model": "m"}),
    "input.value": json.dumps({"messages": [{"content": MAIL}]}),
    "output.value": json.dumps({"text": MAIL, "logprobs": {"content": [{"token": "ada."}, {"token": "love"}]}}),
    "metadata": json.dumps({"langgraph_node": "ask", "langgraph_step": 1, "customer": MAIL}),
    "customer.name": MAIL,
    "llm.headers": "{'authorization': 'Bearer planted'}",
    "traceloop.association.properties.langgraph_node": "ask",
    "traceloop.association.properties.customer": MAIL,
}


def theirs() -> OtlpSpan:
    return OtlpSpan(
        run="a" * 32, span="b" * 16, name=f"ask {MAIL}", start_ns=5, end_ns=9, status="error", error=f"no {MAIL}",
        resource={"service.name": "app", "process.command_line": f"app {MAIL}"}, attributes=dict(OTHERS),
        events=[("exception", 6, {"exception.type": "ValueError", "exception.message": MAIL}),
                ("gen_ai.content.completion.chunk", 7, {"content": "ada.love"})],
        links=[("c" * 32, "d" * 16, {"why": MAIL})],
    )  # fmt: skip


def test_spans_of_other_tracers_keep_their_structure_alone() -> None:
    (kept,) = SpanPrivacy(Privacy(content=False), lambda *_: None).spans([theirs()])
    text = kept.payload().decode()
    assert kept.name == f"ask {MAIL}"  # names are structure; patterns take them out
    assert MAIL not in text.replace(kept.name, "")
    assert "planted" not in text
    assert "ada.love" not in text.replace(kept.name, "")
    assert kept.attributes == {
        "openinference.span.kind": "LLM", "llm.model_name": "m", "llm.token_count.prompt": 12,
        "llm.invocation_parameters": '{"temperature":0.5}', "metadata": '{"langgraph_node":"ask","langgraph_step":1}',
        "traceloop.association.properties.langgraph_node": "ask", "redecode.redacted": ["content"],
    }  # fmt: skip
    assert (kept.status, kept.error, kept.resource) == ("error", None, {"service.name": "app"})
    assert kept.events[0] == ("exception", 6, {"exception.type": "ValueError"})
    assert kept.links == [("c" * 32, "d" * 16, {})]


def test_spans_of_other_tracers_are_redacted_wherever_the_text_is() -> None:
    (kept,) = SpanPrivacy(by("patterns"), lambda *_: None).spans([theirs()])
    text = kept.payload().decode()
    assert MAIL not in text
    assert "ada.love" not in text  # neither in pieces
    assert '"love"' not in text
    assert json.loads(kept.attributes["input.value"]) == {"messages": [{"content": "[email]"}]}
    assert json.loads(kept.attributes["metadata"])["langgraph_node"] == "ask"
    assert set(kept.attributes[c.REDACTED]) == {"email", "authorization"}


def test_a_failing_function_costs_a_foreign_span_its_content() -> None:
    def fails(name: str, text: str) -> str:
        raise ValueError(text)

    lost: list[tuple[str | None, str]] = []
    (kept,) = SpanPrivacy(by("email", fails), lambda *loss: lost.append(loss)).spans([theirs()])
    assert MAIL not in kept.payload().decode()
    assert lost == [("a" * 32, "redaction by fails failed: ValueError")]


def test_a_run_derived_from_them_says_that_it_is_not_whole(store: Path) -> None:
    from redecode.tracer.spool import JournalWriter

    Store(store)
    journal = JournalWriter(store / "spool", "collector", lambda: {"t": "process", "argv": []})
    for span in SpanPrivacy(Privacy(content=False), journal.lose).spans([theirs()]):
        journal.append(span.payload(), span.run)
    journal.close()
    recorded = Store(store).load("a" * 32)
    (decode,) = recorded.decodes
    assert (decode.fidelity, decode.redacted, decode.input_tokens) == (Fidelity.STRUCTURE, ("content",), 12)
    assert decode.messages is None


def test_an_exported_run_of_ours_is_treated_like_one_recorded_here(store: Path, tmp_path: Path) -> None:
    from redecode.tracer.export.otlp import otlp_spans
    from redecode.tracer.foreign import derive

    recorded = record(store, None, MAIL)
    key = b"a key"
    for privacy in (Privacy(content=False, hash_key=key), Privacy(rules=Rules(["email"]), hash_key=key)):
        spans = SpanPrivacy(privacy, lambda *_: None).spans(otlp_spans(recorded))
        assert MAIL not in b"".join(s.payload() for s in spans).decode()
        (event,) = [e for e in derive(spans) if e.kind == "decode"]
        assert not any(Privacy.spells(name) for name in event.attributes)
        assert event.attributes[c.FIDELITY] == "structure"
        direct = record(tmp_path / f"{privacy.content}", privacy, MAIL).decodes[0]
        assert event.attributes[c.PROMPT_HASHES] == b"".join(direct.prompt_hashes or ())
