"""Runs known from the spans of another tracer: derived anew, whole, whenever more of their spans have come.

The spans are kept as they came (`otlp_spans`); what is derived from them carries no journal's name but `otlp`, so it
can be told apart and replaced. A run that we recorded ourselves is never touched.
"""

from __future__ import annotations

from collections.abc import Iterable

import duckdb
import orjson
import pyarrow as pa

from redecode.tracer.store import ingest

_BY_RUN = ("edges", "decodes", "decode_choices", "decode_steps", "tool_steps", "runs", "spans", "span_starts")


def refresh(connection: duckdb.DuckDBPyConnection, runs: Iterable[str], schemas: dict[str, pa.Schema]) -> None:
    """Derive the rows of these runs again; inside the transaction that brought their spans."""
    from redecode.tracer.foreign import OtlpSpan, derive

    for run in sorted(runs):
        own = connection.execute(
            "SELECT count(*) FROM (SELECT journal FROM spans WHERE run_id = ? UNION ALL "
            "SELECT journal FROM span_starts WHERE run_id = ?) WHERE journal <> ?",
            [run, run, ingest.FOREIGN],
        ).fetchone()
        if own is not None and own[0]:
            continue
        for table in _BY_RUN:
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run])
        documents = connection.execute("SELECT document FROM otlp_spans WHERE run_id = ?", [run]).fetchall()
        rows = ingest.Rows()
        for event in derive([OtlpSpan.from_event(orjson.loads(document)) for (document,) in documents]):
            rows.span(event)
        ingest.insert(connection, rows, schemas)
