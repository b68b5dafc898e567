"""Prompts that grow: each token of a conversation is stored once, and every prompt can be had again."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import openai
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redecode.tracer import Decode, Fidelity, Recorder, SpanKind, Store, decode_attributes, run, uninstrument
from redecode.tracer.blocks import BLOCK_TOKENS
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.conftest import Serving
from tests.tracer.decodes.server import Reply, Request

TURNS = 40
NUMBER = count()


def template(messages: list[dict[str, str]]) -> list[int]:
    """A chat template: what was said before is always the beginning of what is said next."""
    said = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
    return [ord(ch) for ch in said + "<assistant>"]


def answer(request: Request) -> Reply:
    """As vLLM, with this template, and an answer as long as the turn."""
    text = f"answer {len(request.body['messages'])} " * (1 + len(request.body["messages"]) % 7)
    document = vllm_like._whole({**request.body}, chat=True)
    document["prompt_token_ids"] = template(request.body["messages"])
    document["choices"][0]["message"]["content"] = text
    document["choices"][0]["token_ids"] = [ord(ch) for ch in text]
    document["choices"][0]["logprobs"] = None
    return Reply.of(document)


def stored(store: Path) -> dict[str, Any]:
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        blocks, kept = db.execute("SELECT count(*), sum(len(tokens)) FROM prompt_blocks").fetchone()  # type: ignore[misc]
        (tails,) = db.execute("SELECT sum(len(prompt_tail)) FROM decodes").fetchone()  # type: ignore[misc]
    return {"blocks": blocks, "tokens": kept, "tails": tails}


def test_a_conversation_of_forty_turns_stores_each_prompt_token_once(server: Serving, recording: Path) -> None:
    vllm = server(answer, owner="vllm")
    system = "You are asked many things, and answer each of them in the same way. " * 10

    def converse(client: openai.OpenAI, about: str) -> list[list[int]]:
        messages: list[Any] = [{"role": "system", "content": system}]
        prompts = []
        for turn in range(TURNS):
            messages.append({"role": "user", "content": f"{about} {turn} " * (1 + turn % 5)})
            prompts.append(template(messages))
            said = client.chat.completions.create(model="m", messages=messages).choices[0].message.content
            messages.append({"role": "assistant", "content": said})
            if turn % 10 == 9:
                Store(recording).runs()  # so it comes in parts
        return prompts

    with openai.OpenAI(base_url=vllm.url, api_key="none") as client, run("conversation"):
        prompts = converse(client, "question")
    uninstrument()
    (summary,) = Store(recording).runs()
    decodes = Store(recording).load(summary.run_id).decodes
    assert [list(d.prompt_ids or ()) for d in decodes] == prompts
    assert [d.digest for d in decodes] == [d.content_digest() for d in decodes]
    last = len(prompts[-1])
    rows = stored(recording)
    assert rows["blocks"] == last // BLOCK_TOKENS
    assert rows["tokens"] == last // BLOCK_TOKENS * BLOCK_TOKENS
    assert rows["tails"] <= TURNS * (BLOCK_TOKENS - 1)
    total = sum(map(len, prompts))
    assert total > 10 * last  # what it would be without blocks
    assert rows["tokens"] + rows["tails"] < total / 10


trees = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 200), st.lists(st.integers(0, 2**31 - 1), max_size=50)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_any_prompt_is_rebuilt_exactly_however_prompts_branch(tree: Any, tmp_path: Path) -> None:
    prompts: list[tuple[int, ...]] = [()]
    for parent, keep, more in tree:  # each goes on from a beginning of an earlier one
        prompts.append((*prompts[parent % len(prompts)][:keep], *more, *more))
    store = tmp_path / f"{next(NUMBER)}"
    recorder = Recorder(store)
    root = recorder.start_run("agent")
    wanted = {}
    for prompt in prompts:
        span = recorder.start(SpanKind.DECODE, "chat m", root, "chat")
        decode = Decode(
            run_id=root.run_id, span_id=span.span_id, step_key=span.step_key, model="m", fidelity=Fidelity.TOKENS,
            sent_ns=span.start_ns, first_chunk_ns=None, done_ns=None, prompt_ids=prompt, sampled_ids=(1,),
        )  # fmt: skip
        recorder.end(span, attributes=decode_attributes(decode))
        wanted[span.span_id] = prompt
    recorder.end(root)
    recorder.close()
    assert {d.span_id: d.prompt_ids for d in Store(store).load(root.run_id).decodes} == wanted
    beginnings = {p[:end] for p in prompts for end in range(BLOCK_TOKENS, len(p) + 1, BLOCK_TOKENS)}
    assert stored(store)["blocks"] == len(beginnings)
