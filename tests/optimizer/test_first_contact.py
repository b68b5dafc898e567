"""What a process meets for the first time is met by a run that counts in no latency."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.cases import MODE, select
from redecode.optimizer.evaluation.memo import FIRST
from redecode.optimizer.evaluation.process import Workers
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.spec import load
from redecode.tracer import Store
from tests.optimizer.conftest import capitals

SLOW_S = 0.6
TUNING = """
import enum
import gc
import os
from dataclasses import dataclass, field

import capitals
from langchain_openai import ChatOpenAI
from redecode.optimizer import Spec

class Tone(enum.Enum):
    WARM = 1
    COLD = 2

@dataclass
class Context:
    engine: str = "A"
    tone: Tone = Tone.WARM
    polite: bool = True
    temperature: float = 0.0
    more: dict = field(default_factory=dict)

def answer(state, runtime: capitals.Runtime[Context]):
    had = runtime.context
    fm = ChatOpenAI(model="m", temperature=had.temperature, base_url=os.environ[had.engine])
    please = "Please name the capital of" if had.polite else "Name the capital of"
    return {"capital": str(fm.invoke(f"{please} {state['country']}").content)}

builder = capitals.StateGraph(capitals.State, context_schema=Context)
builder.add_node("answer", answer)
builder.add_edge(capitals.START, "answer")
builder.add_edge("answer", capitals.END)
spec = Spec(graph=builder.compile(name="capitals"), score=lambda output, case: output["capital"] == case.expected)
frozen = Spec(graph=spec.graph, score=lambda output, case: gc.get_freeze_count() > 50_000)
"""


class Cold:
    """Answers, the first time after a while."""

    def __init__(self) -> None:
        self.first = True

    def __call__(self, body: dict[str, Any]) -> str:
        if self.first:
            self.first = False
            time.sleep(SLOW_S)
        return capitals(body)


@pytest.fixture
def engines(folder: Path, recorded: Any, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two of them, each slow at first; runs of the agent are recorded."""
    (folder / "tuning.py").write_text(TUNING)
    made = {name: serve(Cold()) for name in ("A", "B")}
    for name, server in made.items():
        monkeypatch.setenv(name, server.base_url)
    return made


@pytest.fixture
def here(engines: dict[str, Any], store: Path) -> Iterator[InProcess]:
    made = InProcess(Settings(spec="tuning:spec", store=store, source=store))
    yield made
    made.close()


def cases_of(store: Path, count: int = 4) -> Any:
    return select(Store(store).runs(), load("tuning:spec"), "all", now_ns=0, held_out=0).search[:count]


def firsts(store: Path) -> int:
    return sum(FIRST in r.labels.get(MODE, {}) for r in Store(store).runs())


@pytest.mark.parametrize("memo", [True, False], ids=["search", "decision"])
def test_the_first_candidate_on_another_engine_is_not_charged_with_the_first_contact(
    here: InProcess, engines: dict[str, Any], store: Path, memo: bool
) -> None:
    cases = cases_of(store)

    def ran(engine: str) -> list[Outcome]:
        return here.evaluate(Block(values={"engine": engine}, cases=cases, memo=memo))

    for number, name in enumerate(engines, 1):
        outcomes = ran(name)
        assert [o.quality for o in outcomes] == [1.0] * 4 and max(o.latency_s for o in outcomes) < SLOW_S
        # What it asked is made, and paid for, and no run's.
        assert [o.live for o in outcomes] == [2, 1, 1, 1] and len(engines[name].requests) == 5
        assert [o.usage["m"].calls for o in outcomes] == [1] * 4 and firsts(store) == number
    for name, server in engines.items():
        ran(name)
        assert len(server.requests) == (5 if memo else 9) and firsts(store) == 2


@pytest.mark.parametrize(("evaluates", "frozen"), [(Workers, 1.0), (InProcess, 0.0)], ids=["worker", "here"])
def test_no_run_of_a_worker_waits_for_a_collection_of_all_that_was_imported(
    engines: dict[str, Any], store: Path, evaluates: type[Workers | InProcess], frozen: float
) -> None:
    """It takes a third of a second, of whichever candidate's runs go on just then."""
    made = evaluates(Settings(spec="tuning:frozen", store=store, source=store))
    try:
        outcomes = made.evaluate(Block(values={"engine": "A"}, cases=cases_of(store, 2)))
    finally:
        made.close()
    assert [o.quality for o in outcomes] == [frozen] * 2


def test_values_that_may_choose_what_is_met_are_met_once_each_and_numbers_are_not(
    here: InProcess, engines: dict[str, Any], store: Path
) -> None:
    tuning, cases = importlib.import_module("tuning"), cases_of(store, 1)
    steps: list[tuple[dict[str, Any], int]] = [
        ({"temperature": 0.0}, 1),  # of the process
        ({"temperature": 0.5}, 1),
        ({"polite": False}, 2),
        ({"polite": True, "tone": tuning.Tone.COLD, "more": {"url": None}}, 3),  # three at once
        ({"polite": False, "tone": tuning.Tone.COLD}, 3),
        ({"tone": tuning.Tone.WARM, "temperature": 0.7}, 4),
        ({"more": {"url": "x"}}, 5),
        ({"more": {"url": None}}, 5),
    ]
    found = []
    for values, _ in steps:
        here.evaluate(Block(values=values, cases=cases))
        found.append(firsts(store))
    assert found == [count for _, count in steps]
    here.evaluate(Block(values={"engine": "B"}, cases=cases, recorded=True))
    here.evaluate(Block(values={"engine": "B"}, cases=()))
    assert firsts(store) == 5 and not engines["B"].requests  # nothing ran


def test_what_the_memo_knows_is_not_asked_anew_by_a_run_that_meets_something(
    here: InProcess, engines: dict[str, Any], store: Path
) -> None:
    """Of a knob that no call says: the engine is known, and has answered that."""
    tuning, cases = importlib.import_module("tuning"), cases_of(store, 2)
    here.evaluate(Block(values={"tone": tuning.Tone.WARM}, cases=cases))
    asked = len(engines["A"].requests)
    outcomes = here.evaluate(Block(values={"tone": tuning.Tone.COLD}, cases=cases))
    assert len(engines["A"].requests) == asked and firsts(store) == 2
    assert [(o.live, o.memo) for o in outcomes] == [(0, 2), (0, 1)]


def test_a_candidate_that_is_refused_has_met_nothing(here: InProcess, engines: dict[str, Any], store: Path) -> None:
    cases = cases_of(store, 1)
    here.evaluate(Block(values={"engine": "A"}, cases=cases))
    failed = here.evaluate(Block(values={"engine": "unknown"}, cases=cases))
    assert "KeyError" in str(failed[0].error) and firsts(store) == 2
    assert here.evaluate(Block(values={"engine": "B"}, cases=cases))[0].latency_s < SLOW_S
