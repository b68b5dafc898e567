"""Runs that other tracers recorded, as cases: two agents and many shapes of input under each of three of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.optimizer.cases import MODE, by_words, same_input, select
from redecode.optimizer.errors import NoRuns
from redecode.optimizer.inputs import UNTOLD, as_given
from redecode.optimizer.nightly.mix import rows_of
from redecode.optimizer.spec import Case, Spec
from redecode.tracer import Store, plain
from tests.conftest import OpenAIServer
from tests.optimizer import foreign_agents
from tests.tracer.collector.support import CollectorProcess

PROGRAM = Path(foreign_agents.__file__)
FOREIGN = ("openinference", "openllmetry", "otel-genai")


def answer(body: dict[str, Any]) -> Any:
    """Right where it is asked politely; asks a tool about a city."""
    messages = body["messages"]
    last, polite = messages[-1], "please" in str(messages[0]["content"])
    word = str(last["content"]).rpartition(" ")[2]
    if body.get("tools") and last["role"] == "user":
        function = {"name": "population", "arguments": json.dumps({"city": word})}
        return {"content": None, "tool_calls": [{"id": f"call_{word}", "type": "function", "function": function}]}
    if last["role"] == "tool":
        return str(last["content"]) if polite else f"about {last['content']}"
    return f"{word} City" if polite else "no"


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    server = OpenAIServer(answer)
    yield server
    server.close()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, server: OpenAIServer) -> Iterator[dict[str, Path]]:
    """A store for each tracer, with the same runs in it."""
    base = tmp_path_factory.mktemp("foreign")
    stores = {name: base / name for name in FOREIGN}
    collectors = {name: CollectorProcess(store) for name, store in stores.items()}
    environ = {**os.environ, "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "none"}
    try:
        running = {
            name: subprocess.Popen(
                [sys.executable, str(PROGRAM), name, collector.traces], env=environ, stderr=subprocess.PIPE, text=True
            )
            for name, collector in collectors.items()
        }
        for name, process in running.items():
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, f"{name}: {errors}"
        for collector in collectors.values():
            assert collector.stop()[0] == 0
        yield stores
    finally:
        for collector in collectors.values():
            collector.close()


@pytest.fixture
def engine(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return server


def cases_of(store: Path, name: str, **spec: Any) -> list[Case]:
    graph = foreign_agents.SHAPES[name][0]
    return list(select(Store(store).runs(), Spec(graph=graph, name=name, **spec), "all", now_ns=0).search)


NO_INPUT, LEFT_OUT = "without a recorded input", UNTOLD[:40]
WHAT_THEY_ARE: dict[str, tuple[str | None, str | None, str | None]] = {
    # None: a case with the input that the graph was given; else why the run is none.
    "two_optional": (None, None, None),
    "one_required": (None, None, None),
    "number": (None, None, None),
    "count": (None, None, None),
    "whole": (None, None, None),
    "two": (None, None, None),
    "json_text": (LEFT_OUT, None, None),  # OpenInference says that it is JSON, and what it looked like is lost
    "answer_only": (None, None, None),
    "hidden": (LEFT_OUT, None, None),
    "rephrased": (LEFT_OUT, None, None),  # the other field has what was given; a node has written it
    "history": (None, None, None),
    "said": (None, None, NO_INPUT),
    "picture": (None, None, LEFT_OUT),
    "function": (None, None, NO_INPUT),
    "root": (None, None, NO_INPUT),
    "root_messages": (None, None, NO_INPUT),
}


@pytest.mark.parametrize("name", WHAT_THEY_ARE)
@pytest.mark.parametrize("place", range(len(FOREIGN)), ids=FOREIGN)
def test_a_graph_gets_what_it_was_given_or_the_run_is_left_out(stores: dict[str, Path], place: int, name: str) -> None:
    graph, given = foreign_agents.SHAPES[name]
    why = WHAT_THEY_ARE[name][place]
    if why is not None:
        with pytest.raises(NoRuns) as refused:
            cases_of(stores[FOREIGN[place]], name)
        assert f"1 {why}" in str(refused.value)
        return
    [case] = cases_of(stores[FOREIGN[place]], name)
    assert by_words(case.input) == by_words(plain(given))
    assert same_input(case) == same_input(Case(id="ours", input=plain(given)))
    assert by_words(plain(graph.invoke(case.input))) == by_words(plain(graph.invoke(given)))


@pytest.mark.parametrize("name", ["openinference", "openllmetry"])
def test_messages_of_a_field_without_a_reducer_are_messages_again(stores: dict[str, Path], name: str) -> None:
    """Nothing but us makes them so: LangGraph gives the node what it gets."""
    graph, given = foreign_agents.SHAPES["no_reducer"]
    [case] = cases_of(stores[name], "no_reducer")
    assert graph.invoke(as_given(graph, case.input)) == graph.invoke(given)


def test_inputs_are_as_long_whoever_recorded_them(stores: dict[str, Path]) -> None:
    """Else another tracer would be another mix of runs."""
    lengths = []
    for name in FOREIGN:
        store = Store(stores[name])
        runs = [r for r in store.runs() if r.agent in ("capitals", "talker", "two", "history", "count", "whole")]
        lengths.append(sorted((r.agent, r.numbers["input_chars"]) for r in rows_of(store, runs)))
    assert lengths[0] == lengths[1] == lengths[2] and len(lengths[0]) == 2 * foreign_agents.RUNS + 4


@pytest.mark.parametrize("name", FOREIGN)
def test_fields_besides_messages_are_said_to_be_unknown_where_they_are(stores: dict[str, Path], name: str) -> None:
    graph, given = foreign_agents.SHAPES["more_than_messages"]
    spec = Spec(graph=graph, name=graph.name, score=lambda o, c: 1)
    found = select(Store(stores[name]).runs(), spec, "all", now_ns=0)
    [case] = found.search
    if name == "otel-genai":
        assert case.input == {"messages": [{"role": "user", "content": "hello"}]}
        assert "of 1 of 1 runs the trace tells the messages" in found.notes[0] and "(user)" in found.notes[0]
    else:
        assert by_words(case.input) == by_words(plain(given)) and found.notes == ()


@pytest.mark.parametrize(
    ("name", "shape", "given"),
    [
        ("openinference", "a_none", {"country": "Peru", "capital": None}),
        ("openllmetry", "a_none", {"country": "Peru", "capital": None}),
        ("otel-genai", "a_none", {"country": "Peru"}),
        ("openinference", "function_of_number", "5"),
        ("openllmetry", "function_of_number", 5),
    ],
)
def test_what_is_lost_of_an_input_without_a_word(stores: dict[str, Path], name: str, shape: str, given: Any) -> None:
    [case] = cases_of(stores[name], shape)
    assert case.input == given


@pytest.mark.parametrize("name", FOREIGN)
def test_an_output_of_one_field_is_compared_as_the_graph_has_it(stores: dict[str, Path], name: str) -> None:
    [case] = cases_of(stores[name], "answer_only")
    assert case.output == (None if name == "otel-genai" else {"answer": "whywhy"})


def tune(store: Path, spec: str, *options: str) -> dict[str, Any]:
    command = ["tune", f"{PROGRAM}:{spec}", "--runs", "all", "--workers", "0", "--store", str(store), "--json"]
    result = CliRunner().invoke(app, [*command, "--held-out", "0", *options], catch_exceptions=False)
    assert result.exit_code == 1, result.output
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize("agent", ["capitals", "talker"])
@pytest.mark.parametrize("name", FOREIGN)
def test_runs_of_other_tracers_are_tuned_on(
    stores: dict[str, Path], engine: OpenAIServer, name: str, agent: str
) -> None:
    foreign_agents.ran.clear()
    found = tune(stores[name], f"scored_{agent}")
    errors = {t["candidate"]["wording"]: t["measured"]["error"] for t in found["trials"]}
    assert errors == {"Capital of": 1.0, "please": 0.0}
    assert found["runs"]["search"] == foreign_agents.RUNS
    made = [r for r in Store(stores[name]).runs() if MODE in r.labels and r.agent == agent]
    assert made and {r.status for r in made} == {"ok"}
    assert foreign_agents.ran == []  # the tool answered what it had in the foreign trace


@pytest.mark.parametrize("agent", ["capitals", "talker"])
@pytest.mark.parametrize("name", FOREIGN)
def test_the_default_scorer_compares_whole_outputs_and_says_where_there_are_none(
    stores: dict[str, Path], engine: OpenAIServer, name: str, agent: str
) -> None:
    found = tune(stores[name], agent, "--trials", "1")
    [trial] = found["trials"]
    assert trial["candidate"]["wording"] == "Capital of"  # which the runs were recorded with
    unknown = [note for note in found["notes"] if "the trace does not tell the whole output" in note]
    if name == "otel-genai":
        assert len(unknown) == 1 and trial["measured"]["scored"] == 0
    else:
        assert not unknown and trial["measured"]["error"] == 0.0


@pytest.mark.parametrize(("name", "agent"), [("openinference", "hidden"), ("otel-genai", "picture")])
def test_nothing_is_run_where_no_trace_says_the_input(stores: dict[str, Path], name: str, agent: str) -> None:
    before = len(Store(stores[name]).runs())
    options = ["tune", f"{PROGRAM}:{agent}", "--runs", "all", "--store", str(stores[name])]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2 and f"1 {UNTOLD}" in result.output
    assert len(Store(stores[name]).runs()) == before
