"""When tokens were made: what is known, from where, and that it says so."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import openai
import pytest

from redecode.tracer import Decode, Fidelity, TimeSource
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.conftest import Recorded, Serving
from tests.tracer.decodes.plugin import AHEAD_NS, PACE_NS, Plugin
from tests.tracer.decodes.server import Reply, Request, Server

QUESTION: Any = [{"role": "user", "content": "?"}]
TOKENS = len(vllm_like.TEXT)


def ask(server: Server, **given: Any) -> None:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="m", messages=QUESTION, **given)
        if given.get("stream"):
            for _ in answer:
                pass


def one(recorded: Recorded) -> Decode:
    ((decode, _),) = recorded()
    return decode


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["this host", "another host"])
def test_the_engines_step_clock(server: Serving, recorded: Recorded, *, stream: bool, elsewhere: bool) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    Plugin(vllm, TOKENS, vllm_like.FINGERPRINT, elsewhere=elsewhere)
    ask(vllm, stream=stream)
    decode = one(recorded)
    assert decode.fidelity is Fidelity.ENGINE
    assert decode.token_time_source is TimeSource.ENGINE
    times = decode.token_times_ns
    assert times is not None
    assert {b - a for a, b in pairwise(times)} == {PACE_NS}
    assert len(times) == len(decode.sampled_ids or ()) == TOKENS
    # Only the wall clocks tie two hosts together; here they are one, and the error of reading them is left.
    assert -10e6 < times[0] - 1_000_000 < 1e9 < AHEAD_NS
    assert decode.batch_rows == tuple(1 + n % 3 for n in range(TOKENS))
    assert (decode.chunk_times_ns is not None) == stream
    assert decode.ttft_ns == times[0]
    assert decode.tpot_ns == PACE_NS


def test_a_step_computed_again_counts_when_it_was_last(server: Serving, recorded: Recorded) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    Plugin(vllm, TOKENS, vllm_like.FINGERPRINT, again=True)
    ask(vllm)
    decode = one(recorded)
    assert len(decode.token_times_ns or ()) == TOKENS
    assert decode.batch_rows == tuple(1 + n % 3 for n in range(1, 1 + TOKENS))


def test_of_a_stream_given_up_only_the_tokens_received_have_times(server: Serving, recorded: Recorded) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    Plugin(vllm, TOKENS, vllm_like.FINGERPRINT)
    client = openai.OpenAI(base_url=vllm.url, api_key="none")
    with client, client.chat.completions.create(model="m", messages=QUESTION, stream=True) as stream:
        for _ in range(4):
            next(stream)
    decode = one(recorded)
    assert decode.error == "stream closed before its end"
    assert decode.token_time_source is TimeSource.ENGINE
    assert 3 <= len(decode.token_times_ns or ()) == len(decode.sampled_ids or ()) < TOKENS


def paced(request: Request) -> Reply:
    """As vLLM, with 30 ms before each chunk, and two tokens in the third."""
    pieces: list[bytes | float] = []
    for place, piece in enumerate(p for p in vllm_like.answer(request).body if isinstance(p, bytes)):
        if place == 3:
            pieces[-1] += piece  # type: ignore[operator]
            continue
        pieces += [0.03, piece]
    return Reply(pieces, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("owner", ["vllm", "someone"])
def test_the_clients_chunks(server: Serving, recorded: Recorded, owner: str) -> None:
    ask(server(paced, owner=owner), stream=True)
    decode = one(recorded)
    assert decode.token_time_source is TimeSource.CLIENT
    assert decode.token_times_ns is None  # a chunk's arrival is not when its tokens were made
    times = decode.chunk_times_ns or ()
    assert len(times) == TOKENS
    assert times[2] - times[1] < 30e6  # these came together
    waited = [2 + n - (n >= 2) for n in range(TOKENS)]  # a chunk without a token is the first
    assert all(t >= w * 30e6 - 5e6 for t, w in zip(times, waited, strict=True))
    assert (
        decode.first_chunk_ns == decode.sent_ns + times[0]
        or abs(
            decode.first_chunk_ns - decode.sent_ns - times[0]  # type: ignore[operator]
        )
        <= 1000
    )
    assert decode.chunk_tokens == ((1,) * TOKENS if owner == "vllm" else (0,) * TOKENS)
    assert decode.done_ns is not None
    assert decode.done_ns - decode.sent_ns >= times[-1] - 1000


def test_the_engines_split_of_a_request(server: Serving, recorded: Recorded) -> None:
    ask(server(vllm_like.answer, owner="vllm"))
    decode = one(recorded)
    assert decode.token_time_source is TimeSource.REQUEST
    assert decode.token_times_ns is decode.chunk_times_ns is None
    assert (decode.queue_ns, decode.prefill_ns, decode.decode_ns) == (1_500_000, 20_000_000, 40_000_000)
    assert decode.tpot_ns == pytest.approx(40e6 / (TOKENS - 1))


def test_no_source_where_nobody_tells(server: Serving, recorded: Recorded) -> None:
    def plain(request: Request) -> Reply:
        message = {"role": "assistant", "content": "ok"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return Reply.of({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

    ask(server(plain))
    decode = one(recorded)
    assert decode.token_time_source is None
    assert decode.queue_ns is None
    assert decode.e2e_ns is not None
    assert decode.e2e_ns > 0
