"""The exporters of OpenTelemetry's SDK against a real collector: what they send is in the store, once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from redecode.tracer import Store
from tests.tracer.collector.support import CollectorProcess, span_ids, trace_request, written

Collect = Callable[..., CollectorProcess]
Make = Callable[[CollectorProcess], SpanExporter]
EXPORTERS: dict[str, Make] = {
    "http": lambda c: HttpExporter(c.traces, timeout=30),
    "http-gzip": lambda c: HttpExporter(c.traces, compression=Compression.Gzip),
    "grpc": lambda c: GrpcExporter(c.grpc, insecure=True, timeout=30),
    "grpc-gzip": lambda c: GrpcExporter(c.grpc, insecure=True, compression=grpc.Compression.Gzip),
}


@contextmanager
def exporting(kind: str, collector: CollectorProcess) -> Iterator[SpanExporter]:
    exporter = EXPORTERS[kind](collector)
    yield exporter
    exporter.shutdown()


@pytest.fixture
def exporter(request: pytest.FixtureRequest, collector: CollectorProcess) -> Iterator[SpanExporter]:
    with exporting(request.param, collector) as made:
        yield made


def some_spans(count: int) -> list[ReadableSpan]:
    """Ended spans of one trace, as the SDK makes them."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "agent"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("tests", "1")
    with tracer.start_as_current_span("root"):
        for n in range(count - 1):
            with tracer.start_as_current_span(f"child {n}", attributes={"n": n}):
                pass
    provider.shutdown()
    return list(memory.get_finished_spans())


def ids(spans: list[ReadableSpan]) -> set[str]:
    return {f"{span.context.span_id:016x}" for span in spans if span.context is not None}


@pytest.mark.parametrize("exporter", list(EXPORTERS), indirect=True)
def test_spans_of_the_sdk_reach_the_store(exporter: SpanExporter, collector: CollectorProcess) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=50))
    tracer = provider.get_tracer("tests", "1")
    with tracer.start_as_current_span("the run") as root:
        for n in range(20):
            with tracer.start_as_current_span(f"step {n}", attributes={"n": n}):
                pass
    assert provider.force_flush()
    provider.shutdown()
    run = Store(collector.store).load(f"{root.get_span_context().trace_id:032x}")
    assert sorted(span.name for span in run.spans) == sorted(["the run", *(f"step {n}" for n in range(20))])
    assert {span.parent_span_id for span in run.spans} == {None, f"{root.get_span_context().span_id:016x}"}


@pytest.mark.parametrize("exporter", ["http", "grpc"], indirect=True)
def test_a_request_that_comes_twice_is_kept_once(exporter: SpanExporter, collector: CollectorProcess) -> None:
    spans = some_spans(5)
    for _ in range(3):  # as when the answer is lost on its way
        assert exporter.export(spans) is SpanExportResult.SUCCESS
    (root,) = [span for span in spans if span.parent is None]
    store = Store(collector.store)
    store.drain()
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    run = store.load(f"{root.context.trace_id:032x}")
    assert sorted(span.span_id for span in run.spans) == sorted(ids(spans))


def test_an_exporter_waits_as_long_as_it_is_asked_to_and_loses_nothing(collect: Collect) -> None:
    collector = collect("--max-backlog-mib", "1")
    sent: set[str] = set()
    rng = random.Random(1)
    while True:
        request = trace_request(20, rng, text="x" * 5000)
        status, _, _ = collector.post(request.SerializeToString())
        if status == 429:
            break
        assert status == 200
        sent.update(span_ids(request))
    assert "wait in the spool" in collector.health()["why"]

    outcomes: dict[str, tuple[Any, float]] = {}
    held = {"http": some_spans(3), "grpc": some_spans(3)}

    def export(kind: str) -> None:
        with exporting(kind, collector) as exporter:
            begin = time.monotonic()
            outcomes[kind] = exporter.export(held[kind]), time.monotonic() - begin

    refused = collector.health()["refused"]
    threads = [threading.Thread(target=export, args=(kind,)) for kind in held]
    for thread in threads:
        thread.start()
    while collector.health()["refused"] < refused + 2:  # both have been asked to wait
        time.sleep(0.02)
    store = Store(collector.store)
    store.drain()  # the reader they wait for
    for thread in threads:
        thread.join()
    assert {name: outcome for name, (outcome, _) in outcomes.items()} == {
        "http": SpanExportResult.SUCCESS,
        "grpc": SpanExportResult.SUCCESS,
    }
    # Left to themselves, these exporters come again after 0.8 to 1.2 s.
    assert all(waited > 1.9 for _, waited in outcomes.values())
    everything = {span.span_id for run in store.runs() for span in store.load(run.run_id).spans}
    assert everything == sent | ids(held["http"]) | ids(held["grpc"])


def test_a_token_is_sent_by_the_exporters_own_setting(collect: Collect, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = collect("--token", "sesame")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20sesame")
    spans = some_spans(2)
    for kind in ("http", "grpc"):
        with exporting(kind, collector) as exporter:
            assert exporter.export(spans) is SpanExportResult.SUCCESS
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20other")
    with exporting("http", collector) as exporter:
        assert exporter.export(some_spans(2)) is SpanExportResult.FAILURE
    assert sorted(e["span"] for e in written(collector.store)) == sorted([*ids(spans), *ids(spans)])


def test_what_is_collected_is_drained_by_the_collector_itself_if_asked(collect: Collect, store: Path) -> None:
    collector = collect("--drain-every", "0.1")
    spans = some_spans(30)
    with exporting("http", collector) as exporter:
        assert exporter.export(spans) is SpanExportResult.SUCCESS
    deadline = time.monotonic() + 30
    found: set[str] = set()
    while found != ids(spans) and time.monotonic() < deadline:
        time.sleep(0.1)
        try:  # read the file itself: a Store would drain
            with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
                found = {row[0] for row in db.execute("SELECT span_id FROM otlp_spans").fetchall()}
        except duckdb.Error:
            continue  # not there yet, or being written
    assert found == ids(spans)
    assert collector.stop()[0] == 0
