"""On a real engine: its own count of tokens, and a record filled in by continuing it."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest

from redecode.agents import model_dir
from redecode.agents.extraction.prompts import Prompt, ask_all
from redecode.agents.fm.articles import cases
from redecode.agents.fm.chat import render_chat
from redecode.optimizer.formats import Slot, fill
from redecode.optimizer.formats.languages import SENTENCES
from redecode.optimizer.formats.tokens import EngineTokens, FileTokens
from redecode.replay.engine import EngineClient
from tests.optimizer.formats.records import Contact

pytestmark = pytest.mark.vllm
XS = "redecode-fm-xs"


def test_an_engine_counts_as_its_tokenizer_does(engine_url: str) -> None:
    ours, engines = FileTokens(model_dir(XS)), EngineTokens(f"{engine_url}/v1", XS)
    for text in (SENTENCES["English"][0], SENTENCES["Hindi"][0], '{"name":"Ann"}', ""):
        assert engines.count(text) == ours.count(text)


def test_a_filled_record_is_valid_whatever_the_model_writes(engine_url: str) -> None:
    tokens = FileTokens(model_dir(XS))

    async def filled(article: str, number: int) -> Contact:
        prompt = render_chat(ask_all(article, "json", Prompt()), generation_prompt=True)
        steps = fill(Contact, spaced=True)
        slot: Slot = next(steps)
        async with EngineClient(engine_url) as client:
            while True:
                done = await client.complete(
                    tokens.encode(prompt + slot.prefix),
                    sampling={"temperature": 1.0, "seed": 3, "max_tokens": 60, "stop": list(slot.stop)},
                    rid=f"slots-{number}-{'-'.join(slot.path)}",
                )
                text = b"".join(tokens.spelled(done.token_ids)).decode(errors="replace")
                try:
                    slot = steps.send(text.partition('"')[0].partition("<|im_end|>")[0])
                except StopIteration as stop:
                    return Contact.model_validate(stop.value.record)

    found = [asyncio.run(filled(a.text, n)) for n, a in enumerate(islice(cases("heldout", 3), 3))]
    assert len(found) == 3 and all(isinstance(c, Contact) for c in found)
