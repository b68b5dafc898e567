"""From journal records to rows, in batches: each batch of a journal becomes one transaction.

The rows and the journal's new offset are committed together, so a record arrives exactly once whatever happens in
between. Ends of plain spans, by far the most, go from JSON to Arrow to DuckDB without becoming Python objects;
runs, tools and decodes are taken apart one by one, their token arrays as packed bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from redecode.tracer import conventions as c
from redecode.tracer.blocks import HASH_BYTES, split
from redecode.tracer.errors import CorruptJournal
from redecode.tracer.events import SpanEvent, parse, span_event
from redecode.tracer.records import Fidelity, JsonObject, SpanKind

Row = dict[str, Any]
FOREIGN = "otlp"
"""In place of a journal's name: rows derived from the spans of another tracer."""

# A span's payload begins {"t":"end","span":"0123456789abcdef","kind":"node", and a start's two bytes later.
_END, _START = b'{"t":"end","span":"', b'{"t":"start","span":"'
_END_ID, _START_ID = slice(len(_END), len(_END) + 16), slice(len(_START), len(_START) + 16)
_KIND = len(_END) + 16 + len('","kind":"')
_DETAILED = (b'run"', b"tool", b"deco")
_SPAN = pa.schema(
    [(name, pa.string()) for name in ("span", "kind", "run", "parent", "name", "step_key")]
    + [("start_ns", pa.int64()), ("end_ns", pa.int64())]
    + [(name, pa.string()) for name in ("status", "error", "attributes")]
    + [("edges", pa.list_(pa.list_(pa.string())))]
)
_OF_RETRIEVALS = frozenset({c.TOOL_ARGUMENTS, c.TOOL_RESULT})  # which are no tool steps
_RENAMED = {"run": "run_id", "span": "span_id", "parent": "parent_span_id"}


class Rows:
    """Rows by table, gathered from the records of one batch.

    Attributes:
        tables: rows that were made one by one.
        arrow: parts of tables that were never rows.
        foreign: runs of which spans of another tracer came.
        damage: records that are whole and make no sense.
    """

    def __init__(self) -> None:
        self.journal = FOREIGN
        self.tables: dict[str, list[Row]] = {}
        self.arrow: dict[str, list[pa.Table]] = {}
        self.blocks: dict[bytes, bytes] = {}
        self.foreign: set[str] = set()
        self.damage: list[CorruptJournal] = []

    def add(self, table: str, row: Row) -> None:
        """Add a row; columns it lacks become NULL."""
        self.tables.setdefault(table, []).append(row)

    def take(self, payloads: Iterable[bytes], journal: str) -> None:
        """Turn records of a journal into rows. Unknown kinds of events (of a newer tracer) are left out."""
        self.journal = journal
        starts: dict[bytes, bytes] = {}
        ends: list[bytes] = []
        for payload in payloads:
            if payload.startswith(_START):
                starts[payload[_START_ID]] = payload
            elif payload.startswith(_END):
                starts.pop(payload[_END_ID], None)
                if payload.startswith(_DETAILED, _KIND):
                    self._one(payload)
                else:
                    ends.append(payload)
            else:
                self._one(payload)
        for payload in starts.values():
            self._one(payload)
        try:
            if ends:
                self._plain(ends)
        except pa.ArrowException:
            for payload in ends:
                self._one(payload)

    def _one(self, payload: bytes) -> None:
        try:
            event = parse(payload)
            if event["t"] in {"start", "end"}:
                self.span(span_event(event))
            else:
                self._other(event)
        except (ValueError, KeyError, TypeError) as error:
            self.damage.append(CorruptJournal(f"{self.journal}: an event cannot be read ({error!r}): {payload[:80]!r}"))

    def _other(self, event: JsonObject) -> None:
        match event.get("t"):
            case "edge":
                self.add("edges", {"run_id": event["run"], **_pick(event, "src", "dst", "kind", "provenance")})
            case "timing":
                self.add(
                    "decode_steps",
                    {
                        "run_id": event["run"],
                        "span_id": event["span"],
                        "token_gaps_us": event["arrays"].get(c.TOKEN_GAPS),
                        "batch_rows": event["arrays"].get(c.BATCH_ROWS),
                        "same_host": event["same_host"],
                    },
                )
            case "engine":
                self.add("engines", {"engine_id": event["id"], "info": c.to_json(event["info"])})
            case "otlp":
                self.foreign.add(event["run"])
                row = {"run_id": event["run"], "span_id": event["span"], "journal": self.journal}
                self.add("otlp_spans", {**row, "document": orjson.dumps({**event, "arrays": None}).decode()})
            case "dropped":
                row = {"run_id": event["run"], "events": event["count"], "why": event["why"]}
                self.add("losses", {**row, "journal": self.journal})
            case "process":
                row = _pick(event, "host", "pid", "python", "boot_id", "wall_ns", "monotonic_ns")
                self.add("processes", {"journal": self.journal, "argv": c.to_json(event["argv"]), **row})

    def _plain(self, payloads: list[bytes]) -> None:
        """Ends of spans without rows of their own elsewhere."""
        longest = max(map(len, payloads))
        table = pa.json.read_json(
            io.BytesIO(b"\n".join(payloads)),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=max(4 << 20, 2 * longest)),
            parse_options=pa.json.ParseOptions(explicit_schema=_SPAN, unexpected_field_behavior="ignore"),
        ).combine_chunks()
        edges = table["edges"].combine_chunks()
        of = pc.list_parent_indices(edges)
        parts = pc.list_flatten(edges)
        columns = {
            "run_id": table["run"].take(of),
            "src": pc.list_element(parts, 0),
            "dst": table["span"].take(of),
            "kind": pc.list_element(parts, 1),
            "provenance": pc.list_element(parts, 2),
        }
        self.arrow.setdefault("edges", []).append(pa.table(columns))
        spans = table.drop_columns(["edges"]).rename_columns(
            [_RENAMED.get(name, name) for name in table.column_names if name != "edges"]
        )
        journal = pa.repeat(self.journal, len(spans))
        self.arrow.setdefault("spans", []).append(spans.append_column("journal", journal))

    def _start(self, event: SpanEvent) -> None:
        row = self._common(event)
        if event.kind == SpanKind.RUN:  # an open run has no row in `runs` yet
            known = {k: event.attributes.get(k) for k in (c.AGENT_NAME, c.SOURCE_RUN, c.REPLAY_MODE, c.RUN_INPUT)}
            row["attributes"] = c.to_json({**orjson.loads(row["attributes"]), **known})
        self.add("span_starts", {**row, "edges": c.to_json(event.edges)})

    def _common(self, event: SpanEvent) -> Row:
        columns = c.COLUMNS - _OF_RETRIEVALS if event.kind == SpanKind.RETRIEVAL else c.COLUMNS
        rest = {k: v for k, v in event.attributes.items() if k not in columns and not isinstance(v, bytes)}
        return {
            "run_id": event.run,
            "span_id": event.span,
            "parent_span_id": event.parent,
            "kind": event.kind,
            "name": event.name,
            "step_key": event.step_key,
            "start_ns": event.start_ns,
            "journal": self.journal,
            "attributes": c.to_json(rest),
        }

    def span(self, event: SpanEvent) -> None:
        """One span, open or ended."""
        if event.end_ns is None:
            self._start(event)
            return
        row, attributes = self._common(event), event.attributes
        self.add("spans", {**row, "end_ns": event.end_ns, "status": event.status, "error": event.error})
        for src, kind, provenance in event.edges:
            edge = {"run_id": event.run, "src": src, "dst": event.span, "kind": kind, "provenance": provenance}
            self.add("edges", edge)
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
                        "error": event.error,
                        "side_effect": attributes.get(c.SIDE_EFFECT),
                    },
                )

    def _run(self, event: SpanEvent, attributes: JsonObject) -> None:
        self.add(
            "runs",
            {
                "run_id": event.run,
                "agent": attributes.get(c.AGENT_NAME) or event.name,
                "agent_version": attributes.get(c.AGENT_VERSION),
                "conversation_id": attributes.get(c.CONVERSATION),
                "status": event.status,
                "error": event.error,
                "started_ns": event.start_ns,
                "ended_ns": event.end_ns,
                "source_run_id": attributes.get(c.SOURCE_RUN),
                "replay_mode": attributes.get(c.REPLAY_MODE),
                "input": attributes.get(c.RUN_INPUT),
                "output": attributes.get(c.RUN_OUTPUT),
                "labels": attributes.get(c.LABELS),
                "slo_s": attributes.get(c.SLO),
                "journal": self.journal,
            },
        )

    def _decode(self, event: SpanEvent, row: Row, attributes: JsonObject) -> None:
        get = attributes.get
        prompt, hashes, tail = get(c.PROMPT_IDS), get(c.PROMPT_HASHES), None
        names = None if hashes is None else [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
        if prompt is not None:
            blocks, tail = split(prompt)
            names = [name for name, _ in blocks]
            self.blocks.update(blocks)
        self.add(
            "decodes",
            {
                **_pick(row, "run_id", "span_id", "step_key"),
                "model": get(c.REQUEST_MODEL),
                "fidelity": None if _nothing_came(event, attributes) else get(c.FIDELITY),
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
                "prompt_blocks": names,
                "prompt_tail": tail,
                "sampled_ids": get(c.SAMPLED_IDS),
                "digest": get(c.DIGEST),
                "logprobs": get(c.LOGPROBS),
                "token_gaps_us": get(c.TOKEN_GAPS),
                "batch_rows": get(c.BATCH_ROWS),
                "token_time_source": get(c.TOKEN_TIME_SOURCE),
                "chunk_gaps_us": get(c.CHUNK_GAPS),
                "chunk_tokens": get(c.CHUNK_TOKENS),
                "finish_reason": get(c.FINISH_REASONS),
                "input_tokens": get(c.INPUT_TOKENS),
                "output_tokens": get(c.OUTPUT_TOKENS),
                "cached_tokens": get(c.CACHED_TOKENS),
                "queue_ns": get(c.QUEUE_NS),
                "prefill_ns": get(c.PREFILL_NS),
                "decode_ns": get(c.DECODE_NS),
                "error": event.error,
            },
        )
        for n in range(1, int(get(c.CHOICES) or 1)):
            choice = {"sampled_ids": get(f"{c.SAMPLED_IDS}.{n}"), "logprobs": get(f"{c.LOGPROBS}.{n}")}
            self.add("decode_choices", {"run_id": event.run, "span_id": event.span, "index": n, **choice})


def _nothing_came(event: SpanEvent, attributes: JsonObject) -> bool:
    """A call that failed before any of its answer came: nothing of it is missing, so its run is known no less well."""
    return (
        event.error is not None
        and attributes.get(c.FIDELITY) == Fidelity.TEXT
        and attributes.get(c.SAMPLED_IDS) is None
        and attributes.get(c.OUTPUT_MESSAGES) in (None, "[]")
    )


def _pick(source: JsonObject, *keys: str) -> Row:
    return {k: source.get(k) for k in keys}


_ARROW = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "BLOB": pa.binary(),
    "INTEGER[]": pa.list_(pa.int32()),
    "FLOAT[]": pa.list_(pa.float32()),
    "BLOB[]": pa.list_(pa.binary()),
}


_known: dict[str, pa.Schema] = {}


def table_schemas(connection: duckdb.DuckDBPyConnection) -> dict[str, pa.Schema]:
    """The Arrow schema of every table of the store: one for all that are migrated, and slow to ask for (20 ms)."""
    if _known:
        return _known
    schemas: dict[str, list[pa.Field]] = {}
    query = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
    for table, column, kind in connection.execute(query).fetchall():
        if kind in _ARROW:
            schemas.setdefault(table, []).append(pa.field(column, _ARROW[kind]))
    _known.update((table, pa.schema(fields)) for table, fields in schemas.items())
    return _known


def insert(connection: duckdb.DuckDBPyConnection, rows: Rows, schemas: dict[str, pa.Schema]) -> None:
    """Append all rows; to be called inside a transaction."""
    made = [(table, _table(values, schemas[table])) for table, values in rows.tables.items()]
    whole = [(table, pa.concat_tables(parts)) for table, parts in rows.arrow.items()]
    for table, incoming in [*made, *whole]:
        names = ", ".join(incoming.column_names)
        _run(connection, f"INSERT INTO {table} ({names}) SELECT {names} FROM incoming", incoming)
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
    if not pa.types.is_list(kind) or pa.types.is_binary(kind.value_type):
        return pa.array(values, type=kind)
    width = kind.value_type.bit_width // 8
    offsets = pa.array(accumulate((len(v or b"") // width for v in values), initial=0), type=pa.int32())
    data = b"".join(v or b"" for v in values)
    numbers = pa.Array.from_buffers(kind.value_type, len(data) // width, [None, pa.py_buffer(data)])
    missing = pa.array([v is None for v in values])
    return pa.ListArray.from_arrays(offsets, numbers, mask=missing)
