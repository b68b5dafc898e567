"""Stores of a size nobody waits to record: many small runs, or one run of many spans, written straight into the tables.

Times are made up, from a seeded generator; the shape is that of an agent: supersteps of parallel nodes, in each an FM
call and a tool, and every edge the tracer would have recorded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import duckdb

from redecode.tracer import Store
from redecode.tracer.conventions import SUPERSTEP

BEGAN_NS = 1_790_000_000_000_000_000
_MS = 1_000_000

_CALL = (
    "run_id, span_id, step_key, model, fidelity, sent_ns, done_ns, input_tokens, output_tokens, "
    "queue_ns, prefill_ns, decode_ns"
)


def many_runs(path: Path, runs: int) -> Path:
    """A store of runs of four agents over a week, three FM calls and a tool in each; one in 40 has failed."""
    Store(path).drain()
    with duckdb.connect(str(path / "runs.duckdb")) as db:
        db.execute(
            f"""
            CREATE TEMP TABLE n AS SELECT i, md5(i::VARCHAR) AS run_id,
                {BEGAN_NS} + i * (604800000000000 // {runs}) AS started,
                (0.4 + 1.2 * ((hash(i) % 1000) / 1000.0) ** 3 * (1 + (hash(i, 1) % 100 = 0)::INT * 6)) AS took_s
            FROM range({runs}) r(i);
            INSERT INTO runs SELECT run_id, ['contacts_desk', 'extraction', 'triage', 'planner'][1 + i % 4],
                'v' || (i * 5 // {runs}), NULL, if(i % 40 = 0, 'error', 'ok'),
                if(i % 40 = 0, 'TimeoutError: the tool took too long', NULL), started,
                started + (took_s * 1e9)::BIGINT, NULL, NULL, '{{"question": "number ' || i || '"}}', NULL, NULL,
                if(i % 4 < 3, 1.2, NULL), 'made' FROM n;
            INSERT INTO spans SELECT run_id, left(run_id, 16), NULL, 'run', 'agent', '', started,
                started + (took_s * 1e9)::BIGINT, 'ok', NULL, 'made', '{{}}' FROM n;
            INSERT INTO decodes BY NAME SELECT run_id, left(md5(run_id || k), 16) AS span_id, 'call#' || k AS step_key,
                'small' AS model, if(i % 10 = 0, 'tokens', 'engine') AS fidelity, started AS sent_ns,
                120 + i % 50 AS input_tokens, 40 + i % 30 AS output_tokens FROM n, range(3) c(k);
            INSERT INTO tool_steps BY NAME SELECT run_id, left(md5(run_id || 't'), 16) AS span_id, 'tool' AS step_key,
                'search' AS tool FROM n;
            """
        )
    return path


def long_run(path: Path, spans: int, *, run_id: str = "5" * 32, seed: int = 1) -> Path:
    """A store of one run: supersteps of four parallel nodes, each with an FM call and a tool."""
    Store(path).drain()
    draw = random.Random(seed)
    rows: list[tuple[object, ...]] = []
    edges: list[tuple[str, str, str, str, str]] = []
    calls: list[tuple[object, ...]] = []
    ids = iter(range(1, spans + 2))

    def span(parent: str | None, kind: str, name: str, key: str, start: int, end: int, superstep: int | None) -> str:
        span_id = f"{next(ids):016x}"
        attributes = "{}" if superstep is None else f'{{"{SUPERSTEP}": {superstep}}}'
        rows.append((run_id, span_id, parent, kind, name, key, start, end, "ok", None, "made", attributes))
        return span_id

    def edge(src: str, dst: str, kind: str) -> None:
        edges.append((run_id, src, dst, kind, "recorded"))

    root = span(None, "run", "long", "", BEGAN_NS, BEGAN_NS, None)
    now, before, superstep = BEGAN_NS + 2 * _MS, list[str](), 0
    while len(rows) + 12 <= spans:
        superstep += 1
        nodes, ends = list[str](), list[int]()
        for n in range(4):
            start = now + draw.randrange(_MS)
            call_end = start + _MS + draw.randrange(20, 200) * _MS
            tool_end = call_end + draw.randrange(5, 120) * _MS
            key = f"{superstep}/worker[{n}]"
            node = span(root, "node", f"worker {n}", key, start, tool_end + _MS, superstep)
            call = span(node, "decode", "chat small", f"{key}/chat", start + _MS, call_end, None)
            tool = span(node, "tool", "execute_tool search", f"{key}/search", call_end + _MS // 2, tool_end, None)
            edge(node, call, "call")
            edge(call, tool, "return")
            edge(tool, node, "return")
            for src in before or [root]:
                edge(src, node, "barrier" if before else "call")
            queue, prefill = draw.randrange(3) * _MS, draw.randrange(2, 9) * _MS
            decoding = call_end - start - _MS - queue - prefill
            calls.append(
                (
                    run_id,
                    call,
                    f"{key}/chat",
                    "small",
                    "engine",
                    start + _MS,
                    call_end,
                    100,
                    50,
                    queue,
                    prefill,
                    decoding,
                )
            )
            nodes.append(node)
            ends.append(tool_end + _MS)
        before, now = nodes, max(ends) + 2 * _MS
    for node in before:
        edge(node, root, "join")
    rows[0] = (*rows[0][:7], now, *rows[0][8:])
    with duckdb.connect(str(path / "runs.duckdb")) as db:
        db.execute(
            "INSERT INTO runs BY NAME SELECT ? AS run_id, 'long' AS agent, 'ok' AS status, ?::BIGINT AS started_ns, "
            "?::BIGINT AS ended_ns, ?::DOUBLE AS slo_s",
            [run_id, BEGAN_NS, now, (now - BEGAN_NS) / 1e9 * 0.9],
        )
        _insert(db, "spans", rows)
        _insert(db, "edges", edges)
        _insert(db, f"decodes ({_CALL})", calls)
    return path


def _insert(db: duckdb.DuckDBPyConnection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """All rows at once: one by one takes minutes."""
    width = len(rows[0])
    columns = [[row[n] for row in rows] for n in range(width)]
    unnested = ", ".join("unnest(?)" for _ in range(width))
    db.execute(f"INSERT INTO {into} SELECT {unnested}", columns)
