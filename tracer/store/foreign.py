"""Runs known from the spans of another tracer: derived anew, whole, whenever more of their spans have come.

The spans are kept as they came (`otlp_spans`); what is derived from them carries no journal's name but `otlp`, so it
can be told apart and replaced. A run that we recorded ourselves is never touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

import duckdb
import orjson
import pyarrow as pa

from redecode.tracer.store import ingest

_BY_RUN = ("edges", "decodes", "decode_choices", "decode_steps", "tool_steps", "runs", "spans", "span_starts")


_TOGETHER = 256
"""Runs derived by one round of queries, which cost more than the deriving does."""


def refresh(connection: duckdb.DuckDBPyConnection, runs: Iterable[str], schemas: dict[str, pa.Schema]) -> None:
    """Derive the rows of these runs again; inside the transaction that brought their spans."""
    waiting = sorted(runs)
    for at in range(0, len(waiting), _TOGETHER):
        _refresh(connection, waiting[at : at + _TOGETHER], schemas)


def _refresh(connection: duckdb.DuckDBPyConnection, runs: list[str], schemas: dict[str, pa.Schema]) -> None:
    from redecode.tracer.foreign import OtlpSpan, derive
    from redecode.tracer.foreign.privacy import marked

    own = connection.execute(
        "SELECT DISTINCT run_id FROM (SELECT run_id, journal FROM spans UNION ALL "
        "SELECT run_id, journal FROM span_starts) WHERE journal <> ? AND run_id IN (SELECT unnest(?))",
        [ingest.FOREIGN, runs],
    ).fetchall()
    theirs = sorted(set(runs) - {run for (run,) in own})
    for table in _BY_RUN:
        connection.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?))", [theirs])
    query = "SELECT run_id, document FROM otlp_spans WHERE run_id IN (SELECT unnest(?)) ORDER BY run_id"
    documents = connection.execute(query, [theirs]).fetchall()
    rows = ingest.Rows()
    for _, of_run in groupby(documents, key=itemgetter(0)):
        spans = [OtlpSpan.from_event(orjson.loads(document)) for _, document in of_run]
        for event in marked(spans, derive(spans)):
            rows.span(event)
    ingest.insert(connection, rows, schemas)
