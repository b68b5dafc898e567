"""Three lanes, step by step: what was recorded, how much its replays vary, and a candidate to set against them.

Steps are aligned by step key. The difference of the two durations is shared out among the stretches of the two critical
paths, which tile the runs, so the shares add up to it exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redecode.replay.analysis.runs import analyze_recorded
from redecode.replay.comparison.changes import TRACERS_OWN
from redecode.replay.comparison.compare import DecodeComparison, compare_decodes
from redecode.replay.comparison.divergence import FieldDifference, differences, same
from redecode.replay.comparison.noise import Band, band
from redecode.tracer import Decode, RecordedRun, Span, ToolStep

_FM_PARTS = frozenset({"queue", "prefill", "decode", "transport"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLanes:
    """One step in all lanes. Durations in ns; `None` where the step is not in that run, or was never finished.

    Attributes:
        baseline: `None`: fewer than two baseline replays have it.
    """

    step_key: str
    kind: str
    name: str
    recorded_ns: int | None
    baseline: Band | None
    candidate_ns: int | None

    @property
    def delta_ns(self) -> int | None:
        """Candidate minus the middle of the baseline or, without one, minus recorded."""
        before = self.baseline.median_ns if self.baseline is not None else self.recorded_ns
        return None if before is None or self.candidate_ns is None else self.candidate_ns - before

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the candidate is outside the baseline's band; `None` without one."""
        if self.baseline is None or self.candidate_ns is None:
            return None
        return not self.baseline.holds(self.candidate_ns)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        told = {"delta_ns": self.delta_ns, "beyond_noise": self.beyond_noise}
        return {**asdict(self), "baseline": None if self.baseline is None else self.baseline._asdict(), **told}


@dataclass(frozen=True, slots=True)
class Change:
    """Something a step did otherwise.

    Attributes:
        what: "only recorded", "only in the candidate", "status", "asked", "answered", "tokens".
    """

    step_key: str
    what: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What one step's stretches of the critical path give to the difference of the durations.

    Attributes:
        part: "work"; of an FM call "queue", "prefill", "decode" or "transport" where both engines told them apart;
            "gap" where nothing on the path was at work: framework, dispatch, the agent's own code.
        recorded_ns, candidate_ns: its time on either path; 0 where it is not on it.
    """

    step_key: str
    part: str
    recorded_ns: int
    candidate_ns: int

    @property
    def delta_ns(self) -> int:
        """Candidate minus recorded."""
        return self.candidate_ns - self.recorded_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """A candidate run against a recorded one.

    Attributes:
        recorded_ns, candidate_ns: end to end, as far as the critical paths tile them.
        baseline: of the baseline replays, end to end.
        steps: in the order of the recorded run; those that only the candidate has behind what comes before them there.
        changes: in the order they happened; the first is where the candidate left the recording.
        edges: (from, to, kind) by step key that one of the two has and how many more times the candidate has it.
        shares: largest difference first; they add up to `candidate_ns - recorded_ns`.
    """

    recorded_id: str
    candidate_id: str
    baseline_ids: tuple[str, ...]
    recorded_ns: int
    candidate_ns: int
    baseline: Band | None
    steps: tuple[StepLanes, ...]
    changes: tuple[Change, ...]
    decodes: tuple[DecodeComparison, ...]
    edges: tuple[tuple[str, str, str, int], ...]
    shares: tuple[Share, ...]
    engine_differences: dict[str, tuple[Any, Any]]

    @property
    def delta_ns(self) -> int:
        """Candidate minus recorded, end to end."""
        return self.candidate_ns - self.recorded_ns

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the candidate's duration is outside the baseline's band; `None` without one."""
        return None if self.baseline is None else not self.baseline.holds(self.candidate_ns)

    @property
    def same(self) -> bool:
        """Whether both did, asked and answered the same; times may differ."""
        return not self.changes and not self.edges

    def to_json(self) -> dict[str, Any]:
        """As plain data, in the documented form of `redecode compare --json`."""
        return {
            "recorded": self.recorded_id,
            "candidate": self.candidate_id,
            "baseline": list(self.baseline_ids),
            "same": self.same,
            "e2e": {
                "recorded_ns": self.recorded_ns,
                "baseline": None if self.baseline is None else self.baseline._asdict(),
                "candidate_ns": self.candidate_ns,
                "delta_ns": self.delta_ns,
                "beyond_noise": self.beyond_noise,
            },
            "shares": [{**asdict(s), "delta_ns": s.delta_ns} for s in self.shares],
            "steps": [s.to_json() for s in self.steps],
            "changes": [asdict(c) for c in self.changes],
            "edges": [{"src": s, "dst": d, "kind": k, "more": n} for s, d, k, n in self.edges],
            "decodes": [asdict(d) for d in self.decodes],
            "engine_differences": {k: list(v) for k, v in self.engine_differences.items()},
        }


def compare_runs(
    recorded: RecordedRun,
    candidate: RecordedRun,
    baseline: Sequence[RecordedRun] = (),
    *,
    engine_differences: dict[str, tuple[Any, Any]] | None = None,
) -> RunComparison:
    """Set a candidate against a recorded run, with the noise of repeated replays if there are any.

    Args:
        baseline: replays of the recorded run with nothing changed; two give a wide band, five a useful one.
        engine_differences: name → (recorded's, candidate's), as far as the caller knows the engines.
    """
    split = _split(recorded) & _split(candidate)
    then, now = _path_times(recorded, split), _path_times(candidate, split)
    keys = dict.fromkeys((*then, *now))
    shares = [Share(*key, then.get(key, 0), now.get(key, 0)) for key in keys]
    shares.sort(key=lambda s: (-abs(s.delta_ns), s.step_key, s.part))
    a, b = _Steps(recorded), _Steps(candidate)
    others = [_Steps(r) for r in baseline]
    order = _merged(list(a.spans), list(b.spans))
    pairs = [(a.decodes[k], b.decodes[k]) for k in a.decodes if k in b.decodes]
    return RunComparison(
        recorded_id=recorded.run.run_id,
        candidate_id=candidate.run.run_id,
        baseline_ids=tuple(r.run.run_id for r in baseline),
        recorded_ns=sum(then.values()),
        candidate_ns=sum(now.values()),
        baseline=band([sum(_path_times(r, split).values()) for r in baseline]),
        steps=tuple(_lanes(key, a, b, others) for key in order),
        changes=tuple(_changes(order, a, b)),
        decodes=tuple(compare_decodes(x, y) for x, y in pairs if x.sampled_ids and y.sampled_ids),
        edges=tuple(_edges(recorded, candidate)),
        shares=tuple(shares),
        engine_differences=engine_differences or {},
    )


def _merged(then: list[str], now: list[str]) -> list[str]:
    """All keys, in the order of the first list; those of the second alone behind the key before them there."""
    known = set(then)
    behind: dict[str | None, list[str]] = {}
    last = None
    for key in now:
        if key in known:
            last = key
        else:
            behind.setdefault(last, []).append(key)
    return [*behind.get(None, ()), *(k for key in then for k in (key, *behind.get(key, ())))]


class _Steps:
    """A run by step key."""

    def __init__(self, recorded: RecordedRun) -> None:
        self.spans: dict[str, Span] = {s.step_key: s for s in recorded.spans}
        self.decodes: dict[str, Decode] = {d.step_key: d for d in recorded.decodes}
        self.tools: dict[str, ToolStep] = {t.step_key: t for t in recorded.tools}

    def duration_ns(self, key: str) -> int | None:
        span = self.spans.get(key)
        return None if span is None else span.duration_ns


def _split(recorded: RecordedRun) -> frozenset[str]:
    """FM calls whose engine told queue, prefill and decode apart."""
    return frozenset(d.step_key for d in recorded.decodes if d.prefill_ns is not None)


def _path_times(recorded: RecordedRun, split: frozenset[str]) -> dict[tuple[str, str], int]:
    """Time on the critical path by step key and part; of FM calls other than these all is work."""
    parents = {s.span_id: s.parent_span_id for s in recorded.spans}
    keys = {s.span_id: s.step_key for s in recorded.spans}
    inner = set(parents.values())
    spent: Counter[tuple[str, str]] = Counter()
    for segment in analyze_recorded(recorded).critical_path:
        span_id = segment.activity.span_id
        if segment.gap and segment.activity.part != "end":  # it passed in the graph that was to begin it
            span_id = parents[span_id] or span_id
        key = keys.get(span_id, keys[segment.activity.span_id])
        part = "gap" if segment.gap or segment.activity.span_id in inner else "work"
        if part == "work" and key in split and segment.kind in _FM_PARTS:
            part = segment.kind
        spent[key, part] += segment.duration_ns
    return dict(spent)


def _lanes(key: str, a: _Steps, b: _Steps, others: Iterable[_Steps]) -> StepLanes:
    span = a.spans.get(key) or b.spans[key]
    return StepLanes(
        step_key=key,
        kind=span.kind.value,
        name=span.name,
        recorded_ns=a.duration_ns(key),
        baseline=band([ns for o in others if (ns := o.duration_ns(key)) is not None]),
        candidate_ns=b.duration_ns(key),
    )


def _changes(order: Iterable[str], a: _Steps, b: _Steps) -> list[Change]:
    found: list[Change] = []
    for key in order:
        then, now = a.spans.get(key), b.spans.get(key)
        if then is None or now is None:
            found.append(Change(key, "only recorded" if now is None else "only in the candidate", ()))
            continue
        if then.status != now.status or _first_line(then.error) != _first_line(now.error):
            found.append(Change(key, "status", (f"{_status(then)}, now {_status(now)}",)))
        if key in a.decodes and key in b.decodes:
            found += _decode_changes(a.decodes[key], b.decodes[key])
        if key in a.tools and key in b.tools:
            found += _tool_changes(a.tools[key], b.tools[key])
    return found


def _decode_changes(then: Decode, now: Decode) -> list[Change]:
    asked = differences(_asked(then), _asked(now))
    changes = [Change(then.step_key, "asked", _said(asked))] if asked else []
    if then.sampled_ids and now.sampled_ids and then.model == now.model:
        found = compare_decodes(then, now).divergence
        if found is not None:
            told = _token(found.index, found.recorded_token, found.replayed_token)
            changes.append(Change(then.step_key, "tokens", (told,)))
    elif then.output is not None and now.output is not None and not same(then.output, now.output):
        answered = differences({"output": then.output}, {"output": now.output})
        changes.append(Change(then.step_key, "answered", _said(answered)))
    return changes


def _asked(decode: Decode) -> dict[str, Any]:
    sampling = {k: v for k, v in decode.sampling.items() if k not in TRACERS_OWN}
    asked = {"model": decode.model, "messages": decode.messages, "tools": decode.tool_definitions}
    return {**asked, "seed": decode.seed, "sampling": sampling}


def _tool_changes(then: ToolStep, now: ToolStep) -> list[Change]:
    asked = differences({"arguments": then.arguments}, {"arguments": now.arguments})
    answered = differences({"result": then.result}, {"result": now.result})
    changes = [Change(then.step_key, "asked", _said(asked))] if asked else []
    return [*changes, Change(then.step_key, "answered", _said(answered))] if answered else changes


def _said(found: Iterable[FieldDifference]) -> tuple[str, ...]:
    return tuple(str(d).replace(", asked ", ", now ", 1) for d in found)


def _token(index: int | None, then: int | None, now: int | None) -> str:
    def name(token: int | None) -> str:
        return "nothing more" if token is None else f"token {token}"

    return "they cannot be compared" if index is None else f"at {index}: recorded {name(then)}, now {name(now)}"


def _status(span: Span) -> str:
    return span.status if span.error is None else f"{span.status} ({_first_line(span.error)})"


def _first_line(text: str | None) -> str | None:
    return None if text is None else text.partition("\n")[0]


def _edges(a: RecordedRun, b: RecordedRun) -> list[tuple[str, str, str, int]]:
    def counted(recorded: RecordedRun) -> Counter[tuple[str, str, str]]:
        keys = {s.span_id: s.step_key for s in recorded.spans}
        known = (e for e in recorded.edges if e.src in keys and e.dst in keys)
        return Counter((keys[e.src], keys[e.dst], e.kind.value) for e in known)

    then, now = counted(a), counted(b)
    both = {s.step_key for s in a.spans} & {s.step_key for s in b.spans}  # of other steps it is told that they differ
    known = sorted(edge for edge in then.keys() | now.keys() if both.issuperset(edge[:2]))
    return [(*edge, now[edge] - then[edge]) for edge in known if now[edge] != then[edge]]
