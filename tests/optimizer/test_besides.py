"""Each case gives a candidate the context and the configurable values that its recorded run was given."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from langgraph.graph import END, START, StateGraph
from typer.testing import CliRunner
from typing_extensions import TypedDict

from redecode import tracer
from redecode.cli.main import app
from redecode.optimizer.besides import contexts, of_requests, told, with_only
from redecode.optimizer.cases import of_runs, same_input, select
from redecode.optimizer.errors import NoRuns
from redecode.optimizer.spec import Case, Spec, load
from redecode.tracer import Store

PROGRAM = """
from dataclasses import dataclass
from typing import Literal

from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from redecode.optimizer import Spec

class State(TypedDict, total=False):
    question: str
    answer: str

@dataclass
class Context:
    user: str
    tenant: str = "nobody"
    model: str = "m"
    wording: Literal["please", "now"] = "please"

def answer(state: State, config: RunnableConfig, runtime: Runtime[Context]) -> State:
    had = runtime.context
    who = f"{had.user} of {had.tenant} in {config['configurable'].get('region', 'nowhere')}"
    fm = ChatOpenAI(model=had.model, temperature=0)
    return {"answer": str(fm.invoke(f"{had.wording}: {who}: {state['question']}").content)}

builder = StateGraph(State, context_schema=Context)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile(name="tenants")
spec = Spec(graph=graph, score=lambda output, case: output["answer"] == case.output["answer"])
"""


@pytest.fixture
def tenants(
    tmp_path: Path, store: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """An agent of several tenants, with twelve runs recorded; its server says who asked."""
    (tmp_path / "tenants.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    server = serve(lambda body: str(body["messages"][-1]["content"]).partition(": ")[2])
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    module = importlib.import_module("tenants")
    tracer.instrument(store)
    for n in range(12):
        region = {"configurable": {"region": f"region {n % 3}", "thread_id": f"t{n}"}}
        context = module.Context(user=f"user {n}", tenant=f"tenant {n % 4}")
        module.graph.invoke({"question": f"question {n // 2}"}, region, context=context)
    tracer.uninstrument()
    yield module
    sys.modules.pop("tenants", None)


def tune(store: Path, *options: str) -> Any:
    command = ["tune", "tenants:spec", "--store", str(store), "--runs", "all", "--json", "--margin", "latency=9"]
    return CliRunner().invoke(app, [*command, *options], catch_exceptions=False)


@pytest.mark.parametrize("workers", ["0", "1"], ids=["here", "process"])
def test_candidates_get_what_each_run_was_given(tenants: ModuleType, store: Path, workers: str) -> None:
    found = json.loads(tune(store, "--workers", workers, "--held-out", "0").stdout)
    assert found["runs"]["search"] == 12  # equal questions of different users are different cases
    assert [t["measured"]["error"] for t in found["trials"]] == [0.0, 0.0]
    notes = " | ".join(found["notes"])
    assert "each run brings its own user, tenant in its context" in notes
    assert "each run brings its own configurable region" in notes
    again = json.loads(tune(store, "--workers", workers, "--resume", "last").stdout)
    assert again["resumed"] >= 2 and [t["measured"]["error"] for t in again["trials"]] == [0.0, 0.0]


def test_what_is_said_comes_before_what_was_recorded(tenants: ModuleType, store: Path) -> None:
    fixed = ("--fix", "tenant=tenant 0", "--fix", "user=user 0")
    found = json.loads(tune(store, "--workers", "0", "--held-out", "0", *fixed).stdout)
    assert found["trials"][0]["measured"]["error"] > 0.5
    assert not any("in its context" in note for note in found["notes"])


def test_a_study_goes_on_with_what_its_cases_bring(tenants: ModuleType, store: Path) -> None:
    """Also where the runs of the study alone would not say that it is the request's."""
    found = json.loads(tune(store, "--workers", "0", "--held-out", "0", "--cases", "2", "--trials", "1").stdout)
    again = json.loads(tune(store, "--workers", "0", "--resume", "last", "--trials", "2").stdout)
    assert again["study"] == found["study"] and [t["measured"]["error"] for t in again["trials"]] == [0.0, 0.0]


def test_a_context_that_cannot_be_made_again_says_so_before_anything_runs(
    tenants: ModuleType, store: Path, tmp_path: Path
) -> None:
    sys.modules.pop("tenants")
    (tmp_path / "tenants.py").write_text(PROGRAM.replace("    user: str\n", "    client: object\n    user: str\n"))
    result = tune(store, "--workers", "0")
    assert result.exit_code == 2
    assert "12 whose context cannot be made again" in result.output and "client" in result.output
    assert "--fix NAME=VALUE" in result.output


class Tone(Enum):
    WARM = "warm"
    COLD = "cold"


@dataclass
class Owned:
    user: str
    tone: Tone = Tone.WARM
    heat: Literal[0, 1] = 0
    note: str = "-"


class State(TypedDict, total=False):
    out: int


def owned() -> Spec:
    builder = StateGraph(State, context_schema=Owned)
    builder.add_node("one", lambda s: {"out": 1})
    builder.add_edge(START, "one")
    builder.add_edge("one", END)
    return Spec(name="owned", graph=builder.compile(name="owned"))


def given(n: int, **context: Any) -> Case:
    return Case(id=str(n), input={"out": n}, context=context)


def test_what_could_be_a_knob_or_is_said_is_the_configurations() -> None:
    spec = owned()
    cases = [given(n, user=f"u{n}", tone="cold", heat=n % 2, note=f"n{n}") for n in range(4)]
    assert of_requests(cases, spec, ()) == ("user", "note")
    assert of_requests(cases, spec, ("note", "heat")) == ("user",)
    assert of_requests([replace(c, context={**c.context, "note": "x"}) for c in cases], spec, ()) == ("user",)
    assert of_requests([given(1)], spec, ()) == ()


def test_objects_are_made_again_and_one_context_serves_all_that_bring_the_same() -> None:
    spec = owned()
    of = contexts(spec, {"heat": 1}, {"user", "tone"})
    one, two, three = (of(given(n, user=u, tone="cold", heat=0, note="n")) for n, u in enumerate(("a", "b", "a")))
    assert (one.user, one.tone, one.heat, one.note) == ("a", Tone.COLD, 1, "-")
    assert two.user == "b" and three is one


def test_what_all_runs_had_and_nobody_has_now_is_told() -> None:
    spec = owned()
    cases = [given(n, user="u", tone="cold", heat=0, note="-") for n in range(3)]
    (line,) = told(cases, spec, ("user",), {"tone": Tone.COLD})
    assert line.startswith("each run brings its own user")
    lines = list(told([replace(c, context={**c.context, "heat": 1}) for c in cases], spec, (), {"user": "u"}))
    assert [words.partition(" is taken")[0] for words in lines] == [
        "all runs were recorded with tone=cold, and warm",
        "all runs were recorded with heat=1, and 0",
    ]


def test_equal_inputs_in_other_contexts_are_other_questions() -> None:
    one, two = given(1, user="a"), replace(given(1, user="b"), id="2")
    assert same_input(one) != same_input(two)
    assert same_input(with_only(one, ())) == same_input(with_only(two, ())) == json.dumps({"out": 1})


def test_runs_of_before_it_was_recorded_are_taken_as_ever(tenants: ModuleType, store: Path) -> None:
    runs: list[Any] = [replace(r, besides=None) for r in Store(store).runs()]
    spec = load("tenants:spec")
    cases = select(runs, spec, "all", now_ns=0)
    assert cases.brought == () and not any(c.context or c.configurable for c in (*cases.search, *cases.decide))
    with pytest.raises(NoRuns, match="user"):
        select(runs, spec, "all", now_ns=0, values={})


def test_a_recorded_run_is_a_case_with_all_that_it_was_given(tenants: ModuleType, store: Path) -> None:
    case = of_runs(Store(store).runs(besides=True))[0]
    whole: Mapping[str, Any] = {"user": "user 11", "tenant": "tenant 3", "model": "m", "wording": "please"}
    assert (case.context, case.configurable) == (whole, {"region": "region 2"})
