"""What is asked of a store, wherever its tables are: a DuckDB file, or a published dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from redecode.tracer import conventions as c
from redecode.tracer.blocks import BLOCK_TOKENS
from redecode.tracer.errors import AmbiguousRun, UnknownRun
from redecode.tracer.records import (
    Choice,
    Decode,
    Edge,
    EdgeKind,
    Fidelity,
    JsonObject,
    Provenance,
    Run,
    Span,
    SpanKind,
    TimeSource,
    ToolStep,
)


class Read(Protocol):
    """Runs a query with its parameters."""

    def __call__(self, query: str, parameters: list[Any], /) -> list[JsonObject]:
        """The rows, by the names of their columns."""

    def rows(self, query: str, parameters: list[Any], /) -> list[tuple[Any, ...]]:
        """The rows as they are: where there are very many."""


_PICKED = "run_id IN (SELECT unnest(?))"


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run with everything recorded below it; spans in order of their start."""

    run: Run
    spans: list[Span]
    edges: list[Edge]
    decodes: list[Decode]
    tools: list[ToolStep]


def find(read: Read, prefix: str, where: str) -> str:
    """The id of the run that starts with `prefix`; `where` names the store in errors.

    Raises:
        UnknownRun, AmbiguousRun: no run, or several, start with it.
    """
    wanted = prefix.strip().lower()
    if not wanted or not all(ch in "0123456789abcdef" for ch in wanted):
        raise UnknownRun(f"'{prefix}' is not a run id (hex digits); `redecode runs` lists them")
    rows = read(
        "SELECT DISTINCT run_id, started_ns FROM (SELECT run_id, started_ns FROM runs UNION ALL "
        "SELECT run_id, start_ns FROM span_starts WHERE kind = 'run') WHERE starts_with(run_id, ?) "
        "ORDER BY started_ns DESC LIMIT 20",
        [wanted],
    )
    if not rows:
        raise UnknownRun(f"no run starts with '{prefix}' in {where}; `redecode runs` lists them")
    if len(rows) > 1:
        some = ", ".join(r["run_id"][: len(wanted) + 6] for r in rows[:5])
        raise AmbiguousRun(f"'{prefix}' could be any of {len(rows)} runs ({some} …); give more digits")
    return str(rows[0]["run_id"])


RUNS = f"""
    SELECT * FROM runs UNION ALL BY NAME
    SELECT run_id, attributes->>'$."{c.AGENT_NAME}"' AS agent, 'open' AS status,
           start_ns AS started_ns, attributes->>'$."{c.RUN_INPUT}"' AS input, journal,
           attributes->>'$."{c.SOURCE_RUN}"' AS source_run_id,
           attributes->>'$."{c.REPLAY_MODE}"' AS replay_mode,
           attributes->>'$."{c.LABELS}"' AS labels
    FROM span_starts ANTI JOIN spans USING (run_id, span_id) WHERE kind = 'run'
"""
"""Every run, ended or open."""


def summaries(picked: str) -> str:
    """A query of runs with the sums over what is below them; `picked` is a query that picks from `r`, every run."""
    return f"""
        WITH r AS ({RUNS}), picked AS ({picked}), d AS (
            SELECT run_id, count(*) AS decodes, sum(output_tokens)::BIGINT AS tokens,
                   sum(input_tokens)::BIGINT AS prompt_tokens, list(DISTINCT fidelity) AS fidelities
            FROM decodes SEMI JOIN picked USING (run_id) GROUP BY run_id
        ), t AS (
            SELECT run_id, count(*) AS tools FROM tool_steps SEMI JOIN picked USING (run_id) GROUP BY run_id
        ), l AS (
            SELECT run_id, sum(events)::BIGINT AS lost FROM losses SEMI JOIN picked USING (run_id) GROUP BY run_id
        )
        SELECT * FROM picked LEFT JOIN d USING (run_id) LEFT JOIN t USING (run_id) LEFT JOIN l USING (run_id)
        ORDER BY started_ns DESC
    """


def runs(read: Read, *, limit: int | None = None, run_ids: list[str] | None = None) -> list[Run]:
    """Runs, newest first; open ones too."""
    where: str = ""
    parameters: list[Any] = []
    if run_ids is not None:
        where, parameters = "WHERE r.run_id IN (SELECT unnest(?))", [run_ids]
    picked = f"SELECT r.* FROM r {where} ORDER BY started_ns DESC {'LIMIT ?' if limit is not None else ''}"
    return [run_of(row) for row in read(summaries(picked), parameters + ([limit] if limit is not None else []))]


def with_besides(read: Read, found: list[Run]) -> list[Run]:
    """The runs with what their graphs were given besides their inputs, and where those wait that were interrupted."""
    told = read.rows(
        f"""SELECT run_id, attributes->>'$."{c.RUN_BESIDES}"', attributes->>'$."{c.INTERRUPTED}"' FROM spans
        WHERE kind = 'run' AND {_PICKED}
        AND (contains(attributes, '"{c.RUN_BESIDES}"') OR contains(attributes, '"{c.INTERRUPTED}"'))""",
        [[run.run_id for run in found]],
    )
    known = {
        run_id: (c.from_json(text) or {}) | ({"interrupted": where} if where else {}) for run_id, text, where in told
    }
    return [replace(run, besides=known.get(run.run_id) or {}) for run in found]


# There are tens of thousands in a run, and an enumeration takes its time to look one up.
_SPAN_KINDS = {kind.value: kind for kind in SpanKind}
_EDGE_KINDS = {kind.value: kind for kind in EdgeKind}
_PROVENANCES = {known.value: known for known in Provenance}


def load(read: Read, run_id: str) -> RecordedRun:
    """One run, whole."""
    (run,) = load_many(read, [run_id])
    return run


def load_many(read: Read, run_ids: list[str]) -> list[RecordedRun]:
    """Runs, whole, newest first: as many queries as for one."""
    found = runs(read, run_ids=run_ids)
    ids = [[run.run_id for run in found]]
    spans = read(
        f"""
        SELECT * FROM spans WHERE {_PICKED} UNION ALL BY NAME
        SELECT * EXCLUDE (edges), edges AS open_edges, 'open' AS status
        FROM span_starts ANTI JOIN spans USING (run_id, span_id) WHERE {_PICKED}
        ORDER BY start_ns, span_id
        """,
        ids * 2,
    )
    edges = read.rows(
        f"SELECT run_id, src, dst, kind, provenance FROM edges WHERE {_PICKED} ORDER BY dst, src, kind", ids
    )
    decodes = read(
        f"""
        WITH body AS (
            SELECT run_id, span_id, flatten(list(b.tokens ORDER BY u.at)) AS prompt_body
            FROM (
                SELECT run_id, span_id, unnest(prompt_blocks) AS hash, generate_subscripts(prompt_blocks, 1) AS at
                FROM decodes WHERE {_PICKED}
            ) u JOIN prompt_blocks b USING (hash) GROUP BY run_id, span_id
        )
        SELECT d.* REPLACE (
                   coalesce(d.queue_ns, e.queue_ns) AS queue_ns, coalesce(d.prefill_ns, e.prefill_ns) AS prefill_ns,
                   coalesce(d.decode_ns, e.decode_ns) AS decode_ns,
                   coalesce(d.token_time_source, if(e.run_id IS NULL, NULL, 'request')) AS token_time_source
               ), s.token_gaps_us AS step_gaps, s.batch_rows AS step_rows, body.prompt_body
        FROM decodes d LEFT JOIN decode_steps s USING (run_id, span_id)
        LEFT JOIN decode_splits e USING (run_id, span_id) LEFT JOIN body USING (run_id, span_id)
        WHERE {_PICKED} ORDER BY sent_ns, span_id
        """,
        ids * 2,
    )
    choices = read(f"SELECT * FROM decode_choices WHERE {_PICKED} ORDER BY span_id, index", ids)
    tools = read(f"SELECT * FROM tool_steps WHERE {_PICKED} ORDER BY span_id", ids)
    for span in spans:  # an ended span's edges are in the table; an open one has only what its start knew
        for src, kind, provenance in c.from_json(span.get("open_edges")) or ():
            edges.append((span["run_id"], src, span["span_id"], kind, provenance))
    out = {run.run_id: RecordedRun(run, [], [], [], []) for run in found}
    redacted: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in spans:
        made = _span(row)
        out[made.run_id].spans.append(made)
        redacted[made.run_id, made.span_id] = tuple(made.attributes.get(c.REDACTED, ()))
    for run_id, src, dst, kind, provenance in edges:
        out[run_id].edges.append(Edge(src, dst, _EDGE_KINDS[kind], _PROVENANCES[provenance]))
    more: dict[tuple[str, str], list[JsonObject]] = {}
    for row in choices:
        more.setdefault((row["run_id"], row["span_id"]), []).append(row)
    for row in decodes:
        of_call = row["run_id"], row["span_id"]
        out[row["run_id"]].decodes.append(_decode(row, more.get(of_call, []), redacted.get(of_call, ())))
    for row in tools:
        out[row["run_id"]].tools.append(_tool(row))
    return list(out.values())


def timed_decodes(read: Read, run_ids: list[str]) -> list[Decode]:
    """FM calls of runs with all their times, and without what was said: `input_tokens` counts the prompt."""
    rows = read(
        f"""
        SELECT d.* REPLACE (
                   coalesce(
                       {BLOCK_TOKENS} * coalesce(len(d.prompt_blocks), 0) + len(d.prompt_tail), d.input_tokens
                   ) AS input_tokens,
                   coalesce(d.output_tokens, len(d.sampled_ids)) AS output_tokens,
                   coalesce(d.queue_ns, e.queue_ns) AS queue_ns, coalesce(d.prefill_ns, e.prefill_ns) AS prefill_ns,
                   coalesce(d.decode_ns, e.decode_ns) AS decode_ns,
                   coalesce(d.token_time_source, if(e.run_id IS NULL, NULL, 'request')) AS token_time_source,
                   NULL AS prompt_blocks, NULL AS prompt_tail, NULL AS sampled_ids, NULL AS logprobs, NULL AS messages,
                   NULL AS tool_definitions, NULL AS output, NULL AS sampling
               ), s.token_gaps_us AS step_gaps, s.batch_rows AS step_rows
        FROM decodes d LEFT JOIN decode_steps s USING (run_id, span_id)
        LEFT JOIN decode_splits e USING (run_id, span_id)
        WHERE d.run_id IN (SELECT unnest(?)) ORDER BY sent_ns, span_id
        """,
        [run_ids],
    )
    return [_decode(row, [], ()) for row in rows]


def run_of(row: JsonObject) -> Run:
    """A run from a row of `summaries`."""
    return Run(
        run_id=row["run_id"],
        agent=row["agent"] or "",
        status=row["status"],
        started_ns=row["started_ns"],
        ended_ns=row["ended_ns"],
        fidelity=Fidelity.least(row["fidelities"] or []),
        decodes=row["decodes"] or 0,
        tools=row["tools"] or 0,
        tokens=int(row["tokens"] or 0),
        prompt_tokens=int(row["prompt_tokens"] or 0),
        source_run_id=row["source_run_id"],
        replay_mode=row["replay_mode"],
        agent_version=row["agent_version"],
        conversation_id=row["conversation_id"],
        error=row["error"],
        input=c.from_json(row["input"]),
        output=c.from_json(row["output"]),
        slo_s=row["slo_s"],
        labels=c.from_json(row["labels"]) or {},
        lost=row["lost"] or 0,
    )


def _span(row: JsonObject) -> Span:
    keys = ("run_id", "span_id", "parent_span_id", "name", "step_key", "start_ns", "end_ns", "status", "error")
    return Span(
        **{k: row[k] for k in keys}, kind=_SPAN_KINDS[row["kind"]], attributes=c.from_json(row["attributes"]) or {}
    )


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


_DECODE_PLAIN = (
    "run_id", "span_id", "step_key", "model", "sent_ns", "first_chunk_ns", "done_ns", "base_url", "request_id",
    "fingerprint", "engine_id", "seed", "seed_source", "finish_reason", "input_tokens", "output_tokens",
    "cached_tokens", "queue_ns", "prefill_ns", "decode_ns", "error", "digest",
)  # fmt: skip


def _times(gaps: list[int] | None) -> tuple[int, ...] | None:
    return None if gaps is None else c.times_ns(gaps)


def _decode(row: JsonObject, choices: list[JsonObject], redacted: tuple[str, ...]) -> Decode:
    prompt, hashes = None, None
    if row["prompt_tail"] is not None:
        prompt = (*(row["prompt_body"] or ()), *row["prompt_tail"])
    elif row["prompt_blocks"] is not None:  # its ids were withheld
        hashes = tuple(row["prompt_blocks"])
    steps, source = row["step_gaps"], row["token_time_source"]
    if steps is not None:
        source = TimeSource.ENGINE.value
    return Decode(
        **{k: row[k] for k in _DECODE_PLAIN},
        fidelity=Fidelity(row["fidelity"] or Fidelity.TEXT),
        sampling=c.from_json(row["sampling"]) or {},
        messages=c.from_json(row["messages"]),
        tool_definitions=c.from_json(row["tool_definitions"]),
        output=c.from_json(row["output"]),
        stream=bool(row["stream"]),
        prompt_ids=prompt,
        prompt_hashes=hashes,
        redacted=redacted,
        sampled_ids=_tuple(row["sampled_ids"]),
        logprobs=_tuple(row["logprobs"]),
        token_times_ns=_times(steps if steps is not None else row["token_gaps_us"]),
        token_time_source=TimeSource(source) if source else None,
        chunk_times_ns=_times(row["chunk_gaps_us"]),
        chunk_tokens=_tuple(row["chunk_tokens"]),
        batch_rows=_tuple(row["step_rows"] if steps is not None else row["batch_rows"]),
        more_choices=tuple(Choice(_tuple(x["sampled_ids"]), _tuple(x["logprobs"])) for x in choices),
    )


def _tool(row: JsonObject) -> ToolStep:
    return ToolStep(
        run_id=row["run_id"],
        span_id=row["span_id"],
        step_key=row["step_key"],
        tool=row["tool"],
        call_id=row["call_id"],
        arguments=c.from_json(row["arguments"]),
        result=c.from_json(row["result"]),
        error=row["error"],
        side_effect=row["side_effect"],
    )
