"""From journal events to rows, in batches: each batch of a journal becomes one transaction.

The rows and the journal's new offset are committed together, so an event arrives exactly once whatever
happens in between. Rows go in by Arrow (row-wise inserts are twenty times slower).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import duckdb
import pyarrow as pa

from redecode.tracer import conventions as c
from redecode.tracer.records import JsonObject, SpanKind
from redecode.tracer.store.blocks import split

Row = dict[str, Any]


class Rows:
    """Rows by table, gathered from the events of one batch."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        self.tables: dict[str, list[Row]] = {}
        self.blocks: dict[str, bytes] = {}

    def add(self, table: str, row: Row) -> None:
        """Add a row; columns it lacks become NULL."""
        self.tables.setdefault(table, []).append(row)

    def take(self, events: Iterable[JsonObject]) -> None:
        """Turn events into rows. Unknown kinds of events (of a newer tracer) are left out."""
        ended: set[str] = set()
        starts: list[JsonObject] = []
        for event in events:
            match event.get("t"):
                case "start":
                    starts.append(event)
                case "end":
                    ended.add(event["span"])
                    self._span(event)
                case "edge":
                    self.add("edges", {"run_id": event["run"], **_pick(event, "src", "dst", "kind", "provenance")})
                case "timing":
                    self._timing(event)
                case "engine":
                    self.add("engines", {"engine_id": event["id"], "info": c.to_json(event["info"])})
                case "dropped":
                    self.add("journals", {"journal": self.journal, "state": "dropped", "detail": str(event["count"])})
                case "process":
                    row = _pick(event, "host", "pid", "python", "boot_id", "wall_ns", "monotonic_ns")
                    self.add("processes", {"journal": self.journal, "argv": c.to_json(event["argv"]), **row})
        for event in starts:
            if event["span"] not in ended:
                self.add("span_starts", self._common(event))

    def _common(self, event: JsonObject) -> Row:
        attributes: JsonObject = event["attributes"]
        rest = {k: v for k, v in attributes.items() if k not in c.COLUMNS}
        if attributes.get(c.KIND) == SpanKind.RUN:
            rest[c.AGENT_NAME] = attributes.get(c.AGENT_NAME)  # an open run has no row in `runs` yet
            rest[c.SOURCE_RUN] = attributes.get(c.SOURCE_RUN)
            rest[c.REPLAY_MODE] = attributes.get(c.REPLAY_MODE)
        return {
            "run_id": event["run"],
            "span_id": event["span"],
            "parent_span_id": event["parent"],
            "kind": attributes.get(c.KIND, SpanKind.NODE.value),
            "name": event["name"],
            "step_key": attributes.get(c.STEP_KEY, ""),
            "start_ns": event["start_ns"],
            "journal": self.journal,
            "attributes": c.to_json({k: v for k, v in rest.items() if v is not None}),
        }

    def _span(self, event: JsonObject) -> None:
        row, attributes = self._common(event), event["attributes"]
        self.add("spans", {**row, **_pick(event, "end_ns", "status", "error")})
        match row["kind"]:
            case SpanKind.RUN:
                self._run(event, attributes)
            case SpanKind.DECODE if c.SENT_NS in attributes:
                self._decode(event, row, attributes)
            case SpanKind.TOOL:
                self.add(
                    "tool_steps",
                    {
                        **_pick(row, "run_id", "span_id", "step_key"),
                        "tool": attributes.get(c.TOOL_NAME),
                        "call_id": attributes.get(c.TOOL_CALL_ID),
                        "arguments": attributes.get(c.TOOL_ARGUMENTS),
                        "result": attributes.get(c.TOOL_RESULT),
                        "error": event["error"],
                        "side_effect": attributes.get(c.SIDE_EFFECT),
                    },
                )

    def _run(self, event: JsonObject, attributes: JsonObject) -> None:
        self.add(
            "runs",
            {
                "run_id": event["run"],
                "agent": attributes.get(c.AGENT_NAME) or event["name"],
                "agent_version": attributes.get(c.AGENT_VERSION),
                "conversation_id": attributes.get(c.CONVERSATION),
                "status": event["status"],
                "error": event["error"],
                "started_ns": event["start_ns"],
                "ended_ns": event["end_ns"],
                "source_run_id": attributes.get(c.SOURCE_RUN),
                "replay_mode": attributes.get(c.REPLAY_MODE),
                "input": attributes.get(c.RUN_INPUT),
                "output": attributes.get(c.RUN_OUTPUT),
                "labels": attributes.get(c.LABELS),
                "slo_s": attributes.get(c.SLO),
            },
        )

    def _decode(self, event: JsonObject, row: Row, attributes: JsonObject) -> None:
        get = attributes.get
        prompt = _packed(get(c.PROMPT_IDS))
        blocks, tail = split(prompt) if prompt is not None else (None, None)
        self.blocks.update(blocks or ())
        self.add(
            "decodes",
            {
                **_pick(row, "run_id", "span_id", "step_key"),
                "model": get(c.REQUEST_MODEL),
                "fidelity": get(c.FIDELITY),
                "sent_ns": get(c.SENT_NS),
                "first_chunk_ns": get(c.FIRST_CHUNK_NS),
                "done_ns": get(c.DONE_NS),
                "base_url": get(c.BASE_URL),
                "request_id": get(c.REQUEST_ID),
                "fingerprint": get(c.FINGERPRINT),
                "engine_id": get(c.ENGINE),
                "seed": get(c.REQUEST_SEED),
                "seed_source": get(c.SEED_SOURCE),
                "sampling": get(c.SAMPLING),
                "messages": get(c.INPUT_MESSAGES),
                "tool_definitions": get(c.TOOL_DEFINITIONS),
                "output": get(c.OUTPUT_MESSAGES),
                "stream": get(c.REQUEST_STREAM),
                "prompt_blocks": [h for h, _ in blocks] if blocks is not None else None,
                "prompt_tail": tail,
                "sampled_ids": _packed(get(c.SAMPLED_IDS)),
                "digest": get(c.DIGEST),
                "logprobs": _packed(get(c.LOGPROBS)),
                "token_times_ns": _packed(get(c.TOKEN_TIMES)),
                "batch_rows": _packed(get(c.BATCH_ROWS)),
                "token_time_source": get(c.TOKEN_TIME_SOURCE),
                "chunk_times_ns": _packed(get(c.CHUNK_TIMES)),
                "chunk_tokens": _packed(get(c.CHUNK_TOKENS)),
                "finish_reason": get(c.FINISH_REASONS),
                "input_tokens": get(c.INPUT_TOKENS),
                "output_tokens": get(c.OUTPUT_TOKENS),
                "cached_tokens": get(c.CACHED_TOKENS),
                "queue_ns": get(c.QUEUE_NS),
                "prefill_ns": get(c.PREFILL_NS),
                "decode_ns": get(c.DECODE_NS),
                "error": event["error"],
            },
        )

    def _timing(self, event: JsonObject) -> None:
        self.add(
            "decode_steps",
            {
                "run_id": event["run"],
                "span_id": event["span"],
                "token_times_ns": _packed(event["times"]),
                "batch_rows": _packed(event["rows"]),
                "same_host": event["same_host"],
            },
        )


def _pick(source: JsonObject, *keys: str) -> Row:
    return {k: source.get(k) for k in keys}


def _packed(text: str | None) -> bytes | None:
    """Packed numbers as they came; Arrow takes them as they are."""
    return None if text is None else base64.b64decode(text)


_ARROW = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "INTEGER[]": pa.list_(pa.int32()),
    "BIGINT[]": pa.list_(pa.int64()),
    "DOUBLE[]": pa.list_(pa.float64()),
    "VARCHAR[]": pa.list_(pa.string()),
}


def table_schemas(connection: duckdb.DuckDBPyConnection) -> dict[str, pa.Schema]:
    """The Arrow schema of every table of the store."""
    schemas: dict[str, list[pa.Field]] = {}
    query = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
    for table, column, kind in connection.execute(query).fetchall():
        if kind in _ARROW:
            schemas.setdefault(table, []).append(pa.field(column, _ARROW[kind]))
    return {table: pa.schema(fields) for table, fields in schemas.items()}


def insert(connection: duckdb.DuckDBPyConnection, rows: Rows, schemas: dict[str, pa.Schema]) -> None:
    """Append all rows; to be called inside a transaction."""
    for table, values in rows.tables.items():
        schema = schemas[table]
        columns = f"{table} ({', '.join(schema.names)})"
        _run(connection, f"INSERT INTO {columns} SELECT * FROM incoming", _table(values, schema))
    if rows.blocks:
        blocks = [{"hash": h, "tokens": ids} for h, ids in rows.blocks.items()]
        query = "INSERT INTO prompt_blocks SELECT * FROM incoming ANTI JOIN prompt_blocks USING (hash)"
        _run(connection, query, _table(blocks, schemas["prompt_blocks"]))


def _run(connection: duckdb.DuckDBPyConnection, query: str, incoming: pa.Table) -> None:
    connection.register("incoming", incoming)
    connection.execute(query)
    connection.unregister("incoming")


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    return pa.table([_column([row.get(f.name) for row in rows], f.type) for f in schema], schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; lists of numbers are given as packed bytes and go in without becoming Python numbers."""
    if not pa.types.is_list(kind) or pa.types.is_string(kind.value_type):
        return pa.array(values, type=kind)
    width = kind.value_type.bit_width // 8
    offsets = pa.array(accumulate((len(v or b"") // width for v in values), initial=0), type=pa.int32())
    data = b"".join(v or b"" for v in values)
    numbers = pa.Array.from_buffers(kind.value_type, len(data) // width, [None, pa.py_buffer(data)])
    missing = pa.array([v is None for v in values])
    return pa.ListArray.from_arrays(offsets, numbers, mask=missing)
