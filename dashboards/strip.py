"""One FM call token by token: phases, gaps between tokens, stalls, tokens the model was unsure of.

A stall is a gap more than `STALL` times the median gap of the call. Quantiles are nearest rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from redecode.tracer import Decode

STALL = 3.0
LOW = 0.2
_LEAST_STALL_NS = 1_000_000  # below that a gap that is three times the median is noise


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the call, ns after it was sent; kinds as in the waterfall."""

    kind: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Strip:
    """A call, ready to be drawn.

    Attributes:
        times_ns: of each token, or of each chunk where tokens have none, after the call was sent; `per` says which.
        gaps_ns: before each token; `None` of the first.
        stalls: positions of tokens that came after a stall; `stalled_ns` is what these took beyond the median gap.
        low: positions of tokens less likely than asked.
        itl_ns: p50, p95, p99 and the longest gap; `None` with fewer than two.
    """

    phases: tuple[Phase, ...]
    times_ns: tuple[int, ...]
    per: str
    gaps_ns: tuple[int | None, ...]
    ids: tuple[int, ...]
    p: tuple[float, ...]
    stalls: tuple[int, ...]
    stalled_ns: int
    low: tuple[int, ...]
    itl_ns: tuple[int, int, int, int] | None
    total_ns: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for the drawing."""
        return {
            "phases": [[p.kind, p.start_ns, p.end_ns] for p in self.phases],
            "times": list(self.times_ns),
            "per": self.per,
            "gaps": list(self.gaps_ns),
            "ids": list(self.ids),
            "p": list(self.p),
            "stalls": list(self.stalls),
            "low": list(self.low),
            "median": self.itl_ns[0] if self.itl_ns else None,
            "total": self.total_ns,
        }


def strip_of(decode: Decode, low: float = LOW) -> Strip:
    """Lay a call out.

    Args:
        low: the probability below which a token counts as unlikely.
    """
    times, per = _times(decode)
    gaps = [b - a for a, b in pairwise(times)]
    ranked = sorted(gaps)
    median = _rank(ranked, 50) if ranked else 0
    limit = max(STALL * median, _LEAST_STALL_NS)
    stalls = [n + 1 for n, gap in enumerate(gaps) if gap > limit]
    p = tuple(math.exp(min(0.0, x)) if not math.isnan(x) else 0.0 for x in decode.logprobs or ())
    total = decode.e2e_ns if decode.e2e_ns is not None else (times[-1] if times else 0)
    return Strip(
        phases=tuple(_phases(decode, total)),
        times_ns=tuple(times),
        per=per,
        gaps_ns=(None, *gaps) if times else (),
        ids=decode.sampled_ids or (),
        p=p,
        stalls=tuple(stalls),
        stalled_ns=sum(gaps[n - 1] - median for n in stalls),
        low=tuple(n for n, each in enumerate(p) if each < low),
        itl_ns=(median, _rank(ranked, 95), _rank(ranked, 99), ranked[-1]) if ranked else None,
        total_ns=max(total, times[-1] if times else 0),
    )


def _rank(ranked: Sequence[int], percent: int) -> int:
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


def _times(decode: Decode) -> tuple[Sequence[int], str]:
    if decode.token_times_ns:
        return decode.token_times_ns, "token"
    if decode.chunk_times_ns:
        return decode.chunk_times_ns, "chunk"
    return (), "token"


def _phases(decode: Decode, total: int) -> list[Phase]:
    """As the waterfall cuts a call: the engine's split, put where the tokens say that it was."""
    queue, prefill, decoding = decode.queue_ns, decode.prefill_ns, decode.decode_ns
    if decode.first_token_ns is not None and decode.last_token_ns is not None:
        first, last = decode.first_token_ns, decode.last_token_ns
    elif prefill is not None and decoding is not None:
        first, last = total - decoding, total
    elif decode.ttft_ns is not None:
        return [
            p for p in (Phase("fm", 0, decode.ttft_ns), Phase("decode", decode.ttft_ns, total)) if p.end_ns > p.start_ns
        ]
    else:
        return [Phase("fm", 0, total)] if total else []
    wanted = [("fm", first)]
    if prefill is not None:
        wanted = [("transport", first - prefill - (queue or 0)), ("queue", first - prefill), ("prefill", first)]
    phases, at = [], 0
    for kind, until in (*wanted, ("decode", last), ("transport", total)):
        until = min(max(until, at), total)
        if until > at:
            phases.append(Phase(kind, at, until))
        at = until
    return phases
