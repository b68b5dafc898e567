"""A burst of spans from one process, as fast as they can be made: usage `burst.py redecode|otel SINK SPANS`.

SINK is a store directory for redecode, else an OTLP/HTTP endpoint for OpenTelemetry's SDK with its batch processor at
default settings. Prints JSON: CPU and wall seconds until everything is handed over, and those the caller waited.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

ATTRIBUTES: dict[str, str | int] = {
    "langgraph.node": "ask",
    "langgraph.step": 3,
    "langgraph.triggers": '["__pregel_push"]',
}


def redecode(store: Path, count: int) -> Callable[[], object]:
    """Spans of redecode; returns what hands them over."""
    from redecode.tracer import Recorder, SpanKind

    recorder = Recorder(store)
    run = recorder.start_run("burst")
    for _ in range(count - 1):
        recorder.end(recorder.start(SpanKind.NODE, "ask", run, "ask", attributes=ATTRIBUTES))
    recorder.end(run)
    return recorder.close


def otel(endpoint: str, count: int) -> Callable[[], object]:
    """Spans of OpenTelemetry's SDK; returns what hands them over."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    tracer = provider.get_tracer("burst")
    with tracer.start_as_current_span("burst"):
        for _ in range(count - 1):
            tracer.start_span("ask", attributes=ATTRIBUTES).end()
    return provider.shutdown


def main() -> None:
    """Run and print."""
    which, sink, spans = sys.argv[1:4]
    for count in (100, int(spans)):  # the first for warmth, its sink or store beside the other's
        cpu, begin = time.process_time(), time.perf_counter()
        warm = count == 100
        if which == "redecode":
            hand_over = redecode(Path(sink + "-warm" if warm else sink), count)
        else:
            hand_over = otel(sink.replace("/v1/", "-warm/v1/") if warm else sink, count)
        waited = time.perf_counter() - begin
        hand_over()
        used = {"cpu_s": time.process_time() - cpu, "waited_s": waited, "wall_s": time.perf_counter() - begin}
    sys.stdout.write(json.dumps(used) + "\n")


if __name__ == "__main__":
    main()
