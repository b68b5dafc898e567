"""Calls for embeddings are no FM calls, and not free."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redecode import tracer
from redecode.optimizer.cases import JOB, NIGHT, of_runs
from redecode.optimizer.errors import BadSpec
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.nightly.spending import made_for
from redecode.optimizer.objectives import Goals, Outcome, Usage, measured
from redecode.replay.prices import Price
from redecode.tracer import Store
from tests.conftest import OpenAIServer

PROGRAM = """
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from openai import OpenAI
from pydantic import BaseModel
from redecode.optimizer import Spec
from typing_extensions import TypedDict

client = OpenAI(max_retries=0)

class State(TypedDict, total=False):
    question: str
    answer: str

class Context(BaseModel):
    embeds: int = 2

def answer(state: State, runtime: Runtime[Context]) -> State:
    for _ in range(runtime.context.embeds):
        client.embeddings.create(model="emb", input=[state["question"], "a document"])
    asked = [{"role": "user", "content": state["question"]}]
    said = client.chat.completions.create(model="m", messages=asked, temperature=0)
    return {"answer": said.choices[0].message.content}

def alike(output, case):
    client.embeddings.create(model="judging", input=output["answer"])
    return 1.0

builder = StateGraph(State, context_schema=Context)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile(name="rag")
spec = Spec(graph=graph, score=alike)
"""
ANSWER, TAKES_S = "an answer", 0.05
CHAT = Price(input=1.0, output=1.0)
CHAT_USD = (3 + len(ANSWER)) / 1e6


class Embedding(OpenAIServer):
    """Embeds, too, a token a text; `silent`: without saying so."""

    silent = False

    def response(self, body: dict[str, Any]) -> dict[str, Any]:
        if "input" not in body:
            return super().response(body)
        time.sleep(TAKES_S)
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"index": n, "object": "embedding", "embedding": [0.5]} for n, _ in enumerate(texts)]
        usage = {} if self.silent else {"usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)}}
        return {"object": "list", "model": body["model"], "data": data, **usage}


@pytest.fixture
def server(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedding]:
    """That of an agent which reads up; its runs are recorded."""
    made = Embedding(lambda _: ANSWER)
    (tmp_path / "rag.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OPENAI_BASE_URL", made.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    module = importlib.import_module("rag")
    tracer.instrument(store)
    for n in range(2):
        module.graph.invoke({"question": f"question {n}"}, context=module.Context())
    tracer.uninstrument()
    yield made
    sys.modules.pop("rag", None)
    made.close()


@pytest.fixture
def ran(server: Embedding, store: Path) -> Iterator[Callable[..., list[Outcome]]]:
    here = InProcess(Settings(spec="rag:spec", store=store, source=store))
    cases = of_runs(Store(store).runs())

    def block(labels: dict[str, Any] | None = None, **values: Any) -> list[Outcome]:
        return here.evaluate(Block(values=values, cases=cases, labels=labels or {}))

    yield block
    here.close()


def test_embeddings_are_in_the_cost_of_a_run_and_are_no_fm_calls(ran: Callable[..., list[Outcome]]) -> None:
    first, again = ran(embeds=2), ran(embeds=2)
    for outcomes in (first, again):  # the memo answers what is sampled
        used = [o.embeddings["emb"] for o in outcomes]
        assert [(u.calls, u.input_tokens, u.uncounted) for u in used] == [(0, 4, 0)] * 2
        assert all(u.engine_s >= 2 * TAKES_S for u in used) and all(set(o.usage) == {"m"} for o in outcomes)
    assert [(o.live, o.memo) for o in first] == [(2, 0), (1, 0)] and [(o.live, o.memo) for o in again] == [(0, 1)] * 2
    assert all(set(o.paid) == {"emb"} for o in again) and [o.paid["m"].calls for o in first] == [2, 1]
    priced = Goals(prices={"m": CHAT, "emb": Price(input=2.0, output=0.0)})
    assert [priced.cost(o) for o in (*first, *again)] == pytest.approx([CHAT_USD + 8 / 1e6] * 4)
    by_clock = Goals()
    assert all(by_clock.cost(o) > 2 * TAKES_S for o in again)
    assert by_clock.cost(ran(embeds=0)[0]) < TAKES_S
    (judged,) = (o.judging for o in first if o.judging)
    assert (judged["judging"].calls, judged["judging"].input_tokens) == (0, 2)
    paid, unknown = Goals(prices={"judging": CHAT}).spent(judged)
    assert paid == pytest.approx(2 / 1e6) and unknown == []
    assert Outcome.from_json(first[0].to_json()) == first[0]


def test_the_record_of_a_night_counts_them(ran: Callable[..., list[Outcome]], store: Path) -> None:
    ran({JOB: "j", NIGHT: "n"}, embeds=3)
    ran({JOB: "j", NIGHT: "another"}, embeds=3)
    priced = Goals(prices={"m": CHAT, "emb": Price(input=2.0, output=0.0), "judging": CHAT})
    spent = made_for(Store(store), "j", "n", 0, priced)
    runs, judged = 3, 2  # of two cases, and the first that does not count
    assert spent.calls == runs
    assert spent.cost == pytest.approx(runs * CHAT_USD + runs * 3 * 2 * 2 / 1e6 + judged / 1e6)
    assert made_for(Store(store), "j", "n", 0, Goals()).cost > runs * 3 * TAKES_S


def test_embeddings_without_a_price_cost_nothing_and_are_named(ran: Callable[..., list[Outcome]]) -> None:
    goals, outcomes = Goals(prices={"m": CHAT}), ran(embeds=2)
    assert measured(outcomes, goals).cost == pytest.approx(CHAT_USD)
    assert goals.unpriced(outcomes) == ["emb"] == goals.unpriced(outcomes[:1])
    assert Goals().unpriced(outcomes) == [] == Goals(prices={"emb": CHAT}).unpriced(outcomes)


def test_embeddings_whose_tokens_nobody_tells_matter_where_they_have_a_price(
    server: Embedding, ran: Callable[..., list[Outcome]]
) -> None:
    server.silent = True
    outcome, *_ = ran(embeds=2)
    assert outcome.embeddings["emb"].uncounted == 2
    for prices in ({"m": CHAT}, {"m": CHAT, "emb": Price(input=0.0, output=3.0)}):
        assert Goals(prices=prices).cost(outcome) == pytest.approx(CHAT_USD)
    with pytest.raises(BadSpec, match=r"model emb has a price, .* how many tokens 2 calls for embeddings of run"):
        Goals(prices={"m": CHAT, "emb": CHAT}).cost(outcome)


def test_what_embeddings_alone_cost() -> None:
    outcome = Outcome(
        case="c", run_id="r", quality=1.0, latency_s=1.0,
        embeddings={"emb": Usage(input_tokens=1_000_000, engine_s=0.5), "other": Usage(input_tokens=5)},
    )  # fmt: skip
    goals = Goals(prices={"emb": Price(input=0.02, output=0.0)})
    assert goals.embedded(outcome) == goals.cost(outcome) == pytest.approx(0.02)
    assert Goals().embedded(outcome) == Goals().cost(outcome) == 0.5
    provisioned = Goals(provisioned=True)
    assert (provisioned.cost(outcome), provisioned.spending.embedded(outcome)) == (0.0, 0.5)
