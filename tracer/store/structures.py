"""Many runs at once, without what was said in them: what statistics over thousands of runs need, and no more.

A run that is loaded whole brings its prompts, answers and the time of every token. Here is a row per span, edge and FM
call, read by one query each.
"""

from __future__ import annotations

from dataclasses import dataclass

from redecode.tracer import conventions as c
from redecode.tracer.bulk import uncollected
from redecode.tracer.records import Edge, EdgeKind, Provenance, Run, Span, SpanKind, TimeSource
from redecode.tracer.store import queries

_KEPT = (c.SUPERSTEP, c.HOST, c.INTERRUPTED)
"""The attributes of spans that say something of how they hang together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimes:
    """Times and counts of one FM call; the names are those of `Decode`.

    Attributes:
        first_token_ns, last_token_ns: by the step clock of the engine, after `sent_ns`; `None` without one.
        chunk_times_ns: only of calls on whose stream something else was started.
    """

    run_id: str
    span_id: str
    step_key: str
    model: str
    sent_ns: int
    first_chunk_ns: int | None
    done_ns: int | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    queue_ns: int | None
    prefill_ns: int | None
    decode_ns: int | None
    first_token_ns: int | None
    last_token_ns: int | None
    tpot_ns: float | None
    error: str | None
    chunk_times_ns: tuple[int, ...] | None = None
    token_times_ns: tuple[int, ...] | None = None

    @property
    def e2e_ns(self) -> int | None:
        """FM call sent → last token, at the client, ns."""
        return None if self.done_ns is None else self.done_ns - self.sent_ns

    @property
    def ttft_ns(self) -> int | None:
        """FM call sent → first token, ns: from the step clock if there is one, else the first chunk."""
        if self.first_token_ns is not None:
            return self.first_token_ns
        return None if self.first_chunk_ns is None else self.first_chunk_ns - self.sent_ns


@dataclass(frozen=True, slots=True)
class RunStructure:
    """One run: its spans in order of their start, edges, and the times of its FM calls."""

    run: Run
    spans: list[Span]
    edges: list[Edge]
    decodes: list[CallTimes]


def structures(read: queries.Read, *, limit: int | None = None, run_ids: list[str] | None = None) -> list[RunStructure]:
    """Runs, newest first; open ones too."""
    with uncollected():
        return _structures(read, limit, run_ids)


def _structures(read: queries.Read, limit: int | None, run_ids: list[str] | None) -> list[RunStructure]:
    out = {run.run_id: RunStructure(run, [], [], []) for run in queries.runs(read, limit=limit, run_ids=run_ids)}
    ids = [list(out)]
    kinds = {kind.value: kind for kind in SpanKind}
    for run_id, span_id, parent, name, key, start, end, status, kind, kept in read.rows(
        _SPANS, [[f'$."{name}"' for name in _KEPT], *ids]
    ):
        out[run_id].spans.append(
            Span(
                run_id=run_id,
                span_id=span_id,
                parent_span_id=parent,
                kind=kinds[kind],
                name=name,
                step_key=key,
                start_ns=start,
                end_ns=end,
                status=status,
                attributes={n: v for n, v in zip(_KEPT, kept, strict=True) if v is not None}
                if kept and any(kept)
                else {},
            )
        )
    for run in out.values():  # there are many, and these are nearly in order: the database would take longer
        run.spans.sort(key=lambda span: (span.start_ns, span.span_id))
    edges, how = {kind.value: kind for kind in EdgeKind}, {known.value: known for known in Provenance}
    for run_id, src, dst, kind, provenance in read.rows(_EDGES, ids):
        out[run_id].edges.append(Edge(src, dst, edges[kind], how[provenance]))
    for call in call_times(read, *ids):
        out[call.run_id].decodes.append(call)
    return list(out.values())


def call_times(read: queries.Read, run_ids: list[str]) -> list[CallTimes]:
    """Of the FM calls of these runs, in order of when they were sent."""
    out = []
    for row in read(_DECODES, [run_ids]):
        chunks = row.pop("chunk_gaps_us")
        out.append(CallTimes(**row, chunk_times_ns=None if chunks is None else c.times_ns(chunks)))
    return out


_PICKED = "run_id IN (SELECT unnest(?))"
_SPANS = f"""
    SELECT run_id, span_id, parent_span_id, name, step_key, start_ns, end_ns, status, kind,
           json_extract_string(attributes, ?::VARCHAR[]) AS kept
    FROM (
        SELECT * EXCLUDE (error) FROM spans UNION ALL BY NAME
        SELECT * EXCLUDE (edges), 'open' AS status FROM span_starts ANTI JOIN spans USING (run_id, span_id)
    ) WHERE {_PICKED}
"""
_EDGES = f"""
    SELECT run_id, src, dst, kind, provenance FROM (
        SELECT run_id, src, dst, kind, provenance FROM edges UNION ALL
        SELECT run_id, e[1] AS src, span_id AS dst, e[2] AS kind, e[3] AS provenance FROM (
            SELECT run_id, span_id, unnest(CAST(edges::JSON AS VARCHAR[][])) AS e
            FROM span_starts ANTI JOIN spans USING (run_id, span_id)
        )
    ) WHERE {_PICKED}
"""
_CALL = (
    "span_id", "step_key", "model", "sent_ns", "first_chunk_ns", "done_ns", "input_tokens", "output_tokens",
    "cached_tokens", "queue_ns", "prefill_ns", "decode_ns", "error", "first_token_ns", "last_token_ns", "tpot_ns",
    "chunk_gaps_us",
)  # fmt: skip
_ENGINE = TimeSource.ENGINE.value
_DECODES = f"""
    WITH d AS (
        SELECT d.* REPLACE (
                   coalesce(d.queue_ns, e.queue_ns) AS queue_ns, coalesce(d.prefill_ns, e.prefill_ns) AS prefill_ns,
                   coalesce(d.decode_ns, e.decode_ns) AS decode_ns, coalesce(d.model, '') AS model
               ),
               coalesce(s.token_gaps_us, d.token_gaps_us) AS gaps,
               s.token_gaps_us IS NOT NULL OR d.token_time_source = '{_ENGINE}' AS stepped
        FROM decodes d LEFT JOIN decode_steps s USING (run_id, span_id)
        LEFT JOIN decode_splits e USING (run_id, span_id) WHERE {_PICKED}
    )
    SELECT run_id, {", ".join(_CALL[:13])},
           if(stepped, gaps[1]::BIGINT * 1000, NULL) AS first_token_ns,
           if(stepped, list_sum(gaps)::BIGINT * 1000, NULL) AS last_token_ns,
           CASE WHEN len(gaps) > 1 THEN (list_sum(gaps) - gaps[1]) * 1000.0 / (len(gaps) - 1)
                WHEN output_tokens > 1 THEN decode_ns / (output_tokens - 1) END::DOUBLE AS tpot_ns,
           if((run_id, span_id) IN (SELECT run_id, src FROM edges WHERE kind = '{EdgeKind.STREAM.value}'),
              chunk_gaps_us, NULL) AS chunk_gaps_us
    FROM d ORDER BY sent_ns, span_id
"""
