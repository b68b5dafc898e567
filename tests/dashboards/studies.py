"""Studies, nights and plans for the dashboard, written by what writes them in a store."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from redecode.optimizer.cases import Cases
from redecode.optimizer.knobs import Choice, Config, Range, Space
from redecode.optimizer.objectives import Goals, Measured, Outcome, Usage, measured
from redecode.optimizer.placement import kept
from redecode.optimizer.placement.decisions import Decision, Estimate
from redecode.optimizer.preparing import Prepared, goals_json
from redecode.optimizer.promotion.decide import Margins, decide
from redecode.optimizer.report import write
from redecode.optimizer.spec import Case, Spec
from redecode.optimizer.study.search import Evaluated, Search
from redecode.optimizer.study.storage import About, opened
from redecode.optimizer.tuning import INCUMBENT, Tuned
from redecode.tracer import SpanKind, Store
from tests.tracer.export.recorded_runs import Builder, keep

SPACE = Space(
    {"wording": Choice("plain", "brief"), "rounds": Range(1, 3, integer=True, when={"wording": ["plain"]}),
     "heat": Range(0.0, 1.0)}
)  # fmt: skip
GOALS = Goals(slo_s=1.0)
INCUMBENT_CONFIG: Config = {"wording": "plain", "rounds": 2, "heat": 0.5}


def about(agent: str = "brancher", *, seed: int = 0, made_ns: int = 1_700_000_000_000_000_000) -> About:
    """Of a study of an agent."""
    return About(
        spec=f"{agent}.tuning:spec", agent=agent, fidelity="engine",
        space={n: k.described() for n, k in SPACE.knobs.items()}, space_digest=SPACE.digest, base={},
        incumbent=INCUMBENT_CONFIG, search=tuple(f"s{n}" for n in range(12)), decide=tuple(f"d{n}" for n in range(80)),
        goals=goals_json(GOALS), sampler="random", seed=seed, versions={"redecode": "0", "optuna": "5"}, settings={},
        made_ns=made_ns,
    )  # fmt: skip


def outcomes(config: Config, cases: int, seed: int) -> list[Outcome]:
    """Runs of a candidate: the brief wording is better in all, a great heat misses the SLO."""
    rng, heat = random.Random(f"{seed}/{config}"), float(str(config["heat"]))
    brief = config["wording"] == "brief"
    return [
        Outcome(
            case=f"d{n}", run_id=None, quality=float(rng.random() < (0.99 if brief else 0.7)),
            latency_s=(0.2 if brief else 0.4) * (1 + rng.random() / 5) + (1.0 if heat > 0.8 else 0.0),
            usage={"m": Usage(calls=1, input_tokens=100, output_tokens=10, engine_s=0.1 if brief else 0.2)}, live=1,
        )
        for n in range(cases)
    ]  # fmt: skip


def search(store: Path, said: About, trials: int) -> Search:
    """A study in the store's journal with so many trials told, the incumbent first."""
    found = Search(opened(store / "studies" / "studies.journal"), said, SPACE, GOALS)
    found.enqueue(INCUMBENT_CONFIG)
    for n in range(trials):
        (asked,) = found.ask(1)
        made = outcomes(asked.config, 12, said.seed)
        told: Measured = measured(made, GOALS)
        missed = told.missed > 2
        found.tell(asked, Evaluated(outcomes=made, measured=told, out="misses the SLO" if missed else None,
                                    infeasible=missed))  # fmt: skip
        if n == 1:
            (asked,) = found.ask(1)
            found.tell(asked, Evaluated(failed="ValueError: broken"))
    return found


def tuned(store: Path, agent: str = "brancher", *, trials: int = 10, named: str = "trial") -> Tuned:
    """A study that was decided, and its report in the store; returns it."""
    said = about(agent, seed=1)
    found = search(store, said, trials)
    done = found.done()
    best = min((d for d in done if d.feasible), key=lambda d: d.measured.error)
    name = f"{named}-{best.number}"
    lanes = {INCUMBENT: outcomes(INCUMBENT_CONFIG, 80, 7), name: outcomes(best.config, 80, 7)}
    decision = decide(lanes, [f"d{n}" for n in range(80)], GOALS, margins=Margins())
    cases = Cases(search=tuple(Case(id=i, input=0) for i in said.search), decide=tuple(
        Case(id=i, input=0, duration_s=0.5) for i in said.decide))  # fmt: skip
    spec = Spec(name=agent, build=lambda _: None)
    prepared = Prepared(
        spec=spec, space=SPACE, incumbent=INCUMBENT_CONFIG, goals=GOALS, cases=cases, about=said, notes=("a note",)
    )
    as_recorded = [Outcome(case=i, run_id=i, quality=None, latency_s=0.5) for i in said.decide]
    made = Tuned(
        prepared=prepared, study=found.name, done=done, failures=found.failures(), importances=found.importances(),
        finalists={name: best.config}, lanes=lanes, observed=measured(as_recorded, GOALS), decision=decision,
        stopped=f"{trials} candidates were evaluated",
        cut=None, trials=trials, calls_live=120, calls_memo=30, calls_again=0, calls_deciding=160, calls_judging=0,
        seconds=12.0,
    )  # fmt: skip
    write(made, store / "tuned" / found.name)
    return made


def planned(store: Path, name: str = "a-plan", *, agent: str = "brancher", met: bool = True) -> Path:
    """A plan in the store, with three decisions of the router."""
    document: dict[str, Any] = {
        "made_ns": 1_700_000_000_000_000_000,
        "asked": {"slos": {"": "1s@p95"}, "per_s": 2.0, "seeds": 4, "runs": 200}, "drawn_from": ["ab" * 16],
        "left_out": {}, "profiles": ["k"], "met": met,
    }  # fmt: skip
    if not met:
        return kept.keep(store, name, {**document, "reason": f"{agent}: it takes 2 s alone", "most_per_s": None})
    at = [{"per_s": x, "attained": y, "low": y - 0.01, "high": min(1.0, y + 0.01), "met": y > 0.9}
          for x, y in ((2.0, 0.99), (3.0, 0.97), (4.0, 0.4))]  # fmt: skip
    document |= {
        "per_s": 2.0, "usd_per_hour": 6.0, "utilisation": 0.5, "refused": 0.01, "usd_per_good_run": 0.0008,
        "replicas": [{"model": "m", "hardware": f"{agent} card", "replicas": 3, "usd_per_hour": 2.0}],
        "classes": [{"agent": agent, "slo": "1s@p95", "attained": 0.99, "low": 0.98, "high": 1.0, "met": True,
                     "run": {"p50": 0.2, "p95": 0.7, "p99": 0.9}}],
        "breaks": {"per_s": 4.0, "holds_per_s": 3.0, "agent": agent, "step": "run/ask", "more_s": 0.8}, "curve": at,
        "alone": [{"name": agent, "seconds": 0.3, "way": [{"step": "run/ask", "seconds": 0.3, "wait": False}]}],
        "guesses": [f"{agent} card: up to 9 calls in a step, measured up to 3"],
    }  # fmt: skip
    log = kept.First()
    candidates = tuple(Estimate(replica=r, l_x=0.1, l_q=0.02 * r, l_r=0.0, calls=r, attains=1 - r / 10) for r in (0, 1))
    first = Decision(
        now_s=0.5, call=0, run=0, agent=agent, step="run/ask", model="m", policy="deadline", action="send", replica=1,
        reason=f"in time at {agent}", belief="this step", output_tokens=5.0, tail_s=0.1, deadline_slack_s=0.4,
        priority=1, candidates=candidates,
    )  # fmt: skip
    log.note(first)
    log.note(replace(first, call=1, action="hold", replica=None, reason="no replica is free"))
    log.note(replace(first, call=2, now_s=0.9, replica=0))
    return kept.keep(store, name, document, log)


def trial_runs(store: Path, study: str, trial: int, runs: int) -> None:
    """So many recorded runs of a trial, as tune labels them."""
    made = []
    for n in range(runs):
        b = Builder("brancher", f"{trial:08d}{n:024d}")
        b.span(SpanKind.RUN, "brancher", 0, 10)
        run = b.build()
        made.append(replace(run, run=replace(run.run, labels={"tune": {"study": study, "trial": trial}})))
    keep(store, made)
    assert len(Store(store).labelled("tune.trial", str(trial))) >= runs
