"""docs/examples/triage.py: format, repair and cache of a node as knobs; what a cache holds when a case begins."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.managed import RemainingSteps
from pydantic import BaseModel
from typer.testing import CliRunner

from redecode import tracer
from redecode.cli.main import app
from redecode.optimizer.caching import CachedStep, CachingError, HashedNgrams, NeverCached, Setting
from redecode.optimizer.caching.steps import Elsewhere, elsewhere
from redecode.optimizer.cases import MODE, of_runs, past_of, select
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.evaluation.states import state_of
from redecode.optimizer.evaluation.warming import Past
from redecode.optimizer.formats import FORMATS
from redecode.optimizer.spec import Case, load
from redecode.tracer import SpanKind, Store
from redecode.tracer import conventions as c

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "triage.py"
TICKETS = ("printer smokes now", "printer is out of paper", "screen flickers", "screen burns now", "mouse is dirty")


def truth(ticket: str) -> dict[str, Any]:
    return {"product": ticket.split()[0], "urgent": "now" in ticket}


def sorts(body: dict[str, Any]) -> str:
    """Writes every format well but YAML, which it puts into a fence, and XML, which it breaks off."""
    said = str(body["messages"][0]["content"])
    ticket = next(line for line in said.splitlines() if line.startswith("Ticket: ")).removeprefix("Ticket: ")
    name = next(n for n, form in FORMATS.items() if f"Answer in {form.title} " in said)
    text = FORMATS[name].render(truth(ticket))
    if name == "yaml":
        text = f"```yaml\n{text}\n```"
    return text[:-6] if name == "xml" else text


@pytest.fixture
def triage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example, in a folder of its own, with vectors that need no weights."""
    (tmp_path / "triage.py").write_text(EXAMPLE.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.util.spec_from_file_location("triage", tmp_path / "triage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["triage"] = module
    spec.loader.exec_module(module)
    module.sorted_before._given = HashedNgrams()
    yield module
    sys.modules.pop("triage", None)


@pytest.fixture
def server(triage: Any, store: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three rounds of the same five tickets, the second of another customer."""
    server = serve(sorts)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    tracer.instrument(store)
    try:
        for customer in ("ann", "bob", "ann"):
            for ticket in TICKETS:
                config = {"metadata": {c.GIVEN_LABELS: {"expected": truth(ticket)}}}
                given = {"customer": customer, "ticket": ticket}
                triage.graph.invoke(given, config, context=triage.Context())
    finally:
        tracer.uninstrument()
    server.requests.clear()
    return server


def test_formats_and_repair_are_searched_from_the_command_line(triage: Any, server: Any, store: Path) -> None:
    knobs = ("--knob", "format=json,yaml,xml,slots", "--knob", "repair")
    options = (
        "--runs",
        "all",
        "--workers",
        "0",
        "--held-out",
        "0",
        "--cases",
        "3",
        "--store",
        str(store),
        "--json",
        *knobs,
    )
    result = CliRunner().invoke(app, ["tune", "triage:spec", *options], catch_exceptions=False)
    assert result.stdout, result.output
    found = {
        (t["candidate"]["format"], t["candidate"]["repair"]): t["measured"]["error"]
        for t in json.loads(result.stdout)["trials"]
    }
    assert len(found) == 12
    assert {found["json", r] for r in ("none", "repair", "reask")} == {0.0}
    assert {found["slots", r] for r in ("none", "repair", "reask")} == {0.0}
    assert (found["yaml", "none"], found["yaml", "repair"], found["yaml", "reask"]) == (1.0, 0.0, 0.0)
    assert {found["xml", r] for r in ("none", "repair", "reask")} == {1.0}  # asked again it does the same
    assert any(len(r["messages"]) == 3 for r in server.requests)


def evaluated(store: Path, *, withheld: Any = (), **values: Any) -> dict[str, Any]:
    cases = select(Store(store).runs(), load("triage:spec"), "all", now_ns=0, held_out=0).search
    assert len(cases) == 15  # what repeats an input is kept: a cache would have nothing to do
    process = InProcess(Settings(spec="triage:spec", store=store, source=store, concurrency=3, again_s=(0.01,)))
    try:
        outcomes = process.evaluate(Block(values=values, cases=cases, withheld=withheld))
    finally:
        process.close()
    order = sorted(cases, key=lambda k: k.started_ns)
    return {f"{n // 5}{n % 5}": next(o for o in outcomes if o.case == k.id) for n, k in enumerate(order)}


def test_hits_are_where_a_cache_in_use_would_have_had_them(triage: Any, server: Any, store: Path) -> None:
    outcomes = evaluated(store, cache="exact")
    assert {place for place, o in outcomes.items() if o.cached} == {f"2{n}" for n in range(5)}
    assert all(o.quality == 1.0 for o in outcomes.values())
    assert all(not o.usage for place, o in outcomes.items() if place[0] == "2")
    hit = Store(store).load(outcomes["20"].run_id)
    assert [s.kind for s in hit.spans if s.name == "sort"][-1] is SpanKind.CACHE and not hit.decodes
    assert (hit.run.replay_mode, hit.run.source_run_id) == (MODE, hit.run.labels[MODE]["case"])
    # Each of the first round was run once more to have something to read; that is paid for, and in nobody's costs.
    assert sum(o.live + o.memo for o in outcomes.values()) == 15 + 1  # a process begins with one more
    assert sum(sum(u.calls for u in o.usage.values()) for o in outcomes.values()) == 10
    assert sum(r.labels.get(MODE, {}).get("fills", False) for r in Store(store).runs()) == 5 + 1


def test_without_a_cache_nothing_is_read_or_run_first(triage: Any, server: Any, store: Path) -> None:
    outcomes = evaluated(store, cache="none")
    assert [o.cached for o in outcomes.values()] == [0] * 15
    assert sum(o.live + o.memo for o in outcomes.values()) == 15 + 1  # a process begins with one more


def test_what_is_alike_gets_the_candidates_own_answer_to_the_other(triage: Any, server: Any, store: Path) -> None:
    outcomes = evaluated(store, cache="semantic", threshold=0.2)
    # Of the first round's "printer is out of paper" the cache knows "printer smokes now": urgent, says the candidate.
    assert outcomes["01"].cached == 1 and outcomes["01"].quality == 0.0
    assert outcomes["00"].cached == 0 and outcomes["00"].quality == 1.0
    strict = evaluated(store, cache="semantic", threshold=0.99)
    assert {place for place, o in strict.items() if o.cached} == {f"2{n}" for n in range(5)}


def test_what_is_held_out_leaves_nothing_for_the_search(triage: Any, server: Any, store: Path) -> None:
    spec = load("triage:spec")
    past = past_of(Store(store).runs(), spec)
    ordered = [k.id for k in sorted(past, key=lambda k: k.started_ns)]
    held = frozenset(ordered[:5])
    outcomes = evaluated(store, cache="exact", withheld=held)
    assert not any(o.cached for o in outcomes.values())
    deciding = Past(past, spec.caches)
    assert deciding.source(triage.sorted_before, Setting("exact"), ordered[10], held | {ordered[10]}) == ordered[0]


def made(*asks: tuple[str, float, float]) -> list[Case]:
    return [
        Case(id=str(n), input={"ticket": text, "customer": ""}, started_ns=round(at * 1e9), duration_s=took)
        for n, (text, at, took) in enumerate(asks)
    ]


def step(**options: Any) -> CachedStep:
    return CachedStep("s", "x", text=lambda s: s["ticket"], side_effect=False, vectors=HashedNgrams(), **options)


def test_an_answer_counts_from_its_end_until_it_is_too_old() -> None:
    runs = made(("a", 0, 5), ("a", 3, 1), ("a", 6, 1), ("a", 30, 1), ("a", 32, 1))
    exact = Setting("exact")
    lasting, short = step(), step(ttl_s=10)
    found = {n: Past(runs, [lasting]).source(lasting, exact, str(n), ()) for n in range(5)}
    # The second began before the first had ended, so it made an answer of its own, which was there before the first's.
    assert found[0] is found[1] is None and {found[2], found[3], found[4]} <= {"0", "1"}
    aged = {n: Past(runs, [short]).source(short, exact, str(n), ()) for n in range(5)}
    assert aged[3] is None and aged[4] == "3"


def test_a_run_that_found_an_answer_leaves_none() -> None:
    """As a is like b and b like c, but a not like c: c finds nothing, since b had been answered with a's."""
    like = step()
    texts = ["the printer is on fire", "the printer is on fire again", "the printer is on fire again and again, it is"]
    rows = like.vectors.of(texts)
    one, two, across = float(rows[0] @ rows[1]), float(rows[1] @ rows[2]), float(rows[0] @ rows[2])
    assert across < min(one, two)
    between = Setting("semantic", (across + min(one, two)) / 2)
    past = Past(made(*((t, 10.0 * n, 1.0) for n, t in enumerate(texts))), [like])
    assert [past.source(like, between, str(n), ()) for n in range(3)] == [None, "0", None]


def test_a_step_that_asks_of_more_than_the_input_begins_empty() -> None:
    later = CachedStep("s", "x", text=lambda s: s["made by another node"], side_effect=False)
    assert Past(made(("a", 0, 1), ("a", 5, 1)), [later]).source(later, Setting("exact"), "1", ()) is None


class Said(TypedDict):
    said: str


class Bounded(TypedDict):
    said: str
    left: RemainingSteps


class Talk(BaseModel):
    said: str
    turns: Annotated[list[str], operator.add] = []


@dataclass
class Asked:
    said: str


@pytest.mark.parametrize(
    ("schema", "given", "text"),
    [
        (Talk, {"said": "A"}, lambda s: s.said + "".join(s.turns)),
        (Asked, {"said": "A"}, lambda s: s.said),
        (MessagesState, {"messages": [{"role": "user", "content": "A"}]}, lambda s: s["messages"][-1].content),
        (MessagesState, {"messages": [{"type": "human", "content": "A"}]}, lambda s: s["messages"][-1].text),
        (Said, {"said": "A"}, lambda s: s["said"]),
        (Bounded, {"said": "A"}, lambda s: s["said"]),
    ],
)
def test_a_step_is_asked_of_the_state_that_its_graph_would_give_it(schema: Any, given: Any, text: Any) -> None:
    builder = StateGraph(schema)
    builder.add_node("ask", lambda state: {})
    builder.add_edge(START, "ask")
    cached = CachedStep("ask", "x", text=text, side_effect=False)
    runs = [replace(r, input=given) for r in made(("", 0, 1), ("", 5, 1))]
    past = Past(runs, [cached], builder.compile())
    assert past.source(cached, Setting("exact"), "1", ()) == "0" and past.unknown() == []


def test_what_a_graph_does_not_take_of_an_input_its_nodes_are_not_given() -> None:
    builder = StateGraph(Bounded, input_schema=Said)
    builder.add_node("ask", lambda state: {})
    builder.add_edge(START, "ask")
    graph = builder.compile()
    assert state_of(graph, {"said": "A", "left": 3, "other": 1}) == {"said": "A"}


def test_a_step_that_cannot_be_asked_of_some_inputs_is_named() -> None:
    runs = [*made(("a", 0, 1), ("a", 5, 1)), Case(id="9", input={"ticket": 1}, started_ns=0)]
    cached = CachedStep("sort", "x", text=lambda s: s["ticket"].lower(), side_effect=False)
    (told,) = Past(runs, [cached]).unknown()
    assert told.startswith("cached step sort: what it asks does not follow from the input of 1 of 3 recorded runs")
    assert "AttributeError" in told


def test_what_is_too_old_is_known_by_the_recorded_times_alone(tmp_path: Path) -> None:
    """Filling the caches of a block may take longer than an answer counts."""
    ran: list[str] = []
    cached = CachedStep("s", tmp_path / "own", text=lambda s: s["ticket"], side_effect=False, ttl_s=1e-6)

    def ask() -> None:
        cached.run({"ticket": "a"}, {"cache": "exact"}, lambda: ran.append("a"))

    ask()
    ask()
    assert len(ran) == 2  # in use, it was too old at once
    with elsewhere(Elsewhere(tmp_path / "filled", "run")):
        ask()
        ask()
    assert len(ran) == 3


def test_a_cache_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NeverCached, match="has effects"):
        CachedStep("mail", tmp_path / "x", text=str, side_effect=True)
    with pytest.raises(CachingError, match="not 'often'"):
        step().setting({"cache": "often"})
    with pytest.raises(CachingError, match="threshold"):
        step().setting({"cache": "semantic", "threshold": 0})
    with pytest.raises(CachingError, match="field cache"):
        step().setting({})


def test_in_use_it_keeps_answers_of_one_configuration_apart(tmp_path: Path) -> None:
    ran: list[str] = []
    cache = CachedStep("s", tmp_path / "answers", text=lambda s: s["ticket"], side_effect=False)

    def made_of(ticket: str) -> str:
        ran.append(ticket)
        return ticket.upper()

    async def awaited(ticket: str) -> str:
        return made_of(ticket)

    def ask(ticket: str, **context: Any) -> str:
        return cache.run({"ticket": ticket}, {"cache": "exact", **context}, lambda: made_of(ticket))

    async def ask_later(ticket: str, **context: Any) -> str:
        return await cache.arun({"ticket": ticket}, {"cache": "exact", **context}, lambda: awaited(ticket))

    assert [ask("a", model="x"), ask("a", model="x"), ask("a", model="y"), ask("b", model="x")] == ["A", "A", "A", "B"]
    assert ran == ["a", "a", "b"]
    assert ask("a", model="x", cache="none") == "A" and len(ran) == 4
    assert [asyncio.run(ask_later(t, model="y")) for t in "abb"] == ["A", "B", "B"] and ran[4:] == ["b"]


def test_of_runs_without_an_input_there_is_no_past(store: Path) -> None:
    assert of_runs(Store(store).runs()) == []


def test_what_a_step_says_must_be_equal_besides_must_have_been_so_in_the_past() -> None:
    """Of each text there is one in every language: all but the first two find one of their own."""
    scoped = step(scope=lambda s, c: [s["customer"], c["model"]])
    runs = [replace(r, input={**r.input, "customer": "de" if n % 2 else "en"}) for n, r in enumerate(
        made(*(("a", 10.0 * n, 1.0) for n in range(6))))]  # fmt: skip
    past, exact = Past(runs, [scoped]), Setting("exact")
    scopes = past.scopes(scoped, lambda case: {"model": "m"}, each=False)
    assert [past.source(scoped, exact, str(n), (), scopes) for n in range(6)] == [None, None, "0", "1", "0", "1"]
    assert Past(runs, [step()]).scopes(step(), lambda case: {"model": "m"}, each=False) == []
