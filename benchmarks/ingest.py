"""From the spool into DuckDB: durable spans/s and tokens/s, bytes on disk, memory.

What is timed is what whoever opens a store waits for: journals on disk → rows committed in DuckDB. The journals are
written by the real recorder in processes of their own. Beside it, for scale: the same rows by DuckDB's row inserts.
`--quick` takes under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median

import duckdb

from redecode.tracer import Decode, Fidelity, Recorder, SpanKind, Store, TimeSource, decode_attributes

PROMPT, SAMPLED, VOCABULARY = 500, 500, 32_000
PROMPT_IDS = "redecode.prompt_ids"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    unit: str
    goal: str = ""
    beside: str = ""


def write_spans(store: Path, count: int) -> None:
    """Runs of 100 nodes each, as the recorder writes them."""
    recorder = Recorder(store)
    for _ in range(count // 101):
        run = recorder.start_run("bench", attributes={"redecode.run.input": '{"question": "how long"}'})
        for n in range(100):
            attributes = {"langgraph.node": "ask", "langgraph.step": n, "langgraph.triggers": '["branch:to:ask"]'}
            recorder.end(recorder.start(SpanKind.NODE, "ask", run, f"ask@{n}[pull:ask]", attributes=attributes))
        recorder.end(run)
    recorder.close()


def decode(run_id: str, span_id: str, rng: random.Random, shared: tuple[int, ...]) -> Decode:
    """A decode as vLLM gives it: a prompt that shares its first half with others, ids as skewed as text's."""
    sampled = tuple(int(VOCABULARY * rng.random() ** 3) for _ in range(SAMPLED))
    gaps = array("q", (int(rng.gauss(5_000_000, 50_000)) for _ in range(SAMPLED)))
    times, at = [], 0
    for gap in gaps:
        times.append(at := at + gap)
    return Decode(
        run_id=run_id, span_id=span_id, step_key="run/chat", model="m", fidelity=Fidelity.ENGINE, sent_ns=1,
        first_chunk_ns=2, done_ns=times[-1], prompt_ids=shared + sampled[: PROMPT - len(shared)], sampled_ids=sampled,
        logprobs=tuple(-rng.expovariate(1) * rng.random() ** 3 for _ in sampled), token_times_ns=tuple(times),
        token_time_source=TimeSource.ENGINE, messages=[{"role": "user", "content": "how long"}],
        output=[{"role": "assistant", "content": "that long"}], input_tokens=PROMPT, output_tokens=SAMPLED,
    )  # fmt: skip


def write_decodes(store: Path, count: int, distinct: int = 500) -> None:
    """`count` decodes, half of each prompt shared with the others as a system prompt is.

    What was sampled repeats after `distinct` (making random numbers takes longer than recording them); no prompt does.
    """
    recorder, rng = Recorder(store), random.Random(1)
    shared = tuple(rng.randrange(VOCABULARY) for _ in range(PROMPT // 2))
    made = [decode_attributes(decode("", "", rng, shared)) for _ in range(min(count, distinct))]
    for n in range(count):
        run = recorder.start_run("bench")
        span = recorder.start(SpanKind.DECODE, "chat m", run, "chat")
        own = array("i", (n, *shared[1:])).tobytes()
        prompt = made[n % len(made)][PROMPT_IDS][: len(own)] + own
        recorder.end(span, attributes={**made[n % len(made)], PROMPT_IDS: prompt})
        recorder.end(run)
    recorder.close()


def in_other_process(function: Callable[[Path, int], None], store: Path, count: int) -> float:
    """Call one of the above in a process of its own; returns its seconds."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import ingest; from pathlib import Path; "
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", f"{code}ingest.{function.__name__}(Path({str(store)!r}), {count})"], check=True
    )
    return time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Drained:
    """One drain: its seconds, and bytes."""

    seconds: float
    database: int
    spool: int
    columns: dict[str, int]


def drained(function: Callable[[Path, int], None], count: int) -> Drained:
    """Write a spool in another process, and drain it in this one."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        in_other_process(function, store, count)
        spooled = sum(p.stat().st_size for p in (store / "spool").iterdir())
        opened = Store(store)
        gc.collect()
        begin = time.perf_counter()
        opened.drain()
        seconds = time.perf_counter() - begin
        return Drained(seconds, opened.database.stat().st_size, spooled, by_column(opened.database))


def row_inserts(count: int) -> float:
    """Decodes per second when each is a row insert of its own."""
    rng = random.Random(1)
    some = decode("r", "s", rng, ())
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(str(Path(folder) / "rows.duckdb")) as db:
        db.execute("CREATE TABLE d (ids INTEGER[], prompt INTEGER[], logprobs FLOAT[], gaps INTEGER[])")
        begin = time.perf_counter()
        for _ in range(count):
            values = [some.sampled_ids, some.prompt_ids, some.logprobs, some.token_times_ns]
            gaps = [round(t / 1e6) for t in values[3] or ()]
            db.execute("INSERT INTO d VALUES (?, ?, ?, ?)", [*map(list, values[:3]), gaps])  # type: ignore[arg-type]
        return count / (time.perf_counter() - begin)


def peak_mb(count: int) -> float:
    """Peak memory of a process that drains `count` spans, MB."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        in_other_process(write_spans, store, count)
        code = (
            "import resource, sys; from pathlib import Path; from redecode.tracer import Store; "
            "Store(Path(sys.argv[1])).drain(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        out = subprocess.run([sys.executable, "-c", code, str(store)], check=True, capture_output=True, text=True)
        return int(out.stdout) / 1024


def by_column(database: Path) -> dict[str, int]:
    """Bytes of the token columns of `decodes`, as DuckDB has compressed them; blocks are of 256 KiB."""
    query = "SELECT column_name, count(DISTINCT block_id) * 262144 FROM pragma_storage_info('decodes') "
    with duckdb.connect(str(database), read_only=True) as db:
        return dict(db.execute(query + "WHERE block_id >= 0 GROUP BY column_name").fetchall())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    spans, calls, repeats = (100_000, 4_000, 1) if arguments.quick else (1_000_000, 20_000, 3)
    span_runs = [drained(write_spans, spans) for _ in range(repeats)]
    call_runs = [drained(write_decodes, calls) for _ in range(repeats)]
    tokens, sampled, some = calls * (PROMPT + SAMPLED), calls * SAMPLED, call_runs[0]
    calls_s = calls / median(r.seconds for r in call_runs)
    parts = {name: some.columns.get(name, 0) / sampled for name in ("sampled_ids", "logprobs", "token_gaps_us")}
    rows = [
        Row("spans, spool to DuckDB", spans / median(r.seconds for r in span_runs), "spans/s", ">= 100000"),
        Row("  on disk", span_runs[0].database / spans, "bytes/span", beside=f"spool {span_runs[0].spool / spans:.0f}"),
        Row("tokens of decodes, spool to DuckDB", calls_s * (PROMPT + SAMPLED), "tokens/s", ">= 3000000"),
        Row("  of them sampled", calls_s * SAMPLED, "tokens/s"),
        Row("  decodes", calls_s, "decodes/s", beside=f"row inserts {row_inserts(100):.0f}"),
        Row("  on disk, all of it", some.database / tokens, "bytes/token", beside=f"spool {some.spool / tokens:.1f}"),
        Row("a sampled token on disk: id, logprob and time", sum(parts.values()), "bytes/token", "<= 5"),
        Row("  its id", parts["sampled_ids"], "bytes/token"),
        Row("  its logprob, float32 as the engine gave it", parts["logprobs"], "bytes/token"),
        Row("  its time, to 1 us", parts["token_gaps_us"], "bytes/token"),
        *(Row(f"peak memory, {n:,} spans", peak_mb(n), "MB", "bounded") for n in (spans // 10, spans)),
    ]
    conditions = {
        "python": platform.python_version(), "duckdb": metadata.version("duckdb"),
        "pyarrow": metadata.version("pyarrow"), "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 2),
        "repeats": repeats, "spans": spans, "decodes": calls, "prompt tokens": PROMPT, "sampled tokens": SAMPLED,
    }  # fmt: skip
    if arguments.json:
        print(json.dumps({"conditions": conditions, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    print("  ".join(f"{k} {v}" for k, v in conditions.items()))
    for row in rows:
        print(f"{row.what:<56} {row.value:>13,.1f} {row.unit:<12} {row.goal:<26} {row.beside}")


if __name__ == "__main__":
    main()
