"""What agents say is what models were trained on."""

from __future__ import annotations

import random
from itertools import product

from redecode.agents.contact import FIELDS
from redecode.agents.contacts_desk import prompts as desk
from redecode.agents.extraction.formats import FORMATS
from redecode.agents.extraction.prompts import LAYOUTS, WORDINGS, Prompt, ask_all, ask_judge, ask_one
from redecode.agents.fm.dialogues import Sample, decisions, random_sample

ARTICLE = "ARTICLE"


def shape(text: str, article: str) -> str:
    return text.replace(article, ARTICLE)


def article_of(sample: Sample) -> str:
    """The article in a training conversation: the longest line after `Article: `."""
    text: str = next(m["content"] for m in sample.messages if m["role"] == "user")
    lines = [line.removeprefix("Article: ") for line in text.split("\n") if line.startswith("Article: ")]
    return max(lines, key=len)


def test_every_question_the_agents_ask_occurs_in_training() -> None:
    rng = random.Random(3)
    trained = set()
    for _ in range(6000):
        sample = random_sample(rng, "train", (1, 1, 0, 0))
        opening = [m["content"] for m in sample.messages if m["role"] in ("system", "user")]
        cut = 2 if sample.messages[0]["role"] == "system" else 1
        trained.add(tuple(shape(t, article_of(sample)) for t in opening[:cut]))
    prompts = [Prompt(w, layout, s) for w, layout, s in product(WORDINGS, LAYOUTS, (True, False))]
    asked = [ask_all(ARTICLE, fmt, p) for fmt, p in product(FORMATS, prompts)]
    asked += [ask_one(ARTICLE, f, p) for f, p in product(FIELDS, prompts)]
    missing = [a for a in asked if tuple(m["content"] for m in a) not in trained]
    assert not missing


def test_a_sequential_question_goes_on_with_the_conversation() -> None:
    messages = ask_one(ARTICLE, "address", Prompt("brief"), (("name", "Ada Low"), ("email", "a@b.org")))
    assert [(m["role"], m["content"]) for m in messages] == [
        ("user", "Article: ARTICLE\nName?"),
        ("assistant", "Ada Low"),
        ("user", "Email address?"),
        ("assistant", "a@b.org"),
        ("user", "Postal address?"),
    ]


def test_article_first_makes_calls_share_their_beginning() -> None:
    by_layout = {
        layout: [ask_one(ARTICLE, f, Prompt("plain", layout))[0]["content"] for f in FIELDS] for layout in LAYOUTS
    }
    assert all(text.startswith("Article: ARTICLE\n") for text in by_layout["article_first"])
    assert all(text.endswith("Article: ARTICLE") for text in by_layout["question_first"])


def test_the_judge_sees_both_answers() -> None:
    text = ask_judge(ARTICLE, "one", "two", Prompt())[0]["content"]
    assert "\nA: one\nB: two" in text


def test_decisions_are_where_values_and_letters_begin() -> None:
    answer = "name: Ada Low\nemail: a@b.org\naddress: 7 Hill\nB"
    assert [answer[i:][:3] for i in decisions(answer)] == ["nam", "Ada", "a@b", "7 H", "B"]


def test_desk_answers_are_read_back() -> None:
    for answer in (
        desk.DeskAnswer("A B", "a@b.org", known=True),
        desk.DeskAnswer("A B", "a@b.org", known=False, address="1 C", checked=True),
    ):
        assert desk.parse_answer(desk.render_answer(answer)) == answer
