"""A run as `redecode show --json` gives it."""

from __future__ import annotations

from typing import Any

from redecode.cli.runs import run_json
from redecode.replay import RunAnalysis
from redecode.replay.withheld import said_of
from redecode.tracer import ANSWERED_BY, Decode, RecordedRun


def shown_json(recorded: RecordedRun, analysis: RunAnalysis | None, why_not: str | None) -> dict[str, Any]:
    """All of it.

    Args:
        why_not: why there is no analysis.
    """
    path = () if analysis is None else analysis.critical_path
    return {
        "run": {
            **run_json(recorded.run),
            "input": recorded.run.input,
            "output": recorded.run.output,
            "kept_out": said_of(recorded),
        },
        "analysis": None if analysis is None else analysis.to_json(),
        "no_analysis": why_not,
        "spans": [
            {
                "span_id": s.span_id,
                "parent_span_id": s.parent_span_id,
                "kind": s.kind,
                "name": s.name,
                "step_key": s.step_key,
                "start_ns": s.start_ns,
                "end_ns": s.end_ns,
                "status": s.status,
                "error": s.error,
                "answered_by": s.attributes.get(ANSWERED_BY),
            }
            for s in recorded.spans
        ],
        "edges": [{"src": e.src, "dst": e.dst, "kind": e.kind, "provenance": e.provenance} for e in recorded.edges],
        "critical_path": [] if analysis is None else analysis.critical_spans,
        "critical_segments": [
            {"span_id": s.activity.span_id, "work": not s.gap, "start_ns": s.start_ns, "end_ns": s.end_ns} for s in path
        ],
        "decodes": [_decode_json(d) for d in recorded.decodes],
        "tools": [
            {
                "span_id": t.span_id,
                "tool": t.tool,
                "call_id": t.call_id,
                "arguments": t.arguments,
                "result": t.result,
                "error": t.error,
            }
            for t in recorded.tools
        ],
    }


def _decode_json(d: Decode) -> dict[str, Any]:
    plain = (
        "span_id", "step_key", "model", "fidelity", "seed", "seed_source", "sampling", "fingerprint", "engine_id",
        "finish_reason", "stream", "prompt_ids", "sampled_ids", "logprobs", "token_times_ns", "token_time_source",
        "chunk_times_ns", "chunk_tokens", "batch_rows", "input_tokens", "output_tokens", "cached_tokens", "queue_ns",
        "prefill_ns", "decode_ns", "sent_ns", "first_chunk_ns", "done_ns", "messages", "tool_definitions", "output",
        "error",
    )  # fmt: skip
    hashes = None if d.prompt_hashes is None else [h.hex() for h in d.prompt_hashes]
    more = {"redacted": list(d.redacted), "prompt_hashes": hashes}
    return {**{k: getattr(d, k) for k in plain}, **more, "ttft_ns": d.ttft_ns, "tpot_ns": d.tpot_ns, "e2e_ns": d.e2e_ns}
