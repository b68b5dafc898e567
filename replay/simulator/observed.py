"""Steps of a real engine as they were measured: how long each took, and what was in it.

From the step clock of calls just made (`from_clock`), where each step has its beginning and its end, or from recorded
decodes (`from_decodes`), where a store keeps the time of each token and the rows of its step: then a step is known by
the step before it, and its beginning is not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from redecode.replay.engine.protocol import TokenSteps
from redecode.replay.simulator.costs import prefill_pairs
from redecode.tracer import Decode, TimeSource

_SAME_STEP_NS = 20_000
"""Tokens of one step that several processes recorded are this near: their clocks differ by microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStep:
    """One step.

    Attributes:
        work_s: from its beginning until its tokens were there; with the pause before it where `pause_s` is None.
        pause_s: until the next step began, if that followed at once.
        at_s: when, by a clock that all steps share.
        prefill_tokens, pairs, prefill_calls, decodes, context_tokens: as in `StepCosts`.
    """

    work_s: float
    pause_s: float | None
    prefill_tokens: int
    pairs: int
    prefill_calls: int
    decodes: int
    context_tokens: int
    at_s: float = 0.0

    @property
    def rows(self) -> int:
        """Calls in it."""
        return self.prefill_calls + self.decodes


@dataclass(frozen=True, slots=True)
class Passage:
    """A call that found the engine idle, seconds.

    Attributes:
        before_s: sent → its first step began.
        after_s: its last token → its caller had it.
    """

    prompt_tokens: int
    before_s: float
    after_s: float


@dataclass(frozen=True, slots=True)
class Observed:
    """Steps, and how many could not be used, by reason."""

    steps: tuple[ObservedStep, ...]
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Token:
    """Token k of a call: it comes out of prompt + k tokens."""

    k: int
    prompt: int
    cached: int


FOREIGN = "other calls were in the step"
CUT = "a prompt in it was cut in parts"
ALONE = "nothing says when it began"


def from_clock(calls: Sequence[tuple[int, int, TokenSteps]], token_budget: int | None) -> Observed:
    """From (prompt tokens, of them cached, step clock) of calls that were made by nobody else at the time.

    Args:
        token_budget: of a step, if the engine cuts prompts that are longer.
    """
    found: dict[int, tuple[int, int, list[_Token]]] = {}
    for prompt, cached, clock in calls:
        for t, start, rows, k in zip(clock.t_ns, clock.start_ns, clock.rows, clock.k, strict=True):
            found.setdefault(t, (start, rows, []))[2].append(_Token(k, prompt, cached))
    steps, left_out = [], dict[str, int]()
    times = sorted(found)
    for place, t in enumerate(times):
        start, rows, tokens = found[t]
        why = _unfit(rows, tokens, token_budget)
        if why:
            left_out[why] = left_out.get(why, 0) + 1
            continue
        pause = None
        if place + 1 < len(times):
            later = found[times[place + 1]]
            busy = sum(x.k > 0 for x in later[2]) == len(later[2]) and len(later[2]) <= len(tokens)
            pause = (later[0] - t) / 1e9 if busy else None
        steps.append(_step((t - start) / 1e9, pause, tokens, t / 1e9))
    return Observed(tuple(steps), left_out)


def from_decodes(decodes: Iterable[Decode], token_budget: int | None) -> Observed:
    """From recorded decodes of one engine; only those with times by the step clock count."""
    tokens: list[tuple[int, int, _Token, int]] = []  # (time, rows, token, number of its call)
    first_ns: dict[int, int] = {}
    for number, d in enumerate(decodes):
        if d.token_time_source is not TimeSource.ENGINE or not d.token_times_ns or not d.batch_rows:
            continue
        prompt = _prompt_tokens(d)
        if prompt is None:
            continue
        if d.prefill_ns:
            first_ns[number] = d.prefill_ns
        for k, (t, rows) in enumerate(zip(d.token_times_ns, d.batch_rows, strict=True)):
            tokens.append((d.sent_ns + t, rows, _Token(k, prompt, d.cached_tokens or 0), number))
    tokens.sort(key=lambda x: (x[0], x[3]))
    begun_ns = tokens[0][0] if tokens else 0
    steps, left_out = [], dict[str, int]()
    before: tuple[int, set[int]] | None = None
    place = 0
    while place < len(tokens):
        at, rows, _, _ = tokens[place]
        end = place
        while end < len(tokens) and tokens[end][0] - at <= _SAME_STEP_NS and tokens[end][1] == rows:
            end += 1
        group, place = tokens[place:end], end
        inside = {number for *_, number in group}
        work_s = None
        if before is not None and inside & before[1]:
            work_s = (at - before[0]) / 1e9  # the engine was busy: one step follows the other
        elif all(token.k == 0 for _, _, token, _ in group) and len(inside) == 1:
            alone = first_ns.get(group[0][3])
            work_s = alone / 1e9 if alone else None
        before = at, inside
        why = _unfit(rows, [token for _, _, token, _ in group], token_budget) or ("" if work_s else ALONE)
        if why or work_s is None:
            left_out[why] = left_out.get(why, 0) + 1
        else:
            steps.append(_step(work_s, None, [token for _, _, token, _ in group], (at - begun_ns) / 1e9))
    return Observed(tuple(steps), left_out)


def _unfit(rows: int, tokens: Sequence[_Token], token_budget: int | None) -> str:
    if len(tokens) != rows:
        return FOREIGN
    new = sum(x.prompt - x.cached for x in tokens if not x.k)
    return CUT if token_budget is not None and new + sum(x.k > 0 for x in tokens) > token_budget else ""


def _step(work_s: float, pause_s: float | None, tokens: Sequence[_Token], at_s: float) -> ObservedStep:
    prefills = [x for x in tokens if not x.k]
    decodes = [x for x in tokens if x.k]
    return ObservedStep(
        work_s=work_s,
        pause_s=pause_s,
        prefill_tokens=sum(x.prompt - x.cached for x in prefills),
        pairs=sum(prefill_pairs(x.cached, x.prompt - x.cached) for x in prefills),
        prefill_calls=len(prefills),
        decodes=len(decodes),
        context_tokens=sum(x.prompt + x.k for x in decodes),
        at_s=at_s,
    )


def passages_of(decodes: Sequence[Decode]) -> list[Passage]:
    """The way to the engine and back of recorded calls that found it idle: none made a token while they waited."""
    timed = sorted((d for d in decodes if d.last_token_ns is not None), key=lambda d: d.sent_ns)
    busy = sorted((d.sent_ns, d.sent_ns + (d.last_token_ns or 0)) for d in timed)
    until = list(accumulate((end for _, end in busy), max))
    begins = [begin for begin, _ in busy]
    found = []
    for d in timed:
        first, last, prompt = d.first_token_ns, d.last_token_ns, _prompt_tokens(d)
        if first is None or last is None or d.prefill_ns is None or d.done_ns is None or prompt is None:
            continue
        before = bisect_left(begins, d.sent_ns)
        if before + 1 < len(begins) and begins[before + 1] <= d.sent_ns + first:
            continue  # another came while it waited
        if before and until[before - 1] >= d.sent_ns:
            continue  # another was under way
        waited, after = first - d.prefill_ns, d.done_ns - d.sent_ns - last
        if waited > 0 and after > 0:
            found.append(Passage(prompt, waited / 1e9, after / 1e9))
    return found


def _prompt_tokens(d: Decode) -> int | None:
    return len(d.prompt_ids) if d.prompt_ids is not None else d.input_tokens
