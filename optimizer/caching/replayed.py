"""A cache replayed over recorded calls in order of time: what it would have known when, and what it would have said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from redecode.optimizer.caching.calls import Call
from redecode.optimizer.caching.vectors import Matrix

Judge = Callable[[Call, str], bool]
"""Whether an answer would have been right for a call."""
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Hit:
    """A call that the cache would have answered with another one's answer. `false`: and wrongly."""

    call: Call
    source: Call
    similarity: float
    false: bool


def same_answer(call: Call, answer: str) -> bool:
    """Judged by what the call itself got: equal, but for what differs between equal answers anyway."""
    return call.answer == answer


def exact_hits(calls: Sequence[Call], *, ttl_s: float | None = None, judge: Judge = same_answer) -> list[Hit]:
    """Hits of an exact cache. A call in flight has no answer to give, and no call has one before it was asked."""
    entries: dict[tuple[str, str, str, str], list[Call]] = {}
    out = []
    for call in calls:
        known = entries.setdefault((call.agent, call.node, call.tenant, call.exact), [])
        source = next((e for e in reversed(known) if _there(e, call, ttl_s)), None)
        if source is None:
            known.append(call)
        else:
            out.append(Hit(call, source, 1.0, not judge(call, source.answer)))
    return out


def semantic_hits(
    calls: Sequence[Call], vectors: Matrix, threshold: float, *, ttl_s: float | None = None, judge: Judge = same_answer
) -> list[Hit]:
    """Hits of a semantic cache: the nearest earlier call of the same step, tenant and scope, if it is near enough.

    Args:
        vectors: a row of length 1 for each call.
        threshold: least cosine.
    """
    entries: dict[tuple[str, str, str, str], list[int]] = {}
    out = []
    for n, call in enumerate(calls):
        known = entries.setdefault((call.agent, call.node, call.tenant, call.scope), [])
        there = [m for m in known if _there(calls[m], call, ttl_s)]
        if there:
            similarities = vectors[there] @ vectors[n]
            best = len(there) - 1 - int(np.argmax(similarities[::-1]))  # the latest of equals
            if float(similarities[best]) >= threshold - _ROUNDING:
                source = calls[there[best]]
                out.append(Hit(call, source, float(similarities[best]), not judge(call, source.answer)))
                continue
        known.append(n)
    return out


def nearest(calls: Sequence[Call], vectors: Matrix) -> float | None:
    """The greatest cosine of two calls of which one could have answered the other; `None` if there are none."""
    best: float | None = None
    earlier: dict[tuple[str, str, str, str], list[int]] = {}
    for n, call in enumerate(calls):
        known = earlier.setdefault((call.agent, call.node, call.tenant, call.scope), [])
        there = [m for m in known if _there(calls[m], call, None)]
        if there:
            found = float((vectors[there] @ vectors[n]).max())
            best = found if best is None else max(best, found)
        known.append(n)
    return best


def noise(calls: Sequence[Call]) -> tuple[int, int]:
    """Pairs of calls that asked the very same, and how many got different answers: no cache is to blame for that.

    Pairs share no call, so that they are independent.
    """
    groups: dict[tuple[str, str, str, str], list[Call]] = {}
    for call in calls:
        groups.setdefault((call.agent, call.node, call.scope, call.text), []).append(call)
    pairs = [pair for group in groups.values() for pair in zip(group[::2], group[1::2], strict=False)]
    return len(pairs), sum(a.answer != b.answer for a, b in pairs)


def _there(entry: Call, call: Call, ttl_s: float | None) -> bool:
    """Whether an entry had its answer when a call was made, and still kept it."""
    age = call.sent_ns - entry.done_ns
    return age >= 0 and (ttl_s is None or age <= ttl_s * 1e9)
