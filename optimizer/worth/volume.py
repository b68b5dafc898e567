"""What the recorded FM calls are, day by day and step by step, and how much of their prompts is always the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redecode.optimizer.caching.calls import Call
from redecode.optimizer.caching.prefixes import prefix_use
from redecode.optimizer.cases import MODE
from redecode.optimizer.errors import OptimizerError
from redecode.optimizer.worth.reading import Counts, Prompt, counts_of, prompts_of
from redecode.tracer import Dataset, Run, Store

LEAST_DAYS, LEAST_UNITS, LEAST_CALLS = 5, 10, 30
DAY_NS = 86400 * 10**9
CALLS, INPUT, OUTPUT, CACHED = range(4)
_SAMPLED = 400
_PLACES = re.compile(r"@\d+|\[[^\]]*\]|#\d+")


class VolumeError(OptimizerError):
    """Too little was recorded to say anything; says what would do."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How whoever asks can say what is missing; by default as options of `redecode worth`."""

    calls_per_day: str = "say it with --calls-per-day"
    price: str = "give --price {model}=INPUT,OUTPUT[,CACHED]"
    tokens: str = (
        'a stream tells if it is asked to (stream_usage=True of ChatOpenAI, stream_options={"include_usage": True} of '
        "the OpenAI client)"
    )


OPTIONS = Ways()


@dataclass(frozen=True, slots=True)
class Step:
    """FM calls of one place in an agent, with one model.

    Attributes:
        constant: tokens of a call that are the same in nearly every call of the step; 0 if it is not known.
        source: "tokens", "words" (by the share of words: token ids are not recorded) or "unknown".
    """

    agent: str
    node: str
    model: str
    constant: float
    source: str

    @property
    def name(self) -> str:
        """Of agent and place."""
        return f"{self.agent} {self.node}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What was recorded.

    Attributes:
        days: of these full days, the newest ones.
        use: [unit, step, (calls, input, output, cached tokens)] of conversations on one day each, and `day` of these
            (0: the newest); of whole conversations where `calls_per_day` was said.
        calls_per_day: said by somebody; then `days` are those of the look back, and nothing is known of their spread.
        notes: what is not known.
    """

    days: int
    steps: tuple[Step, ...]
    use: NDArray[np.float64]
    day: NDArray[np.int64]
    calls_per_day: float | None = None
    notes: tuple[str, ...] = ()

    def by_day(self) -> NDArray[np.float64]:
        """[day, step, ...] sums."""
        out = np.zeros((self.days, *self.use.shape[1:]))
        np.add.at(out, self.day, self.use)
        return out

    def a_day(self) -> NDArray[np.float64]:
        """[step, ...] of a mean day."""
        return self.drawn(np.arange(self.days) if self.calls_per_day is None else np.arange(len(self.use)))

    def drawn(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Likewise of days (of conversations, where somebody said how many calls there are) drawn anew."""
        if self.calls_per_day is None:
            found: NDArray[np.float64] = self.by_day()[places].mean(axis=0)
            return found
        total = self.use[places].sum(axis=0)
        scaled: NDArray[np.float64] = total * self.calls_per_day / total[:, CALLS].sum()
        return scaled

    @property
    def draws_of(self) -> int:
        """How many days (or conversations) there are to draw from."""
        return self.days if self.calls_per_day is None else len(self.use)


def volume_of(
    source: Store | Dataset,
    runs: Iterable[Run],
    *,
    now_ns: int,
    nodes: Collection[str] = (),
    calls_per_day: float | None = None,
    ways: Ways = OPTIONS,
) -> Volume:
    """Of runs of a store, or of a published dataset.

    Args:
        runs: those to look at (replays are none).
        nodes: only steps whose place has one of these names in it.
        calls_per_day: where the record does not have all calls.

    Raises:
        VolumeError: there is too little.
    """
    chosen = [
        r
        for r in runs
        if r.source_run_id is None and MODE not in r.labels and r.status != "open" and r.started_ns <= now_ns
    ]
    days = (now_ns - min((r.started_ns for r in chosen), default=now_ns)) // DAY_NS
    if calls_per_day is None:
        if days < LEAST_DAYS:
            raise VolumeError(
                f"{days} full days are recorded, {LEAST_DAYS} are needed to say how many calls there are in a day; "
                f"{ways.calls_per_day}"
            )
        chosen = [r for r in chosen if (now_ns - r.started_ns) // DAY_NS < days]
    by_id = {r.run_id: r for r in chosen}
    counts = counts_of(source, list(by_id))
    uncounted = untold = 0
    keys: dict[tuple[str, str, str], int] = {}
    units: dict[tuple[str, int], int] = {}  # a conversation may go on for days
    rows = []
    for row in counts:
        run, node = by_id[row.run_id], _PLACES.sub("", row.step_key)
        if nodes and not any(n in node.split("/") or n == node for n in nodes):
            continue
        step = keys.setdefault((run.agent, node, row.model), len(keys))
        day = (now_ns - run.started_ns) // DAY_NS if calls_per_day is None else 0
        unit = units.setdefault((run.conversation_id or run.run_id, day), len(units))
        rows.append((unit, step, (row.calls, row.input, row.output, row.cached), row.counted))
        uncounted += row.calls - row.counted
        untold += row.counted - row.told
    calls = sum(values[CALLS] for *_, values, _ in rows)
    conversations = len({name for name, _ in units})
    if calls < LEAST_CALLS or conversations < LEAST_UNITS:
        where = f" in {', '.join(nodes)}" if nodes else ""
        raise VolumeError(
            f"{calls} FM calls of {conversations} conversations are recorded{where}; {LEAST_CALLS} of {LEAST_UNITS} "
            "are needed"
        )
    use = np.zeros((len(units), len(keys), 4))
    counted = np.zeros((len(units), len(keys)))
    for unit, step, values, known in rows:
        use[unit, step] += values
        counted[unit, step] += known
    means = _filled(use, counted, list(keys), ways)
    notes = []
    if uncounted:
        notes.append(
            f"{uncounted} of {calls} FM calls do not say how many tokens they had: taken as many as the others of "
            "their step have on average"
        )
    if untold:
        notes.append(f"{untold} FM calls do not say how many tokens came from the engine's cache: taken as none")
    constants = _constants(source, chosen, counts, dict(zip(keys, means, strict=True)))
    if unknown := [f"{k[0]} {k[1]}" for k in keys if constants[k][1] == "unknown"]:
        notes.append(f"how much of the prompts of {', '.join(unknown)} is always the same is not known: taken as 0")
    steps = tuple(Step(*key, *constants[key]) for key in keys)
    return Volume(
        days=max(1, days), steps=steps, use=use, day=np.array([day for _, day in units], dtype=np.int64),
        calls_per_day=calls_per_day, notes=tuple(notes),
    )  # fmt: skip


def _filled(
    use: NDArray[np.float64], counted: NDArray[np.float64], keys: Sequence[tuple[str, str, str]], ways: Ways
) -> list[float]:
    """Give calls that do not tell their tokens those of a mean call of their step; returns its mean inputs.

    Raises:
        VolumeError: no call of a step tells them.
    """
    for place, (agent, node, model) in enumerate(keys):
        if not counted[:, place].any():
            calls = int(use[:, place, CALLS].sum())
            raise VolumeError(
                f"nobody told how many tokens the {calls} FM calls of {agent} {node} ({model}) had, so their cost "
                f"cannot be told; {ways.tokens}"
            )
    means = use[:, :, INPUT:].sum(axis=0) / counted.sum(axis=0)[:, None]
    use[:, :, INPUT:] += (use[:, :, CALLS] - counted)[:, :, None] * means
    inputs: list[float] = means[:, 0].tolist()
    return inputs


def _constants(
    source: Store | Dataset,
    runs: Sequence[Run],
    counts: Sequence[Counts],
    inputs: Mapping[tuple[str, str, str], float],
) -> Mapping[tuple[str, str, str], tuple[float, str]]:
    """Step → tokens of a call that are always the same, and how that is known; from the newest runs.

    Args:
        inputs: of a mean call of all, for a step of which the newest runs do not tell.
    """
    newest = sorted(runs, key=lambda r: r.started_ns, reverse=True)[:_SAMPLED]
    agents = {r.run_id: r.agent for r in newest}
    tokens: list[Call] = []
    words: list[Call] = []
    for prompt in prompts_of(source, list(agents)):
        key = (agents[prompt.run_id], _PLACES.sub("", prompt.step_key), prompt.model)
        if key in inputs:
            (words if prompt.by_words else tokens).append(_call(prompt, key))
    by_tokens, by_words = prefix_use(tokens), prefix_use(words)
    means = {**inputs, **_mean_inputs(counts, agents)}
    out: dict[tuple[str, str, str], tuple[float, str]] = {}
    for key in inputs:
        name = _named(key)
        if name in by_tokens:
            out[key] = (by_tokens[name].stable / by_tokens[name].calls, "tokens")
        elif name in by_words and by_words[name].tokens:
            out[key] = (means[key] * by_words[name].stable / by_words[name].tokens, "words")
        else:
            out[key] = (0.0, "unknown")
    return out


def _mean_inputs(counts: Sequence[Counts], agents: Mapping[str, str]) -> dict[tuple[str, str, str], float]:
    """Of a call of the newest runs, whose agents these are."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for row in (row for row in counts if row.run_id in agents):
        total = sums.setdefault((agents[row.run_id], _PLACES.sub("", row.step_key), row.model), [0, 0])
        total[0] += row.input
        total[1] += row.counted
    return {key: total / counted for key, (total, counted) in sums.items() if counted}


def _named(key: tuple[str, str, str]) -> str:
    """As `prefix_use` names the step of a `_call`."""
    return f"{key[0]} {key[1]} {key[2]}"


def _call(prompt: Prompt, key: tuple[str, str, str]) -> Call:
    return Call(
        kind="fm", agent=key[0], node=f"{key[1]} {key[2]}", run_id=prompt.run_id, span_id=prompt.span_id, tenant="",
        scope="", exact="", text="", answer="", sent_ns=prompt.sent_ns, done_ns=prompt.sent_ns, model=key[2],
        prompt_ids=prompt.ids,
    )  # fmt: skip
