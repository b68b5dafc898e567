"""Runs as a trace that ui.perfetto.dev opens: Chrome's JSON, which Perfetto, chrome://tracing and speedscope read.

A run is a process; its tracks are lanes on which slices nest strictly, as the format demands: a span goes on its
parent's lane unless something else is there, so parallel branches lie side by side. Edges are flow arrows, the first
token an instant, tokens/s, calls in flight and the engine's batch rows counters, and the engine's queue, prefill and
decode phase slices inside the FM call where the step clock says when they were. No content.

Times are whole µs after the first span of the file: rounding them down keeps what nests nested, and JSON's doubles
could not hold ns UTC.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redecode.tracer.records import Decode, EdgeKind, JsonObject, Span, TimeSource

if TYPE_CHECKING:
    from redecode.tracer.store import RecordedRun

_BIN_NS = 100_000_000  # of the tokens/s counter
_NEVER = math.inf


def trace(runs: Iterable[RecordedRun]) -> JsonObject:
    """Some runs as one trace document."""
    runs = sorted(runs, key=lambda run: (run.run.started_ns, run.run.run_id))
    origin_ns = min((span.start_ns for run in runs for span in run.spans), default=0)
    events: list[JsonObject] = []
    numbers = itertools.count(len(runs) + 1)  # threads and arrows of all runs; a thread 0 would be the kernel's
    for pid, run in enumerate(runs, 1):
        events += _OneRun(run, pid, origin_ns, numbers).events()
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"origin_ns_utc": str(origin_ns), "runs": [run.run.run_id for run in runs]},
    }


@dataclass(slots=True)
class _Lane:
    """A track: the slices open on it, outermost first, as (span id, end)."""

    name: str
    open: list[tuple[str, float]] = field(default_factory=list)

    def takes(self, span: Span, ancestors: set[str]) -> bool:
        """Whether the span nests here: nothing is open, or the innermost is an ancestor that outlasts it."""
        while self.open and self.open[-1][1] <= span.start_ns:
            self.open.pop()
        if not self.open:
            return True
        inner, end = self.open[-1]
        return inner in ancestors and _end(span) <= end


def _end(span: Span) -> float:
    return _NEVER if span.end_ns is None else span.end_ns


def lanes(spans: list[Span]) -> tuple[dict[str, int], list[str]]:
    """Span id → lane, such that on every lane slices nest; and the names of the lanes."""
    above: dict[str, set[str]] = {}
    found: list[_Lane] = []
    lane_of: dict[str, int] = {}
    for span in _in_order(spans):
        parent = span.parent_span_id
        above[span.span_id] = {parent, *above.get(parent, ())} if parent is not None else set()
        at_home = lane_of.get(parent) if parent is not None else None
        order = [at_home] if at_home is not None else []
        order += [i for i in range(len(found)) if i != at_home]
        lane = next((i for i in order if found[i].takes(span, above[span.span_id])), None)
        if lane is None:
            lane = len(found)
            found.append(_Lane(span.step_key.rsplit("/", 1)[-1] or span.name))
        found[lane].open.append((span.span_id, _end(span)))
        lane_of[span.span_id] = lane
    return lane_of, [lane.name for lane in found]


def _in_order(spans: list[Span]) -> list[Span]:
    """By start; of those that start together, parents first."""
    by_id = {span.span_id: span for span in spans}
    depth: dict[str, int] = {}
    for span in spans:
        path: dict[str, None] = {}
        at: Span | None = span
        while at is not None and at.span_id not in depth and at.span_id not in path:
            path[at.span_id] = None
            at = by_id.get(at.parent_span_id or "")
        below = 0 if at is None else depth.get(at.span_id, 0) + 1
        for steps, span_id in enumerate(reversed(path)):
            depth[span_id] = below + steps
    return sorted(spans, key=lambda s: (s.start_ns, depth[s.span_id], -_end(s), s.span_id))


@dataclass(slots=True)
class _OneRun:
    run: RecordedRun
    pid: int
    origin_ns: int
    numbers: Iterator[int]

    def us(self, ns: float) -> int:
        return int(ns - self.origin_ns) // 1000

    def events(self) -> list[JsonObject]:
        run, decodes = self.run.run, {decode.span_id: decode for decode in self.run.decodes}
        lane_of, names = lanes(self.run.spans)
        tids = [next(self.numbers) for _ in names]
        lane_of = {span_id: tids[lane] for span_id, lane in lane_of.items()}
        out = [{"ph": "M", "name": "process_name", "pid": self.pid, "args": {"name": f"{run.agent} {run.run_id[:12]}"}}]
        for place, (tid, name) in enumerate(zip(tids, names, strict=True)):
            lane = {"ph": "M", "pid": self.pid, "tid": tid}
            out += [
                {**lane, "name": "thread_name", "args": {"name": name}},
                {**lane, "name": "thread_sort_index", "args": {"sort_index": place}},
            ]
        timed: list[tuple[int, int, JsonObject]] = []  # (µs, order among equals, event)
        order = 0
        flows = self._flows(lane_of)
        parents = {span.parent_span_id for span in self.run.spans}
        for span in _in_order(self.run.spans):
            tid, decode = lane_of[span.span_id], decodes.get(span.span_id)
            here = [self._slice(span, tid, decode), *flows[span.span_id]]  # an arrow binds to the slice just begun
            if decode is not None:
                here += self._phases(span, tid, decode, alone=span.span_id not in parents)
            for event in here:
                timed.append((event["ts"], order, event))
                order += 1
        for event in self._counters():
            timed.append((event["ts"], order, event))
            order += 1
        timed.sort(key=lambda item: item[:2])
        return out + [event for _, _, event in timed]

    def _slice(self, span: Span, tid: int, decode: Decode | None) -> JsonObject:
        event: JsonObject = {
            "name": span.name,
            "cat": span.kind.value,
            "pid": self.pid,
            "tid": tid,
            "ts": self.us(span.start_ns),
            "args": _args(span, decode),
        }
        if span.end_ns is None:
            return {**event, "ph": "B"}  # no end follows: shown as unfinished, which it is
        return {**event, "ph": "X", "dur": self.us(span.end_ns) - event["ts"]}

    def _phases(self, span: Span, tid: int, decode: Decode, *, alone: bool) -> Iterator[JsonObject]:
        """The engine's phases of a call that has nothing below it which they might overlap, and its first token."""
        common = {"pid": self.pid, "tid": tid, "cat": "engine"}
        times = decode.token_times_ns or ()
        first_ns = decode.ttft_ns
        if alone and decode.token_time_source is TimeSource.ENGINE and times and decode.prefill_ns is not None:
            first, last = decode.sent_ns + times[0], decode.sent_ns + times[-1]
            begin = first - decode.prefill_ns
            parts = [
                ("queue", begin - (decode.queue_ns or 0), begin),
                ("prefill", begin, first),
                ("decode phase", first, last),
            ]
            low, high = self.us(span.start_ns), self.us(_end(span)) if span.end_ns is not None else _NEVER
            for name, start_ns, end_ns in parts:
                start, end = max(low, self.us(start_ns)), min(high, self.us(end_ns))
                if end > start:
                    yield {**common, "ph": "X", "name": name, "ts": start, "dur": int(end) - start}
        if first_ns is not None:
            at = self.us(decode.sent_ns + first_ns)
            args = {"source": (decode.token_time_source or TimeSource.CLIENT).value}
            yield {**common, "ph": "i", "s": "t", "name": "first token", "ts": at, "args": args}

    def _flows(self, lane_of: dict[str, int]) -> dict[str, list[JsonObject]]:
        """Arrows by the span they are bound to; an arrow into the end of the span around it is left to the nesting."""
        spans = {span.span_id: (place, span) for place, span in enumerate(_in_order(self.run.spans))}
        out: dict[str, list[JsonObject]] = defaultdict(list)
        for edge in self.run.edges:
            if edge.src not in spans or edge.dst not in spans or spans[edge.src][0] >= spans[edge.dst][0]:
                continue
            src, dst = spans[edge.src][1], spans[edge.dst][1]
            if edge.kind is EdgeKind.CALL and lane_of[edge.src] == lane_of[edge.dst]:
                continue  # drawn as nesting
            common = {"id": next(self.numbers), "cat": "edge", "name": edge.kind.value, "pid": self.pid}
            args = {"provenance": edge.provenance.value}
            start = {**common, "ph": "s", "tid": lane_of[edge.src], "ts": self.us(src.start_ns), "args": args}
            end = {**common, "ph": "f", "bp": "e", "tid": lane_of[edge.dst], "ts": self.us(dst.start_ns), "args": args}
            out[edge.src].append(start)
            out[edge.dst].append(end)
        return out

    def _counters(self) -> Iterator[JsonObject]:
        changes: dict[int, int] = defaultdict(int)
        rows: dict[str, dict[int, int]] = defaultdict(dict)
        bins: dict[int, int] = defaultdict(int)
        for decode in self.run.decodes:
            changes[self.us(decode.sent_ns)] += 1
            if decode.done_ns is not None:
                changes[self.us(decode.done_ns)] -= 1
            times = decode.token_times_ns or ()
            for time_ns in times:
                bins[(decode.sent_ns + time_ns - self.origin_ns) // _BIN_NS] += 1
            for time_ns, count in zip(times, decode.batch_rows or (), strict=False):
                rows[decode.model][self.us(decode.sent_ns + time_ns)] = count
        flying = 0
        for at in sorted(changes):
            flying += changes[at]
            yield self._counter("FM calls in flight", at, "calls", flying)
        for number in sorted(bins):
            at = number * _BIN_NS // 1000
            yield self._counter("tokens/s", at, "tokens/s", bins[number] * 1_000_000_000 // _BIN_NS)
            if number + 1 not in bins:
                yield self._counter("tokens/s", at + _BIN_NS // 1000, "tokens/s", 0)
        for model, counts in rows.items():
            for at in sorted(counts):
                yield self._counter(f"engine batch rows {model}", at, "rows", counts[at])

    def _counter(self, name: str, at: int, unit: str, value: int) -> JsonObject:
        return {"ph": "C", "name": name, "pid": self.pid, "ts": at, "args": {unit: value}}


def _args(span: Span, decode: Decode | None) -> JsonObject:
    args: JsonObject = {"span_id": span.span_id, "step_key": span.step_key, "status": span.status}
    if span.error:
        args["error"] = span.error.split(":", 1)[0]  # its class; the message may quote what was sent
    if decode is None:
        return args
    known = {
        "model": decode.model,
        "fidelity": decode.fidelity.value,
        "seed": decode.seed,
        "prompt tokens": decode.input_tokens,
        "cached tokens": decode.cached_tokens,
        "output tokens": decode.output_tokens,
        "finish reason": decode.finish_reason,
        "TTFT ms": _ms(decode.ttft_ns),
        "TPOT ms": _ms(decode.tpot_ns),
        "engine queue ms": _ms(decode.queue_ns),
        "engine prefill ms": _ms(decode.prefill_ns),
        "engine decode ms": _ms(decode.decode_ns),
    }
    return args | {name: value for name, value in known.items() if value is not None}


def _ms(ns: float | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 3)
