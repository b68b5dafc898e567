"""What FM calls took, over many runs: by model, against tokens, and how many at once. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redecode.replay.analysis.profiles import Quantiles
from redecode.tracer.store import CallTimes


@dataclass(frozen=True, slots=True)
class ModelCalls:
    """Calls of one FM.

    Attributes:
        reused: part of the prompt tokens that came from the prefix cache; `None` where no engine said.
    """

    model: str
    calls: int
    failed: int
    ttft: Quantiles | None
    tpot: Quantiles | None
    queue: Quantiles | None
    e2e: Quantiles | None
    prompt_tokens: int
    sampled_tokens: int
    reused: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line through times against tokens: `base_ns + per_token_ns · tokens`, by least squares.

    Attributes:
        r2: part of the variance it explains; `None` if there is none.
    """

    base_ns: float
    per_token_ns: float
    r2: float | None


def by_model(calls: Sequence[CallTimes]) -> list[ModelCalls]:
    """The FMs, most calls first."""
    found: dict[str, list[CallTimes]] = {}
    for call in calls:
        found.setdefault(call.model, []).append(call)
    out = [_summary(model, mine) for model, mine in found.items()]
    return sorted(out, key=lambda m: (-m.calls, m.model))


def _summary(model: str, calls: list[CallTimes]) -> ModelCalls:
    good = [c for c in calls if c.error is None]

    def of(get: Callable[[CallTimes], float | None]) -> Quantiles | None:
        values = [round(v) for c in good if (v := get(c)) is not None]
        return Quantiles.of(values) if values else None

    told = [c for c in good if c.cached_tokens is not None and c.input_tokens]
    asked = sum(c.input_tokens or 0 for c in told)
    return ModelCalls(
        model=model,
        calls=len(calls),
        failed=len(calls) - len(good),
        ttft=of(lambda c: c.ttft_ns),
        tpot=of(lambda c: c.tpot_ns),
        queue=of(lambda c: c.queue_ns),
        e2e=of(lambda c: c.e2e_ns),
        prompt_tokens=sum(c.input_tokens or 0 for c in calls),
        sampled_tokens=sum(c.output_tokens or 0 for c in calls),
        reused=sum(c.cached_tokens or 0 for c in told) / asked if asked else None,
    )


def prefill_points(calls: Sequence[CallTimes]) -> list[tuple[int, int]]:
    """(prompt tokens that were not cached, ns of prefill) of the calls whose engine told both."""
    return [
        (max(0, c.input_tokens - (c.cached_tokens or 0)), c.prefill_ns)
        for c in calls
        if c.error is None and c.input_tokens is not None and c.prefill_ns is not None
    ]


def decode_points(calls: Sequence[CallTimes]) -> list[tuple[int, int]]:
    """(tokens after the first, ns of decode)."""
    return [
        (c.output_tokens - 1, c.decode_ns)
        for c in calls
        if c.error is None and c.output_tokens is not None and c.output_tokens > 1 and c.decode_ns is not None
    ]


def line_through(points: Sequence[tuple[int, int]]) -> Line | None:
    """By least squares; `None` with fewer than three points, or all at the same number of tokens."""
    n = len(points)
    if n < 3:
        return None
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    xx = sum((x - mx) ** 2 for x, _ in points)
    if xx == 0:
        return None
    xy = sum((x - mx) * (y - my) for x, y in points)
    yy = sum((y - my) ** 2 for _, y in points)
    slope = xy / xx
    return Line(my - slope * mx, slope, xy * xy / (xx * yy) if yy else None)


def in_flight(calls: Sequence[CallTimes]) -> list[tuple[int, int]]:
    """(point in time, calls in flight from then on), in order of time."""
    steps: dict[int, int] = {}
    for call in calls:
        if call.done_ns is not None and call.done_ns > call.sent_ns:
            steps[call.sent_ns] = steps.get(call.sent_ns, 0) + 1
            steps[call.done_ns] = steps.get(call.done_ns, 0) - 1
    out, now = [], 0
    for at in sorted(steps):
        now += steps[at]
        out.append((at, now))
    return out
