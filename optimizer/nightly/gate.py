"""Whether a decision is carried out: what has been rolled back from wants new evidence, and a changed mix may hold it.

A configuration that somebody has rolled back from was promoted on evidence that turned out not to be enough. It is
promoted again only if the held-out runs recorded since then would do so by themselves: the same rule, on those runs
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from redecode.optimizer.nightly.history import config_id
from redecode.optimizer.nightly.tuning import outcomes_of
from redecode.optimizer.nightly.window import Evidence
from redecode.optimizer.preparing import goals_of
from redecode.optimizer.promotion.decide import NO_MORE, Decision, Margins, Verdict, decide
from redecode.optimizer.tuning import INCUMBENT

_SINCE = " recorded since the rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """What is to be done.

    Attributes:
        config, context: to use from now on: a promoted one, else the incumbent.
        finalist: that is promoted.
        more: held-out runs that would tell, besides those that the decision had; `wanted` says it of a whole night.
        rejected: finalists that were rolled back from before → why that still counts.
    """

    verdict: Verdict
    config: str
    context: Mapping[str, Any]
    why: str
    finalist: str | None = None
    more: int | None = None
    wanted: str | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As data."""
        return {**asdict(self), "verdict": self.verdict.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A configuration that was rolled back from, and is not in use again.

    Attributes:
        context: what it said; `None`: its file is gone.
    """

    config: str
    at_ns: int
    context: Mapping[str, Any] | None

    def same(self, config: Mapping[str, Any], usual: Mapping[str, Any]) -> bool:
        """Whether another configuration has the agent do the same.

        What one of them leaves out is as `usual`; where nobody knows what that is, it is taken to be the same.
        """
        if self.context is None or config_id(config) == self.config:
            return config_id(config) == self.config
        mine, other = {**usual, **self.context}, {**usual, **config}
        return all(
            mine[name] == other[name] and isinstance(mine[name], bool) == isinstance(other[name], bool)
            for name in mine
            if name in other
        )


def gate(tuned: Mapping[str, Any], rejected: Sequence[Rejected], *, hold: str | None, evidence: Evidence) -> Gated:
    """The verdict of a night.

    Args:
        tuned: as `tuning.kept` gave it, or `{"skipped": why, "incumbent": context}`.
        hold: why nothing is promoted tonight, if so.
        evidence: how many runs there are in a night to decide on.
    """
    incumbent = tuned["incumbent"]
    stays = {"config": config_id(incumbent), "context": incumbent}
    if "skipped" in tuned:
        return Gated(verdict=Verdict.UNSURE, why=f"nothing was tried: {tuned['skipped']}", **stays)
    verdict = Verdict(tuned["verdict"])
    if verdict is Verdict.KEEP and tuned["searched"] <= 1:
        why = f"no candidate was evaluated besides the incumbent: {tuned['stopped']}"
        return Gated(verdict=Verdict.UNSURE, why=why, **stays)
    if verdict is not Verdict.PROMOTE:
        why, lacking, held = tuned["why"], tuned["more_runs"], len(tuned["cases"])
        if lacking is None:
            told = f"{why}; {NO_MORE}" if verdict is Verdict.UNSURE and not tuned.get("cut") else why
            return Gated(verdict=verdict, why=told, **stays)
        why = f"{why}; a decision needs {evidence.words(held, lacking)}"
        return Gated(verdict=verdict, why=why, more=lacking, wanted=evidence.short(held, lacking), **stays)
    back: dict[str, str] = {}
    more: int | None = None
    wanted: str | None = None
    for candidate, why in _in_order(tuned):
        context = tuned["finalists"][candidate]
        config = config_id(context)
        before = [r for r in rejected if r.same(context, tuned.get("usual", {}))]
        if last := max(before, key=lambda r: r.at_ns, default=None):
            again = _since(tuned, last.at_ns)
            own = next((c for c in again.compared if c.name == candidate), None)
            if own is None or own.verdict is not Verdict.PROMOTE:
                back[candidate] = _still(last.config, last.at_ns, again, evidence)
                if again.more is not None:
                    more, wanted = again.more, evidence.short(again.pairs, again.more, _SINCE)
                continue
            why = f"{why} (on {again.pairs} held-out runs since it was rolled back from, too)"
        if hold is not None:
            return Gated(verdict=Verdict.UNSURE, why=f"{candidate} is held back: {hold}", rejected=back, **stays)
        return Gated(
            verdict=Verdict.PROMOTE,
            config=config,
            context=context,
            why=why,
            finalist=candidate,
            rejected=back,
        )
    return Gated(verdict=Verdict.UNSURE, why="; ".join(back.values()), more=more, wanted=wanted, rejected=back, **stays)


def _in_order(tuned: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Finalists that may be promoted, the chosen one first, each with why."""
    sure = [f for f in tuned["report"]["decision"]["finalists"] if f["verdict"] == Verdict.PROMOTE.value]
    sure.sort(key=lambda f: f["name"] != tuned["chosen"])
    return [(f["name"], "; ".join(f["why"])) for f in sure]


def _since(tuned: Mapping[str, Any], at_ns: int) -> Decision:
    """The decision on the held-out runs that were recorded after a time."""
    new = [i for i, case in enumerate(tuned["cases"]) if case["started_ns"] > at_ns]
    lanes = {name: [outcomes[i] for i in new] for name, outcomes in outcomes_of(tuned["lanes"]).items()}
    return decide(
        lanes,
        [tuned["cases"][i]["cluster"] for i in new],
        goals_of(tuned["goals"]),
        incumbent=INCUMBENT,
        margins=Margins(**tuned["margins"]),
        seed=tuned["seed"],
        together=[tuned["cases"][i].get("block", i) for i in new],
    )


def _still(config: str, at_ns: int, again: Decision, evidence: Evidence) -> str:
    when = datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
    said = str(again) if again.more is None else f"that needs {evidence.words(again.pairs, again.more, _SINCE)}"
    return (
        f"configuration {config} was rolled back from at {when}, and the {again.pairs} held-out runs since then alone "
        f"would not promote it ({said})"
    )
