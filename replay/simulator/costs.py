"""What a step of an engine costs, in whole picoseconds.

Whole numbers, so that a jump over many steps is the same to the last digit as those steps one by one, on every
machine; picoseconds, since a token of context may cost less than a nanosecond. 2**63 ps are 106 days.
"""

from __future__ import annotations

from dataclasses import dataclass

PS = 1_000_000_000_000
"""Picoseconds in a second."""

LONGEST_S = 2**63 // PS
"""Virtual time that a simulation has, seconds: columns of times are whole numbers of 64 bits."""


def to_ps(seconds: float) -> int:
    """Seconds as whole picoseconds."""
    return round(seconds * PS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """Time of one step of the engine, ps.

    work = step + prefill_token·p + prefill_pair·pairs + prefill_call·q + decode·d + context_token·Σcontext

    with p the prompt tokens computed in it (those found in the prefix cache are not), pairs how many (query, key) pairs
    their attention reads (`prefill_pairs`), q the calls that prefill, d those that decode, and Σcontext the tokens
    these have so far, prompt and output. Its tokens are there when the work is done. The next step begins
    gap + gap_row·(q + d) later: sampling, output and scheduling happen between two steps.
    """

    step: int = 0
    prefill_token: int = 0
    prefill_pair: int = 0
    prefill_call: int = 0
    decode: int = 0
    context_token: int = 0
    gap: int = 0
    gap_row: int = 0

    def work(self, prefill_tokens: int, pairs: int, prefill_calls: int, decodes: int, context_tokens: int) -> int:
        """Time from the beginning of a step until its tokens are there, ps."""
        return (
            self.step
            + self.prefill_token * prefill_tokens
            + self.prefill_pair * pairs
            + self.prefill_call * prefill_calls
            + self.decode * decodes
            + self.context_token * context_tokens
        )

    def pause(self, rows: int) -> int:
        """Time from a step's tokens to the beginning of the next, ps."""
        return self.gap + self.gap_row * rows


def prefill_pairs(computed: int, new: int) -> int:
    """(query, key) pairs of causal attention for `new` tokens behind `computed` ones."""
    return new * (2 * computed + new + 1) // 2
