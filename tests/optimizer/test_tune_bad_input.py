"""`redecode tune` where something is wrong: it says what, loses nothing, and can be gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode import tracer
from redecode.cli import tune_run
from redecode.cli.main import app
from redecode.optimizer.cases import MODE
from redecode.optimizer.evaluation.session import Settings
from redecode.optimizer.study.alone import alone
from redecode.optimizer.study.storage import opened, place_of, studies
from redecode.tracer import Store
from tests.optimizer.conftest import capitals, tuning_of_docs


@pytest.fixture
def tune(folder: Path, recorded: Any, store: Path) -> Callable[..., Any]:
    (folder / "tuning.py").write_text(tuning_of_docs())

    def run(*options: str, spec: str = "tuning:spec", runs: str = "all") -> Any:
        command = ["tune", spec, "--runs", runs, "--workers", "0", "--store", str(store), *options]
        return CliRunner().invoke(app, command, catch_exceptions=False)

    return run


def forget(*agents: str) -> None:
    """The scorer's module, and these, are read anew, as in another process."""
    import sys

    for name in ("tuning", *agents):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spec": "nowhere:spec"}, "nowhere cannot be imported"),
        ({"spec": "tuning:nothing"}, "tuning has no nothing"),
        ({"spec": "tuning:right"}, "wants arguments"),
        ({"spec": "tuning"}, "module:name"),
        ({"runs": "yesterday"}, "last-24h"),
        ({"runs": "last-0"}, "none was recorded"),
    ],
)
def test_what_is_not_understood_is_one_line(tune: Callable[..., Any], options: Any, said: str) -> None:
    result = tune(**options)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--knob", "wording=a,b"], "takes {a, b}, not 'Capital of'"),
        (["--knob", "temperature"], None),
        (["--fix", "tone=1"], "no such field"),
        (["--price", "m=1"], "MODEL=INPUT,OUTPUT"),
        (["--margin", "cost=0.5"], "cost=1.05"),
        (["--sampler", "magic"], "no sampler is called magic"),
        (["--incumbent", "missing.toml"], "cannot be read"),
        (["--resume", "last"], "no study here to go on with"),
        (["--load", "2rps"], "profile"),
        (["--replicas", "2"], "--replicas is of a load that is simulated: say --load"),
        (["--profile", "a"], "--profile is of a load"),
        (["--load", "fast"], "a load is"),
        (["--load", "6rps", "--replicas", "8", "--knob", "placement.replicas=1..4"], "takes 1 to 4, not 8"),
        (["--load", "6rps", "--replicas", "1", "--knob", "placement.replicas=2..4"], "takes 2 to 4, not 1"),
        (["--price", "other=1,1"], "model m has no price"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    tune: Callable[..., Any], options: list[str], said: str | None
) -> None:
    result = tune(*options, "--trials", "1", "--cases", "2", "--held-out", "0")
    if said is None:
        assert result.exit_code in (0, 1)
        return
    assert result.exit_code == 2 and said in result.stderr, result.output


def test_an_slo_that_nothing_can_meet_is_said_with_the_nearest(tune: Callable[..., Any]) -> None:
    result = tune("--slo", "0.001", "--trials", "3", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"]) == (1, "keep")
    assert not any(t["feasible"] for t in found["trials"])
    assert "No candidate keeps what it must" in Path(found["files"][0]).read_text()
    assert found["chosen"] == found["incumbent"]


def test_an_error_that_nothing_can_keep_below_is_said_on_the_terminal(tune: Callable[..., Any]) -> None:
    result = tune("--max-error", "0", "--held-out", "0", "--trials", "1", "--cases", "4")
    assert result.exit_code == 1
    assert "No candidate keeps what it must" in result.stdout and "The nearest is trial 0" in result.stdout


# The eleventh case is wrong: the first block went well.
_LATE = "(case.expectd if case.input['country'] == 'Country9' else case.expected)"


def test_a_scorer_that_raises_stops_and_once_mended_nothing_is_paid_twice(
    tune: Callable[..., Any], folder: Path, recorded: Any
) -> None:
    body = tuning_of_docs()
    (folder / "tuning.py").write_text(body.replace("case.expected", _LATE))
    result = tune("--trials", "2", "--held-out", "0")
    assert result.exit_code == 2
    assert "the scorer raised AttributeError" in result.stderr and "--resume" in result.stderr
    asked = len(recorded.requests)
    forget()
    (folder / "tuning.py").write_text(body)
    found = json.loads(tune("--resume", "last", "--trials", "2", "--json").stdout)
    assert len(found["trials"]) == 2 and found["trials"][0]["candidate"] == found["incumbent"]
    assert "the scorer or the right answers were changed since it began" in " ".join(found["notes"])
    assert asked >= 8 and len(recorded.requests) - asked < 2 * 12 - 2  # two candidates, less what is known


def test_a_file_says_stop_and_the_study_goes_on_when_it_is_gone(tune: Callable[..., Any], store: Path) -> None:
    tune("--trials", "1", "--held-out", "0")
    (store / "tune.stop").touch()
    found = json.loads(tune("--held-out", "0", "--json").stdout)
    assert found["stopped"] == "tune.stop says stop" and len(found["trials"]) == 1
    (store / "tune.stop").unlink()
    assert len(json.loads(tune("--held-out", "0", "--trials", "3", "--json").stdout)["trials"]) == 3


def test_a_budget_of_calls_is_kept_to_within_a_block(tune: Callable[..., Any], recorded: Any) -> None:
    found = json.loads(tune("--max-calls", "20", "--held-out", "0", "--json").stdout)
    assert "of at most 20" in found["stopped"]
    assert 20 <= len(recorded.requests) < 20 + 8


def test_an_incumbent_that_was_interrupted_is_what_candidates_are_compared_with(
    tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an earlier study wait already; the incumbent's trial died with the engine, and is the first again."""
    tune("--trials", "4", "--cases", "4")
    with monkeypatch.context() as down:
        down.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        down.setattr(tune_run, "Settings", partial(Settings, again_s=(0.01,)))
        assert tune("--no-memo").exit_code == 2
    found = json.loads(tune("--no-memo", "--trials", "5", "--resume", "last", "--json").stdout)
    first = found["trials"][0]
    assert first["candidate"] == found["incumbent"] and first["number"] == min(t["number"] for t in found["trials"])


ONCE = """
from collections import Counter

from capitals import Context, graph

from redecode.optimizer import Spec

built = Counter()


def build(values):
    built[str(sorted(values.items()))] += 1
    if values["wording"] != "Capital of" and built[str(sorted(values.items()))] > 2:
        raise RuntimeError("built before")
    return graph


def right(output, case):
    return output["capital"] == case.expected


spec = Spec(build=build, context=Context, name="capitals", score=right, needs_expected=True)
"""


def test_a_finalist_that_cannot_be_evaluated_any_more_is_out_and_not_the_end(
    tune: Callable[..., Any], folder: Path
) -> None:
    (folder / "tuning.py").write_text(ONCE)
    wide = ("--margin", "cost=99", "--margin", "latency=99", "--knob", "wording")
    result = tune("--workers", "0", "--cases", "8", *wide, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"]) == (1, "keep")
    assert "cannot be evaluated on held-out runs" in found["decision"]["why"]
    assert "built before" in found["decision"]["why"] and any("is out" in note for note in found["notes"])
    assert list(found["lanes"]) == ["observed", "incumbent"] and not found["finalists"]


def test_a_third_of_a_budget_of_calls_is_left_to_decide_with(tune: Callable[..., Any], recorded: Any) -> None:
    wide = ("--margin", "cost=99", "--margin", "latency=99")  # of some milliseconds nothing is to depend
    found = json.loads(tune("--max-calls", "60", *wide, "--json").stdout)
    assert "of the 42 that the search may make of 60" in found["stopped"] and found["fm_calls"]["made"] < 42 + 8
    assert found["fm_calls"]["to_decide"] > 0 and len(recorded.requests) < 60 + 4 * 8


def test_changed_knobs_are_named_when_a_study_is_gone_on_with(tune: Callable[..., Any], folder: Path) -> None:
    tune("--trials", "1", "--held-out", "0")
    forget()
    more = 'slo_s=2.0, knobs={"wording": ["Capital of", "Tell me"]})'
    (folder / "tuning.py").write_text(tuning_of_docs().replace("slo_s=2.0)", more))
    again = tune("--trials", "2", "--held-out", "0", "--json")
    assert "wording gained Tell me and lost Please name the capital of: this is a study of its own" in again.stderr
    assert len(json.loads(again.stdout)["trials"]) == 2


def test_an_incumbent_that_fails_everywhere_ends_it_at_once(tune: Callable[..., Any], recorded: Any) -> None:
    result = tune("--fix", "model=missing", "--held-out", "0")
    assert result.exit_code == 2 and "every run of the incumbent failed (12)" in result.stderr


LATER = """
import pathlib

from capitals import Context, graph

from redecode.optimizer import Spec


class Runs:
    nodes = graph.nodes

    async def ainvoke(self, *args, **options):
        check("runs")
        return await graph.ainvoke(*args, **options)


def check(what):
    if not pathlib.Path("mended").exists() and pathlib.Path("broken").read_text() == what:
        raise ValueError(f"{what} not yet")


def build(values):
    check("builds")
    return Runs()


spec = Spec(build=build, context=Context, name="capitals")
"""


@pytest.mark.parametrize(
    ("broken", "said"),
    [("builds", "builds not yet"), ("runs", "every run of the incumbent failed (8): ValueError: runs not yet")],
)
def test_an_incumbent_that_is_mended_is_evaluated_then(
    tune: Callable[..., Any], folder: Path, broken: str, said: str
) -> None:
    """What it was before is not what candidates are compared with."""
    (folder / "tuning.py").write_text(LATER)
    (folder / "broken").write_text(broken)
    options = ("--held-out", "0", "--trials", "1", "--cases", "8")
    for _ in range(2):
        result = tune(*options)
        assert result.exit_code == 2 and said in result.stderr
    (folder / "mended").touch()
    found = json.loads(tune(*options, "--json").stdout)
    (trial,) = found["trials"]
    assert trial["candidate"] == found["incumbent"] and trial["measured"]["failed"] == 0


TOOLS = """
from typing import Literal
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel
from typing_extensions import TypedDict

RAN = []

@tool
def send(text: str) -> str:
    "Send it."
    RAN.append(text)
    return f"sent {text} {len(RAN)}"

class State(TypedDict, total=False):
    name: str
    said: str

class Context(BaseModel):
    greeting: Literal["hello", "dear"] = "hello"
    polite: bool = False

def act(state: State, runtime: Runtime[Context]) -> State:
    return {"said": send.invoke({"text": f"{runtime.context.greeting} {state['name']}"})}

builder = StateGraph(State, context_schema=Context)
builder.add_node("act", act)
builder.add_edge(START, "act")
builder.add_edge("act", END)
graph = builder.compile(name="sender")
"""


def test_another_scorer_or_other_right_answers_never_get_the_qualities_of_before(
    tune: Callable[..., Any], folder: Path, store: Path, recorded: Any
) -> None:
    first = json.loads(tune("--json", "--knob", "wording", "--held-out", "0").stdout)
    assert [t["measured"]["error"] for t in first["trials"]] == [1.0, 0.0]
    asked = len(recorded.requests)
    kinder = tuning_of_docs().replace("output[", "'no' in output['capital'] or output[")
    (folder / "tuning.py").write_text(kinder)
    forget()
    found = json.loads(tune("--json", "--knob", "wording", "--held-out", "0").stdout)
    assert found["study"] != first["study"] and found["trials"][0]["measured"]["error"] == 0.0
    truth = folder / "right.jsonl"
    run_ids = [run.run_id for run in Store(store).runs() if MODE not in run.labels]
    truth.write_text("".join(json.dumps({"run_id": i, "expected": "nothing"}) + "\n" for i in run_ids))
    other = json.loads(tune("--json", "--knob", "wording", "--held-out", "0", "--expected", str(truth)).stdout)
    assert other["study"] not in (first["study"], found["study"]) and other["trials"][1]["measured"]["error"] == 1.0
    assert len(recorded.requests) - asked <= 2  # the memo has the rest; a process begins with a run that does not count


HELPED = """
from capitals import graph
from redecode.optimizer import Spec

KIND = 0.0

def worth(output, case):
    return 1.0 if output["capital"] == case.expected else KIND

async def right(output, case):
    return worth(output, case)

spec = Spec(graph=graph, score=right, needs_expected=True)
"""


def test_a_scorer_may_be_async_and_what_it_calls_is_a_part_of_it(tune: Callable[..., Any], folder: Path) -> None:
    found = []
    for change in (("", ""), ("KIND = 0.0", "KIND = 0.25"), ("else KIND", "else 0.5")):
        forget()
        (folder / "tuning.py").write_text(HELPED.replace(*change))
        found.append(json.loads(tune("--json", "--knob", "wording", "--held-out", "0.3").stdout))
    assert [f["trials"][0]["measured"]["error"] for f in found] == [1.0, 0.75, 0.5]
    assert len({f["study"] for f in found}) == 3 and all(f["lanes"]["observed"]["error"] == 1.0 for f in found[:1])


REMEMBERS = """
import capitals
from redecode.optimizer import Spec

asked, answers = capitals.answer, {}

def answer(state, runtime):
    if state["country"] not in answers:
        answers[state["country"]] = asked(state, runtime)
    return answers[state["country"]]

builder = capitals.StateGraph(capitals.State, context_schema=capitals.Context)
builder.add_node("answer", answer)
builder.add_edge(capitals.START, "answer")
builder.add_edge("answer", capitals.END)
spec = Spec(graph=builder.compile(name="capitals"), score=lambda output, case: output["capital"] == case.expected)
"""


def test_an_agent_that_keeps_answers_itself_is_told_that_its_candidates_share_them(
    tune: Callable[..., Any], folder: Path
) -> None:
    (folder / "tuning.py").write_text(REMEMBERS)
    result = tune("--json", "--knob", "wording", "--held-out", "0")
    found = json.loads(result.stdout)
    said = "trial 1 made no FM call, where the incumbent makes some"
    assert said in result.stderr and any(said in note for note in found["notes"])
    honest = tune("--json", "--knob", "wording", "--held-out", "0", spec="capitals:graph")
    assert "made no FM call" not in honest.stderr and json.loads(honest.stdout)["notes"] == []


def test_tools_answer_as_recorded_and_never_run_unasked(tune: Callable[..., Any], folder: Path, store: Path) -> None:
    (folder / "tuning.py").write_text(TOOLS)
    forget()
    import tuning  # type: ignore[import-not-found]

    tracer.instrument(store)
    for name in ("Ann", "Bo", "Cy"):
        tuning.graph.invoke({"name": name}, context=tuning.Context())
    tracer.uninstrument()
    assert len(tuning.RAN) == 3
    same = tune("--knob", "polite", "--held-out", "0", "--json", spec="tuning:graph")
    assert len(tuning.RAN) == 3 and len(json.loads(same.stdout)["trials"]) == 2
    evaluated = [r for r in Store(store).runs() if MODE in r.labels]
    assert {r.output["said"] for r in evaluated} == {"sent hello Ann 1", "sent hello Bo 2", "sent hello Cy 3"}
    other = tune("--knob", "greeting", "--held-out", "0", spec="tuning:graph")
    assert other.exit_code == 2 and "--live-tool" in other.stderr and len(tuning.RAN) == 3
    allowed = tune("--knob", "greeting", "--held-out", "0", "--live-tool", "send", spec="tuning:graph")
    assert allowed.exit_code == 1 and len(tuning.RAN) > 3


def test_a_study_is_gone_on_with_as_it_was_begun_or_not_at_all(tune: Callable[..., Any], folder: Path) -> None:
    tune("--trials", "1", "--held-out", "0", "--slo", "9")
    for option, value in (("--slo", "5"), ("--knob", "wording"), ("--fix", "temperature=0.5"), ("--max-error", "0.5")):
        refused = tune("--resume", "last", option, value)
        assert refused.exit_code == 2 and f"not begun with this {option}" in refused.stderr, refused.output
    in_use = folder / "in_use.toml"
    in_use.write_text("[context]\ntemperature = 0.7\n")
    for option, value in (
        ("--seed", "3"),
        ("--sampler", "random"),
        ("--price", "m=1,2"),
        ("--incumbent", str(in_use)),
        ("--load", "2rps"),
        ("--concurrency", "1"),
    ):
        refused = tune("--resume", "last", option, value)
        assert refused.exit_code == 2 and f"not begun with this {option}" in refused.stderr, refused.output
    begun_with = ("--slo", "9", "--trials", "1", "--seed", "0", "--sampler", "gp", "--concurrency", "4")
    assert tune("--resume", "last", *begun_with).exit_code == 1
    text = (folder / "capitals.py").read_text()
    for old, new, said in (
        ('"Please name the capital of"]', '"Name the capital of"]', "wording"),
        ('    model: str = "m"', '    model: str = "m"\n    loud: bool = False', "loud"),
    ):
        forget("capitals")
        (folder / "capitals.py").write_text(text.replace(old, new))
        refused = tune("--resume", "last", "--trials", "2")
        assert refused.exit_code == 2 and "others than those of study" in refused.stderr, refused.output
        assert said in refused.stderr


def test_latencies_of_other_conditions_are_another_studys(
    tune: Callable[..., Any], serve: Any, monkeypatch: Any
) -> None:
    def study(*options: str) -> str:
        return str(json.loads(tune("--trials", "1", "--held-out", "0", "--json", *options).stdout)["study"])

    here = study()
    others = [study("--concurrency", "1"), study("--run-timeout", "9")]
    assert study() == here
    monkeypatch.setenv("OPENAI_BASE_URL", serve(capitals).base_url)
    assert len({here, *others, study()}) == 4


def test_a_study_that_is_under_way_is_not_begun_again_beside_it(tune: Callable[..., Any], store: Path) -> None:
    tune("--trials", "1", "--held-out", "0")
    ((name, _),) = studies(opened(place_of(Store(store))))
    with alone(store, name):
        refused = tune("--trials", "2", "--held-out", "0")
        assert refused.exit_code == 2 and f"study {name} is under way already (process {os.getpid()}" in refused.stderr
    assert tune("--trials", "2", "--held-out", "0").exit_code == 1 and not list(store.glob(".*.lock"))


def test_a_name_that_the_context_has_no_more_is_left_out_and_told(tune: Callable[..., Any], folder: Path) -> None:
    (folder / "now.toml").write_text('[context]\nwording = "Capital of"\ntone = "loud"\n')
    result = tune("--incumbent", "now.toml", "--trials", "1", "--held-out", "0", "--json")
    found = json.loads(result.stdout)
    assert "tone: in the configuration in use, and no field of capitals any more" in " ".join(found["notes"])
    assert "tone" not in Path(found["files"][-1]).read_text()


def test_qualities_that_say_nothing_are_told_at_once(tune: Callable[..., Any], folder: Path) -> None:
    body = tuning_of_docs()
    (folder / "tuning.py").write_text(body.replace('return output["capital"] == case.expected', "return None"))
    options = ["--json", "--knob", "wording", "--held-out", "0", "--trials", "1"]
    assert "the scorer can tell of no run" in " ".join(json.loads(tune(*options).stdout)["notes"])
    forget("capitals")
    text = (folder / "capitals.py").read_text()
    (folder / "capitals.py").write_text(text.replace('{"capital": str(', '{"capital": "now " + str('))
    found = json.loads(tune(*options, spec="capitals:graph").stdout)
    assert "nothing that was recorded came out again" in " ".join(found["notes"])
