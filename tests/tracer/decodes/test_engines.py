"""What the engine is decides what it is asked; it may not say, refuse, or become another one while we run."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from redecode.tracer import Fidelity
from redecode.tracer.fm import engine_probe
from redecode.tracer.instrument import active
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.calls import CHAT, RESPONSES, TEXT, Way, call, sync
from tests.tracer.decodes.conftest import Recorded, Serving
from tests.tracer.decodes.plugin import Plugin
from tests.tracer.decodes.server import Reply, Request, Server

OURS = {"return_token_ids", "logprobs", "vllm_xargs", "seed", "stream_options", "enable_response_messages"}
PLAIN: Any = {"model": "m", "messages": [{"role": "user", "content": "?"}]}


def ask(url: str, **settings: Any) -> Any:
    with openai.OpenAI(base_url=url, **{"api_key": "none", "max_retries": 0, **settings}) as client:
        return client.chat.completions.create(**PLAIN)


def limits(recorded: Recorded) -> list[str | None]:
    return [span.attributes.get("redecode.fidelity_limit") for _, span in recorded()]


@pytest.mark.usefixtures("recording")
def test_no_field_that_another_server_might_reject_is_sent(server: Serving) -> None:
    strict = {"model", "messages", "prompt", "input", "max_tokens", "max_output_tokens", "temperature", "n", "seed"}
    strict |= {"stream", "stream_options", "logprobs", "top_logprobs", "tools", "tool_choice", "response_format"}
    strict |= {"echo", "stop", "include_reasoning", "return_token_ids", "enable_response_messages"}  # the caller's own

    def picky(request: Request) -> Reply:
        unknown = set(request.body) - strict
        return Reply.of({"error": {"message": f"unknown: {unknown}"}}, 400) if unknown else vllm_like.answer(request)

    other = server(picky)
    for way in [*CHAT, *TEXT, *RESPONSES]:
        sync(other.url, [way])
        given = {*way.given, *way.given.get("extra_body", {})}
        assert not (OURS - given) & set(other.requests[-1].body), way.name


def picky_about(*fields: str) -> Callable[[Request], Reply]:
    """A vLLM too old for these fields."""

    def answer(request: Request) -> Reply:
        unknown = [name for name in fields if name in request.body]
        return Reply.of({"error": {"message": f"unknown {unknown}"}}, 400) if unknown else vllm_like.answer(request)

    return answer


@pytest.mark.parametrize("way", [w for w in CHAT if w.name.startswith(("plain", "a tool"))], ids=lambda way: way.name)
def test_a_server_that_refuses_what_was_added(server: Serving, recorded: Recorded, way: Way) -> None:
    refusing = server(picky_about("return_token_ids"), owner="vllm")
    with openai.OpenAI(base_url=refusing.url, api_key="none", max_retries=0) as client:
        first, second = call(client, way), call(client, way)
    untraced = server(vllm_like.answer)
    recording = active()
    assert recording is not None
    bodies = [request.body for request in refusing.requests]
    assert len(bodies) == 3  # refused, taken, taken: it is not asked again each time
    assert bodies[1] == bodies[2]
    assert not OURS & set(bodies[2])
    found = recorded()
    assert first == second == sync(untraced.url, [way])[0]
    for decode, span in found:
        assert decode.error is None
        assert decode.fidelity is Fidelity.SEEDED
        assert decode.output[0]["content"] or decode.output[0]["tool_calls"]
        assert "answered 400 to the fields that vLLM takes" in span.attributes["redecode.fidelity_limit"]
    assert found[0][1].attributes["redecode.retries"] == 1


def test_a_server_that_refused_is_asked_again_later(
    server: Serving, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_probe, "_REFUSED_S", 0.0)
    old = server(picky_about("return_token_ids"), owner="vllm")
    ask(old.url)
    old.answer = vllm_like.answer  # upgraded
    ask(old.url)
    assert [d.fidelity for d, _ in recorded()] == [Fidelity.TEXT, Fidelity.ENGINE]


def test_a_server_that_becomes_vllm(server: Serving, recorded: Recorded) -> None:
    def answer(request: Request) -> Reply:
        reply = vllm_like.answer(request)
        assert isinstance(reply.body, bytes)
        other = reply.body.replace(vllm_like.FINGERPRINT.encode(), b"fp_other")
        return reply if server_is.owner == "vllm" else Reply(other, headers=reply.headers)

    server_is = server(answer)
    ask(server_is.url)
    server_is.owner = "vllm"
    ask(server_is.url)  # told by its fingerprint
    ask(server_is.url)
    found = recorded()
    assert [d.fidelity for d, _ in found] == [Fidelity.TEXT, Fidelity.TEXT, Fidelity.ENGINE]
    assert [d.fingerprint for d, _ in found] == ["fp_other", vllm_like.FINGERPRINT, vllm_like.FINGERPRINT]


def test_an_engine_replaced_by_another_is_not_taken_for_the_first(server: Serving, recorded: Recorded) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    plugin = Plugin(vllm, len(vllm_like.TEXT), vllm_like.FINGERPRINT)
    inner = vllm.answer

    def upgraded(request: Request) -> Reply:
        reply = inner(request)
        assert isinstance(reply.body, bytes)
        return Reply(reply.body.replace(vllm_like.FINGERPRINT.encode(), b"vllm-0.33.0-test"), headers=reply.headers)

    ask(vllm.url)
    plugin.fingerprint, plugin.instance, plugin.more = "vllm-0.33.0-test", "second", {"weights_sha256": "others"}
    vllm.answer = upgraded
    ask(vllm.url)
    ask(vllm.url)
    first, between, last = [decode for decode, _ in recorded()]
    assert first.engine_id is not None
    assert between.engine_id is None  # it is known to be another one, and not yet which
    assert between.fingerprint == last.fingerprint == "vllm-0.33.0-test"
    assert last.engine_id not in (None, first.engine_id)
    assert [d.fidelity for d in (first, between, last)] == [Fidelity.ENGINE] * 3


def test_an_engine_started_again_with_other_weights(server: Serving, recorded: Recorded) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    plugin = Plugin(vllm, len(vllm_like.TEXT), vllm_like.FINGERPRINT)
    ask(vllm.url)
    plugin.instance, plugin.more = "second", {"weights_sha256": "others"}  # its fingerprint does not cover weights
    ask(vllm.url)
    recording = active()
    assert recording is not None
    recording.flush()  # the step clock of the second call tells
    ask(vllm.url)
    first, _, last = [decode for decode, _ in recorded()]
    assert None not in (first.engine_id, last.engine_id)
    assert first.engine_id != last.engine_id


def test_replicas_of_different_kinds_are_not_asked_at_every_answer(server: Serving, recorded: Recorded) -> None:
    turn = [0]

    def answer(request: Request) -> Reply:
        turn[0] += 1
        reply = vllm_like.answer(request)
        assert isinstance(reply.body, bytes)
        return Reply(reply.body.replace(b"0.32.0", f"0.3{turn[0] % 2}.0".encode()), headers=reply.headers)

    balanced = server(answer, owner="vllm")
    for _ in range(8):
        ask(balanced.url)
    assert len([r for r in balanced.asked if r.path.endswith("/models")]) <= 2
    assert len(recorded()) == 8


def behind_a_key(server: Server, allowed: Callable[[Request], bool]) -> None:
    refused = Reply.of({"error": {"message": "who are you?"}}, 401)
    server.plugin = lambda request: None if allowed(request) else refused


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"api_key": "sk-0123456789abcdef"}, lambda r: r.headers.get("authorization") == "Bearer sk-0123456789abcdef"),
        ({"default_headers": {"X-Api-Key": "secretsecret"}}, lambda r: r.headers.get("x-api-key") == "secretsecret"),
        ({"default_query": {"api_key": "secret&secret"}}, lambda r: r.path.endswith("?api_key=secret%26secret")),
        ({"api_key": lambda: "sk-0123456789abcdef"}, lambda r: r.headers.get("authorization", "")[7:10] == "sk-"),
    ],
    ids=["a key", "a header", "a query", "a key made when needed"],
)
def test_what_lets_the_caller_in_lets_us_in(
    server: Serving, recorded: Recorded, settings: Any, allowed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_probe, "_ASK_AGAIN_S", 0.0)
    vllm = server(vllm_like.answer, owner="vllm")
    behind_a_key(vllm, allowed)
    with openai.OpenAI(base_url=vllm.url, **{"api_key": "none", "max_retries": 0, **settings}) as client:
        for _ in range(2):
            client.chat.completions.create(**PLAIN)
    assert [d.fidelity for d, _ in recorded()][-1] is Fidelity.ENGINE


def test_user_and_password_in_the_url(server: Serving, recorded: Recorded) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    basic = "Basic " + base64.b64encode(b"ann:s3cret@word").decode()
    behind_a_key(vllm, lambda r: r.headers.get("authorization") == basic)
    url = vllm.url.replace("http://", "http://ann:s3cret%40word@")
    ask(url, default_headers={"Authorization": basic})
    ((decode, _),) = recorded()
    assert decode.fidelity is Fidelity.ENGINE
    assert decode.base_url == vllm.root


def test_a_server_that_does_not_say_what_it_is(
    server: Serving, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_probe, "_ASK_AGAIN_S", 0.0)
    vllm = server(vllm_like.answer, owner="vllm")
    silent = [True]
    refused = Reply.of({"error": {"message": "who are you?"}}, 403)
    vllm.plugin = lambda r: refused if silent[0] and "models" in r.path else None
    with openai.OpenAI(base_url=vllm.url, api_key="none") as client:
        client.chat.completions.create(**PLAIN)
        silent[0] = False
        client.chat.completions.create(**PLAIN, n=2)
    assert not OURS & set(vllm.requests[0].body)
    limit = "the server does not say what it is, and gets nothing that it might reject (HTTP 403)"
    assert limits(recorded) == [limit, "the engine gave no timing of its own"]


def test_a_slow_answer_to_our_question_delays_one_call_only(
    server: Serving, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_probe, "_TIMEOUT_S", 0.2)
    vllm = server(vllm_like.answer, owner="vllm")
    vllm.plugin = lambda r: time.sleep(0.6) if r.path.endswith(("/models", "/info")) else None
    ask(vllm.url)
    ask(vllm.url)
    assert len([r for r in vllm.asked if r.path.endswith("/models")]) == 1
    assert [d.fidelity for d, _ in recorded()] == [Fidelity.TEXT] * 2
