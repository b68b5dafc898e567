"""FM calls that failed for one candidate fail for the others, too: at the same ask of the same case, and only there."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redecode import tracer
from redecode.optimizer.cases import of_runs
from redecode.optimizer.errors import EngineGone
from redecode.optimizer.evaluation.failures import Ask, Asks
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.spec import Case
from redecode.tracer import Store
from tests.tracer.decodes.server import Cut, Reply, Request, Server

PROGRAM = """
from functools import cache
from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from openai import AsyncOpenAI, OpenAI, OpenAIError
from pydantic import BaseModel
from redecode.optimizer import Spec
from typing_extensions import TypedDict

CLIENTS = []

@cache
def client(**own):
    CLIENTS.append(OpenAI(**own))
    return CLIENTS[-1]

class State(TypedDict, total=False):
    question: str
    answer: str

class Context(BaseModel):
    attempts: int = 1
    retries: int = 0
    way: Literal["whole", "streamed", "async"] = "whole"
    says: Literal["its own", "the same"] = "its own"
    limit: int = 64
    temperature: float = 0.0
    patience_s: float = 30.0

async def answer(state: State, runtime: Runtime[Context]) -> State:
    had = runtime.context
    own = {"max_retries": had.retries, "timeout": had.patience_s}
    said = state["question"] if had.says == "its own" else "anything"
    asked = {"model": "m", "messages": [{"role": "user", "content": said}]}
    asked |= {"temperature": had.temperature, "max_tokens": had.limit}
    parts = []
    for left in reversed(range(had.attempts)):
        try:
            if had.way == "async":
                async with AsyncOpenAI(**own) as awaited:
                    found = await awaited.chat.completions.create(**asked)
                return {"answer": found.choices[0].message.content}
            found = client(**own).chat.completions.create(**asked, stream=had.way == "streamed")
            if had.way != "streamed":
                return {"answer": found.choices[0].message.content}
            for chunk in found:
                parts.append(chunk.choices[0].delta.content)
            return {"answer": "".join(parts)}
        except OpenAIError as error:
            parts.append("|")
            if not left:
                error.add_note("".join(parts))
                raise

builder = StateGraph(State, context_schema=Context)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile(name="tries")
spec = Spec(graph=graph, score=lambda output, case: 1.0)
"""
SOON = {"retry-after-ms": "40"}


def status(number: int, **error: Any) -> Reply:
    return Reply.of({"error": {"message": f"this is {number}", **error}}, number, **SOON)


def words(*last: Any, done: bool = True) -> Reply:
    """A stream of three words, and then what is given."""

    def events() -> Iterator[Any]:
        for n, word in enumerate(("one ", "two ", "three")):
            ends = "stop" if n == 2 and done else None
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": ends}
            yield {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            yield 0.02
        for one in last:
            if isinstance(one, Exception):
                raise one
            yield one

    return Reply.events(events(), done=done)


def _same(reply: Reply) -> Reply:
    return reply


@dataclass
class Engine:
    """Answers in order what it is told to say to a question, and then well."""

    server: Server
    fingerprint: str | None = None
    says: dict[str, list[Callable[[], Reply] | None]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def __call__(self, request: Request) -> Reply:
        question = request.body["messages"][-1]["content"]
        self.asked[question] += 1
        if (left := self.says.get(question)) and (reply := left.pop(0)) is not None:
            return reply()
        if request.body.get("stream"):
            return words()
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        found = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return Reply.of({**found, "usage": usage, "system_fingerprint": self.fingerprint})

    def will(self, case: Case, *replies: Reply | Callable[[], Reply]) -> None:
        """What it says to the next asks of a case."""
        self.says[case.input["question"]] = [r if callable(r) else partial(_same, r) for r in replies]


@dataclass
class Study:
    """Candidates on cases. Runs that do not count are of the first one, for which nothing fails."""

    store: Path
    engine: Engine
    cases: list[Case]
    here: InProcess | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def run(self, cases: Sequence[Case] | None = None, *, memo: bool = True, **values: Any) -> list[Outcome]:
        if self.here is None:
            given = {"concurrency": 1, "again_s": (0.01,), **self.settings}
            self.here = InProcess(Settings(spec="tries:spec", store=self.store, source=self.store, **given))
        return self.here.evaluate(Block(values=values, cases=self.cases if cases is None else cases, memo=memo))

    def end(self) -> None:
        """The process ends; the next run is in a new one."""
        if self.here is not None:
            self.here.close()
        self.here = None


@pytest.fixture
def study(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """Six runs of an agent that may ask again, of an engine that fails as it is told to."""
    (tmp_path / "tries.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    server = Server(lambda request: engine(request))
    engine = Engine(server)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    module = importlib.import_module("tries")
    tracer.instrument(store)
    for n in range(6):
        asyncio.run(module.graph.ainvoke({"question": f"question {n}"}, context=module.Context()))
    tracer.uninstrument()
    engine.asked.clear()
    made = Study(store, engine, of_runs(Store(store).runs())[:6])
    yield made
    made.end()
    for client in module.CLIENTS:
        client.close()
    server.close()
    sys.modules.pop("tries", None)


def failed(outcomes: Sequence[Outcome]) -> list[str | None]:
    return [None if o.error is None else o.error.partition(":")[0] for o in outcomes]


def calls(outcomes: Sequence[Outcome]) -> list[int]:
    return [o.usage["m"].calls for o in outcomes]


@pytest.mark.parametrize("order", [(1, 3), (3, 1)], ids=str)
@pytest.mark.parametrize(
    ("code", "owner", "fingerprint"),
    [(500, "someone", None), (429, "someone", "fp"), (400, "vllm", None), (500, "vllm", "fp"), (408, "someone", None)],
)
def test_whoever_comes_first_each_candidate_has_its_own_failures(
    study: Study, order: tuple[int, int], code: int, owner: str, fingerprint: str | None
) -> None:
    study.engine.server.owner, study.engine.fingerprint = owner, fingerprint
    flaky, worse = study.cases[2], study.cases[4]
    # A vLLM that refuses is asked again without what the tracer had added.
    bad = [status(code)] * (2 if (owner, code) == ("vllm", 400) else 1)
    study.engine.will(flaky, *bad)
    study.engine.will(worse, *bad * 3)
    found = {attempts: study.run(attempts=attempts) for attempts in order}
    kind = {500: "InternalServerError", 429: "RateLimitError", 400: "BadRequestError", 408: "APIStatusError"}[code]
    assert failed(found[1]) == [None, None, kind, None, kind, None]
    assert failed(found[3]) == [None, None, None, None, kind, None]
    assert calls(found[1]) == [1] * 6 and calls(found[3]) == [1, 1, 2, 1, 3, 1]
    asked = study.engine.asked.copy()
    again = {attempts: study.run(attempts=attempts) for attempts in order}
    assert study.engine.asked == asked
    for attempts in order:
        assert failed(again[attempts]) == failed(found[attempts])
        assert [o.error for o in again[attempts]] == [o.error for o in found[attempts]]
        assert calls(again[attempts]) == calls(found[attempts])
        assert [o.memo for o in again[attempts]] == calls(again[attempts])
        assert not any(o.live for o in again[attempts])
    # One ask more than anybody has made goes live, and is known then.
    (more,) = study.run([worse], attempts=4)
    assert (failed([more]), more.live, more.memo) == ([None], 1, 3)
    (more,) = study.run([worse], attempts=4)
    assert (failed([more]), more.live, more.memo) == ([None], 0, 4)


def test_another_process_gets_the_same_failures_also_where_its_first_call_fails(study: Study) -> None:
    for case in study.cases[1:4]:
        study.engine.will(case, status(503))
    then = study.run()
    assert failed(then) == [None, *["InternalServerError"] * 3, None, None]
    study.end()
    study.engine.will(study.cases[0], status(500))
    asked = study.engine.asked.total()
    now = study.run()
    assert failed(now) == failed(then) and sum(o.memo for o in now) == 6
    assert study.engine.asked.total() == asked + 1  # its first run


def test_an_evaluation_without_the_memo_tells_it_what_failed(study: Study) -> None:
    study.run(study.cases[:1])  # tells which engine there is
    study.engine.will(study.cases[1], status(500))
    assert failed(study.run(memo=False)) == [None, "InternalServerError", *[None] * 4]
    assert failed(study.run(memo=False)) == [None] * 6  # a draw of its own
    assert failed(study.run()) == [None, "InternalServerError", *[None] * 4]


def test_what_all_cases_ask_fails_for_those_for_whom_it_failed(study: Study) -> None:
    study.run(study.cases[:1])  # tells which engine there is
    study.run(study.cases[:1], says="the same", memo=False)
    study.engine.says["anything"] = [partial(status, 500) if n in (1, 4) else None for n in range(6)]
    then = study.run(says="the same", memo=False)
    asked = study.engine.asked.copy()
    assert failed(then) == [None, "InternalServerError", None, None, "InternalServerError", None]
    assert failed(study.run(says="the same")) == failed(then) and study.engine.asked == asked


def test_a_stream_that_breaks_breaks_where_it_broke(study: Study) -> None:
    event = {"error": {"message": "the engine died", "type": "InternalServerError", "code": 500}}
    study.engine.will(study.cases[1], lambda: words(event, done=False))
    twice = study.run(way="streamed", attempts=2)
    once = study.run(way="streamed", attempts=1)
    assert failed(twice) == [None] * 6 and calls(twice) == [1, 2, 1, 1, 1, 1]
    assert failed(once) == [None, "APIError", *[None] * 4] and sum(o.memo for o in once) == 6
    run = Store(study.store).load(str(once[1].run_id))
    (decode,) = run.decodes
    assert decode.output[0]["content"] == "one two three" and decode.error == "APIError: the engine died"
    assert once[1].latency_s > 0.06
    assert Store(study.store).load(str(twice[1].run_id)).run.output["answer"] == "one two three|one two three"


def test_a_call_that_took_too_long_takes_as_long(study: Study) -> None:
    study.engine.will(study.cases[1], lambda: Reply([0.6], headers={"content-type": "application/json"}))
    then = study.run(patience_s=0.2)
    now = study.run(patience_s=0.2)
    assert failed(then) == failed(now) == [None, "APITimeoutError", *[None] * 4]
    assert now[1].memo == 1 and now[1].latency_s >= 0.2 and now[1].error == then[1].error


def test_what_a_client_tried_itself_is_one_call_and_in_its_time(study: Study) -> None:
    study.engine.will(study.cases[1], status(500), status(503), status(429))
    study.engine.will(study.cases[2], status(500), status(503))
    then = study.run(retries=2)
    asked = study.engine.asked.copy()
    now = study.run(retries=2)
    assert failed(then) == failed(now) == [None, "RateLimitError", *[None] * 4]
    assert calls(then) == calls(now) == [1] * 6 and study.engine.asked == asked
    for a, b in zip(then[1:3], now[1:3], strict=True):
        assert b.memo == 1 and b.latency_s >= 0.08 and abs(a.latency_s - b.latency_s) < 0.08


@pytest.mark.parametrize(
    "reply",
    [status(401), status(404), status(429, code="insufficient_quota")],
    ids=["key", "model", "quota"],
)
def test_what_is_mended_outside_does_not_fail_again(study: Study, reply: Reply) -> None:
    study.engine.will(study.cases[1], reply)
    assert failed(study.run())[1] is not None
    (mended,) = study.run([study.cases[1]])
    assert (mended.error, mended.live) == (None, 1)
    (known,) = study.run([study.cases[1]])
    assert (known.error, known.memo) == (None, 1)


def hangs_up() -> Reply:
    raise Cut


def test_a_dropped_connection_is_a_failure_of_an_engine_that_is_there(study: Study) -> None:
    """And no call to be paid is lost of it; whether it is dropped is drawn anew."""
    case = study.cases[1]
    study.engine.will(case, hangs_up)
    outcomes = study.run()
    assert failed(outcomes) == [None, "APIConnectionError", *[None] * 4]
    assert sum(study.engine.asked.values()) == 7 == sum(o.live for o in outcomes)  # with one that does not count
    again = study.run()
    assert failed(again) == [None] * 6 and [o.memo for o in again] == [1, 0, 1, 1, 1, 1]


def test_a_stream_that_is_cut_is_remembered(study: Study) -> None:
    study.engine.will(study.cases[1], lambda: words(Cut(), done=False))
    first, again = study.run(way="streamed"), study.run(way="streamed")
    assert failed(first)[1] == "APIConnectionError" and failed(first) == failed(again)
    assert sum(o.memo for o in again) == 6 and failed(first).count(None) == 5


def test_an_engine_that_is_not_reached_is_not_there(study: Study) -> None:
    study.run(study.cases[:1])
    study.engine.server.close()
    with pytest.raises(EngineGone):
        study.run([study.cases[2]], way="async")  # which connects anew


def test_one_that_a_candidate_asked_again_itself_fails_for_nobody(study: Study) -> None:
    study.engine.will(study.cases[1], hangs_up)
    assert calls(study.run(attempts=2)) == [1, 2, 1, 1, 1, 1]
    (once,) = study.run([study.cases[1]], attempts=1)
    assert (once.error, once.memo) == (None, 1)


def test_a_call_that_the_end_of_its_run_cut_short_is_asked_again(study: Study) -> None:
    study.settings["timeout_s"] = 1.0
    study.engine.will(study.cases[1], lambda: Reply([3.0], headers={"content-type": "application/json"}))
    assert failed(study.run(study.cases[:2], way="async")) == [None, "TimeoutError"]
    (again,) = study.run([study.cases[1]], way="async")
    assert (again.error, again.live) == (None, 1)


def test_a_call_whose_failure_cannot_be_made_again_is_always_live(study: Study) -> None:
    case = study.cases[1]
    study.engine.will(case, Reply(b"<html>", headers={"content-type": "application/json"}))
    assert study.run()[1].error is not None
    for _ in range(2):
        outcomes = study.run()
        assert failed(outcomes) == [None] * 6
        assert [o.live for o in outcomes] == [0, 1, 0, 0, 0, 0]


def test_under_another_limit_it_is_another_draw(study: Study) -> None:
    case = study.cases[1]
    study.run(study.cases[:1])
    study.engine.will(case, status(500))
    assert failed(study.run([case], limit=64)) == ["InternalServerError"]
    (lower,) = study.run([case], limit=32)
    assert (lower.error, lower.live) == (None, 1)
    assert failed(study.run([case], limit=64)) == ["InternalServerError"]
    (lower,) = study.run([case], limit=16)  # what was answered under 32 serves it, at the same ask
    assert (lower.error, lower.memo) == (None, 1)


def test_one_that_draws_at_random_is_another_call_at_each_step(study: Study) -> None:
    study.engine.will(study.cases[1], status(500))
    assert calls(study.run(attempts=2, temperature=0.7)) == [1, 2, 1, 1, 1, 1]
    asked = study.engine.asked.copy()
    once = study.run(attempts=1, temperature=0.7)
    assert failed(once) == [None, "InternalServerError", *[None] * 4] and study.engine.asked == asked


def test_asks_that_never_failed_are_one() -> None:
    asks, first, second = Asks(), Ask("one", 0, 64), Ask("one", 1, 64)
    asks.learn(first, None)
    assert not asks.is_open(second) and not asks.is_open(Ask("other", 0, None))
    failure: Any = object()
    asks.learn(first, failure)  # the first draw counts, and from now on each ask is known alone
    assert asks.failure(first) is None and not asks.is_open(first)
    assert asks.is_open(second) and asks.is_open(Ask("other", 0, 64))
    asks.learn(second, failure)
    assert asks.failure(second) is failure
