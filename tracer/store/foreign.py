"""Runs known from the spans of another tracer: derived anew, whole, whenever more of their spans have come.

The spans are kept as they came (`otlp_spans`); what is derived from them carries no journal's name but `otlp`, so it
can be told apart and replaced. Of a run that we recorded ourselves only one thing is taken from them: the engine's
account of its decodes (`decode_splits`), which readers see where the decode's own is missing.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import duckdb
import orjson
import pyarrow as pa

from redecode.tracer.store import ingest

_BY_SPAN = ("decodes", "decode_choices", "decode_steps", "tool_steps")
_BY_JOURNAL = ("spans", "span_starts", "runs")
_TOGETHER = 256
"""Runs derived by one round of queries, which cost more than the deriving does."""


def refresh(connection: duckdb.DuckDBPyConnection, rows: ingest.Rows, schemas: dict[str, pa.Schema]) -> None:
    """Derive the rows of the runs that these touch again; inside the transaction that brought them, and after them."""
    waiting = sorted(rows.foreign | _overtaken(connection, rows))
    for at in range(0, len(waiting), _TOGETHER):
        _refresh(connection, waiting[at : at + _TOGETHER], schemas)


def _overtaken(connection: duckdb.DuckDBPyConnection, rows: ingest.Rows) -> set[str]:
    """Runs of ours of which another tracer's spans were read first: for so long these alone were the run."""
    if connection.execute("SELECT 1 FROM otlp_spans LIMIT 1").fetchone() is None:
        return set()
    ours = {row["run_id"] for table in ("spans", "span_starts") for row in rows.tables.get(table, ())}
    ours.update(run for part in rows.arrow.get("spans", ()) for run in part["run_id"].unique().to_pylist())
    query = (
        "SELECT DISTINCT run_id FROM (SELECT run_id, journal FROM spans UNION ALL "
        "SELECT run_id, journal FROM span_starts) WHERE journal = ? AND run_id IN (SELECT unnest(?))"
    )
    return {run for (run,) in connection.execute(query, [ingest.FOREIGN, sorted(ours)]).fetchall()}


def _refresh(connection: duckdb.DuckDBPyConnection, runs: list[str], schemas: dict[str, pa.Schema]) -> None:
    from redecode.tracer import conventions as c
    from redecode.tracer.foreign import OtlpSpan, derive, engine_splits
    from redecode.tracer.foreign.own import LOST_BEFORE
    from redecode.tracer.foreign.privacy import marked

    own = _forget_derived(connection, runs)
    query = "SELECT run_id, document FROM otlp_spans WHERE run_id IN (SELECT unnest(?)) ORDER BY run_id"
    documents = connection.execute(query, [runs]).fetchall()
    rows = ingest.Rows()
    for run, of_run in groupby(documents, key=itemgetter(0)):
        spans = [OtlpSpan.from_event(orjson.loads(document)) for _, document in of_run]
        for decode, split in engine_splits(spans).items():
            times = {"queue_ns": c.QUEUE_NS, "prefill_ns": c.PREFILL_NS, "decode_ns": c.DECODE_NS}
            split_row = {name: split.get(attribute) for name, attribute in times.items()}
            rows.add("decode_splits", {"run_id": run, "span_id": decode, **split_row})
        if run not in own:
            for event in marked(spans, derive(spans)):
                rows.span(event)
    ingest.insert(connection, rows, schemas)
    # What an exported run had lost is told with every batch of it: the most that was told counts.
    connection.execute(
        "DELETE FROM losses WHERE why = ? AND run_id IN (SELECT unnest(?)) AND rowid NOT IN "
        "(SELECT arg_max(rowid, events) FROM losses WHERE why = ? GROUP BY run_id)",
        [LOST_BEFORE, runs, LOST_BEFORE],
    )


def _forget_derived(connection: duckdb.DuckDBPyConnection, runs: list[str]) -> set[str]:
    """Delete what had been derived of these runs; returns those of them that we recorded ourselves."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE known AS SELECT DISTINCT run_id, span_id, journal = ? AS derived FROM "
        "(SELECT run_id, span_id, journal FROM spans UNION ALL SELECT run_id, span_id, journal FROM span_starts) "
        "WHERE run_id IN (SELECT unnest(?))",
        [ingest.FOREIGN, runs],
    )
    own = connection.execute("SELECT DISTINCT run_id FROM known WHERE NOT derived").fetchall()
    # A run made up while its root had not come has the id of a span of ours.
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE gone AS SELECT run_id, span_id FROM known WHERE derived "
        "EXCEPT SELECT run_id, span_id FROM known WHERE NOT derived"
    )
    for table in _BY_JOURNAL:
        connection.execute(
            f"DELETE FROM {table} WHERE journal = ? AND run_id IN (SELECT unnest(?))", [ingest.FOREIGN, runs]
        )
    for table in _BY_SPAN:
        connection.execute(f"DELETE FROM {table} WHERE (run_id, span_id) IN (SELECT run_id, span_id FROM gone)")
    connection.execute("DELETE FROM edges WHERE (run_id, dst) IN (SELECT run_id, span_id FROM gone)")
    connection.execute("DELETE FROM decode_splits WHERE run_id IN (SELECT unnest(?))", [runs])
    return {run for (run,) in own}
