"""What FM calls ask of an engine, and how fast an engine does it at a given load. Means, in closed form.

A call that is one of n in an engine's batch gets a token per step. Where n is kept up, each call that ends is followed
by one whose prompt has to be computed in between, so a step holds n/o prompts on average, o the mean length of outputs:

    pace(n) = step + gap + (decode + gap_row + context_token·context)·n + prefill·n/o
"""

from __future__ import annotations

from dataclasses import dataclass

from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.engine import Engine


@dataclass(frozen=True, slots=True)
class Work:
    """Of one FM call, or of several one after the other.

    Attributes:
        prompt_tokens: those that have to be computed.
        pairs: (query, key) pairs of their attention.
        sent_tokens: of prompts, found in the prefix cache or not.
    """

    calls: int = 0
    prompt_tokens: float = 0
    pairs: float = 0
    sent_tokens: float = 0
    output_tokens: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.pairs + other.pairs,
            self.sent_tokens + other.sent_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Typical:
    """The mean call of a mix.

    Attributes:
        prompt_tokens, pairs: that have to be computed.
        context_tokens: while it decodes.
    """

    prompt_tokens: float
    pairs: float
    output_tokens: float
    context_tokens: float


@dataclass(frozen=True, slots=True)
class Speed:
    """An engine at one load, seconds.

    Attributes:
        output_s: from token to token (the pace).
        call_s: of each call, outside of steps and prompts.
    """

    call_s: float
    sent_token_s: float
    prompt_token_s: float
    pair_s: float
    output_s: float

    def prompt_s(self, work: Work) -> float:
        """All but the tokens it makes."""
        return (
            self.call_s * work.calls
            + self.sent_token_s * work.sent_tokens
            + self.prompt_token_s * work.prompt_tokens
            + self.pair_s * work.pairs
        )

    def time_s(self, work: Work) -> float:
        """All of it."""
        return self.prompt_s(work) + self.output_s * work.output_tokens


class Model:
    """One kind of replica, and what it does with typical calls.

    Attributes:
        most: calls it can have in its batch at once: `max_num_seqs`, or as many as have room for their KV.
    """

    __slots__ = (
        "_paces",
        "base_s",
        "engine",
        "flat_s",
        "most",
        "pair_s",
        "prompt_s",
        "prompt_token_s",
        "row_s",
        "typical",
    )

    def __init__(self, engine: Engine, typical: Typical) -> None:
        c, limits = engine.costs, engine.limits
        self.engine, self.typical = engine, typical
        tokens = typical.context_tokens + typical.output_tokens / 2
        blocks = max(1.0, tokens / limits.block_size + 0.5)
        self.most = max(1, min(limits.max_num_seqs, int(limits.kv_blocks / blocks)))
        self.prompt_token_s, self.pair_s = c.prefill_token / PS, c.prefill_pair / PS
        self.prompt_s = (c.prefill_call + c.prefill_token * typical.prompt_tokens + c.prefill_pair * typical.pairs) / PS
        self.base_s = (c.step + c.gap) / PS
        self.row_s = (c.decode + c.gap_row + c.context_token * typical.context_tokens) / PS
        self.flat_s = (engine.before_ps + engine.after_ps + c.prefill_call) / PS
        self._paces = [self.base_s]

    def pace_s(self, calls: int) -> float:
        """Time from token to token with so many calls in the batch."""
        paces = self._paces
        while len(paces) <= calls:
            n = min(len(paces), self.most)
            paces.append(self.base_s + self.row_s * n + self.prompt_s * n / max(1.0, self.typical.output_tokens))
        return paces[calls]

    def speed(self, calls: int) -> Speed:
        """At this load."""
        return Speed(
            self.flat_s, self.engine.before_token_ps / PS, self.prompt_token_s, self.pair_s, self.pace_s(calls)
        )

    def relative(self) -> float:
        """Typical calls it could end per second if steps cost nothing of themselves: the end of all batching."""
        return 1.0 / max(1e-12, self.row_s * self.typical.output_tokens + self.prompt_s)

    def most_per_s(self) -> float:
        """Typical calls it ends per second with a full batch: its capacity."""
        return self.most / (self.typical.output_tokens * self.pace_s(self.most))

    def load_at(self, calls_per_s: float) -> float:
        """Calls in its batch at this rate (L = λ·W); infinite beyond its capacity."""
        o = self.typical.output_tokens
        per_call = self.row_s * o + self.prompt_s
        busy = calls_per_s * per_call
        if busy >= 1.0:
            return float("inf")
        calls = calls_per_s * o * self.base_s / (1.0 - busy)
        return calls if calls <= self.most else float("inf")
