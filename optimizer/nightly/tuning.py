"""A night's study and its decision, as `redecode tune` makes them, kept as data that a gate can judge anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redecode.optimizer.cases import JOB, NIGHT, read_expected, same_input
from redecode.optimizer.errors import NoRuns, OptimizerError, Stopped
from redecode.optimizer.evaluation.placing import REPLICAS, ROUTING, asked_for, is_placement, with_placement
from redecode.optimizer.evaluation.process import Workers
from redecode.optimizer.evaluation.session import Evaluates, InProcess, Settings
from redecode.optimizer.evaluation.simulated import at_load, measured_on
from redecode.optimizer.knobs import as_json
from redecode.optimizer.nightly.config import NightlyConfig
from redecode.optimizer.nightly.errors import BadNight
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.preparing import Prepared, Request, goals_json, prepare
from redecode.optimizer.promotion.pairs import blocks_of
from redecode.optimizer.report import breaks, to_json, unmet, whole_of, why_words, write
from redecode.optimizer.schema import parse_knob
from redecode.optimizer.scoring import scoring_of
from redecode.optimizer.spec import Case, Spec, load, space_of
from redecode.optimizer.study.alone import alone
from redecode.optimizer.study.stopping import Budget
from redecode.optimizer.study.storage import opened, place_of
from redecode.optimizer.tuning import Tuned, Tuner
from redecode.replay.engine import status
from redecode.replay.prices import prices_of
from redecode.replay.simulator.fleet import Routing
from redecode.tracer import Run, Store

FOLDER = "tuning"


def point_agents_at(engine: str | None, store: Path) -> None:
    """Tell agents that ask the environment which engine to call: the one asked for, else the one of the store."""
    url = engine
    if url is None and not os.environ.get("OPENAI_BASE_URL"):
        state = status(store / "engine").state
        url = None if state is None else state.base_url
    if url is not None:
        os.environ["OPENAI_BASE_URL"] = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        os.environ.setdefault("OPENAI_API_KEY", "none")  # the client wants one, the engine does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A study that can begin.

    Attributes:
        incumbent: the configuration in use, with all that the agent is given.
    """

    prepared: Prepared
    storage: Any
    incumbent: Mapping[str, Any]


def ready(
    config: NightlyConfig,
    spec: Spec,
    store: Store,
    runs: Sequence[Run],
    *,
    incumbent: Mapping[str, Any],
    now_ns: int,
    words: str,
) -> Ready:
    """Everything that can be refused is refused here.

    Args:
        runs: of the night, newest first.
        incumbent: the context in use.
        words: which runs these are.

    Raises:
        NoRuns, BadSpec, BadStudy: as `tuning.prepare`.
        SimulationError: a load is simulated, and there is no engine profile.
    """
    tune, goals = config.tune, config.goals
    evaluation: dict[str, Any] = {"concurrency": tune.concurrency, "workers": tune.workers, "memo": tune.memo}
    evaluation |= _at_load(config, incumbent)
    evaluation |= {"run_timeout": tune.run_timeout, "measured_on": measured_on(store.path, evaluation)}
    simulates = at_load(store.path, evaluation)
    request = Request(
        reference=config.spec,
        which="all",
        knobs=[parse_knob(k) for k in tune.knobs],
        fixed=dict(tune.fix),
        incumbent=incumbent,
        slo_s=goals.slo,
        percentile=goals.percentile,
        most_error=goals.max_error,
        prices=dict(config.prices) or ({} if spec.prices else prices_of(store.path)),
        margins=goals.margins,
        sampler=tune.sampler,
        seed=tune.seed,
        trials=tune.trials,
        cases=tune.cases,
        held_out=tune.held_out,
        finalists=tune.finalists,
        fidelity="engine" if simulates is None else simulates.fidelity,
        settings=evaluation,
    )
    if not runs:
        raise NoRuns(f"no recorded run of {spec.name} to tune on ({words})")
    storage = opened(place_of(store))
    expected = {} if tune.expected is None else read_expected(tune.expected, runs)
    prepared = prepare(request, spec, runs, storage, now_ns=now_ns, expected=expected)
    if simulates is not None:
        simulates.check(prepared.space, [c.id for c in (*prepared.cases.search, *prepared.cases.decide)])
    if not prepared.cases.decide:
        raise BadNight(
            f"{len(prepared.cases.search)} run of {words} can be tuned on: too few to keep some apart to decide on; "
            "take more time in `runs`"
        )
    return Ready(prepared=prepared, storage=storage, incumbent=whole_of(prepared, prepared.incumbent))


def _at_load(config: NightlyConfig, incumbent: Mapping[str, Any]) -> dict[str, Any]:
    tune = config.tune
    return asked_for(
        tune.load,
        replicas=tune.replicas,
        profiles=tune.profiles,
        replica_usd_h=tune.replica_price,
        incumbent=incumbent,
    )


def taken_by_knobs(config: NightlyConfig, incumbent: Mapping[str, Any]) -> None:
    """Refuse a configuration that no study could begin with, before it is anything's incumbent.

    Raises:
        BadSpec: a knob does not take what it says.
    """
    asked = [parse_knob(k) for k in config.tune.knobs]
    spec, knobs = with_placement(load(config.spec), asked, _at_load(config, incumbent).get("at_load"))
    known = {*spec.fields(), *spec.knobs, *spec.fixed, *spec.incumbent}  # other names are left out, and told
    in_use = {n: v for n, v in incumbent.items() if n in known or is_placement(n) or spec.build is not None}
    space_of(spec, knobs=knobs, fixed=dict(config.tune.fix), incumbent=in_use)


def refused(config: NightlyConfig, store: Path, context: Mapping[str, Any]) -> str | None:
    """Why no study could begin with a configuration, if so; the agent's code may have changed since it was in use."""
    point_agents_at(config.engine, store)
    try:
        taken_by_knobs(config, context)
    except OptimizerError as error:
        return str(error)
    return None


def tuned(
    ready: Ready, config: NightlyConfig, store: Store, night: str, budget: Budget, tell: Callable[[str], None]
) -> Tuned:
    """Search and decide; begun again, the search goes on where it was.

    Raises:
        BadStudy: another process is at the same study.
        Stopped: something outside must be mended.
        OptimizerError: the incumbent cannot be evaluated.
    """
    with alone(store.path, ready.prepared.about.name):
        evaluates = _evaluates(config, store)
        try:
            tuner = Tuner(
                prepared=ready.prepared,
                storage=ready.storage,
                evaluates=evaluates,
                budget=budget,
                trials=config.tune.trials,
                finalists=config.tune.finalists,
                memo=config.tune.memo,
                margins=config.goals.margins,
                simulates=at_load(store.path, ready.prepared.about.settings),
                labels={JOB: config.name, NIGHT: night},
                tell=tell,
            )
            return tuner.run()
        except Stopped as stopped:  # it speaks of an option that `redecode nightly` neither has nor needs
            raise type(stopped)(str(stopped).replace("go on with --resume", "start the night again")) from stopped
        finally:
            evaluates.close()


def _evaluates(config: NightlyConfig, store: Store) -> Evaluates:
    settings = Settings(
        spec=config.spec,
        store=store.path,
        source=store.path,
        concurrency=config.tune.concurrency,
        timeout_s=config.tune.run_timeout,
        live_tools=config.tune.live_tools,
    )
    return InProcess(settings) if config.tune.workers == 0 else Workers(settings, config.tune.workers)


def kept(tuned: Tuned, folder: Path, *, calls: int, cost: float) -> dict[str, Any]:
    """Write the study's own report, and return what a gate needs to know.

    Args:
        calls, cost: spent in the night so far, earlier starts included.
    """
    write(tuned, folder / FOLDER)
    p = tuned.prepared
    names = list(tuned.lanes)
    used = p.cases.decide[: len(tuned.lanes[names[0]])] if names else ()
    return {
        "report": to_json(tuned),
        "verdict": tuned.decision.verdict.value,
        "chosen": tuned.decision.chosen,
        "why": none_keeps(tuned) or why_words(tuned) or str(tuned.decision),
        "unmet": none_keeps(tuned) is not None,
        "breaks": breaks(tuned),
        "cut": tuned.cut,
        "more_runs": tuned.decision.more,
        "searched": len(tuned.done) if tuned.done and tuned.done[0].config == p.incumbent else 0,
        "stopped": tuned.stopped,
        "incumbent": whole_of(p, p.incumbent),
        "finalists": {name: whole_of(p, config) for name, config in tuned.finalists.items()},
        "usual": _usual(p),
        "scorer": scoring_of(p.spec.score, ()),
        "cases": [
            {"id": c.id, "started_ns": c.started_ns, "cluster": cluster, "block": block}
            for c, cluster, block in zip(used, clusters_of(used), blocks_of(len(used), p.about.settings), strict=True)
        ],
        "held_out": [c.id for c in p.cases.decide],
        "lanes": {name: [o.to_json() for o in outcomes] for name, outcomes in tuned.lanes.items()},
        "goals": goals_json(p.goals),
        "margins": asdict(tuned.decision.margins),
        "seed": p.about.seed,
        "fm_calls": calls,
        "cost": cost,
        "cost_unit": p.goals.spending.cost_unit,
    }


def _usual(prepared: Prepared) -> dict[str, Any]:
    """What a configuration is taken to say of what it leaves out."""
    spec, load = prepared.spec, prepared.about.settings.get("at_load")
    defaults = {name: f.default for name, f in spec.fields().items() if f.has_default}
    placed = {} if load is None else {REPLICAS: load["replicas"], ROUTING: Routing.LEAST.value}
    said: dict[str, Any] = as_json({**defaults, **spec.fixed, **spec.incumbent})
    return {**said, **placed}


def none_keeps(tuned: Tuned) -> str | None:
    """That no candidate keeps the constraints, and the nearest, if so: as a verdict's why."""
    said = unmet(tuned)
    return None if said is None else f"{said[0].lower()}{said[1:].rstrip('.')}"


def clusters_of(cases: Sequence[Case]) -> list[str]:
    """Of each case, as the study's decision takes them; called by their first case, since inputs are long."""
    first: dict[str, str] = {}
    return [first.setdefault(c.conversation or same_input(c), c.id) for c in cases]


def outcomes_of(lanes: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Outcome]]:
    """Lanes as they were kept."""
    return {name: [Outcome.from_json(o) for o in outcomes] for name, outcomes in lanes.items()}
