"""The engine's own cache: how many prompt tokens it could take over, and how many more if what is stable stood first.

An engine that caches prefixes (vLLM's, in blocks of 16 tokens) takes over the longest run of full blocks that it has
seen at the beginning of a prompt. Words that are the same in every call are of no use to it behind words that are not.
Here prompts are put in the other order, token by token: what is stable first, then the rest, then what the chat
template ends with; and both orders go through the same blocks, in order of time, with nothing ever evicted. So it is
an upper bound, of tokens alone: what a model makes of the other order has to be measured as a knob. Calls with pictures
or the like are left out: their ids say where one stands, and not which.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from redecode.optimizer.caching.calls import Call
from redecode.tracer.blocks import BLOCK_TOKENS, split

_GRAM = 6
"""So many tokens in a row, in common, are no accident."""


@dataclass(frozen=True, slots=True)
class PrefixUse:
    """Of one model's calls, or of one step's.

    Attributes:
        tokens: of prompts.
        reusable: that the engine could have taken over; `recorded`: that it did, where it says so.
        reordered: that it could with the stable part first.
        stable: that are the same in nearly every call of their step, wherever they stand.
    """

    calls: int
    tokens: int
    reusable: int
    recorded: int | None
    reordered: int
    stable: int

    @property
    def gain(self) -> int:
        """Tokens more; less than none where the order of now is the better one."""
        return self.reordered - self.reusable


def prefix_use(calls: Iterable[Call], *, common: float = 0.9) -> dict[str, PrefixUse]:
    """By step (`agent node`), in order of name; under "" all together. Steps share the engine's cache, by model.

    Args:
        common: a row of tokens is stable if it is in this share of a step's prompts.
    """
    known = sorted(
        (c for c in calls if c.prompt_ids and c.kind == "fm" and not c.parts), key=lambda c: (c.sent_ns, c.span_id)
    )
    tails = _tails(known)
    marks = _marks(known, common)
    turned = [_turned(call.prompt_ids or (), marks[n], tails[call.model]) for n, call in enumerate(known)]
    now = _reused(known, [call.prompt_ids or () for call in known])
    then = _reused(known, turned)
    groups: dict[str, list[int]] = {"": list(range(len(known)))}
    for n, call in enumerate(known):
        groups.setdefault(f"{call.agent} {call.node}", []).append(n)
    out = {}
    for name in sorted(groups):
        some = groups[name]
        told = [known[n].cached_tokens for n in some]
        out[name] = PrefixUse(
            calls=len(some),
            tokens=sum(len(known[n].prompt_ids or ()) for n in some),
            reusable=sum(now[n] for n in some),
            recorded=None if None in told else sum(t or 0 for t in told),
            reordered=sum(then[n] for n in some),
            stable=sum(sum(marks[n]) for n in some),
        )
    return out


def _tails(calls: Sequence[Call]) -> dict[str, int]:
    """How many tokens all prompts of a model end with: the template's, which stay at the end."""
    out: dict[str, int] = {}
    by_model: dict[str, list[tuple[int, ...]]] = {}
    for call in calls:
        by_model.setdefault(call.model, []).append(call.prompt_ids or ())
    for model, prompts in by_model.items():
        shortest = min(map(len, prompts))
        n = 0
        while n < shortest and len({p[-1 - n] for p in prompts}) == 1:
            n += 1
        # Where every prompt ends with the same question, too, the template cannot be told from it.
        out[model] = n if len({c.node for c in calls if c.model == model}) > 1 else min(n, _GRAM)
    return out


def _marks(calls: Sequence[Call], common: float) -> list[list[bool]]:
    """For each prompt, which of its tokens are in a row that nearly every prompt of its step has."""
    steps: dict[tuple[str, str], list[int]] = {}
    for n, call in enumerate(calls):
        steps.setdefault((call.agent, call.node), []).append(n)
    marks: list[list[bool]] = [[] for _ in calls]
    for some in steps.values():
        prompts = {n: calls[n].prompt_ids or () for n in some}
        different = set(prompts.values())
        counts = Counter(gram for ids in different for gram in set(_grams(ids)))
        enough = max(common * len(different), 2)
        for n, ids in prompts.items():
            mark = [False] * len(ids)
            for at, gram in enumerate(_grams(ids)):
                if counts[gram] >= enough:
                    mark[at : at + _GRAM] = [True] * _GRAM
            marks[n] = mark
    return marks


def _grams(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[at : at + _GRAM]) for at in range(len(ids) - _GRAM + 1)]


def _turned(ids: Sequence[int], stable: Sequence[bool], tail: int) -> tuple[int, ...]:
    """The stable tokens first, in their order, then the others; the template's last ones last."""
    end = len(ids) - tail
    body = range(end)
    return (*(ids[n] for n in body if stable[n]), *(ids[n] for n in body if not stable[n]), *ids[end:])


def _reused(calls: Sequence[Call], prompts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of each prompt in blocks that were asked for before; never all of it: the last token is computed.

    Also by a call that is still in its prefill: if this one has to wait, the blocks are there when its turn comes.
    """
    seen: set[tuple[str, bytes]] = set()
    out = []
    for call, ids in zip(calls, prompts, strict=True):
        blocks, _ = split(array("i", ids).tobytes())
        reused = 0
        for hashed, _ in blocks:
            if (call.model, hashed) not in seen:
                break
            reused += BLOCK_TOKENS
        out.append(min(reused, (len(ids) - 1) // BLOCK_TOKENS * BLOCK_TOKENS))
        seen.update((call.model, hashed) for hashed, _ in blocks)
    return out
