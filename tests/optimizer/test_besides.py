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
from typing import Annotated, Any, Literal

import pytest
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel, Field
from typer.testing import CliRunner
from typing_extensions import TypedDict

from redecode import tracer
from redecode.cli.main import app
from redecode.optimizer.besides import contexts, of_requests, refused, told
from redecode.optimizer.cases import MODE, SCORER, _cut, of_runs, same_input, select
from redecode.optimizer.errors import NoRuns
from redecode.optimizer.knobs import Choice
from redecode.optimizer.nightly.window import own_runs
from redecode.optimizer.spec import Case, Spec, load
from redecode.tracer import Store, plain

PROGRAM = """
from dataclasses import dataclass, field
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
    language: Literal["en", "de"] = "en"
    slug: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.slug = self.user.upper()

def answer(state: State, config: RunnableConfig, runtime: Runtime[Context]) -> State:
    had = runtime.context
    who = f"{had.language} {had.slug} of {had.tenant} in {config['configurable'].get('region', 'nowhere')}"
    fm = ChatOpenAI(model=had.model, temperature=0)
    return {"answer": str(fm.invoke(f"{had.wording}: {who}: {state['question']}").content)}

builder = StateGraph(State, context_schema=Context)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile(name="tenants")
spec = Spec(graph=graph, score=lambda output, case: output["answer"] == case.output["answer"],
            knobs={"language": None})
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
        region = {"configurable": {"region": f"region {n % 3}"}}
        context = module.Context(user=f"user {n}", tenant=f"tenant {n % 4}", language="en" if n % 3 else "de")
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
    assert "each run brings its own user, tenant, language in its context" in notes
    assert "each run brings its own configurable region" in notes
    again = json.loads(tune(store, "--workers", workers, "--resume", "last").stdout)
    assert again["resumed"] >= 2 and [t["measured"]["error"] for t in again["trials"]] == [0.0, 0.0]


def test_what_is_said_comes_before_what_was_recorded(tenants: ModuleType, store: Path) -> None:
    fixed = ("--fix", "tenant=tenant 0", "--fix", "user=user 0", "--fix", "language=en")
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


def test_what_is_searched_or_said_is_the_configurations() -> None:
    spec = owned()
    cases = [given(n, user=f"u{n}", tone="cold", heat=n % 2, note=f"n{n}") for n in range(4)]
    assert of_requests(cases, spec, ("heat",)) == ("user", "note")
    assert of_requests(cases, spec, ("note", "heat")) == ("user",)
    assert of_requests(cases, spec, ()) == ("user", "heat", "note")  # a knob that is not searched
    assert of_requests([replace(c, context={**c.context, "note": "x"}) for c in cases], spec, ("heat",)) == ("user",)
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


class Style(BaseModel):
    prefix: str = "Dear"
    many: int = 1


class Mixed(BaseModel):
    voters: Annotated[list[str], Choice(["good"], ["cheap", "bad"])] = ["good"]
    style: Style = Style()
    styles: tuple[Style, ...] = (Style(),)
    tone: Tone = Tone.WARM


@pytest.mark.parametrize(
    ("now", "differ"),
    [
        ({}, []),
        ({"voters": ["good"], "style": {"prefix": "Dear", "many": 1}, "tone": "warm"}, []),  # as a file says it
        (
            {"style": {"prefix": "Hi", "many": 1}},
            ["style={'many': 1, 'prefix': 'Dear'}, and {'many': 1, 'prefix': 'Hi'}"],
        ),
        ({"style": Style(many=2)}, ["style={'many': 1, 'prefix': 'Dear'}, and {'many': 2, 'prefix': 'Dear'}"]),
        (
            {"voters": ["cheap", "bad"], "tone": "cold"},
            ["voters=['good'], and ['cheap', 'bad']", "tone=warm, and cold"],
        ),
        ({"voters": "['cheap', 'bad']"}, ["voters=['good'], and ['cheap', 'bad']"]),  # its label
    ],
)
def test_what_is_no_scalar_is_compared_as_the_record_has_it(now: dict[str, Any], differ: list[str]) -> None:
    spec = owned().model_copy(update={"context": Mixed})
    cases = [Case(id=str(n), input={"out": n}, context=plain(Mixed().model_dump())) for n in range(2)]
    lines = [line.removeprefix("all runs were recorded with ") for line in told(cases, spec, (), now)]
    assert [line.partition(" is taken")[0] for line in lines] == differ


def test_what_is_searched_and_varied_and_what_could_not_be_recorded_is_told() -> None:
    cases = [replace(given(n, user="u", heat=n % 2), left_out=("client",)) for n in range(4)]
    lines = list(told(cases, owned(), ("user",), {"heat": 0}, {"heat"}))
    assert [line.partition(",")[0] for line in lines] == [
        "each run brings its own user in its context: candidates get what it got",
        "what 4 of 4 runs had as client in their context could not be recorded (no plain data",
        "runs were recorded with 2 values of heat",
    ]
    assert len(list(told(cases, owned(), ("user",), {"heat": 0, "client": 1}, {"heat"}))) == 2


def test_equal_inputs_in_other_contexts_are_other_cases_of_one_side_and_one_cluster() -> None:
    """Three questions of seventy people each: one of them is held out, and that is one conversation."""
    cases = [Case(id=f"{n:03}", input={"out": n % 3}, context={"user": n}, started_ns=n) for n in range(210)]
    search, decide, gone = _cut(cases, 1 / 3, repeats=False)
    assert (len(search), len(decide), gone) == (140, 70, 0)
    assert {same_input(c) for c in decide} == {json.dumps({"out": 2})}
    assert not {same_input(c) for c in search} & {same_input(c) for c in decide}
    two = [replace(c, input={"out": n % 2}) for n, c in enumerate(cases)]
    assert [len(side) for side in _cut(two, 1 / 3, repeats=False)[:2]] == [105, 105]  # one at least
    assert [len(side) for side in _cut(two, 0.0, repeats=False)[:2]] == [210, 0]
    one = [replace(c, input={"out": 0}) for c in cases]
    assert [len(side) for side in _cut(one, 1 / 3, repeats=False)[:2]] == [210, 0]


def test_of_conversations_that_begin_alike_the_first_is_kept_and_no_input_is_on_both_sides() -> None:
    hello = [
        Case(id=f"{n:03}", input={"out": 0}, context={"user": n}, conversation=f"t{n}", started_ns=n) for n in range(9)
    ]
    search, decide, gone = _cut(hello, 1 / 3, repeats=False)
    assert (len(search), len(decide), gone) == (1, 0, 8)
    own = [replace(c, input={"out": n}) for n, c in enumerate(hello)]
    search, decide, gone = _cut(own, 1 / 3, repeats=False)
    assert ([c.id for c in search], [c.id for c in decide], gone) == (
        [f"{n:03}" for n in range(6)],
        [f"{n:03}" for n in range(6, 9)],
        0,
    )
    linked = [*own[:8], replace(own[8], conversation="t0")]
    search, decide, gone = _cut(linked, 1 / 3, repeats=False)
    assert [c.id for c in decide] == ["006", "007"] and search[-1].id == "008"


def test_runs_of_before_it_was_recorded_are_taken_as_ever(tenants: ModuleType, store: Path) -> None:
    runs: list[Any] = [replace(r, besides=None) for r in Store(store).runs()]
    spec = load("tenants:spec")
    cases = select(runs, spec, "all", now_ns=0)
    assert cases.brought == () and not any(c.context or c.configurable for c in (*cases.search, *cases.decide))
    with pytest.raises(NoRuns, match="user"):
        select(runs, spec, "all", now_ns=0, values={})


def test_a_recorded_run_is_a_case_with_all_that_it_was_given(tenants: ModuleType, store: Path) -> None:
    case = of_runs(Store(store).runs(besides=True))[0]
    whole: Mapping[str, Any] = {
        "user": "user 11", "tenant": "tenant 3", "model": "m", "wording": "please", "language": "en",
    }  # fmt: skip
    assert (case.context, case.configurable) == (whole, {"region": "region 2"})


JUDGE = """
from langchain_openai import ChatOpenAI
from tenants import graph

from redecode.optimizer import Spec


async def judged(output, case):
    said = await ChatOpenAI(model="judge").ainvoke("is it right: " + output["answer"])
    return float(bool(said.content))


spec = Spec(graph=graph, score=judged, knobs={"language": None})
"""


def test_a_judges_calls_are_no_runs_of_the_agents(tenants: ModuleType, store: Path, tmp_path: Path) -> None:
    (tmp_path / "judging.py").write_text(JUDGE)
    before = {r.run_id for r in Store(store).runs()}
    command = ["tune", "judging:spec", "--store", str(store), "--runs", "all", "--workers", "0", "--trials", "1"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 1, result.output
    sys.modules.pop("judging", None)
    made = [r for r in Store(store).runs() if r.run_id not in before]
    judges = [r for r in made if r.source_run_id is None]
    assert judges and all(r.replay_mode == MODE and r.labels[MODE].items() >= SCORER.items() for r in judges)
    assert own_runs(made) == [] and len(own_runs(Store(store).runs())) == 12


class Aliased(BaseModel):
    user: str = Field(alias="userId")
    heat: Literal[0, 1] = 0


def test_a_request_may_name_a_field_by_its_alias() -> None:
    spec = owned().model_copy(update={"context": Aliased})
    of = contexts(spec, {"heat": 1}, {"user"})
    assert of(given(1, user="ann")) == Aliased(userId="ann", heat=1)
    wrong = [refused(given(n, user=n), contexts(spec, {"heat": 1}, {"user"})) for n in (1, 2)]
    assert wrong[0] == wrong[1] and "valid string" in str(wrong[0])  # counted as one reason
