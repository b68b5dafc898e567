"""What the tracer sees of runs that are evaluated, put together by run."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from redecode.optimizer.cases import MODE, SCORER
from redecode.optimizer.evaluation.memo import RECORDING
from redecode.optimizer.evaluation.prefixes import cached
from redecode.optimizer.evaluation.reaching import NOT_THERE
from redecode.optimizer.objectives import Usage, together
from redecode.tracer import ANSWERED_BY, SpanEvent
from redecode.tracer import conventions as c


@dataclass(frozen=True, slots=True)
class Seen:
    """What the tracer saw of one run, as `Outcome` has it."""

    run_id: str
    latency_s: float
    usage: Mapping[str, Usage]
    embeddings: Mapping[str, Usage]
    paid: Mapping[str, Usage]
    live: int
    memo: int
    cached: int
    unreached: bool = False
    waits: bool = False


class Watch:
    """Listens to the recorder and puts together what belongs to one run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usage: dict[str, dict[str, Usage]] = {}
        self._embeddings: dict[str, dict[str, Usage]] = {}
        self._paid: dict[str, dict[str, Usage]] = {}
        self._by: dict[str, list[int]] = {}
        self._cached: Counter[str] = Counter()
        self._seen: dict[str, Seen] = {}
        self._judging: dict[str, Usage] = {}
        self._unreached: set[str] = set()

    def __call__(self, event: SpanEvent) -> None:
        """A span has ended."""
        with self._lock:
            if event.kind == "decode":
                used = _usage(event)
                _add(self._usage, event, used)
                by, known = self._by.setdefault(event.run, [0, 0]), event.attributes.get(ANSWERED_BY) == RECORDING
                by[known] += 1
                if not known:
                    _add(self._paid, event, used)
                kind = (event.error or "").partition(":")[0]
                if kind in NOT_THERE or kind.endswith(("ConnectionError", "ConnectError")):  # LangChain has its own
                    self._unreached.add(event.run)
            elif event.kind == "cache":
                self._cached[event.run] += 1
            elif event.kind == "retrieval" and event.attributes.get(c.OPERATION) == "embeddings":
                _add(self._embeddings, event, _embedded(event))
                _add(self._paid, event, _embedded(event))
            elif event.kind == "run" and event.end_ns is not None:
                labels = (c.from_json(event.attributes.get(c.LABELS)) or {}).get(MODE) or {}
                token, by_model = labels.get("token"), self._usage.pop(event.run, {})
                live, memo = self._by.pop(event.run, [0, 0])
                hits, embedded = self._cached.pop(event.run, 0), self._embeddings.pop(event.run, {})
                paid = self._paid.pop(event.run, {})
                latency_s = (event.end_ns - event.start_ns) / 1e9
                if token is not None:
                    gone = event.run in self._unreached
                    self._unreached.discard(event.run)
                    waits = bool(event.attributes.get(c.INTERRUPTED))
                    self._seen[token] = Seen(
                        event.run, latency_s, by_model, embedded, paid, live, memo, hits, gone, waits
                    )
                elif labels.items() >= SCORER.items():
                    self._judging = together(self._judging, by_model, embedded)

    def take(self, token: str) -> Seen | None:
        """The run of a token, once."""
        with self._lock:
            return self._seen.pop(token, None)

    def judging(self) -> dict[str, Usage]:
        """What the scorer's runs that have ended used, once."""
        with self._lock:
            used, self._judging = self._judging, {}
            return used


def _add(by_run: dict[str, dict[str, Usage]], event: SpanEvent, usage: Usage) -> None:
    """What a call used, to what others of its run and its model did."""
    used, model = by_run.setdefault(event.run, {}), str(event.attributes.get(c.REQUEST_MODEL))
    used[model] = used.get(model, Usage()).plus(usage)


def _embedded(event: SpanEvent) -> Usage:
    """Of a call for embeddings: no FM call, since nothing is sampled, but an engine's work, and paid for."""
    tokens, end_ns = event.attributes.get(c.INPUT_TOKENS), event.end_ns
    return Usage(
        uncounted=int(tokens is None and event.status == "ok"),
        input_tokens=tokens or 0,
        engine_s=0.0 if end_ns is None else (end_ns - event.start_ns) / 1e9,
    )


def _usage(event: SpanEvent) -> Usage:
    a = event.attributes
    parts = [a[name] for name in (c.PREFILL_NS, c.DECODE_NS) if a.get(name) is not None]
    sent, done = a.get(c.SENT_NS), a.get(c.DONE_NS)
    spent = sum(parts) if len(parts) == 2 else (done - sent) if sent is not None and done is not None else 0
    told = a.get(c.INPUT_TOKENS) is not None and a.get(c.OUTPUT_TOKENS) is not None
    return Usage(
        calls=1,
        uncounted=int(not told and (event.status == "ok" or event.error == c.CUT_SHORT)),
        input_tokens=a.get(c.INPUT_TOKENS) or 0,
        output_tokens=a.get(c.OUTPUT_TOKENS) or 0,
        cached_tokens=cached(a, a.get(c.CACHED_TOKENS) or 0, a.get(c.INPUT_TOKENS) or 0),
        engine_s=spent / 1e9,
    )
