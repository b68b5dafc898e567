"""Evaluating candidates in processes of their own: what is recorded, what the memo saves, what stops it."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from redecode.optimizer.cases import MODE, select
from redecode.optimizer.errors import BadSpec, EngineGone, NoRuns, OptimizerError, ScorerFailed
from redecode.optimizer.evaluation.ladder import Ladder
from redecode.optimizer.evaluation.memo import Evaluator, Made, Sources
from redecode.optimizer.evaluation.process import Workers
from redecode.optimizer.evaluation.runs import alike
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.evaluation.worker import kind_of
from redecode.optimizer.objectives import Goals
from redecode.optimizer.spec import Case, load, space_of
from redecode.optimizer.study.search import Asked
from redecode.tracer import Store, instrument, plain, uninstrument
from redecode.tracer import conventions as c
from tests.optimizer.conftest import capitals, record

TUNING = """
from capitals import graph
from redecode.optimizer import Spec

def right(output, case):
    return output["capital"] == case.expected

def raises(output, case):
    raise KeyError("no such field")

spec = Spec(graph=graph, score=right, needs_expected=True)
broken = Spec(graph=graph, score=raises)
"""
POLITE: dict[str, Any] = {"wording": "Please name the capital of", "temperature": 0.0, "model": "m"}


@pytest.fixture
def here(folder: Path, recorded: Any, store: Path) -> Any:
    (folder / "tuning.py").write_text(TUNING)
    made = InProcess(Settings(spec="tuning:spec", store=store, source=store, concurrency=2, again_s=(0.01,)))
    yield made
    made.close()


def cases_of(store: Path, count: int) -> Any:
    return select(Store(store).runs(), load("tuning:spec"), "all", now_ns=0).search[:count]


def test_every_run_is_recorded_with_its_candidate_and_its_case(here: Any, store: Path) -> None:
    cases = cases_of(store, 3)
    outcomes = here.evaluate(Block(values=POLITE, cases=cases, labels={"study": "s", "trial": 4}))
    assert [o.quality for o in outcomes] == [1.0, 1.0, 1.0]
    assert [o.case for o in outcomes] == [c.id for c in cases]
    found = Store(store).load(outcomes[0].run_id)
    assert found.run.labels[MODE]["trial"] == 4 and found.run.labels[MODE]["case"] == cases[0].id
    assert (found.run.source_run_id, found.run.replay_mode) == (cases[0].id, MODE)
    assert found.run.input == cases[0].input
    assert outcomes[0].latency_s == pytest.approx(found.run.duration_s)
    assert outcomes[0].usage["m"].input_tokens == found.run.prompt_tokens > 0


def test_a_call_that_was_made_before_is_not_made_again(here: Any, recorded: Any, store: Path) -> None:
    cases = cases_of(store, 4)
    first = here.evaluate(Block(values=POLITE, cases=cases))
    # The process's first run is no run of a case: nothing is answered by what it had to wait for.
    assert sum(o.live for o in first) == len(recorded.requests) == 5 and all(o.memo == 0 for o in first)
    again = here.evaluate(Block(values=POLITE, cases=cases))
    assert len(recorded.requests) == 5
    assert [o.quality for o in again] == [o.quality for o in first]
    assert sum(o.memo for o in again) == 4 and sum(o.live for o in again) == 0
    assert {o.usage["m"].output_tokens for o in again} == {o.usage["m"].output_tokens for o in first}
    here.evaluate(Block(values={**POLITE, "temperature": 0.5}, cases=cases))
    assert len(recorded.requests) == 9


def test_an_answer_that_ended_by_itself_serves_lower_limits_that_it_keeps_below(
    folder: Path, store: Path, serve: Any, monkeypatch: Any
) -> None:
    text = (folder / "capitals.py").read_text()
    text = text.replace("temperature=knobs.temperature)", "temperature=knobs.temperature, max_tokens=knobs.limit)")
    text = text.replace('    model: str = "m"', '    model: str = "m"\n    limit: int = 64')
    (folder / "capitals.py").write_text(text)
    (folder / "tuning.py").write_text(TUNING)
    server = serve(capitals)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    record(importlib.import_module("capitals"), store, 6)
    made = InProcess(Settings(spec="tuning:spec", store=store, source=store, concurrency=1))
    cases = cases_of(store, 6)
    long = sum(len(str(case.expected)) >= 13 for case in cases)  # the server takes a character for a token
    assert 0 < long < len(cases)
    try:
        made.evaluate(Block(values={**POLITE, "limit": 64}, cases=cases))  # asks which engine is there
        for limit, live in ((64, 0), (32, 0), (13, long), (128, len(cases))):
            outcomes = made.evaluate(Block(values={**POLITE, "limit": limit}, cases=cases))
            assert [o.quality for o in outcomes] == [1.0] * len(cases)
            assert sum(o.live for o in outcomes) == live, limit
    finally:
        made.close()


CACHED = TUNING.replace(
    "from capitals import graph",
    """
from capitals import Context, State, answer
from langgraph.cache.memory import InMemoryCache
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy

builder = StateGraph(State, context_schema=Context)
builder.add_node("answer", answer, cache_policy=CachePolicy())  # by the state: it does not know the context
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile(name="capitals", cache=InMemoryCache())
""",
)


def test_a_graphs_own_cache_of_nodes_answers_no_other_candidate_and_is_left_as_it_was(
    folder: Path, recorded: Any, store: Path
) -> None:
    (folder / "tuning.py").write_text(CACHED)
    here = InProcess(Settings(spec="tuning:spec", store=store, source=store))
    try:
        cases = cases_of(store, 3)
        impolite = here.evaluate(Block(values={**POLITE, "wording": "Capital of"}, cases=cases))
        polite = here.evaluate(Block(values=POLITE, cases=cases))
    finally:
        here.close()
    assert [o.quality for o in (*impolite, *polite)] == [0.0] * 3 + [1.0] * 3
    recorded.requests.clear()
    tuning = importlib.import_module("tuning")
    for _ in range(2):
        tuning.graph.invoke(cases[0].input, context=tuning.Context())
    assert len(recorded.requests) == 1


def test_without_the_memo_every_call_is_made(here: Any, recorded: Any, store: Path) -> None:
    cases = cases_of(store, 2)
    first, second = (here.evaluate(Block(values=POLITE, cases=cases, memo=False)) for _ in range(2))
    # A process begins with a run that does not count: its first one is slow.
    assert [o.live for o in first] == [2, 1] and [o.live for o in second] == [1, 1]
    assert len(recorded.requests) == 5
    fills = [r for r in Store(store).runs() if r.labels.get(MODE, {}).get("fills")]
    assert len(fills) == 1 and fills[0].run_id not in {o.run_id for o in (*first, *second)}


def test_a_worker_that_is_killed_is_started_again_and_pays_for_nothing_twice(
    here: Any, folder: Path, recorded: Any, store: Path
) -> None:
    cases = cases_of(store, 4)
    hot = {**POLITE, "temperature": 0.5}  # draws without a seed: known only on the same case
    here.evaluate(Block(values=hot, cases=cases))
    asked = len(recorded.requests)
    deadly = "import os, pathlib\n\ndef right(output, case):\n    if not pathlib.Path('once').exists():\n"
    deadly += "        pathlib.Path('once').touch()\n        os.kill(os.getpid(), 9)\n"
    (folder / "tuning.py").write_text(TUNING.replace("def right(output, case):\n", deadly))
    workers = Workers(Settings(spec="tuning:spec", store=store, source=store, concurrency=2))
    try:
        outcomes = workers.evaluate(Block(values=hot, cases=cases))
    finally:
        workers.close()
    assert (folder / "once").exists()
    assert [o.quality for o in outcomes] == [1.0] * 4
    # Each of the two processes asks first which engine is there, two runs at a time.
    assert 0 < len(recorded.requests) - asked <= 4
    assert sum(o.memo for o in outcomes) >= 2


def test_an_engine_that_is_gone_is_said(here: Any, recorded: Any, store: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(EngineGone, match="start it again"):
        here.evaluate(Block(values=POLITE, cases=cases_of(store, 1)))


def test_a_scorer_that_raises_names_the_run(folder: Path, recorded: Any, store: Path) -> None:
    (folder / "tuning.py").write_text(TUNING)
    made = InProcess(Settings(spec="tuning:broken", store=store, source=store))
    try:
        with pytest.raises(ScorerFailed, match=r"KeyError on run [0-9a-f]{12}: 'no such field'"):
            made.evaluate(Block(values=POLITE, cases=cases_of(store, 1)))
    finally:
        made.close()


def test_a_candidate_whose_runs_fail_is_wrong_not_the_end(here: Any, store: Path) -> None:
    outcomes = here.evaluate(Block(values={**POLITE, "model": "missing"}, cases=cases_of(store, 2)))
    assert [o.loss for o in outcomes] == [1.0, 1.0]
    assert all("NotFoundError" in (o.error or "") for o in outcomes)


def test_a_candidate_that_the_context_does_not_take_is_refused(here: Any, store: Path) -> None:
    with pytest.raises(OptimizerError, match="wording"):
        here.evaluate(Block(values={**POLITE, "wording": "Shout"}, cases=cases_of(store, 1)))


CHECKED = """
import enum
from dataclasses import dataclass


class Wording(enum.Enum):
    SHORT = "Capital of"
    POLITE = "Please name the capital of"


@dataclass
class Context:
    wording: Wording = Wording.SHORT
    temperature: float = 0.0
    model: str = "m"

    def __post_init__(self):
        if self.wording is Wording.SHORT and self.model == "m":
            raise ValueError("m wants more words")


"""


def test_a_worker_gives_a_dataclass_its_enum_and_says_what_its_checks_refuse(
    folder: Path, recorded: Any, store: Path
) -> None:
    """A context may check one field against another: such a candidate is out, and the study goes on."""
    text = (folder / "capitals.py").read_text()
    text = text[: text.index("class Context")] + CHECKED + text[text.index("def answer") :]
    (folder / "capitals.py").write_text(text.replace("{knobs.wording}", "{knobs.wording.value}"))
    (folder / "tuning.py").write_text(TUNING)
    space, _ = space_of(load("tuning:spec"))
    workers = Workers(Settings(spec="tuning:spec", store=store, source=store))
    ladder = Ladder(evaluates=workers, space=space, goals=Goals(), cases=cases_of(store, 1))
    try:
        refused = ladder.one(Asked(0, {"wording": "Capital of"}, trial=None), [])  # type: ignore[arg-type]
        taken = ladder.one(Asked(1, {"wording": POLITE["wording"]}, trial=None), [])  # type: ignore[arg-type]
    finally:
        workers.close()
    assert refused.failed == "Context: m wants more words"
    assert [(o.error, o.quality) for o in taken.outcomes] == [(None, 1.0)]
    assert kind_of(BadSpec("")) == "candidate" and kind_of(NoRuns("")) == "other"


def test_an_answer_from_the_memo_is_recorded_with_its_tokens(
    folder: Path, recorded: Any, store: Path, serve: Any, monkeypatch: Any
) -> None:
    """So that a run answered from the memo can be replayed and simulated like any other."""
    monkeypatch.setenv("OPENAI_BASE_URL", serve(capitals, vllm=True).base_url)
    (folder / "tuning.py").write_text(TUNING)
    made = InProcess(Settings(spec="tuning:spec", store=store, source=store, concurrency=1))
    try:
        first = made.evaluate(Block(values=POLITE, cases=cases_of(store, 2)))
        again = made.evaluate(Block(values=POLITE, cases=cases_of(store, 2)))
    finally:
        made.close()
    assert [o.memo for o in again] == [1, 1]
    for a, b in zip(first, again, strict=True):
        (then,), (now,) = Store(store).load(str(a.run_id)).decodes, Store(store).load(str(b.run_id)).decodes
        assert then.sampled_ids and now.sampled_ids == then.sampled_ids
        assert now.prompt_ids == then.prompt_ids == (1, 2, 3)
        assert b.latency_s >= (then.e2e_ns or 0) / 1e9


@pytest.mark.parametrize(
    ("made", "tokens", "room", "asked", "same"),
    [
        (64, 5, None, 64, True),
        (64, None, 900, 64, True),  # it was cut off at 64, and is again
        (64, None, 900, 32, False),
        (64, 5, None, 6, True),
        (64, 5, None, 5, False),  # would it say why it ended?
        (64, 5, None, 65, False),  # the engine may refuse that
        (64, 5, 900, 900, True),
        (64, 5, 900, 901, False),
        (None, 5, 900, 64, True),
        (None, 5, None, 64, False),
        (64, 5, 900, None, False),  # the engine's own limit
        (None, None, None, None, True),
    ],
)
def test_which_limits_an_answer_serves(
    made: int | None, tokens: int | None, room: int | None, asked: int | None, same: bool
) -> None:
    known: Any = None
    assert Made(made, tokens, room, known).answers(asked) is same


BUSY = """
import capitals
from redecode.optimizer import Spec

asked, running, seen = capitals.answer, [], []

def answer(state, runtime):
    running.append(1)
    try:
        return asked(state, runtime)
    finally:
        running.pop()

def right(output, case):
    seen.append(len(running))
    return output["capital"] == case.expected

builder = capitals.StateGraph(capitals.State, context_schema=capitals.Context)
builder.add_node("answer", answer)
builder.add_edge(capitals.START, "answer")
builder.add_edge("answer", capitals.END)
spec = Spec(graph=builder.compile(name="capitals"), score=right, needs_expected=True)
"""


def test_runs_are_judged_when_none_goes_on_any_more(folder: Path, recorded: Any, store: Path) -> None:
    """A scorer that takes its time, a judge say, would be a part of the latency of the others."""
    (folder / "tuning.py").write_text(BUSY)
    made = InProcess(Settings(spec="tuning:spec", store=store, source=store, concurrency=3))
    try:
        outcomes = made.evaluate(Block(values=POLITE, cases=cases_of(store, 6)))
    finally:
        made.close()
    assert [o.quality for o in outcomes] == [1.0] * 6
    assert importlib.import_module("tuning").seen == [0] * 6


def test_another_engine_of_the_same_model_is_another_engine(
    folder: Path, store: Path, serve: Any, monkeypatch: Any
) -> None:
    wrong = serve(lambda body: "nowhere")
    text = (folder / "capitals.py").read_text()
    text = text.replace("temperature=knobs.temperature)", "temperature=knobs.temperature, base_url=knobs.url)")
    (folder / "capitals.py").write_text(text.replace('    model: str = "m"', '    model: str = "m"\n    url: str = ""'))
    (folder / "tuning.py").write_text(TUNING)
    server = serve(capitals)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    agent = importlib.import_module("capitals")
    with monkeypatch.context() as here:
        here.setattr(agent, "Context", partial(agent.Context, url=server.base_url))
        record(agent, store, 4)
    made = InProcess(Settings(spec="tuning:spec", store=store, source=store, concurrency=1))
    cases = cases_of(store, 4)
    try:
        found = [
            [o.quality for o in made.evaluate(Block(values={**POLITE, "url": one.base_url}, cases=cases))]
            for one in (server, wrong, server)
        ]
    finally:
        made.close()
    right, wrongs = [1.0] * len(cases), [0.0] * len(cases)
    # It is met by a run that counts in nothing.
    assert found == [right, wrongs, right] and len(wrong.requests) == 1 + len(cases)


TICKS = """
import itertools
from typing import Annotated, TypedDict
import operator
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

COUNT = itertools.count()

@tool
def tick() -> int:
    "counts"
    return next(COUNT)

class State(TypedDict, total=False):
    n: int
    ticks: Annotated[list, operator.add]

builder = StateGraph(State)
builder.add_node("one", lambda state: {"ticks": [tick.invoke({})]})
builder.add_conditional_edges(START, lambda state: [Send("one", {"n": n}) for n in range(6)], ["one"])
builder.add_edge("one", END)
graph = builder.compile(name="ticks")
"""


def test_of_equal_tool_calls_side_by_side_each_gets_its_own_answer(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order in which their threads arrive."""
    (folder / "ticks.py").write_text(TICKS)
    module = importlib.import_module("ticks")
    instrument(store)
    try:
        then = module.graph.invoke({})["ticks"]
    finally:
        uninstrument()
    recorded = Store(store).load(next(iter(Store(store).runs())).run_id)
    keys = [t.step_key for t in recorded.tools]
    assert sorted(then) == list(range(6)) and len(set(keys)) == 6
    found: dict[str, Any] = {}
    player = Evaluator(None, (), Sources(Store(store)))
    labels = json.dumps({MODE: {"case": recorded.run.run_id}})
    for key in reversed(keys):
        event = SimpleNamespace(attributes={c.LABELS: labels})
        root = SimpleNamespace(run_id="r", event=event, replays=lambda *_: None)
        span: Any = SimpleNamespace(step_key=key, root=root, set=lambda _: None)
        answer = player.tool(span, "tick", {})
        found[key] = getattr(answer, "value", None)
    assert found == {t.step_key: t.result for t in recorded.tools}


def test_without_a_scorer_messages_are_compared_by_what_they_say() -> None:
    def said(*texts: str) -> list[Any]:
        return [HumanMessage("hi"), *(AIMessage(text, response_metadata={"id": str(uuid4())}) for text in texts)]

    for message in (then := said("one", "two")):
        message.id = str(uuid4())
    case = Case(id="c", input={"messages": plain(said()[:1])}, output=plain({"messages": then, "n": 1}))
    assert alike({"messages": said("one", "two"), "n": 1}, case) == 1.0
    assert alike({"messages": said("one", "three"), "n": 1}, case) == 0.5
    called = AIMessage("", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "a"}])
    again = AIMessage("", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "b"}])
    other = AIMessage("", tool_calls=[{"name": "f", "args": {"x": 2}, "id": "a"}])
    of = Case(id="c", input=None, output=plain({"messages": [called]}))
    assert (alike({"messages": [again]}, of), alike({"messages": [other]}, of)) == (1.0, 0.0)
