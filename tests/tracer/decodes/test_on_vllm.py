"""The same on a real vLLM: its caller gets the same object, and everything of the decode is recorded."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest

from redecode.tracer import Decode, Fidelity, Store, TimeSource, instrument, run, uninstrument
from tests.tracer.decodes.calls import (
    CHAT,
    MAKERS,
    RESPONSES,
    TEXT,
    Seen,
    Way,
    decodes_of,
    lasting,
    same_stream,
    seen,
    sync,
)

pytestmark = pytest.mark.vllm
MODEL = "redecode-fm-xs"
# This FM likes white space between the parts of a JSON text better than its end.
NO_SPACE = {str(token): -100 for token in (4, 200, 201, 204, 223)}
WAYS = [
    replace(way, given={**way.given, "logit_bias": NO_SPACE}) if "schema" in way.name or way.name == "parse" else way
    for way in [*CHAT, *TEXT, *RESPONSES]
]
WITHOUT_IDS = {"text, echoed": "echo", "text, echoed and streamed": "echo", "two texts": "several prompts"}
SEVERAL = {way.name: 3 for way in WAYS if "three choices" in way.name} | {"two texts": 2}
US = 1000
ROUNDING = 2 * US  # times are kept at 1 µs, and two of them are compared


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def both(
    request: pytest.FixtureRequest, engine_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Seen]]:
    """Every way to call, without the tracer and with it."""
    url = f"{engine_url}/v1"
    sync(url, WAYS[:1], MODEL)
    yield seen(tmp_path_factory.mktemp("vllm") / "store", url, request.param, WAYS, MODEL)


# So hot, each call samples something else, seed or not: the sums depend on who else is in the batch.
@pytest.mark.parametrize("way", [w for w in WAYS if w.given.get("temperature") != 2.0], ids=lambda way: way.name)
def test_the_caller_gets_the_same_object(both: dict[str, Seen], way: Way) -> None:
    it = both[way.name]
    if way.stream:  # the server cuts a stream into chunks as it finds the time
        assert same_stream(it.plain, it.recorded)
        assert len(it.recorded) > 1
    else:
        assert lasting(it.recorded) == lasting(it.plain)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_everything_of_the_decode_is_recorded(both: dict[str, Seen], way: Way) -> None:
    decode, limit = both[way.name].decode, both[way.name].span.attributes.get("redecode.fidelity_limit")
    assert decode.error is None
    if way.name in WITHOUT_IDS:
        assert decode.fidelity is Fidelity.SEEDED
        assert limit is not None
        assert WITHOUT_IDS[way.name] in limit
        return
    assert decode.prompt_ids
    assert len(decode.prompt_ids) == decode.input_tokens
    choices = [(decode.sampled_ids, decode.logprobs), *((c.sampled_ids, c.logprobs) for c in decode.more_choices)]
    assert len(choices) == SEVERAL.get(way.name, 1)
    assert sum(len(ids or ()) for ids, _ in choices) == decode.output_tokens
    assert all(ids for ids, _ in choices)
    if way not in RESPONSES:  # there they come only to a caller who asks for them
        assert all(len(ids or ()) == len(logprobs or ()) for ids, logprobs in choices)
        assert all(math.isfinite(x) and x <= 0 for _, logprobs in choices for x in logprobs or ())
    if way.stream and way not in RESPONSES:
        assert sum(decode.chunk_tokens or ()) == decode.output_tokens
    if way.name in SEVERAL:
        assert decode.fidelity is Fidelity.TOKENS
        assert limit == "the engine gave no timing of its own"
        return
    assert (decode.fidelity, limit) == (Fidelity.ENGINE, None)
    assert (decode.fingerprint or "").startswith("vllm-")
    assert decode.engine_id is not None
    assert decode.token_time_source is TimeSource.ENGINE
    assert len(decode.token_times_ns or ()) == len(decode.batch_rows or ()) == decode.output_tokens
    if way not in RESPONSES:
        assert None not in (decode.queue_ns, decode.prefill_ns, decode.decode_ns)


def test_what_was_said_is_what_the_caller_saw(both: dict[str, Seen]) -> None:
    for name in ("plain", "logprobs", "a tool", "a schema", "three choices"):
        said = [choice["message"] for choice in both[name].recorded["choices"]]
        kept = both[name].decode.output
        assert [m["content"] for m in kept] == [m["content"] for m in said]
        calls = [[c["function"]["arguments"] for c in m.get("tool_calls") or ()] for m in kept]
        assert calls == [[c["function"]["arguments"] for c in m["tool_calls"] or ()] for m in said]
    ((call,),) = [m["tool_calls"] for m in both["a tool, streamed"].decode.output]
    assert call["function"] == {"name": "look_up", "arguments": '{"name": "Ann"}'}
    assert both["parse"].decode.output[0]["content"] == both["a schema"].decode.output[0]["content"]


@pytest.mark.parametrize("name", ["token ids", "three choices with all"])
def test_ids_and_logprobs_are_those_the_caller_is_given(both: dict[str, Seen], name: str) -> None:
    for streamed in ("", ", streamed"):
        it = both[name + streamed]
        ids: dict[int, list[int]] = {}
        logprobs: dict[int, list[float]] = {}
        for part in it.recorded if streamed else [it.recorded]:
            for choice in part["choices"]:
                ids.setdefault(choice["index"], []).extend(choice["extra"].get("token_ids") or ())
                of = (choice["logprobs"] or {}).get("content") or ()
                logprobs.setdefault(choice["index"], []).extend(entry["logprob"] for entry in of)
        kept = [(it.decode.sampled_ids, it.decode.logprobs)]
        kept += [(choice.sampled_ids, choice.logprobs) for choice in it.decode.more_choices]
        assert [list(one or ()) for one, _ in kept] == [ids[n] for n in sorted(ids)]
        if name != "token ids":
            assert len({tuple(one) for one in ids.values()}) == 3  # or nothing could be mixed up
            for place, (_, of_one) in enumerate(kept):
                assert of_one == pytest.approx(logprobs[place], rel=1e-6)


@pytest.fixture(scope="module")
def together(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Decode]:
    """Six calls at a time, three of them streamed: 100 tokens each."""
    store = tmp_path_factory.mktemp("together") / "store"

    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=f"{engine_url}/v1", api_key="none", max_retries=0) as client:

            async def one(place: int) -> None:
                given: Any = {"messages": [{"role": "user", "content": f"Tell me about number {place}."}]}
                given |= {"model": MODEL, "max_tokens": 100, "extra_body": {"ignore_eos": True}}
                if place % 2:
                    async for _ in await client.chat.completions.create(**given, stream=True):
                        pass
                else:
                    await client.chat.completions.create(**given)

            with run("six"):
                await asyncio.gather(*(one(place) for place in range(6)))

    instrument(store)
    try:
        asyncio.run(work())
    finally:
        uninstrument()
    return [decode for decode, _ in decodes_of(store)]


def test_step_clock_and_client_agree_as_far_as_is_physically_possible(together: Sequence[Decode]) -> None:
    """Causes come before effects, on one clock.

    Engine and client are on one host and read one clock (CLOCK_MONOTONIC), so no tolerance is needed but that of
    rounding. The step clock is read just before a token is sampled; from there the token goes through the output
    processor, which stamps vLLM's own times, to the client, where it arrives. None of these can be early, however
    loaded the machine is; how late they are is no matter of being right.
    """
    assert len(together) == 6
    for decode in together:
        engine = decode.token_times_ns
        assert engine is not None
        assert len(engine) == len(decode.sampled_ids or ()) == 100
        assert decode.e2e_ns is not None
        assert engine[0] > 0  # not before it was asked
        assert all(a < b for a, b in pairwise(engine))
        assert engine[-1] <= decode.e2e_ns + ROUNDING
        arrivals = [decode.e2e_ns] * 100
        if decode.stream:
            assert decode.chunk_times_ns is not None
            assert list(decode.chunk_times_ns) == sorted(decode.chunk_times_ns)
            pairs = zip(decode.chunk_times_ns, decode.chunk_tokens or (), strict=True)
            arrivals = [at for at, tokens in pairs for _ in range(tokens)]
            assert all(made <= came + ROUNDING for made, came in zip(engine, arrivals, strict=True))
        queued, prefill, decoding = decode.queue_ns, decode.prefill_ns, decode.decode_ns
        assert queued is not None
        assert prefill is not None
        assert decoding is not None
        # vLLM's stamp of a token lies between the step clock's and the arrival: so do their differences.
        assert 0 <= queued + prefill <= arrivals[0] + ROUNDING
        assert engine[-1] - arrivals[0] - ROUNDING <= decoding <= arrivals[-1] - engine[0] + ROUNDING
    # The batch that the engine says it ran at each step is the calls that were there.
    rows = [rows for decode in together for rows in decode.batch_rows or ()]
    assert max(rows) > 1
    assert set(rows) <= set(range(1, 7))


def test_a_stream_given_up_has_its_part_in_full(engine_url: str, store: Path) -> None:
    instrument(store)
    try:
        with openai.OpenAI(base_url=f"{engine_url}/v1", api_key="none", max_retries=0) as client:
            given: Any = {"messages": [{"role": "user", "content": "Tell me."}], "model": MODEL, "max_tokens": 600}
            with client.chat.completions.create(**given, stream=True, extra_body={"ignore_eos": True}) as stream:
                said = "".join(next(stream).choices[0].delta.content or "" for _ in range(6))
    finally:
        uninstrument()
    ((decode, span),) = decodes_of(store)
    assert decode.error == "stream closed before its end"
    assert decode.output[0]["content"].startswith(said)
    assert 5 <= len(decode.sampled_ids or ()) < 600
    assert len(decode.sampled_ids or ()) == len(decode.logprobs or ()) == len(decode.token_times_ns or ())
    assert decode.fidelity is Fidelity.ENGINE
    assert span.attributes["redecode.fidelity_limit"] == "it was cut short: only the part received is recorded"
    assert Store(store).load(decode.run_id).run.fidelity is Fidelity.ENGINE


def test_a_request_that_vllm_rejects(engine_url: str, store: Path) -> None:
    given: Any = {"messages": [{"role": "user", "content": "?"}], "model": MODEL}
    with openai.OpenAI(base_url=f"{engine_url}/v1", api_key="none") as client:
        with pytest.raises(openai.BadRequestError) as plain:
            client.chat.completions.create(**given, max_tokens=5000)
        instrument(store)
        try:
            with run("rejected"):
                with pytest.raises(openai.BadRequestError) as recorded:
                    client.chat.completions.create(**given, max_tokens=5000)
                client.chat.completions.create(**given, max_tokens=2)
        finally:
            uninstrument()
    assert (recorded.value.body, str(recorded.value)) == (plain.value.body, str(plain.value))
    (failed, span), (fine, _) = decodes_of(store)
    assert "cannot be greater than max_model_len" in str(failed.error)
    assert failed.fidelity is Fidelity.TEXT
    assert span.attributes["http.response.status_code"] == 400
    assert fine.fidelity is Fidelity.ENGINE  # one mistake of the caller's does not cost the others their tokens
