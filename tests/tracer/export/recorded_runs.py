"""Recorded runs for the export tests: any shape of run (hypothesis), and some with a known one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from redecode.tracer import (
    Decode,
    Edge,
    EdgeKind,
    Fidelity,
    Provenance,
    RecordedRun,
    Recorder,
    Run,
    Span,
    SpanKind,
    Store,
    TimeSource,
    ToolStep,
)
from redecode.tracer import conventions as c
from redecode.tracer.export.spans import span_events
from redecode.tracer.records import Choice

T0 = 1_800_000_000_000_000_000  # a day in 2027, ns UTC
MS = 1_000_000

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
ids = st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=40).map(tuple)
times = st.none() | st.lists(st.integers(0, 10**6).map(lambda us: us * 1000), max_size=5).map(
    lambda t: tuple(sorted(t))
)
counts = st.none() | st.integers(0, 2**40)
words = st.none() | texts.filter(bool)
float32 = st.floats(-100, 0, width=32)


def span_id(run_id: str, number: int) -> str:
    return hashlib.blake2b(f"{run_id}{number}".encode(), digest_size=8).hexdigest()


@st.composite
def spans(draw: st.DrawFn, run_id: str) -> list[Span]:
    """A tree whose children lie within their parents, overlapping as they please; some never ended."""
    out: list[Span] = []
    for number in range(draw(st.integers(1, 12))):
        parent = out[draw(st.integers(0, number - 1))] if number else None
        low, high = (T0, T0 + 1000 * MS) if parent is None else (parent.start_ns, parent.end_ns or T0 + 2000 * MS)
        start = draw(st.integers(low, high))
        end = (
            draw(st.none() | st.integers(start, high))
            if draw(st.integers(0, 3)) == 0
            else draw(st.integers(start, high))
        )
        kind = SpanKind.RUN if parent is None else draw(st.sampled_from([k for k in SpanKind if k is not SpanKind.RUN]))
        error = draw(st.none() | st.just("ValueError: it said 7")) if end is not None else None
        out.append(
            Span(
                run_id=run_id,
                span_id=span_id(run_id, number),
                parent_span_id=parent.span_id if parent is not None else None,
                kind=kind,
                name=draw(texts),
                step_key=f"{parent.step_key}/{number}" if parent is not None else "run",
                start_ns=start,
                end_ns=end,
                status="open" if end is None else "error" if error else "ok",
                error=error,
                attributes=draw(
                    st.dictionaries(texts.map(lambda t: f"mine.{t}"), plain.filter(lambda v: v is not None), max_size=2)
                ),
            )
        )
    return sorted(out, key=lambda s: (s.start_ns, s.span_id))


@st.composite
def decodes(draw: st.DrawFn, span: Span) -> Decode:
    times_ns, rows = draw(times), None
    if times_ns is not None:
        rows = draw(st.none() | st.lists(st.integers(1, 64), min_size=len(times_ns), max_size=len(times_ns)).map(tuple))
    decode = Decode(
        run_id=span.run_id, span_id=span.span_id, step_key=span.step_key, model=draw(texts.filter(bool)),
        fidelity=draw(st.sampled_from(Fidelity)), sent_ns=span.start_ns, first_chunk_ns=draw(counts),
        done_ns=span.end_ns, base_url=draw(words), request_id=draw(words), fingerprint=draw(words),
        engine_id=draw(words), seed=draw(counts), seed_source=draw(words),
        sampling=draw(st.dictionaries(texts, plain, max_size=2)), messages=draw(plain), tool_definitions=draw(plain),
        output=draw(plain), stream=draw(st.booleans()), prompt_ids=draw(ids), sampled_ids=draw(ids),
        logprobs=draw(st.none() | st.lists(float32, max_size=5).map(tuple)), token_times_ns=times_ns,
        token_time_source=draw(st.none() | st.sampled_from(TimeSource)), chunk_times_ns=draw(times),
        chunk_tokens=draw(ids), batch_rows=rows, finish_reason=draw(words), input_tokens=draw(counts),
        output_tokens=draw(counts), cached_tokens=draw(counts), queue_ns=draw(counts), prefill_ns=draw(counts),
        decode_ns=draw(counts), error=span.error,
    )  # fmt: skip
    choices = st.lists(st.builds(Choice, ids, st.none() | st.lists(float32, max_size=3).map(tuple)), max_size=2)
    return replace(decode, digest=draw(st.just(decode.content_digest()) | words), more_choices=tuple(draw(choices)))


def _came(decode: Decode) -> bool:
    """Whether there was an answer: a call that failed before any has nothing that is missing."""
    told = decode.fidelity is not Fidelity.TEXT or decode.sampled_ids is not None
    return told or decode.error is None or decode.output not in (None, [])


@st.composite
def runs(draw: st.DrawFn) -> RecordedRun:
    """A recorded run as `Store.load` gives it."""
    run_id = f"{draw(st.integers(1, 2**128 - 1)):032x}"
    tree = draw(spans(run_id))
    root = next(s for s in tree if s.parent_span_id is None)
    found = [draw(decodes(s)) for s in tree if s.kind is SpanKind.DECODE and s.end_ns is not None]
    tools = [
        ToolStep(
            run_id=run_id,
            span_id=s.span_id,
            step_key=s.step_key,
            tool=draw(texts.filter(bool)),
            call_id=draw(words),
            arguments=draw(plain),
            result=draw(plain),
            error=s.error,
            side_effect=draw(st.none() | st.booleans()),
        )
        for s in tree
        if s.kind is SpanKind.TOOL and s.end_ns is not None
    ]
    many = {d.span_id: {c.CHOICES: 1 + len(d.more_choices)} for d in found if d.more_choices}
    tree = [replace(s, attributes={**s.attributes, **many.get(s.span_id, {})}) for s in tree]
    ends = st.sampled_from([s.span_id for s in tree])
    edges = st.builds(Edge, ends, ends, st.sampled_from(EdgeKind), st.sampled_from(Provenance))
    done = root.end_ns is not None
    run = Run(
        run_id=run_id, agent=draw(texts.filter(bool)), status=root.status, started_ns=root.start_ns,
        ended_ns=root.end_ns, fidelity=Fidelity.least([d.fidelity for d in found if _came(d)]), decodes=len(found),
        tools=len(tools), tokens=sum(d.output_tokens or 0 for d in found),
        prompt_tokens=sum(d.input_tokens or 0 for d in found), source_run_id=draw(words) if done else None,
        replay_mode=draw(words) if done else None, agent_version=draw(words) if done else None,
        conversation_id=draw(words) if done else None, error=root.error, input=draw(plain) if done else None,
        output=draw(plain) if done else None, slo_s=draw(st.none() | st.floats(0, 1e6)) if done else None,
        labels=draw(st.dictionaries(texts, texts, max_size=2)) if done else {}, lost=draw(st.integers(0, 2)),
    )  # fmt: skip
    return RecordedRun(
        run=run, spans=tree, edges=sorted(draw(st.sets(edges, max_size=8)), key=str), decodes=found, tools=tools
    )


class Builder:
    """Writes a run with a known shape: times in ms after its start."""

    def __init__(self, agent: str = "agent", run_id: str = "ab" * 16) -> None:
        self.run_id, self.agent = run_id, agent
        self.spans: list[Span] = []
        self.decodes: list[Decode] = []
        self.tools: list[ToolStep] = []
        self.edges: list[Edge] = []

    def span(
        self,
        kind: SpanKind,
        name: str,
        start_ms: float,
        end_ms: float | None,
        parent: str | None = None,
        error: str | None = None,
    ) -> str:
        number = span_id(self.run_id, len(self.spans))
        status = "open" if end_ms is None else "error" if error else "ok"
        end_ns = None if end_ms is None else T0 + round(end_ms * MS)
        self.spans.append(
            Span(
                run_id=self.run_id,
                span_id=number,
                parent_span_id=parent,
                kind=kind,
                name=name,
                step_key=f"run/{name}",
                start_ns=T0 + round(start_ms * MS),
                end_ns=end_ns,
                status=status,
                error=error,
            )
        )
        return number

    def decode(
        self,
        name: str,
        start_ms: float,
        end_ms: float,
        parent: str,
        prompt: list[int] | None,
        tokens: int = 3,
        **more: Any,
    ) -> str:
        number = self.span(SpanKind.DECODE, name, start_ms, end_ms, parent)
        span = self.spans[-1]
        fields: dict[str, Any] = {
            "sampled_ids": tuple(range(tokens)), "output_tokens": tokens, "fidelity": Fidelity.TOKENS,
            "first_chunk_ns": None, "input_tokens": None if prompt is None else len(prompt), **more,
        }  # fmt: skip
        self.decodes.append(
            Decode(
                run_id=self.run_id,
                span_id=number,
                step_key=span.step_key,
                model="m",
                sent_ns=span.start_ns,
                done_ns=span.end_ns,
                prompt_ids=None if prompt is None else tuple(prompt),
                **fields,
            )
        )
        return number

    def tool(self, name: str, start_ms: float, end_ms: float, parent: str, error: str | None = None) -> str:
        number = self.span(SpanKind.TOOL, name, start_ms, end_ms, parent, error)
        self.tools.append(
            ToolStep(
                run_id=self.run_id,
                span_id=number,
                step_key=f"run/{name}",
                tool=name,
                call_id=f"call-{name}",
                arguments={"secret": "argument"},
                result="secret result",
                error=error,
                side_effect=None,
            )
        )
        return number

    def edge(self, src: str, dst: str, kind: EdgeKind = EdgeKind.RETURN) -> None:
        self.edges.append(Edge(src, dst, kind, Provenance.RECORDED))

    def build(self) -> RecordedRun:
        root = self.spans[0]
        run = Run(
            run_id=self.run_id, agent=self.agent, status=root.status, started_ns=root.start_ns, ended_ns=root.end_ns,
            fidelity=None, decodes=len(self.decodes), tools=len(self.tools), tokens=0, prompt_tokens=0,
        )  # fmt: skip
        return RecordedRun(run=run, spans=self.spans, edges=self.edges, decodes=self.decodes, tools=self.tools)


def keep(path: Path, runs: Iterable[RecordedRun]) -> Store:
    """A store with these runs, whose process has ended."""
    recorder = Recorder(path)
    for run in runs:
        for event in span_events(run):
            recorder.journal.append(event.payload())
        for number in range(run.run.lost):
            recorder.journal.lose(run.run.run_id, f"test {number}")
    recorder.close()
    return Store(path)
