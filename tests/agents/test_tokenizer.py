"""The tokenizer copies well, and training reads exactly the text and tokens that serving renders."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from redecode.agents.contact import FIELDS
from redecode.agents.contacts_desk import prompts as desk
from redecode.agents.contacts_desk.policy import desk_cases, expected_turns
from redecode.agents.extraction.formats import FORMATS, render
from redecode.agents.fm import chat
from redecode.agents.fm.articles import cases
from redecode.agents.fm.dialogues import Sample, random_sample

if TYPE_CHECKING:
    from redecode.agents.fm.tokenizer import Encoder

transformers = pytest.importorskip("transformers")
tokenizer = pytest.importorskip("redecode.agents.fm.tokenizer")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    made: Encoder = tokenizer.Encoder(tokenizer.train_tokenizer(seed=0, samples=400))
    return made


@pytest.fixture(scope="module")
def served(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer as an engine loads it."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_tokenizer(encoder.tokenizer, folder)
    return transformers.AutoTokenizer.from_pretrained(str(folder))


def samples(count: int) -> list[Sample]:
    rng = random.Random(8)
    return [random_sample(rng, "heldout", (1, 1, 1, 2), turns=rng.choice((1, 2, 3))) for _ in range(count)]


def contains(tokens: list[int], part: list[int]) -> bool:
    return any(tokens[i : i + len(part)] == part for i in range(len(tokens) - len(part) + 1))


def test_a_value_has_the_same_tokens_in_the_article_and_in_every_answer(encoder: Encoder) -> None:
    for art in islice(cases("heldout", 2), 100):
        article = encoder.ids(art.text)
        answers = [encoder.ids(render(art.contact, fmt)) for fmt in FORMATS]
        answers.append(encoder.ids(chat.call_text("find_person", json.dumps({"name": art.contact.name}))))
        for field in FIELDS:
            value = encoder.ids(art.contact.value(field))
            assert contains(article, value), art.contact.value(field)
            assert all(contains(answer, value) for answer in answers[: 4 if field != "name" else 5])


def test_every_text_is_decoded_to_itself(encoder: Encoder) -> None:
    for sample in samples(60):
        text = chat.render_chat(sample.messages, sample.tools)
        assert encoder.tokenizer.decode(encoder.ids(text), skip_special_tokens=False) == text


def test_the_vocabulary_is_as_large_as_the_model(encoder: Encoder) -> None:
    assert encoder.tokenizer.get_vocab_size() == tokenizer.VOCAB_SIZE


def test_training_pieces_have_the_tokens_of_the_whole(encoder: Encoder) -> None:
    for sample in samples(100):
        ids, weights = encoder.encode(sample)
        assert ids == encoder.ids(chat.render_chat(sample.messages, sample.tools))
        assert len(ids) == len(weights) < tokenizer.CONTEXT
        learned = encoder.tokenizer.decode(
            [i for i, w in zip(ids, weights, strict=True) if w], skip_special_tokens=False
        )
        mine = [p.text for p in chat.pieces(sample.messages, sample.tools) if p.answer]
        assert learned == "".join(mine)


def test_serving_renders_what_training_read(encoder: Encoder, served: Any) -> None:
    for sample in samples(150):
        tools = list(sample.tools) or None
        text = served.apply_chat_template(list(sample.messages), tools=tools, tokenize=False)
        assert text == chat.render_chat(sample.messages, sample.tools)
        ids = served.apply_chat_template(list(sample.messages), tools=tools, return_dict=False)
        assert ids == encoder.encode(sample)[0]


def test_a_prompt_ends_where_the_answer_begins(served: Any) -> None:
    messages = [{"role": "user", "content": "hello"}]
    text = served.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert (
        text
        == chat.render_chat(messages, generation_prompt=True)
        == ("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
    )


def test_arguments_are_rendered_alike_as_text_and_as_objects(served: Any) -> None:
    case = next(desk_cases("heldout", 1))
    opening = desk.start(case.article.text, case.request, "plain")
    as_text = [*opening, *expected_turns(case)]
    as_objects = json.loads(json.dumps(as_text))
    for message in as_objects:
        message["content"] = message["content"] or ""
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    texts = [served.apply_chat_template(m, tools=list(desk.TOOLS), tokenize=False) for m in (as_text, as_objects)]
    assert texts[0] == texts[1] == chat.render_chat(as_text, desk.TOOLS)


def test_a_tool_call_survives_decoding_without_special_tokens(served: Any) -> None:
    """vLLM's tool parser looks for the marks in the text, so they must not count as special."""
    text = chat.call_text("find_person", '{"name": "Ada Low"}')
    ids = served(text + chat.END)["input_ids"]
    assert served.decode(ids, skip_special_tokens=True) == text
    assert served.convert_tokens_to_ids(chat.CALL) in ids
