"""The four architectures, sync and async, against an engine that speaks real HTTP."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Barrier
from typing import Any

import pytest

from redecode.agents.contact import FIELDS, Contact, Field
from redecode.agents.context import AgentContext, chat_model, close_clients
from redecode.agents.extraction.debate import split_judgement
from redecode.agents.extraction.formats import FORMATS, Format, render
from redecode.agents.extraction.graphs import BUILDERS, Architecture, build
from redecode.agents.extraction.scorer import score
from redecode.agents.extraction.state import ExtractionContext
from redecode.agents.extraction.trimming import trimmed
from redecode.agents.fm.articles import cases

from .conftest import ChatEngine, Reply, run_graph

ART = next(cases("heldout", 1))
WRONG = ART.contact.replaced("name", "Somebody Else")
CALLS = {"single": 1, "parallel": 3, "sequential": 3, "debate": 2}


def run(architecture: Architecture, context: ExtractionContext | dict[str, Any], *, awaited: bool) -> dict[str, Any]:
    return run_graph(build(architecture), {"article": ART.text}, context, awaited=awaited)


def asked_field(request: dict[str, Any]) -> Field:
    question = request["messages"][-1]["content"].split("\n")[-1]
    return next(f for f in FIELDS if f in question)


def perfect(fmt: Format) -> Any:
    """A model that knows the article's contact, and answers whatever it is asked."""

    def model(request: dict[str, Any]) -> Reply:
        question = request["messages"][-1]["content"]
        if "name, email" in question:
            return Reply(render(ART.contact, fmt))
        return Reply(ART.contact.value(asked_field(request)))

    return model


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("architecture", BUILDERS)
def test_every_architecture_finds_the_contact(
    chat_engine: ChatEngine, architecture: Architecture, awaited: bool, stream: bool
) -> None:
    chat_engine.model = perfect("json")
    context = ExtractionContext(base_url=chat_engine.url, stream=stream, seed=5)
    output = run(architecture, context, awaited=awaited)
    assert score(output, ART.contact).exact
    assert len(chat_engine.requests) == CALLS[architecture]
    assert all(bool(r.get("stream")) is stream for r in chat_engine.requests)
    assert len({r["seed"] for r in chat_engine.requests}) == CALLS[architecture]


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_format_is_a_knob(chat_engine: ChatEngine, fmt: Format) -> None:
    chat_engine.model = perfect(fmt)
    output = run("single", {"base_url": chat_engine.url, "format": fmt}, awaited=False)
    assert score(output, ART.contact).exact


def test_sequential_questions_see_the_answers_before(chat_engine: ChatEngine) -> None:
    chat_engine.model = perfect("json")
    run("sequential", {"base_url": chat_engine.url}, awaited=False)
    last = chat_engine.requests[-1]["messages"]
    assert [m["content"] for m in last if m["role"] == "assistant"] == [
        ART.contact.name,
        ART.contact.email,
    ]


def test_a_malformed_answer_scores_nothing_and_says_why(chat_engine: ChatEngine) -> None:
    chat_engine.model = lambda request: Reply("The contact is Ada.")
    output = run("single", {"base_url": chat_engine.url}, awaited=False)
    graded = score(output, ART.contact)
    assert graded.share == 0
    assert graded.error is not None
    assert "not json" in graded.error


def test_the_score_counts_fields(chat_engine: ChatEngine) -> None:
    chat_engine.model = lambda request: Reply(render(WRONG, "json"))
    graded = score(run("single", {"base_url": chat_engine.url}, awaited=False), ART.contact)
    assert graded.fields == {"name": False, "email": True, "address": True}
    assert not graded.exact


class Debaters:
    """Solvers that differ by layout, and a judge that says what it is told to."""

    def __init__(self, *verdicts: str) -> None:
        self.verdicts = list(verdicts)
        self.judged = 0

    def __call__(self, request: dict[str, Any]) -> Reply:
        question = request["messages"][-1]["content"]
        if "\nB: " in question:
            self.judged += 1
            return Reply(self.verdicts.pop(0))
        contact = ART.contact if question.startswith("Article: ") else WRONG
        return Reply(render(contact, "json"))


RIGHT_TEXT, WRONG_TEXT = render(ART.contact, "json"), render(WRONG, "json")


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("verdicts", "max_rounds", "winner", "calls"),
    [
        pytest.param([f"{RIGHT_TEXT}\nA"], 3, ART.contact, 3, id="clear at once"),
        pytest.param([f"{WRONG_TEXT}\nB"], 3, WRONG, 3, id="clear but wrong"),
        pytest.param([f"{RIGHT_TEXT}\nB", f"{RIGHT_TEXT}\nA"], 3, ART.contact, 6, id="second round"),
        pytest.param([f"{RIGHT_TEXT}\nB"] * 2, 2, WRONG, 6, id="rounds used up: the named one stands"),
        pytest.param(["no idea"] * 3, 3, None, 9, id="never a letter"),
    ],
)
def test_the_debate_is_settled_or_ends(
    chat_engine: ChatEngine,
    awaited: bool,
    verdicts: list[str],
    max_rounds: int,
    winner: Contact | None,
    calls: int,
) -> None:
    chat_engine.model = debaters = Debaters(*verdicts)
    context = ExtractionContext(base_url=chat_engine.url, max_rounds=max_rounds, debate_temperature=0.9)
    output = run("debate", context, awaited=awaited)
    expected = None if winner is None else {f: winner.value(f) for f in FIELDS}
    assert output["contact"] == expected
    assert len(chat_engine.requests) == calls == 3 * debaters.judged
    hot = [r["temperature"] for r in chat_engine.requests if "\nB: " not in r["messages"][-1]["content"]]
    assert hot == [0.0, 0.0] + [0.9] * (len(hot) - 2)


def test_two_unreadable_answers_need_no_judge(chat_engine: ChatEngine) -> None:
    chat_engine.model = lambda request: Reply("?")
    output = run("debate", {"base_url": chat_engine.url, "max_rounds": 2}, awaited=False)
    assert output["contact"] is None
    assert len(chat_engine.requests) == 4


def test_a_judgement_is_text_and_a_letter() -> None:
    assert split_judgement("one\ntwo\nA") == ("one\ntwo", "first")
    assert split_judgement("one\nB") == ("one", "second")
    assert split_judgement("one\nC") == ("one\nC", None)
    assert split_judgement("A") == ("", "first")


def test_runs_of_one_graph_do_not_mix(chat_engine: ChatEngine) -> None:
    articles = list(islice(cases("heldout", 9), 8))

    def model(request: dict[str, Any]) -> Reply:
        text = request["messages"][0]["content"]
        mine = next(a for a in articles if a.text in text)
        return Reply(mine.contact.value(asked_field(request)))

    chat_engine.model = model
    graph = build("parallel")

    context = ExtractionContext(base_url=chat_engine.url)

    async def everyone() -> list[Any]:
        try:
            runs = (graph.ainvoke({"article": a.text}, context=context) for a in articles)
            return list(await asyncio.gather(*runs))
        finally:
            await close_clients()

    outputs = asyncio.run(everyone())
    assert [score(o, a.contact).exact for o, a in zip(outputs, articles, strict=True)] == [True] * 8


def test_a_second_event_loop_gets_its_own_connections(chat_engine: ChatEngine) -> None:
    chat_engine.model = perfect("json")
    for _ in range(2):
        assert run("single", {"base_url": chat_engine.url}, awaited=True)["error"] is None


def test_threads_that_ask_at_once_share_one_client(chat_engine: ChatEngine) -> None:
    together = Barrier(8)

    def ask(_: int) -> int:
        together.wait()
        return id(chat_model(AgentContext(base_url=chat_engine.url)))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1


def test_a_trimmed_article_keeps_every_sentence_that_may_have_what_is_asked_for() -> None:
    kept = trimmed(
        "It rains. Ann Bell will help! Write to a@b.org. Call no one. The office is at 5 Main St. Bring tea."
    )
    assert kept == "Ann Bell will help! Write to a@b.org. The office is at 5 Main St."
    assert trimmed("It rains. Bring tea.") == "It rains. Bring tea."
    for article in islice(cases("heldout", 5), 60):
        short = trimmed(article.text)
        assert len(short) <= len(article.text)
        assert all(article.contact.value(field) in short for field in FIELDS)


def test_a_debate_may_have_a_judge_of_another_model(chat_engine: ChatEngine) -> None:
    first, second = (render(Contact(name, "a@b.org", "1 Old Road, Town 12345"), "json") for name in ("A B", "C D"))

    def model(request: dict[str, Any]) -> Reply:
        said = str(request["messages"][-1]["content"])
        if request["model"] == "judge":
            return Reply(f"{first}\nA")
        return Reply(first if said.startswith("Article: ") else second)

    chat_engine.model = model
    context = ExtractionContext(base_url=chat_engine.url, judge_model="judge")
    out = run_graph(build("debate"), {"article": "It rains."}, context, awaited=True)
    assert out["contact"]["name"] == "A B"
    assert [r["model"] for r in chat_engine.requests].count("judge") == 1
