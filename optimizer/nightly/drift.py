"""Whether tonight's runs are of another mix than those before: feature by feature, with an exact test and by how much.

Shares (of an agent; of conversations that call a model or a tool): Fisher's exact test, and Newcombe's interval of the
difference ("Interval estimation for the difference between independent proportions", Statistics in Medicine 17, 1998,
method 10). Numbers: the two-sample test of Kolmogorov and Smirnov, exact where scipy has it so, whose statistic is the
largest difference of the distribution functions, and a bootstrap interval of the ratio of medians. All p values
together by Holm. What is significant but smaller than `matters` is no drift: with enough runs anything is significant.
Of numbers their distribution functions have to differ by it, and one of the nine deciles by such a part of the larger
of its two values: one character moves all of a narrow distribution. (Where the functions differ by a tenth there is a
decile that does; the median may stand still.)

Models, tools, calls and their tokens follow from the configuration too. Where that has changed they are compared with
runs of the same one, if there are enough; else what they show is told, and is no drift: it is the job's own doing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from redecode.optimizer.nightly.mix import GIVEN, NUMBERS, Row, of_agents
from redecode.optimizer.promotion.statistics import holm

_RESAMPLES = 2000
_DRAWS, _AT_ONCE = 20_000_000, 1_000_000
_CONFIDENCE = 0.95
_MOST_NAMES = 30
_DECILES = tuple(n / 10 for n in range(1, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature on both sides.

    Attributes:
        before, now: a share, or a median with its tenth and ninetieth percentile.
        difference: of shares, or the largest one of the distribution functions (0 to 1).
        shift: of numbers, the largest difference of a decile, as a part of the larger of both (0 to 1); of shares 1.
        effect, low, high: the difference of shares or the ratio of medians, with a 95 % interval; `None` if unknown.
        p: of "nothing has changed"; `p_adjusted` by Holm over all features.
        rows: on each side.
        visible: a difference below this could hardly have been seen with so few.
        drifted: it changed.
        follows: it would have, but the configuration changed too, from which it follows.
    """

    name: str
    kind: str
    before: tuple[float, ...]
    now: tuple[float, ...]
    difference: float
    effect: float | None
    low: float | None
    high: float | None
    p: float
    rows: tuple[int, int]
    visible: float
    p_adjusted: float = 1.0
    drifted: bool = False
    follows: bool = False
    shift: float = 1.0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Feature:
        """As `Drift.to_json` has it."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**known)

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f", 95 %: {self._said(self.low, self.high)}"
        if self.kind == "share":
            points = f"{100 * (self.effect or 0.0):+.0f} points{interval}"
            return f"{self.name}: {self.before[0]:.0%} → {self.now[0]:.0%} ({points})"
        ratio = "" if self.effect is None else f" ({self.effect - 1:+.0%}{interval})"
        return f"{self.name}: median {self.before[1]:g} → {self.now[1]:g}{ratio}"

    def _said(self, low: float, high: float) -> str:
        if self.kind == "share":
            return f"{100 * low:+.0f} to {100 * high:+.0f}"
        return f"{low - 1:+.0%} to {high - 1:+.0%}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The verdict on a mix.

    Attributes:
        verdict: "drifted", "same" or "too few runs".
        rows: conversations before and tonight.
        untested: features of which there was too little, and why.
    """

    verdict: str
    words: str
    rows: tuple[int, int]
    features: tuple[Feature, ...] = ()
    untested: dict[str, str] = field(default_factory=dict)

    @property
    def drifted(self) -> tuple[Feature, ...]:
        """Those that changed."""
        return tuple(f for f in self.features if f.drifted)

    def to_json(self) -> dict[str, Any]:
        """As data."""
        return asdict(self)


def compare(
    before: Sequence[Row],
    now: Sequence[Row],
    *,
    agents: Sequence[str],
    least: int = 20,
    matters: float = 0.1,
    alpha: float = 0.01,
    moved: tuple[str, Sequence[Row]] | None = None,
    seed: int = 0,
) -> Drift:
    """Tonight's mix against the one before.

    Args:
        agents: those that are tuned; all features but the agents' own shares are of them alone.
        least: rows that each side must have.
        matters: the least difference of shares; of numbers see above.
        moved: the configuration was another one in a part of these runs: when it changed, and the rows before of the
            one that all of tonight's are of.
    """
    counts = (len(before), len(now))
    if min(counts) < least:
        words = f"{counts[1]} conversations tonight and {counts[0]} before; {least} of each are needed"
        return Drift(verdict="too few runs", words=words, rows=counts)
    rng = np.random.default_rng(seed)
    given = _shares("agent", before, now, lambda r: frozenset((r.agent,)))
    made: list[Feature] = []  # by the configuration too
    untested: dict[str, str] = {}
    theirs = of_agents(before, agents), of_agents(now, agents)
    when, alike = moved or ("", before)
    same = of_agents(alike, agents), theirs[1]
    too_few = len(same[0]) < least
    if min(map(len, theirs)) < least:
        untested[f"all of {', '.join(agents)}"] = f"{len(theirs[1])} tonight and {len(theirs[0])} before"
    else:
        same = theirs if too_few else same
        made += _shares("model", *same, lambda r: r.models)
        made += _shares("tool", *same, lambda r: r.tools)
        for name, words in NUMBERS.items():
            features, rows = (given, theirs) if name == GIVEN else (made, same)
            sides = [np.array([r.numbers[name] for r in side if name in r.numbers]) for side in rows]
            if min(map(len, sides)) < least:
                untested[words] = f"known of {len(sides[1])} tonight and of {len(sides[0])} before"
            else:
                features.append(_number(words, sides[0], sides[1], rng))
    found = [*given, *made]
    judged = []
    for n, (f, p) in enumerate(zip(found, holm([f.p for f in found]), strict=True)):
        differs = p <= alpha and min(f.difference, f.shift) >= matters
        follows = differs and too_few and n >= len(given)
        visible = _visible(f.rows, alpha / max(1, len(found)))
        judged.append(replace(f, p_adjusted=p, visible=visible, drifted=differs and not follows, follows=follows))
    changed = [f for f in judged if f.drifted]
    follow = [f for f in judged if f.follows]
    count = len(judged) - len(follow)
    words = (
        f"{len(changed)} of {count} features changed: {'; '.join(map(str, changed))}"
        if changed
        else f"none of {count} features changed by {matters:g} or more, as far as {counts[1]} conversations "
        f"tonight and {counts[0]} before can tell"
    )
    if follow:
        words += f"; no drift is what also follows from the configuration, which changed {when}: "
        words += "; ".join(map(str, follow))
    elif when and made and not too_few:
        words += (
            f"; what also follows from the configuration, which changed {when}, against the {len(same[0])} "
            "conversations since then"
        )
    return Drift(
        verdict="drifted" if changed else "same",
        words=words,
        rows=counts,
        features=tuple(sorted(judged, key=lambda f: (not f.drifted, not f.follows, -f.difference))),
        untested=untested,
    )


def _shares(kind: str, before: Sequence[Row], now: Sequence[Row], names_of: Any) -> list[Feature]:
    names = sorted({name for row in (*before, *now) for name in names_of(row)})
    counts = {name: [sum(name in names_of(r) for r in side) for side in (before, now)] for name in names}
    if len(names) > _MOST_NAMES:  # the rare ones cannot tell anything, and cost the others their power
        names = sorted(sorted(names, key=lambda n: -sum(counts[n]))[:_MOST_NAMES])
    return [_share(f"{kind} {name}", counts[name], (len(before), len(now))) for name in names]


def _share(name: str, counts: Sequence[int], rows: tuple[int, int]) -> Feature:
    from scipy import stats  # type: ignore[import-untyped]

    (a, b), (n, m) = counts, rows
    p = float(stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue)
    low, high = difference_interval((a, n), (b, m))
    effect = b / m - a / n
    return Feature(
        name=name, kind="share", before=(a / n,), now=(b / m,), difference=abs(effect), effect=effect, low=low,
        high=high, p=p, rows=rows, visible=0.0,
    )  # fmt: skip


def difference_interval(before: tuple[int, int], now: tuple[int, int]) -> tuple[float, float]:
    """Of now's share minus before's, 95 %: Newcombe's method 10, from Wilson's intervals of both."""
    from scipy import stats

    (a, n), (b, m) = before, now
    one = stats.binomtest(a, n).proportion_ci(_CONFIDENCE, method="wilson")
    two = stats.binomtest(b, m).proportion_ci(_CONFIDENCE, method="wilson")
    p, q = a / n, b / m
    low = q - p - math.hypot(q - two.low, one.high - p)
    high = q - p + math.hypot(two.high - q, p - one.low)
    return low, high


def _number(name: str, before: Any, now: Any, rng: Any) -> Feature:
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it says so when it takes the asymptotic p value
        test = stats.ks_2samp(before, now)
    medians = [_median_draws(side, rng) for side in (before, now)]
    effect = low = high = None
    if float(np.median(before)) > 0 and float(medians[0].min()) > 0:
        effect = float(np.median(now) / np.median(before))
        count = min(map(len, medians))
        low, high = (float(v) for v in np.quantile(medians[1][:count] / medians[0][:count], [0.025, 0.975]))
    return Feature(
        name=name,
        kind="number",
        before=_spread(before),
        now=_spread(now),
        difference=float(test.statistic),
        shift=_shift(before, now),
        effect=effect,
        low=low,
        high=high,
        p=float(test.pvalue),
        rows=(len(before), len(now)),
        visible=0.0,
    )


def _median_draws(values: Any, rng: Any) -> Any:
    """Medians of resamples: fewer of very many values, whose interval is narrow anyhow."""
    count = int(min(_RESAMPLES, max(200, _DRAWS // len(values))))
    at_once = max(1, _AT_ONCE // len(values))
    parts = [
        np.median(rng.choice(values, (min(at_once, count - start), len(values))), axis=1)
        for start in range(0, count, at_once)
    ]
    return np.concatenate(parts)


def _spread(values: Any) -> tuple[float, float, float]:
    low, middle, high = (float(v) for v in np.quantile(values, [0.1, 0.5, 0.9]))
    return low, middle, high


def _shift(before: Any, now: Any) -> float:
    """The largest relative difference of a decile, the same from either side; from nothing to anything it is 1."""
    was, its = (np.quantile(side, _DECILES) for side in (before, now))
    larger = np.maximum(np.abs(was), np.abs(its))
    return float(np.max(np.abs(its - was) / np.where(larger > 0, larger, 1.0)))


def _visible(rows: tuple[int, int], alpha: float) -> float:
    """The difference of two distribution functions that is just significant."""
    from scipy import special

    n, m = rows
    return min(1.0, float(special.kolmogi(alpha)) * math.sqrt((n + m) / (n * m)))
