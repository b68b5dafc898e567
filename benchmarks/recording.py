"""What recording costs: per span, per FM call, and per decode moved into the store.

Ratios are taken within one run, alternating, since machines are noisy. Beside ours stand what one would
use otherwise: OpenTelemetry's batch processor for spans (with what it loses in a burst), DuckDB row
inserts for decodes. `--quick` takes under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import openai
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from redecode.tracer import (
    Decode,
    Fidelity,
    Recorder,
    SpanKind,
    Store,
    decode_attributes,
    instrument,
    uninstrument,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    unit: str
    beside: str = ""


def spans(count: int) -> list[Row]:
    """A burst of spans: ours to disk, OpenTelemetry's batch processor to an exporter of 50 ms a batch."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder))
        run = recorder.start_run("bench")
        begin = time.perf_counter()
        for _ in range(count):
            recorder.end(recorder.start(SpanKind.NODE, "n", run, "n"))
        ours = (time.perf_counter() - begin) / count * 1e6
        recorder.end(run)
        recorder.close()
        kept = len(Store(Path(folder)).load(run.run_id).spans) - 1

    exported = [0]

    class Slow(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            time.sleep(0.05)
            exported[0] += len(spans)
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Slow()))
    tracer = provider.get_tracer("bench")
    begin = time.perf_counter()
    for _ in range(count):
        tracer.start_span("n").end()
    theirs = (time.perf_counter() - begin) / count * 1e6
    provider.shutdown()
    return [
        Row("span, start to end, on disk", ours, "us/span", f"OpenTelemetry batch processor {theirs:.0f} us/span"),
        Row(f"kept of a burst of {count} spans", kept / count, "share", f"batch processor {exported[0] / count:.2f}"),
    ]


def calls(count: int) -> list[Row]:
    """An FM call through the OpenAI client to a server in this process, with and without the tracer."""
    server, url = _server()
    times: dict[str, list[float]] = {"plain": [], "recorded": []}
    with tempfile.TemporaryDirectory() as folder, openai.OpenAI(base_url=url, api_key="x") as client:
        for turn in range(2 * count // 50):
            kind = "recorded" if turn % 2 else "plain"
            if turn % 2:
                instrument(Path(folder) / "store")
            for _ in range(50):
                begin = time.perf_counter()
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
                times[kind].append(time.perf_counter() - begin)
            if turn % 2:
                uninstrument()
    server.shutdown()
    server.server_close()
    plain, recorded = (median(times[k]) * 1e3 for k in ("plain", "recorded"))
    return [Row("FM call of 0 ms, recorded", recorded - plain, "ms more", f"without tracer {plain:.2f} ms")]


def decodes(count: int, tokens: int = 500) -> list[Row]:
    """Decodes with 500 prompt and 500 sampled tokens, from the spool into DuckDB; beside it, row inserts."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        recorder = Recorder(store)
        begin = time.perf_counter()
        for n in range(count):
            run = recorder.start_run("bench")
            span = recorder.start(SpanKind.DECODE, "chat m", run, "chat")
            ids = tuple((n * 7 + i) % 32_000 for i in range(tokens))
            decode = Decode(
                run_id=run.run_id, span_id=span.span_id, step_key=span.step_key, model="m", fidelity=Fidelity.ENGINE,
                sent_ns=1, first_chunk_ns=2, done_ns=3, prompt_ids=ids, sampled_ids=ids,
                logprobs=tuple(-0.5 for _ in ids), token_times_ns=tuple(range(tokens)), input_tokens=tokens,
                output_tokens=tokens,
            )  # fmt: skip
            recorder.end(span, attributes=decode_attributes(decode))
            recorder.end(run)
        written = (time.perf_counter() - begin) / count * 1e6
        recorder.close()
        spool = sum(p.stat().st_size for p in (store / "spool").iterdir())
        begin = time.perf_counter()
        Store(store).drain()
        drained = count / (time.perf_counter() - begin)
        database = (store / "runs.duckdb").stat().st_size
        rows = min(count, 300)
        with duckdb.connect(str(Path(folder) / "rows.duckdb")) as db:
            db.execute("CREATE TABLE d (id INTEGER, prompt INTEGER[], sampled INTEGER[], logprobs DOUBLE[])")
            values = [-0.5] * tokens
            begin = time.perf_counter()
            for n in range(rows):
                db.execute("INSERT INTO d VALUES (?, ?, ?, ?)", [n, list(ids), list(ids), values])
            inserted = rows / (time.perf_counter() - begin)
    return [
        Row(f"decode of {tokens} tokens, to the spool", written, "us/decode"),
        Row(f"decodes of {tokens} tokens, spool to DuckDB", drained, "decodes/s", f"row inserts {inserted:.0f}/s"),
        Row(
            "size of a decode in the store",
            database / count / 1e3,
            f"kB (spool {spool / count / 1e3:.1f} kB)",
        ),
    ]


def _server() -> tuple[ThreadingHTTPServer, str]:
    answer = json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/v1"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    args = parser.parse_args()
    scale = 1 if args.quick else 10
    parts: list[Callable[[], list[Row]]] = [
        lambda: spans(20_000 if not args.quick else 5_000),
        lambda: calls(200 * scale),
        lambda: decodes(500 * scale),
    ]
    rows = [row for part in parts for row in part()]
    conditions = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "duckdb": duckdb.__version__,
        "openai": openai.__version__,
        "disk_free_gb": round(shutil.disk_usage(tempfile.gettempdir()).free / 1e9, 1),
        "quick": args.quick,
    }
    if args.json:
        sys.stdout.write(json.dumps({"conditions": conditions, "rows": [asdict(r) for r in rows]}, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
    for row in rows:
        print(f"{row.what:48} {row.value:>10.2f} {row.unit:24} {row.beside}")


if __name__ == "__main__":
    main()
