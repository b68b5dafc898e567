"""A replay's own record: a run with the shape, names and step keys of the recording."""

from __future__ import annotations

from typing import Any

from redecode.tracer import (
    Decode,
    Dependency,
    LiveSpan,
    RecordedRun,
    Recorder,
    Span,
    SpanKind,
    decode_attributes,
)


class Mirror:
    """Records the replay of one run as it goes.

    Args:
        labels: recorded with the run from its start on.
        provider: who answers the FM calls.

    Attributes:
        live: recorded span id → its copy.
        run_id: of the replay; empty before it has begun.
    """

    def __init__(
        self,
        recorder: Recorder,
        recorded: RecordedRun,
        mode: str,
        labels: dict[str, Any],
        *,
        provider: str = "vllm",
    ) -> None:
        self._recorder, self._recorded, self._mode, self._labels = recorder, recorded, mode, labels
        self._provider = provider
        self._tools = {t.span_id: t for t in recorded.tools}
        self.live: dict[str, LiveSpan] = {}
        self.run_id = ""
        parents = {s.span_id: s.parent_span_id for s in recorded.spans}
        self._starts: dict[str, list[tuple[str, Dependency]]] = {}
        self._ends: dict[str, list[tuple[str, Dependency]]] = {}
        for edge in recorded.edges:
            inward = self._ends if parents.get(edge.src) == edge.dst else self._starts
            inward.setdefault(edge.dst, []).append((edge.src, (edge.src, edge.kind, edge.provenance)))

    def start(self, span: Span, monotonic_ns: int) -> None:
        """Open the copy of a span."""
        start_ns = self._recorder.clock.utc_ns(monotonic_ns)
        if span.parent_span_id is None and not self.run_id:
            run = self._recorded.run
            live = self._recorder.start_replay(run, mode=self._mode, start_ns=start_ns, labels=self._labels)
            self.run_id = live.run_id
        else:
            live = self._recorder.start(
                span.kind,
                span.name,
                self._parent(span),
                "",
                step_key=span.step_key,
                start_ns=start_ns,
                edges=self._translate(self._starts, span),
                attributes=self._recorder.mirrored(span, self._tools.get(span.span_id)),
            )
        self.live[span.span_id] = live

    def end(self, span: Span, monotonic_ns: int, decode: Decode | None, labels: dict[str, Any] | None = None) -> None:
        """Close the copy of a span.

        Args:
            decode: what was replayed for it.
            labels: of the run, instead of those it began with.
        """
        attributes = decode_attributes(decode, provider=self._provider) if decode is not None else {}
        error = decode.error if decode is not None else span.error
        live = self.live[span.span_id]
        if labels is not None:
            live.label(labels)
        self._recorder.end(
            live,
            end_ns=self._recorder.clock.utc_ns(monotonic_ns),
            attributes=attributes,
            error=error,
            returns=self._translate(self._ends, span),
        )

    def give_up(self, why: str, labels: dict[str, Any]) -> None:
        """Close what is open, innermost first: this replay ends here."""
        for span_id in reversed(self.live):
            live = self.live[span_id]
            if live.ended:
                continue
            if live.kind is SpanKind.RUN:
                live.label(labels)
            self._recorder.end(live, error=why, returns=[])

    def _parent(self, span: Span) -> LiveSpan:
        parent = self.live.get(str(span.parent_span_id))
        return parent or next(iter(self.live.values()))  # a foreign span whose parent was not recorded

    def _translate(self, edges: dict[str, list[tuple[str, Dependency]]], span: Span) -> list[Dependency]:
        return [
            (self.live[src].span_id, kind, provenance)
            for src, (_, kind, provenance) in edges.get(span.span_id, ())
            if src in self.live
        ]
