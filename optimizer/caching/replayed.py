"""A cache replayed over recorded calls in order of time: what it would have known when, and what it would have said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    @property
    def equal(self) -> bool:
        """Both asked the very same, so that another answer is noise."""
        return _asked(self.call) == _asked(self.source)


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
    groups = _groups(calls, vectors)
    out = []
    for n, call in enumerate(calls):
        entries = groups[_group(call)]
        found = entries.nearest(call, vectors[n], ttl_s)
        if found is not None and found[1] >= threshold - _ROUNDING:
            source = calls[found[0]]
            out.append(Hit(call, source, found[1], not judge(call, source.answer)))
        else:
            entries.add(n, call, vectors[n])
    return out


def nearest(calls: Sequence[Call], vectors: Matrix) -> float | None:
    """The greatest cosine of two calls of which one could have answered the other; `None` if there are none."""
    groups = _groups(calls, vectors)
    best: float | None = None
    for n, call in enumerate(calls):
        earlier = groups[_group(call)]
        found = earlier.nearest(call, vectors[n], None)
        if found is not None:
            best = found[1] if best is None else max(best, found[1])
        earlier.add(n, call, vectors[n])
    return best


def noise(calls: Sequence[Call], judge: Judge = same_answer) -> tuple[int, int]:
    """Pairs of calls that asked the very same, and how many got different answers: no cache is to blame for that.

    Pairs share no call, so that they are independent. They are judged as hits are, or what a judge lets pass in hits
    would count as noise.
    """
    groups: dict[tuple[str, str, str], list[Call]] = {}
    for call in calls:
        groups.setdefault((call.agent, call.node, _asked(call)), []).append(call)
    pairs = [pair for group in groups.values() for pair in zip(group[::2], group[1::2], strict=False)]
    return len(pairs), sum(not judge(later, earlier.answer) for earlier, later in pairs)


def _asked(call: Call) -> str:
    return call.prompt or call.exact


def _there(entry: Call, call: Call, ttl_s: float | None) -> bool:
    """Whether an entry had its answer when a call was made, and still kept it."""
    age = call.sent_ns - entry.done_ns
    return age >= 0 and (ttl_s is None or age <= ttl_s * 1e9)


def _group(call: Call) -> tuple[str, str, str, str]:
    """Calls that may answer each other by meaning."""
    return call.agent, call.node, call.tenant, call.scope


def _groups(calls: Sequence[Call], vectors: Matrix) -> dict[tuple[str, str, str, str], _Entries]:
    sizes = Counter(_group(call) for call in calls)
    return {group: _Entries(size, vectors.shape[1]) for group, size in sizes.items()}


class _Entries:
    """What a cache has, in the order it came; rows side by side, since they are read again and again."""

    def __init__(self, most: int, dimensions: int) -> None:
        self._rows = np.zeros((most, dimensions), dtype=np.float32)
        self._done, self._numbers, self._count = np.zeros(most, dtype=np.int64), np.zeros(most, dtype=np.int64), 0

    def add(self, number: int, call: Call, row: NDArray[np.float32]) -> None:
        """Keep a call."""
        at, self._count = self._count, self._count + 1
        self._rows[at], self._done[at], self._numbers[at] = row, call.done_ns, number

    def nearest(self, call: Call, row: NDArray[np.float32], ttl_s: float | None) -> tuple[int, float] | None:
        """The number of the likest call that had its answer by then (the latest of equals), and its cosine."""
        age = call.sent_ns - self._done[: self._count]
        there = age >= 0 if ttl_s is None else (age >= 0) & (age <= ttl_s * 1e9)
        if not there.any():
            return None
        likeness = np.where(there, self._rows[: self._count] @ row, -2.0)
        best = self._count - 1 - int(np.argmax(likeness[::-1]))
        return int(self._numbers[best]), float(likeness[best])


def same_fields(*names: str) -> Judge:
    """Judged by some fields of answers in JSON; answers that are none, or lack one of these, must be equal."""

    def read(answer: str) -> list[object] | None:
        try:
            said = json.loads(answer)[0]
            record = json.loads(said["content"]) if isinstance(said, dict) else said
            return [record[name] for name in names]
        except (ValueError, LookupError, TypeError):
            return None

    def judge(call: Call, answer: str) -> bool:
        mine, other = read(call.answer), read(answer)
        return call.answer == answer if mine is None or other is None else mine == other

    return judge
