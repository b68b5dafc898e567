"""What the privacy tests share: a run that says something, and ways to look through everything a store has kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from redecode.tracer import Decode, Fidelity, RecordedRun, Recorder, SpanKind, Store, decode_attributes
from redecode.tracer import conventions as c
from redecode.tracer.privacy.redaction import Privacy
from redecode.tracer.privacy.rules import Rule, Rules

MAIL = "ada.lovelace@example.org"


def by(*rules: Rule) -> Privacy:
    return Privacy(rules=Rules(rules))


def bytes_of(store: Path) -> bytes:
    """Every byte below a directory, with the name of each file."""
    files = [path for path in sorted(store.rglob("*")) if path.is_file()]
    return b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)


def values_of(store: Path) -> str:
    """Every value of every table: what DuckDB compressed would not be found among the bytes."""
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        tables = [name for (name,) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return "\n".join(repr(row) for name in tables for row in db.execute(f"SELECT * FROM {name}").fetchall())


def record(store: Path, privacy: Privacy | None, said: str = "hello", **fields: Any) -> RecordedRun:
    """One run with a decode and a tool, all saying `said`; read back, and also still in the journal's bytes."""
    recorder = Recorder(store, privacy=privacy)
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: c.to_json({"ask": said}), "mine": said})
    span = recorder.start(SpanKind.DECODE, "chat m", run, "chat")
    given = {
        "model": "m", "fidelity": Fidelity.ENGINE, "sent_ns": 10, "first_chunk_ns": 20, "done_ns": 30, "seed": 7,
        "messages": [{"role": "user", "content": said}], "output": [{"role": "assistant", "content": f"re: {said}"}],
        "prompt_ids": tuple(range(1000, 1040)), "sampled_ids": (7001, 7002), "logprobs": (-0.5, -0.25),
        "token_times_ns": (1000, 2000), "sampling": {"temperature": 0.5, "stop": [said]}, "finish_reason": "stop",
        "tool_definitions": [{"type": "function", "function": {"name": "look", "description": said}}],
        **fields,
    }  # fmt: skip
    decode = Decode(run_id=run.run_id, span_id=span.span_id, step_key=span.step_key, **given)
    recorder.end(span, attributes=decode_attributes(decode))
    tool = recorder.start(
        SpanKind.TOOL, "execute_tool look", run, "tool:look",
        attributes={c.TOOL_NAME: "look", c.TOOL_ARGUMENTS: c.to_json({"what": said})},
    )  # fmt: skip
    recorder.end(tool, attributes={c.TOOL_RESULT: c.to_json(said)}, error=ValueError(said))
    recorder.end(run, attributes={c.RUN_OUTPUT: c.to_json([said])})
    recorder.close()
    return Store(store).load(run.run_id)
