"""Recorded runs written by hand."""

from __future__ import annotations

from typing import Any

from redecode.tracer import Decode, Edge, EdgeKind, Fidelity, Provenance, RecordedRun, Run, Span, SpanKind

CALL, RETURN, JOIN, BARRIER = EdgeKind.CALL, EdgeKind.RETURN, EdgeKind.JOIN, EdgeKind.BARRIER
DATA, RETRY, STREAM = EdgeKind.DATA, EdgeKind.RETRY, EdgeKind.STREAM


def span(
    span_id: str,
    parent: str | None,
    start: int,
    end: int | None,
    kind: SpanKind = SpanKind.TOOL,
    *,
    superstep: int | None = None,
    status: str = "",
    host: str | None = None,
) -> Span:
    """A span; one with a superstep is a node."""
    attributes: dict[str, Any] = {} if superstep is None else {"langgraph.step": superstep}
    if host is not None:
        attributes["host.name"] = host
    kind = SpanKind.RUN if parent is None else SpanKind.NODE if superstep is not None else kind
    return Span(
        run_id="r", span_id=span_id, parent_span_id=parent, kind=kind, name=span_id, step_key=f"run/{span_id}",
        start_ns=start, end_ns=end, status=status or ("ok" if end is not None else "open"), attributes=attributes,
    )  # fmt: skip


def recorded(
    spans: list[Span],
    edges: list[tuple[Any, ...]],
    decodes: list[Decode] | None = None,
    *,
    slo_s: float | None = None,
) -> RecordedRun:
    """A run; edges are (src, dst, kind[, provenance])."""
    run = Run(
        run_id="r", agent="a", status="ok", started_ns=0, ended_ns=None, fidelity=None, decodes=0, tools=0, tokens=0,
        prompt_tokens=0, slo_s=slo_s,
    )  # fmt: skip
    found = [Edge(s, d, k, how[0] if how else Provenance.RECORDED) for s, d, k, *how in edges]
    return RecordedRun(run, spans, found, decodes or [], [])


def decode(span_id: str, sent: int, done: int | None, **more: Any) -> Decode:
    known = {"model": "m", "step_key": f"run/{span_id}", "first_chunk_ns": None, **more}
    return Decode(run_id="r", span_id=span_id, fidelity=Fidelity.TEXT, sent_ns=sent, done_ns=done, **known)
