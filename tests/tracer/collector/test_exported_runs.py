"""Our own runs, exported and sent to a collector, are the same runs there."""

from __future__ import annotations

import gzip
import operator
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import grpc
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from redecode import tracer
from redecode.tracer import Fidelity, RecordedRun, SpanKind, Store
from tests.conftest import OpenAIServer
from tests.tracer.collector.support import JSON, PROTOBUF, CollectorProcess

Collect = Callable[..., CollectorProcess]
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class State(TypedDict):
    said: Annotated[list[str], operator.add]


@tool
def divide(a: int, b: int) -> float:
    """Divide."""
    return a / b


def work(url: str) -> None:
    """One run that ends and one that fails: a fan-out, streams, tools, a subgraph."""
    model = ChatOpenAI(model="m", base_url=url, api_key="x", max_retries=0, max_tokens=3)

    def ask(state: Any) -> State:
        return {"said": [str(model.invoke(f"question {state['n']}").content)]}

    def stream(state: State) -> State:
        return {"said": ["".join(str(part.content) for part in model.stream("tell"))]}

    def divides(state: State) -> State:
        calls = [{"type": "tool_call", "id": f"c{n}", "name": "divide", "args": {"a": 1, "b": n}} for n in (2, 0)]
        return {"said": [str(divide.invoke(call)) for call in calls]}

    below = StateGraph(State)
    below.add_node("stream", stream)
    below.add_edge(START, "stream")
    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("below", below.compile())
    graph.add_node("divides", divides)
    graph.add_conditional_edges(START, lambda state: [Send("ask", {"n": n}) for n in range(3)], ["ask"])
    graph.add_edge("ask", "below")
    graph.add_edge("below", "divides")
    graph.add_edge("divides", END)
    with pytest.raises(ZeroDivisionError):
        graph.compile(name="fails").invoke({"said": []})
    below.compile(name="ends").invoke({"said": []})


@pytest.fixture
def recorded(store: Path, serve: Callable[..., OpenAIServer]) -> list[RecordedRun]:
    server = serve(lambda body: "yes", vllm=True)
    tracer.instrument(store)
    try:
        work(server.base_url)
    finally:
        tracer.uninstrument()
    runs = [loaded(store, run.run_id) for run in Store(store).runs()]
    assert [run.run.agent for run in runs] == ["ends", "fails"]
    assert {s.kind for s in runs[1].spans} == {
        SpanKind.RUN, SpanKind.NODE, SpanKind.GRAPH, SpanKind.DECODE, SpanKind.TOOL,
    }  # fmt: skip
    assert [run.run.fidelity for run in runs] == [Fidelity.TOKENS, Fidelity.TOKENS]
    assert all(decode.prompt_ids and decode.sampled_ids and decode.logprobs for run in runs for decode in run.decodes)
    return runs


def loaded(store: Path, run_id: str) -> RecordedRun:
    run = Store(store).load(run_id)
    run.edges.sort(key=str)  # the order in which they came says nothing
    return run


def redecode(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "redecode.cli", *arguments], check=True, timeout=60, capture_output=True)


def send(way: str, store: Path, collector: CollectorProcess, folder: Path) -> None:
    if way == "--to":
        redecode("export", "--all", "--to", collector.where["http"], "--store", str(store))
        return
    file = folder / f"runs.{way}"
    encoding = "json" if way == "json" else "protobuf"
    given = ("--encoding", encoding, "--output", str(file), "--force")
    redecode("export", "--all", "--format", "otlp", "--store", str(store), *given)
    body = file.read_bytes()
    match way:
        case "json":
            for line in body.splitlines():  # a request each
                assert collector.post(line, JSON)[0] == 200
        case "protobuf.gz":
            assert collector.post(gzip.compress(body), PROTOBUF, content_encoding="gzip")[0] == 200
        case "grpc":
            with grpc.insecure_channel(collector.grpc) as channel:
                channel.unary_unary(EXPORT)(body, timeout=30)


@pytest.mark.parametrize("way", ["json", "protobuf.gz", "grpc", "--to"])
def test_a_run_that_is_sent_is_the_same_run_there(
    recorded: list[RecordedRun], store: Path, collect: Collect, tmp_path: Path, way: str
) -> None:
    collector = collect(into=tmp_path / "there")
    for _ in range(2):  # sent again, it is still one run
        send(way, store, collector, tmp_path)
        there = Store(collector.store)
        assert [run.run_id for run in there.runs()] == [run.run.run_id for run in recorded]
        for run in recorded:
            assert loaded(collector.store, run.run.run_id) == run
    assert collector.health()["rejected"] == 0


def test_a_run_arrives_in_pieces_and_grows_into_itself(
    recorded: list[RecordedRun], store: Path, collect: Collect, tmp_path: Path
) -> None:
    """As a sender does that sends each span when it ends, the run's own last."""
    from redecode.tracer.export.otlp import otlp_spans, requests

    collector = collect(into=tmp_path / "there")
    run = recorded[1]
    spans = sorted(otlp_spans(run), key=lambda span: span.end_ns or 0)
    for count, span in enumerate(spans, 1):
        [request] = requests([span])
        assert collector.post(request.SerializeToString())[0] == 200
        there = loaded(collector.store, run.run.run_id)
        assert len(there.spans) >= count
        assert there.run.status == ("open" if count < len(spans) else "error")
    assert loaded(collector.store, run.run.run_id) == run


def test_a_run_forwarded_while_it_is_recorded_is_the_same_run_there(
    store: Path, collect: Collect, tmp_path: Path, serve: Callable[..., OpenAIServer]
) -> None:
    collector = collect(into=tmp_path / "there")
    tracer.instrument(store, forward=collector.where["http"])
    try:
        work(serve(lambda body: "yes", vllm=True).base_url)
    finally:
        tracer.uninstrument()
    runs = Store(store).runs()
    assert [run.agent for run in runs] == ["ends", "fails"]
    for run in runs:
        assert loaded(collector.store, run.run_id) == loaded(store, run.run_id)
