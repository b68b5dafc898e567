"""What was recorded is enough to answer the same program again: what its caller reads is the same, in every way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from redecode.replay import playback
from redecode.tracer import Store, instrument, run, uninstrument
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.calls import CHAT, MAKERS, RESPONSES, TEXT, Maker, Way, lasting
from tests.tracer.decodes.conftest import Serving
from tests.tracer.decodes.server import Reply, Server

# Parts of the wire that say no more than their neighbours: not recorded byte by byte.
WAYS = [way for way in [*CHAT, *TEXT, *RESPONSES] if way.taken != "context"]
Results = dict[str, tuple[Any, Any]]


def recorded_then_played(path: Path, url: str, program: Any) -> tuple[Any, Any]:
    """What a program returns when it is recorded, and when it is played back without a server."""
    instrument(path / "store")
    try:
        with run("program"):
            first = program(url)
    finally:
        uninstrument()
    store = Store(path / "store")
    with playback(store.load(store.runs()[0].run_id), into=path / "played", pace=0.0), run("program"):
        return first, program(url)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    make: Maker = request.param
    server = Server(vllm_like.answer, owner="vllm")
    path = tmp_path_factory.mktemp("played")
    first, again = recorded_then_played(path, server.url, lambda url: make(url, WAYS))
    assert len(server.requests) == len(WAYS)  # nothing went live
    yield {way.name: both for way, *both in zip(WAYS, first, again, strict=True)}  # type: ignore[misc]
    server.close()


def said(facts: Any) -> dict[str, Any]:
    """What a caller reads in an answer or in all chunks of one: by choice text, reasoning, calls, tokens and end."""
    choices: dict[int, dict[str, Any]] = {}
    rest: dict[str, Any] = {}
    for part in facts if isinstance(facts, list) else [facts]:
        if not isinstance(part, dict):
            continue
        if str(part.get("type", "")).startswith("response."):
            part = part.get("response") or {}
        if part.get("output"):
            rest["output"] = [[c.get("text") for c in item["content"]] for item in part["output"]]
        for name in ("id", "model", "system_fingerprint", "status"):
            rest[name] = part.get(name) or rest.get(name)
        for choice in part.get("choices") or ():
            nothing: dict[str, Any] = {"text": "", "reasoning": "", "calls": {}, "end": None, "ids": [], "logprobs": {}}
            of = choices.setdefault(choice["index"], nothing)
            message = choice.get("message") or choice.get("delta") or choice
            extra = {**message, **(message.get("extra") or {})}
            of["text"] += message.get("content") or choice.get("text") or ""
            of["reasoning"] += extra.get("reasoning") or ""
            of["end"] = choice.get("finish_reason") or of["end"]
            of["ids"] += (choice.get("extra") or choice).get("token_ids") or ()
            logprobs = choice.get("logprobs") or {}
            for name in ("content", "tokens", "token_logprobs", "top_logprobs", "text_offset"):
                of["logprobs"].setdefault(name, []).extend(logprobs.get(name) or ())
            for place, call in enumerate(message.get("tool_calls") or ()):
                kept = of["calls"].setdefault(call.get("index", place), ["", "", ""])
                function = call["function"]
                for n, piece in enumerate((call.get("id"), function.get("name"), function.get("arguments"))):
                    kept[n] += piece or ""
    return {"choices": choices, **rest}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_what_the_caller_reads_is_the_same(results: Results, way: Way) -> None:
    first, again = results[way.name]
    assert type(again) is type(first)
    seen = said(first)
    assert said(again) == seen
    assert seen.get("output") or any(c["text"] or c["calls"] for c in seen["choices"].values())
    if not way.stream and way.taken in ("object", "bytes"):
        assert without_nothing(lasting(again)) == without_nothing(lasting(first))


def without_nothing(value: Any) -> Any:
    """The same without fields that say nothing, and without whether they were said."""
    if isinstance(value, dict):
        kept = {k: without_nothing(v) for k, v in value.items() if k != "set"}
        return {k: v for k, v in kept.items() if v not in (None, [], {})}
    return [without_nothing(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.InternalServerError)],
)
def test_an_error_is_raised_again(tmp_path: Path, server: Serving, status: int, error: type[Exception]) -> None:
    document = {"error": {"message": "no", "code": "c1", "param": "messages"}}
    headers: Any = {"x-request-id": "req-1", "retry-after": "7"}
    failed = server(lambda _: Reply.of(document, status, **headers), owner="vllm")

    def program(url: str) -> list[Any]:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        with client, pytest.raises(openai.APIStatusError) as raised:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])
        said = raised.value
        seen = [said.status_code, said.body, said.code, said.request_id, said.response.json(), str(said)]
        return [type(said), *seen, said.response.headers["retry-after"], said.request.url.path]

    first, again = recorded_then_played(tmp_path, failed.url, program)
    assert again == first
    assert first[0] is error
    assert first[2] == document["error"]
