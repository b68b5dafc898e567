"""Prompts that begin alike, of candidates that run beside each other: whose cache an engine answers them from.

Engines keep what they have read of a prompt, and a prompt that begins like an earlier one costs less and takes less.
Candidates run on the same cases one after the other, and after the runs that were recorded: so what one is charged
would depend on who came before, as in production, where no candidate runs beside another, it does not. A vLLM keeps
what it has read apart by `cache_salt`; of other engines' cached tokens as many count as the candidate's own prompts
begin alike (their times stay as they were).
"""

from __future__ import annotations

import bisect
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from redecode.tracer import FmRequest, plain

SHARED = "redecode.tune.prefix"
"""Of a decode in an evaluation: the part of its prompt, 0 to 1, that an earlier one of its candidate begins with."""
_SALT, _OURS, _LONGEST = "cache_salt", ".redecode.", 128
"""A vLLM's parameter, which takes so many characters, and none of / @ and \\."""
_LANES = 8


class Prefixes:
    """The prompts of each candidate so far; those of the last few candidates are kept."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, list[str]] = OrderedDict()
        self._lock = threading.Lock()

    def share(self, lane: str, request: FmRequest) -> float:
        """The part of this prompt that the candidate has asked before, in characters; counts it as asked."""
        text = json.dumps([request.model, request.tools, plain(request.messages)], default=str)
        with self._lock:
            asked = self._asked.setdefault(lane, [])
            self._asked.move_to_end(lane)
            while len(self._asked) > _LANES:
                self._asked.popitem(last=False)
            place = bisect.bisect_left(asked, text)
            beside = asked[max(0, place - 1) : place + 1]
            common = max((_common(near, text) for near in beside), default=0)
            if place == len(asked) or asked[place] != text:
                asked.insert(place, text)
        return common / len(text)


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        mid = (low + high + 1) // 2
        low, high = (mid, high) if one[low:mid] == other[low:mid] else (low, mid - 1)
    return low


def cached(attributes: Mapping[str, Any], cached_tokens: int, input_tokens: int) -> int:
    """Cached tokens that a candidate would have got without the others, too."""
    share = attributes.get(SHARED)
    return cached_tokens if share is None else min(cached_tokens, math.ceil(share * input_tokens))


def salted(lane: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A request to a vLLM that shares nothing with those of other candidates."""
    salt = f"{body.get(_SALT) or ''}{_OURS}{blake2b(lane.encode(), digest_size=8).hexdigest()}"
    return {**body, _SALT: salt} if len(salt) <= _LONGEST else dict(body)


def without_salt(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling parameters as the program sent them."""
    own = str(sampling.get(_SALT) or "").partition(_OURS)[0]
    return {**{k: v for k, v in sampling.items() if k != _SALT}, **({_SALT: own} if own else {})}
