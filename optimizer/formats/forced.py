"""Which tokens of an answer its structure determines: the most that skipping forced tokens could save.

A token is **forced** when each of its characters is (`layout.py`), so that an engine that knew the format would not
have to compute it. A token that is forced in part (`",` when the text in quotes might have gone on) is counted apart.
The stop token is forced where nothing else could follow. What an engine saves by skipping is at most the decode steps
of these tokens: vLLM has no such switch (jump-forward), so this is a bound to measure, not a knob.

In a trace the model itself says how sure it was: a token of logprob near 0 that is *not* forced was copied or known,
and structure cannot skip it (speculation might).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from redecode.optimizer.formats.layout import Layout

SURE = math.log(0.99)
"""A token at least this probable was as good as certain."""


@dataclass(frozen=True, slots=True)
class ForcedShare:
    """Tokens of one answer, or of several.

    Attributes:
        forced: determined by the structure alone; `partly`: some of their characters are.
        sure: of probability ≥ 0.99, in the trace; `forced_sure`: of those, forced ones.
        forced_s: seconds that the forced ones took, where the trace has the engine's times.
        answers: how many; `left_out`: answers that are not laid out as the format lays out, so that nothing is known.
    """

    tokens: int = 0
    forced: int = 0
    partly: int = 0
    sure: int = 0
    forced_sure: int = 0
    seconds: float = 0.0
    forced_s: float = 0.0
    answers: int = 0
    left_out: int = 0

    @property
    def share(self) -> float | None:
        """Forced tokens of all; `None` of none."""
        return self.forced / self.tokens if self.tokens else None


def forced_share(
    layout: Layout,
    spelled: Sequence[bytes],
    *,
    logprobs: Sequence[float] | None = None,
    gaps_s: Sequence[float] | None = None,
) -> ForcedShare:
    """Of one answer.

    Args:
        layout: of the record that the answer says (`Format.laid_out`).
        spelled: what each sampled token says; a stop token may follow behind the text.
        logprobs: of the tokens, natural.
        gaps_s: time of each token after the one before it.
    """
    whole = layout.text.encode()
    mask = bytes(forced for ch, forced in zip(layout.text, layout.forced, strict=True) for _ in ch.encode())
    at, kinds = 0, list[str]()
    for n, token in enumerate(spelled):
        if whole[at : at + len(token)] == token and token:
            marks = mask[at : at + len(token)]
            kinds.append("forced" if all(marks) else "partly" if any(marks) else "free")
            at += len(token)
        elif at == len(whole) and n == len(spelled) - 1:
            kinds.append("forced" if layout.ends_forced else "free")
        else:
            return ForcedShare(left_out=1)
    if at < len(whole):
        return ForcedShare(left_out=1)
    sure = [lp >= SURE for lp in logprobs] if logprobs is not None else [False] * len(kinds)
    gaps = list(gaps_s) if gaps_s is not None else [0.0] * len(kinds)
    forced = [kind == "forced" for kind in kinds]
    return ForcedShare(
        tokens=len(kinds),
        forced=sum(forced),
        partly=kinds.count("partly"),
        sure=sum(sure),
        forced_sure=sum(a and b for a, b in zip(forced, sure, strict=False)),
        seconds=sum(gaps),
        forced_s=sum(gap for gap, is_forced in zip(gaps, forced, strict=False) if is_forced),
        answers=1,
    )


def added(shares: Iterable[ForcedShare]) -> ForcedShare:
    """Several answers together."""
    shares = list(shares)
    return ForcedShare(**{f.name: sum(getattr(s, f.name) for s in shares) for f in fields(ForcedShare)})
