"""What a candidate is judged by: error, cost and latency over its runs, and what it may not exceed.

Everything is to be small. Constraints are scaled, (x - limit) / limit, since samplers add up how far several are
exceeded; at or below 0 is within.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from redecode.optimizer.errors import BadSpec
from redecode.replay.prices import Price

NAMES = ("error", "cost", "latency_s")
"""The objectives, in the order of a trial's values: mean error 0 to 1, mean cost of a run, a percentile of latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the FM calls of one run with one model used, whether an engine or the memo answered.

    Attributes:
        engine_s: seconds in the engine (prefill and decode where it told them, else sent → done).
        uncounted: calls that were answered, and of whose tokens nobody told how many there were.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    engine_s: float = 0.0
    uncounted: int = 0

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            engine_s=self.engine_s + other.engine_s,
            uncounted=self.uncounted + other.uncounted,
        )


_USED = ("usage", "embeddings", "judging", "paid")


def together(*used: Mapping[str, Usage]) -> dict[str, Usage]:
    """What several used, by model."""
    out: dict[str, Usage] = {}
    for one in used:
        for model, usage in one.items():
            out[model] = out.get(model, Usage()).plus(usage)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of one candidate on one case.

    Attributes:
        run_id: of the recorded evaluation, None if nothing was recorded.
        quality: 0 to 1; None: the scorer could not tell; `unscored` what it raised of a recorded output.
        error: why it failed; a failed run has quality 0 and misses the SLO.
        latency_s: of the run, sent → done.
        simulated_s: what it would take at load, if that was simulated.
        usage: of its FM calls, by model; `embeddings` of its calls for embeddings, which are none of them. `paid`: of
            both what the memo did not answer, and of what was run beside it.
        live, memo: FM calls that an engine answered, and that the memo did; with those made first, to fill its caches.
        cached: steps that a cache of the agent's own answered.
        provisioned_s: its share of the time of all replicas, at the load that was simulated.
        provisioned_usd: what that costs, where replicas have prices.
        judging: what the scorer's own FM calls used, by model; of all runs of a block with its first.
    """

    case: str
    run_id: str | None
    quality: float | None
    latency_s: float
    error: str | None = None
    simulated_s: float | None = None
    usage: Mapping[str, Usage] = field(default_factory=dict)
    embeddings: Mapping[str, Usage] = field(default_factory=dict)
    paid: Mapping[str, Usage] = field(default_factory=dict)
    live: int = 0
    memo: int = 0
    cached: int = 0
    provisioned_s: float | None = None
    provisioned_usd: float | None = None
    judging: Mapping[str, Usage] = field(default_factory=dict)
    unscored: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Its inverse is `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """Its inverse is `to_json`."""
        used = {of: {m: Usage(**u) for m, u in data.get(of, {}).items()} for of in _USED}
        return cls(**{**data, **used})

    @property
    def loss(self) -> float | None:
        """1 - quality."""
        return 1.0 if self.error is not None else None if self.quality is None else 1.0 - self.quality

    @property
    def seconds(self) -> float:
        """At load if that was simulated, else as measured."""
        return self.latency_s if self.simulated_s is None else self.simulated_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What is measured and what is wanted.

    Attributes:
        slo_s, percentile: latency that at most 100 - percentile of a hundred runs may exceed.
        most_error: mean error that may not be exceeded.
        prices: by model, USD per million tokens; empty: cost is seconds of the engine.
        provisioned: cost is that of the replicas, used or not, `replica_usd_h` USD each for an hour, of all or by
            profile (`None`: seconds).
    """

    slo_s: float | None = None
    percentile: float = 95.0
    most_error: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    provisioned: bool = False
    replica_usd_h: float | Mapping[str, float] | None = None

    @property
    def cost_unit(self) -> str:
        """What a cost is counted in."""
        if self.provisioned:
            return "replica s" if self.replica_usd_h is None else "USD"
        return "USD" if self.prices else "engine s"

    @property
    def by_clock(self) -> bool:
        """Whether a cost is a time that was measured."""
        return not self.provisioned and not self.prices

    @property
    def spending(self) -> Goals:
        """What an evaluation itself costs: its FM calls, whatever the replicas it is about would."""
        return replace(self, provisioned=False, replica_usd_h=None)

    @property
    def allowed(self) -> float:
        """Share of runs that may miss the SLO."""
        return 1 - self.percentile / 100

    def misses(self, outcome: Outcome) -> bool:
        """Whether a run misses the SLO."""
        return self.slo_s is not None and (outcome.error is not None or outcome.seconds > self.slo_s)

    def spent(self, usage: Mapping[str, Usage]) -> tuple[float, list[str]]:
        """What FM calls cost, and the models of which that is not known, for want of a price or of counts."""
        unknown = [m for m, used in usage.items() if self.prices and (m not in self.prices or used.uncounted)]
        known = {model: used for model, used in usage.items() if model not in unknown}
        return self.spending.cost(Outcome(case="", run_id=None, quality=None, latency_s=0.0, usage=known)), unknown

    def embedded(self, outcome: Outcome) -> float:
        """What the calls for embeddings of one run cost, of which the memo answers none: nothing without a price.

        Raises:
            BadSpec: nobody knows how much.
        """
        if not self.prices:
            return sum(used.engine_s for used in outcome.embeddings.values())
        priced = {model: used for model, used in outcome.embeddings.items() if model in self.prices}
        for model, used in priced.items():
            if used.uncounted and self.prices[model].input > 0:
                raise BadSpec(
                    f"model {model} has a price, and nobody told how many tokens {used.uncounted} calls for embeddings "
                    f"of run {(outcome.run_id or '?')[:12]} had; without a price of its own they cost nothing here"
                )
        return sum(self.prices[model].usd(used.input_tokens, 0, 0) for model, used in priced.items())

    def unpriced(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Models of embeddings that cost nothing here for want of a price: unlike FM calls, they were free before."""
        return sorted({model for o in outcomes for model in o.embeddings if self.prices and model not in self.prices})

    def cost(self, outcome: Outcome) -> float:
        """Of one run, as if no memo had answered.

        Raises:
            BadSpec: a model has no price, or calls cost nobody knows how much.
        """
        if self.provisioned:
            return (outcome.provisioned_s if self.replica_usd_h is None else outcome.provisioned_usd) or 0.0
        total = self.embedded(outcome)
        if not self.prices:
            return total + sum(used.engine_s for used in outcome.usage.values())
        for model, used in outcome.usage.items():
            if model not in self.prices:
                raise BadSpec(
                    f"model {model} has no price; give --price {model}=INPUT,OUTPUT (in nightly.toml a table "
                    f"[prices.{model}]), or a table in the store's prices.toml, or no price at all"
                )
            if used.uncounted and self.prices[model].input + self.prices[model].output > 0:
                raise BadSpec(
                    f"model {model} has a price, and nobody told how many tokens {used.uncounted} of {used.calls} FM "
                    f"calls of run {(outcome.run_id or '?')[:12]} had: a stream tells if it is asked to "
                    '(stream_usage=True of ChatOpenAI, stream_options={"include_usage": True} of the OpenAI client) '
                    "and read to its end; else give no price at all, and the cost is seconds of the engine"
                )
            total += self.prices[model].usd(used.input_tokens, used.output_tokens, used.cached_tokens)
        return total

    def constraints(self, measured: Measured) -> dict[str, float]:
        """Scaled; the same ones in the same order for every candidate, as samplers need it."""
        out = {}
        if self.slo_s is not None:
            out["slo"] = scaled(measured.missed / max(measured.runs, 1), self.allowed)
        if self.most_error is not None:
            out["quality"] = scaled(measured.error, self.most_error)
        return out


def scaled(value: float, limit: float) -> float:
    """(value - limit) / limit; of a limit of 0 the value itself."""
    return (value - limit) / limit if limit > 0 else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate over its runs.

    Attributes:
        error: mean of 1 - quality, over the runs that could be scored; `error_se` its standard error.
        latency_s: the goals' percentile (nearest rank) over runs, failed ones included.
        missed: runs that missed the SLO.
        scored: runs that the scorer could tell of.
        live, memo: FM calls, by who answered.
        cached: steps that a cache of the agent's own answered.
    """

    runs: int
    scored: int
    failed: int
    missed: int
    error: float
    error_se: float
    cost: float
    cost_se: float
    latency_s: float
    median_s: float
    live: int
    memo: int
    cached: int = 0

    @property
    def values(self) -> tuple[float, float, float]:
        """In the order of `NAMES`."""
        return self.error, self.cost, self.latency_s


def measured(outcomes: Sequence[Outcome], goals: Goals) -> Measured:
    """A candidate over some runs; nothing scored counts as all wrong."""
    losses = [o.loss for o in outcomes if o.loss is not None]
    costs = [goals.cost(o) for o in outcomes]
    seconds = sorted(o.seconds for o in outcomes)
    return Measured(
        runs=len(outcomes),
        scored=len(losses),
        failed=sum(o.error is not None for o in outcomes),
        missed=sum(goals.misses(o) for o in outcomes),
        error=_mean(losses) if losses else 1.0,
        error_se=_se(losses),
        cost=_mean(costs),
        cost_se=_se(costs),
        latency_s=nearest_rank(seconds, goals.percentile) if seconds else math.nan,
        median_s=nearest_rank(seconds, 50.0) if seconds else math.nan,
        live=sum(o.live for o in outcomes),
        memo=sum(o.memo for o in outcomes),
        cached=sum(o.cached for o in outcomes),
    )


def nearest_rank(ordered: Sequence[float], percentile: float) -> float:
    """The least value that at least this part of all values do not exceed."""
    return ordered[max(0, math.ceil(percentile * len(ordered) / 100 - 1e-9) - 1)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _se(values: Sequence[float]) -> float:
    """Of the mean; infinite of fewer than two."""
    if len(values) < 2:
        return math.inf
    mean = _mean(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
