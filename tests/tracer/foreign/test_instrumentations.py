"""One program under each instrumentation, its spans sent to our collector: what arrives, beside what we record.

Where something is lost the test says so and fails when it is lost no more: docs/foreign-traces.md tells the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redecode.tracer import Decode, EdgeKind, Fidelity, Provenance, RecordedRun, SpanKind, Store
from tests.conftest import OpenAIServer
from tests.tracer.collector.support import CollectorProcess

PROGRAM = Path(__file__).with_name("traced_agent.py")
GRAPHS = ("sync", "async", "team", "shapes")
FOREIGN = ("openinference", "openllmetry", "otel-genai")
WITH_NODES = ("openinference", "openllmetry")
NOBODY = "http://127.0.0.1:9/v1"


class Server(OpenAIServer):
    """Says its fingerprint, as OpenAI does."""

    def response(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**super().response(body), "system_fingerprint": "fp"}


def answer(body: dict[str, Any]) -> Any:
    if body.get("tools") and body["messages"][-1]["role"] != "tool":
        function = {"name": "population", "arguments": '{"city": "Paris"}'}
        return {"content": "let me see", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    return f"answer to {body['messages'][-1]['content']}"


def program(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A store for each tracer, with the three runs in it."""
    server = Server(answer)
    base = tmp_path_factory.mktemp("foreign")
    stores = {name: base / name for name in ("redecode", *FOREIGN)}
    collectors = {name: CollectorProcess(stores[name]) for name in FOREIGN}
    try:
        where = {"redecode": str(stores["redecode"]), **{name: c.traces for name, c in collectors.items()}}
        running = {name: program(name, place, server.base_url) for name, place in where.items()}
        for name, process in running.items():
            said, errors = process.communicate(timeout=120)
            assert process.returncode == 0, f"{name}: {errors}"
            assert said == "answer to 5 people live in Paris\n"
        for collector in collectors.values():
            assert collector.stop()[0] == 0
        yield stores
    finally:
        for collector in collectors.values():
            collector.close()
        server.close()


def load(store: Path, graph: str) -> RecordedRun:
    opened = Store(store)
    [run] = [r for r in opened.runs() if r.conversation_id == graph]
    return opened.load(run.run_id)


def steps(run: RecordedRun) -> dict[str, tuple[Any, ...]]:
    """Every span but LangChain's inner steps, of which we record none."""
    return {
        s.step_key: (s.kind, s.name, s.status, s.error) for s in run.spans if "/chain:" not in s.step_key.split("@")[-1]
    }


def waits(run: RecordedRun, *kinds: EdgeKind) -> set[tuple[str, str, str]]:
    key = {s.span_id: s.step_key for s in run.spans}
    return {(key[e.src], key[e.dst], e.kind.value) for e in run.edges if e.kind in kinds}


FIELDS = (
    "model", "seed", "seed_source", "sampling", "messages", "tool_definitions", "output", "stream", "finish_reason",
    "input_tokens", "output_tokens", "cached_tokens", "fingerprint", "fidelity", "base_url", "error", "logprobs",
)  # fmt: skip


def lost(ours: Decode, theirs: Decode) -> set[str]:
    """Names of what a foreign tracer does not know of a decode (what it knows is the same)."""
    out = {name for name in FIELDS if getattr(ours, name) != getattr(theirs, name)}
    if "messages" in out and theirs.messages == [{k: v for k, v in m.items() if k != "name"} for m in ours.messages]:
        out = out - {"messages"} | {"names in messages"}
    assert all(getattr(theirs, name, None) in (None, False, {}) for name in out - {"sampling", "fidelity"}), out
    return out | ({"ttft"} if ours.first_chunk_ns is not None and theirs.first_chunk_ns is None else set())


# -- the tree --


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", WITH_NODES)
def test_the_tree_has_the_nodes_names_errors_and_step_keys_of_a_run_we_record(
    stores: dict[str, Path], name: str, graph: str
) -> None:
    ours, theirs = load(stores["redecode"], graph), load(stores[name], graph)
    assert steps(theirs) == steps(ours)
    assert (theirs.run.agent, theirs.run.status, theirs.run.error, theirs.run.input) == (
        ours.run.agent,
        ours.run.status,
        ours.run.error,
        ours.run.input,
    )
    assert theirs.run.labels.get("expected") == ours.run.labels.get("expected") == {"graph": graph}
    inner = [s for s in theirs.spans if "/chain:" in s.step_key]
    assert len(inner) == {"sync": 1, "async": 1, "team": 0, "shapes": 2}[graph]
    assert all(s.kind is SpanKind.NODE for s in inner)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", WITH_NODES)
def test_barriers_retries_and_calls_are_those_of_a_run_we_record(
    stores: dict[str, Path], name: str, graph: str
) -> None:
    ours, theirs = load(stores["redecode"], graph), load(stores[name], graph)
    assert waits(theirs, EdgeKind.BARRIER, EdgeKind.RETRY) == waits(ours, EdgeKind.BARRIER, EdgeKind.RETRY)
    known = {(src, dst) for src, dst, _ in waits(ours, EdgeKind.DATA)}
    found = {(src, dst) for src, dst, _ in waits(theirs, EdgeKind.DATA)}
    assert found <= known and found  # what is said of data is true; not all of it is known
    for edge in theirs.edges:
        if edge.kind is EdgeKind.CALL:
            assert edge.provenance is Provenance.RECORDED
        elif edge.kind in (EdgeKind.BARRIER, EdgeKind.RETRY, EdgeKind.DATA):
            assert edge.provenance is Provenance.SUPERSTEP
        else:
            assert edge.provenance in (Provenance.SUPERSTEP, Provenance.TIME)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_genai_instrumentation_has_calls_and_tools_and_no_nodes(stores: dict[str, Path], graph: str) -> None:
    ours, theirs = load(stores["redecode"], graph), load(stores["otel-genai"], graph)
    agents = {SpanKind.GRAPH} if graph == "team" else set()
    assert {s.kind for s in theirs.spans} == {SpanKind.RUN, SpanKind.DECODE, SpanKind.TOOL} | agents
    assert {s.step_key.split("/")[-1].split("#")[0] for s in theirs.spans if s.kind is SpanKind.DECODE} == {"chat"}
    assert len(theirs.decodes) == len(ours.decodes) and len(theirs.tools) == len(ours.tools)
    assert (theirs.run.agent, theirs.run.error) == (ours.run.agent, ours.run.error)
    assert {e.provenance for e in theirs.edges if e.kind is not EdgeKind.CALL} == {Provenance.TIME}


# -- the decodes --


@pytest.mark.parametrize("name", WITH_NODES)
def test_what_is_lost_of_each_decode(stores: dict[str, Path], name: str) -> None:
    always = {
        "openinference": {"base_url"},
        "openllmetry": {"base_url", "seed", "seed_source", "sampling", "fidelity"},
    }[name]
    streamed = {
        "openinference": {"fingerprint", "ttft"},
        "openllmetry": {"fingerprint", "ttft", "stream"},
    }[name]
    for graph in GRAPHS:
        ours, theirs = load(stores["redecode"], graph), load(stores[name], graph)
        there = {d.step_key: d for d in theirs.decodes}
        assert there.keys() == {d.step_key for d in ours.decodes}
        for decode in ours.decodes:
            expected = always | (streamed if decode.stream else set())
            if name == "openllmetry":
                expected |= {"fingerprint"}
                expected |= {"names in messages"} if any("name" in m for m in decode.messages) else set()
            assert lost(decode, there[decode.step_key]) == expected, decode.step_key


def test_what_the_genai_instrumentation_loses_of_each_decode(stores: dict[str, Path]) -> None:
    for graph in GRAPHS:
        ours, theirs = load(stores["redecode"], graph), load(stores["otel-genai"], graph)
        waiting = list(theirs.decodes)
        for decode in ours.decodes:  # no step key tells which is which: each has its like
            like = next(d for d in waiting if (d.messages, d.output) == (decode.messages, decode.output))
            waiting.remove(like)
            assert lost(decode, like) == {"base_url", "fingerprint"} - (
                set() if decode.fingerprint else {"fingerprint"}
            )
            assert like.fidelity is Fidelity.SEEDED
            assert (like.first_chunk_ns is not None) == decode.stream
        assert not waiting


@pytest.mark.parametrize("name", FOREIGN)
def test_calls_in_a_plain_thread_pool_are_runs_of_their_own(stores: dict[str, Path], name: str) -> None:
    assert len(load(stores["redecode"], "threads").decodes) == 2
    assert load(stores[name], "threads").decodes == []
    opened = Store(stores[name])
    alone = [opened.load(run.run_id) for run in opened.runs() if run.conversation_id is None]
    assert sorted(d.messages[-1]["content"] for run in alone for d in run.decodes) == ["one", "two"]
    assert all(len(run.spans) == 2 for run in alone)


def test_times_are_of_the_client_and_token_times_of_nobody(stores: dict[str, Path]) -> None:
    for name in FOREIGN:
        for decode in load(stores[name], "sync").decodes:
            assert decode.done_ns is not None and decode.e2e_ns is not None and decode.e2e_ns > 0
            unknown = (decode.prompt_ids, decode.sampled_ids, decode.token_times_ns, decode.queue_ns, decode.engine_id)
            assert unknown == (None,) * 5


# -- the tools --


@pytest.mark.parametrize("name", FOREIGN)
def test_tool_calls_have_id_arguments_and_result(stores: dict[str, Path], name: str) -> None:
    for graph in ("sync", "async"):
        [ours], [theirs] = load(stores["redecode"], graph).tools, load(stores[name], graph).tools
        for field in ("tool", "call_id", "arguments", "result", "error", "side_effect"):
            assert getattr(theirs, field) == getattr(ours, field)
        assert theirs.step_key.endswith("/tool:0:population")


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_lost_of_tools_that_raise_or_return_numbers(stores: dict[str, Path], name: str) -> None:
    raised, returned = sorted(load(stores[name], "shapes").tools, key=lambda t: t.step_key)
    assert (raised.error, raised.arguments) == ("ZeroDivisionError: division by zero", {"a": 1, "b": 0})
    assert raised.call_id == (None if name == "openinference" else "call_9")
    assert returned.arguments == {"a": 1, "b": 2}
    assert returned.result == (0.5 if name == "openllmetry" else "0.5")  # the others send the text of it


# -- what can be done with them --


@pytest.mark.parametrize("name", FOREIGN)
def test_show_draws_the_run(stores: dict[str, Path], name: str) -> None:
    run = load(stores[name], "sync")
    command = [sys.executable, "-m", "redecode.cli", "show", run.run.run_id[:10], "--store", str(stores[name])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"run {run.run.run_id}  guide  ok")
    assert any(line.startswith("invoke_agent guide") for line in lines)
    tree = [re.split(r"  | [●✗↻]", line)[0].rstrip() for line in lines if line.startswith(("├", "└"))]
    if name in WITH_NODES:
        assert tree[0] == "├─ plan@1"
        assert [f"├─ ask@2[push:{n}]" for n in range(8)] == sorted(line for line in tree if "ask@2" in line)
    else:
        assert tree == [*["├─ chat m"] * 10, "├─ tool population", "└─ chat m"]
    assert "on the critical path, longest first:" in lines


@pytest.mark.parametrize("name", WITH_NODES)
def test_a_run_traced_by_others_plays_back_without_an_engine(stores: dict[str, Path], name: str) -> None:
    graphs = GRAPHS if name == "openinference" else ("sync", "async", "shapes")  # see below
    playing = program("playback", str(stores[name]), NOBODY, *graphs)
    said, errors = playing.communicate(timeout=120)
    assert playing.returncode == 0, errors
    assert said == "answer to 5 people live in Paris\n"


def test_a_run_of_which_something_was_lost_is_not_played_back_as_if_it_were_whole(stores: dict[str, Path]) -> None:
    playing = program("playback", str(stores["openllmetry"]), NOBODY, "team")
    _, errors = playing.communicate(timeout=120)
    assert playing.returncode != 0
    assert "messages[1].name: only asked: “researcher”" in errors


def test_sub_agents_are_graphs_under_every_instrumentation(stores: dict[str, Path]) -> None:
    names = {}
    for name, store in stores.items():
        run = load(store, "team")
        graphs = [span.name for span in run.spans if span.kind is SpanKind.GRAPH]
        below = [tool.step_key.split("/graph:")[1].split("/")[0] for tool in run.tools]
        names[name] = graphs, sorted(below)
    wanted = ["invoke_workflow researcher", "invoke_workflow expert"], ["expert", "researcher"]
    assert names == dict.fromkeys(stores, wanted)
