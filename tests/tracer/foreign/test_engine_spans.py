"""vLLM's own spans from a real engine: they join the decode whose trace context reached it, and make no run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import duckdb
import pytest
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

from redecode import tracer
from redecode.agents import model_dir
from redecode.replay.engine import EngineOptions, start, stop
from redecode.tracer import Fidelity, RecordedRun, SpanKind, Store, TimeSource
from tests.tracer.collector.support import CollectorProcess

pytestmark = pytest.mark.vllm
MODEL = "redecode-fm-xs"

# OpenLLMetry alone of the three sends its trace context with LangChain's calls: those that do not stream.
FOREIGN = """
import sys
from langchain_openai import ChatOpenAI
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.langchain import LangchainInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
traces, url, model = sys.argv[1:]
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=traces)))
LangchainInstrumentor().instrument(tracer_provider=provider)
with provider.get_tracer("app").start_as_current_span("the app"):
    for streaming in (False, True):
        ChatOpenAI(model=model, base_url=url, api_key="x", max_tokens=8, streaming=streaming).invoke("hello")
provider.shutdown()
"""


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    shared = CollectorProcess(tmp_path_factory.mktemp("spans") / "store")
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def traced_engine(
    vllm_installed: None, collector: CollectorProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A vLLM that sends its spans to the collector."""
    home = tmp_path_factory.mktemp("traced-engine")
    options = EngineOptions(extra_args=("--otlp-traces-endpoint", f"http://{collector.grpc}"))
    environ = {**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    state = start(model_dir(MODEL), home=home, options=options, env=environ)
    yield state.base_url
    stop(home)


class State(TypedDict):
    said: str


def ask_twice(url: str) -> None:
    def ask(state: State) -> State:
        for streaming in (False, True):
            answer = ChatOpenAI(model=MODEL, base_url=url, api_key="x", max_tokens=8, streaming=streaming).invoke("hi")
        return {"said": str(answer.content)}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    graph.compile(name="own").invoke({"said": ""})


def splits(store: Path, count: int) -> dict[str, tuple[int, int, int]]:
    """The engine's account by decode, once there is one of that many."""
    deadline = time.monotonic() + 60
    while True:
        Store(store).drain()
        with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
            found = db.execute("SELECT span_id, queue_ns, prefill_ns, decode_ns FROM decode_splits").fetchall()
        if len(found) >= count:
            return {span: (queue, prefill, decode) for span, queue, prefill, decode in found}
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        time.sleep(0.1)


def run_of(store: Path, agent: str) -> RecordedRun:
    opened = Store(store)
    [run] = [run for run in opened.runs() if run.agent == agent]
    return opened.load(run.run_id)


@pytest.fixture(scope="module")
def own(collector: CollectorProcess, traced_engine: str) -> RecordedRun:
    """A run recorded into the collector's own store."""
    before = len(splits(collector.store, 0))
    tracer.instrument(collector.store)
    try:
        ask_twice(f"{traced_engine}/v1")
    finally:
        tracer.uninstrument()
    splits(collector.store, before + 2)
    return run_of(collector.store, "own")


def test_the_engine_says_the_same_of_a_recorded_decode_in_its_spans_as_in_its_answer(
    collector: CollectorProcess, own: RecordedRun
) -> None:
    told, run = splits(collector.store, 2), own
    assert [d.stream for d in run.decodes] == [False, True]
    for decode in run.decodes:
        answered = (decode.queue_ns, decode.prefill_ns, decode.decode_ns)
        for of_span, of_answer in zip(told[decode.span_id], answered, strict=True):
            assert of_answer is not None
            assert abs(of_span - of_answer) <= 1000  # the same clock readings; the answer has them in ms
        assert decode.e2e_ns is not None
        assert 0 < sum(told[decode.span_id]) <= decode.e2e_ns
    assert {span.kind for span in run.spans} == {SpanKind.RUN, SpanKind.NODE, SpanKind.DECODE}


def test_sent_elsewhere_it_is_the_same_run_of_the_same_engine(
    collector: CollectorProcess, own: RecordedRun, tmp_path: Path
) -> None:
    there = CollectorProcess(tmp_path / "there")
    try:
        command = ["export", own.run.run_id, "--to", there.where["http"], "--store", str(collector.store)]
        subprocess.run([sys.executable, "-m", "redecode.cli", *command], check=True, timeout=60)
    finally:
        there.close()
    arrived = Store(there.store).load(own.run.run_id)
    assert (arrived.run, arrived.spans, arrived.decodes) == (own.run, own.spans, own.decodes)
    assert arrived.run.fidelity is Fidelity.ENGINE
    [engine] = {decode.engine_id for decode in arrived.decodes}
    told = Store(there.store).engine(engine)
    assert told is not None
    assert told == Store(collector.store).engine(engine)


def test_a_foreign_client_s_decode_gets_the_split_where_its_trace_context_reached_the_engine(
    collector: CollectorProcess, traced_engine: str
) -> None:
    before = len(splits(collector.store, 0))
    command = [sys.executable, "-c", FOREIGN, collector.traces, f"{traced_engine}/v1", MODEL]
    subprocess.run(command, check=True, timeout=120)
    splits(collector.store, before + 1)
    run = run_of(collector.store, "the app")
    whole, streamed = run.decodes
    assert whole.e2e_ns is not None
    assert whole.queue_ns is not None
    assert whole.prefill_ns and whole.decode_ns
    assert whole.queue_ns + whole.prefill_ns + whole.decode_ns <= whole.e2e_ns
    assert (whole.token_time_source, whole.output_tokens) == (TimeSource.REQUEST, 8)
    assert (streamed.queue_ns, streamed.prefill_ns, streamed.decode_ns) == (None, None, None)
    assert [span.kind for span in run.spans] == [SpanKind.RUN, SpanKind.DECODE, SpanKind.DECODE]


def test_what_the_engine_does_for_itself_is_kept_and_is_no_run(collector: CollectorProcess, traced_engine: str) -> None:
    del traced_engine
    store = Store(collector.store)
    store.drain()
    with duckdb.connect(str(collector.store / "runs.duckdb"), read_only=True) as db:
        loading = db.execute('SELECT run_id FROM otlp_spans WHERE document LIKE \'%"name":"Load model"%\'').fetchall()
    assert len(loading) == 1
    assert {run.agent for run in store.runs()} <= {"own", "the app"}
    assert loading[0][0] not in {run.run_id for run in store.runs()}
