"""Runs as a folder of Parquet files, one a table, that DuckDB, pyarrow and whatever else reads Parquet opens as it is.

Columns have the names and types of the store's own tables; what is put together for the reader: an open run and an
open span stand among the others, a decode has its prompt's tokens and its step clock, an edge of an open span is an
edge. JSON stays text.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import duckdb

from redecode.tracer.errors import ExportError, StoreError
from redecode.tracer.records import Fidelity
from redecode.tracer.spool import make_private
from redecode.tracer.store import queries
from redecode.tracer.store.store import Store

_PICKED = "SEMI JOIN picked_runs USING (run_id)"
_RANKS = str([fidelity.value for fidelity in Fidelity])

TABLES: dict[str, str] = {
    "runs": f"""
        SELECT run_id, agent, agent_version, conversation_id, status, error, started_ns, ended_ns, source_run_id,
               replay_mode, input, output, labels, slo_s,
               ({_RANKS})[list_min(list_transform(fidelities, lambda f: list_position({_RANKS}, f)))] AS fidelity,
               coalesce(decodes, 0) AS decodes, coalesce(tools, 0) AS tools, coalesce(tokens, 0) AS tokens,
               coalesce(prompt_tokens, 0) AS prompt_tokens, coalesce(lost, 0) AS lost
        FROM ({queries.summaries(f"SELECT r.* FROM r {_PICKED}")}) ORDER BY started_ns, run_id
    """,
    "spans": f"""
        SELECT run_id, span_id, parent_span_id, kind, name, step_key, start_ns, end_ns, status, error, attributes
        FROM (
            SELECT * FROM spans UNION ALL BY NAME
            SELECT * EXCLUDE (edges), 'open' AS status FROM span_starts ANTI JOIN spans USING (run_id, span_id)
        ) {_PICKED} ORDER BY run_id, start_ns, span_id
    """,
    "decodes": f"""
        SELECT d.* EXCLUDE (prompt_tail, token_gaps_us, token_time_source, batch_rows) REPLACE (
                   coalesce(d.queue_ns, e.queue_ns) AS queue_ns, coalesce(d.prefill_ns, e.prefill_ns) AS prefill_ns,
                   coalesce(d.decode_ns, e.decode_ns) AS decode_ns
               ),
               CASE WHEN d.prompt_tail IS NOT NULL THEN list_concat(coalesce((
                   SELECT flatten(list(b.tokens ORDER BY u.at))
                   FROM (SELECT unnest(d.prompt_blocks) AS hash, generate_subscripts(d.prompt_blocks, 1) AS at) u
                   JOIN prompt_blocks b USING (hash)
               ), []), d.prompt_tail) END AS prompt_ids,
               coalesce(s.token_gaps_us, d.token_gaps_us) AS token_gaps_us,
               CASE WHEN s.token_gaps_us IS NOT NULL THEN 'engine' WHEN e.run_id IS NULL THEN d.token_time_source
                    ELSE coalesce(d.token_time_source, 'request') END AS token_time_source,
               CASE WHEN s.token_gaps_us IS NULL THEN d.batch_rows ELSE s.batch_rows END AS batch_rows
        FROM (SELECT * FROM decodes {_PICKED}) d LEFT JOIN decode_steps s USING (run_id, span_id)
        LEFT JOIN decode_splits e USING (run_id, span_id)
        ORDER BY run_id, sent_ns, span_id
    """,
    "decode_choices": f"SELECT * FROM decode_choices {_PICKED} ORDER BY run_id, span_id, index",
    "tool_steps": f"SELECT * FROM tool_steps {_PICKED} ORDER BY run_id, span_id",
    "edges": f"""
        SELECT run_id, src, dst, kind, provenance FROM (
            SELECT run_id, src, dst, kind, provenance FROM edges UNION ALL
            SELECT run_id, e[1] AS src, span_id AS dst, e[2] AS kind, e[3] AS provenance FROM (
                SELECT run_id, span_id, unnest(CAST(edges::JSON AS VARCHAR[][])) AS e
                FROM span_starts ANTI JOIN spans USING (run_id, span_id)
            )
        ) {_PICKED} ORDER BY run_id, dst, src, kind, provenance
    """,
    "engines": f"""
        SELECT engine_id, any_value(info) AS info FROM engines
        WHERE engine_id IN (SELECT engine_id FROM decodes {_PICKED}) GROUP BY engine_id ORDER BY engine_id
    """,
}


def write_parquet(store: Store, run_ids: Sequence[str], folder: Path, *, replace: bool = False) -> dict[str, int]:
    """Write the tables of some runs into a folder; it is there whole or not at all.

    Args:
        replace: put it in the place of a folder that an earlier export wrote.

    Returns:
        Rows by table.

    Raises:
        ExportError: the folder is there already, or holds something else.
        StoreError: the disk is full, say.
    """
    _check(folder, replace=replace)
    new = folder.with_name(f".{folder.name}.{os.getpid()}")
    store.runs(run_ids=[])  # drains, and brings an older store up to date
    try:
        make_private(new)
        with store.held(exclusively=not store.database.exists()), store.opened(write=False) as connection:
            rows = {
                table: _write(connection, query, run_ids, new / f"{table}.parquet") for table, query in TABLES.items()
            }
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except (OSError, duckdb.IOException) as error:
        raise StoreError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return rows


def _write(connection: duckdb.DuckDBPyConnection, query: str, run_ids: Sequence[str], path: Path) -> int:
    # A table of this connection: COPY takes no parameters.
    connection.execute("CREATE OR REPLACE TEMP TABLE picked_runs (run_id VARCHAR)")
    connection.execute("INSERT INTO picked_runs SELECT DISTINCT unnest(?::VARCHAR[])", [list(run_ids)])
    quoted = str(path).replace("'", "''")
    written = connection.execute(f"COPY ({query}) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd)").fetchone()
    path.chmod(0o600)  # what was recorded is content
    return int(written[0]) if written is not None else 0


def _check(folder: Path, *, replace: bool) -> None:
    if not folder.exists():
        return
    if not replace:
        raise ExportError(f"{folder} is there already; --force replaces it")
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {f"{table}.parquet" for table in TABLES}:
        raise ExportError(f"{folder} is no folder of an earlier export; choose another --output")
