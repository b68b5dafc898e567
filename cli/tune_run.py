"""What `redecode tune` does: puts the optimizer's parts together, and tells what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from redecode.cli.common import print_json, say
from redecode.optimizer.cases import read_expected
from redecode.optimizer.configuration import read_context
from redecode.optimizer.errors import BadSpec, Stopped
from redecode.optimizer.evaluation.placing import asked_for, is_placement, replica_price
from redecode.optimizer.evaluation.process import Workers
from redecode.optimizer.evaluation.session import Evaluates, InProcess, Settings
from redecode.optimizer.evaluation.simulated import AtLoad, at_load, measured_on
from redecode.optimizer.knobs import Knob
from redecode.optimizer.preparing import Prepared, Request, decided_before, prepare
from redecode.optimizer.promotion.decide import Margins, Verdict
from redecode.optimizer.report import saved_share, to_json, unmet, verdict_words, why_words, write
from redecode.optimizer.spec import load
from redecode.optimizer.study.alone import alone
from redecode.optimizer.study.stopping import Budget
from redecode.optimizer.study.storage import opened, place_of
from redecode.optimizer.tuning import Tuned, Tuner
from redecode.replay.engine import status
from redecode.replay.prices import Price, prices_of
from redecode.tracer import Clock, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line."""

    reference: str
    path: Path
    which: str
    seconds: float | None
    max_calls: int | None
    max_cost: float | None
    trials: int | None
    knobs: Sequence[tuple[str, Knob | None]]
    fixed: Mapping[str, Any]
    incumbent: Path | None
    slo_s: float | None
    percentile: float | None
    max_error: float | None
    margins: Sequence[str]
    prices: Sequence[str]
    expected: Path | None
    cases: int
    held_out: float
    finalists: int
    seed: int
    sampler: str
    workers: int
    ray: str | None
    concurrency: int
    timeout_s: float
    memo: bool
    live_tools: Sequence[str]
    engine: str | None
    load: str | None
    replicas: int
    replica_prices: Sequence[str]
    profiles: Sequence[str]
    resume: str | None
    said: Sequence[str]
    studies: str | None
    stop_file: Path | None
    out: Path | None


def tune(asked: Asked, *, as_json: bool) -> None:
    """Search, decide, report; ends the program with what the verdict says."""
    store = Store(asked.path)
    _name_engine(asked)
    for name in ("replicas", "replica_price", "profile"):
        if name in asked.said and asked.load is None:
            raise BadSpec(
                f"--{name.replace('_', '-')} is of a load that is simulated: say --load, as in --load 2rps, too"
            )
    spec = load(asked.reference)
    runs = store.runs(besides=True)
    storage = opened(asked.studies or place_of(store))
    evaluation: dict[str, Any] = {"concurrency": asked.concurrency, "workers": asked.workers, "memo": asked.memo}
    incumbent = {} if asked.incumbent is None else read_context(asked.incumbent)
    evaluation |= asked_for(
        asked.load,
        replicas=asked.replicas if "replicas" in asked.said else None,
        profiles=asked.profiles,
        replica_usd_h=_replica_price(asked),
        incumbent=incumbent,
        knobs=asked.knobs,
    )
    evaluation |= {"run_timeout": asked.timeout_s, "measured_on": measured_on(asked.path, evaluation)}
    simulates = at_load(asked.path, evaluation)
    request = Request(
        reference=asked.reference,
        which=asked.which,
        knobs=asked.knobs,
        fixed=asked.fixed,
        incumbent=incumbent,
        slo_s=asked.slo_s,
        percentile=asked.percentile,
        most_error=asked.max_error,
        prices=_prices(asked.prices) or ({} if spec.prices else prices_of(asked.path)),
        margins=_margins(asked.margins),
        sampler=asked.sampler,
        seed=asked.seed,
        trials=asked.trials,
        cases=asked.cases,
        held_out=asked.held_out,
        fidelity="engine" if simulates is None else simulates.fidelity,
        settings=evaluation,
        resume=asked.resume,
        said=asked.said,
    )
    answers = {} if asked.expected is None else read_expected(asked.expected, runs)
    prepared = prepare(request, spec, runs, storage, now_ns=Clock.start().now_ns(), expected=answers)
    simulates = at_load(asked.path, prepared.about.settings)
    if simulates is not None:
        simulates.check(prepared.space, [case.id for case in (*prepared.cases.search, *prepared.cases.decide)])
    folder = asked.out or asked.path / "tuned" / prepared.about.name
    prepared = decided_before(prepared, folder / "report.json")
    _say_what(prepared)
    with alone(asked.path, prepared.about.name, asked.studies or ""):
        _tune(asked, request, prepared, storage, simulates, as_json=as_json)


def _tune(
    asked: Asked, request: Request, prepared: Prepared, storage: Any, simulates: AtLoad | None, *, as_json: bool
) -> None:
    evaluates = _evaluates(asked, prepared)
    stop_file = asked.stop_file or asked.path / "tune.stop"
    budget = Budget(
        now=time.monotonic, seconds=asked.seconds, calls=asked.max_calls, cost=asked.max_cost, stop_file=stop_file
    )
    tuner = Tuner(
        prepared=prepared,
        storage=storage,
        evaluates=evaluates,
        budget=budget,
        trials=asked.trials,
        finalists=asked.finalists,
        memo=asked.memo,
        margins=request.margins,
        simulates=simulates,
        tell=say,
    )
    try:
        tuned = tuner.run()
    except (Stopped, KeyboardInterrupt) as stopped:
        say(f"redecode: nothing is lost; to go on: redecode tune {asked.reference} --resume {prepared.about.name}")
        raise stopped
    finally:
        evaluates.close()
    written = write(tuned, asked.out or asked.path / "tuned" / tuned.study)
    if as_json:
        print_json({**to_json(tuned), "files": [str(p) for p in written]})
    else:
        _tell(tuned, written)
    raise typer.Exit(0 if tuned.decision.verdict is Verdict.PROMOTE else 1)


def _name_engine(asked: Asked) -> None:
    """Tell agents that ask the environment which engine to call."""
    url = asked.engine
    if url is None and not os.environ.get("OPENAI_BASE_URL"):
        state = status(asked.path / "engine").state
        url = None if state is None else state.base_url
    if url is not None:
        os.environ["OPENAI_BASE_URL"] = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        os.environ.setdefault("OPENAI_API_KEY", "none")  # the client wants one, the engine does not


def _evaluates(asked: Asked, prepared: Prepared) -> Evaluates:
    settings = Settings(
        spec=asked.reference,
        store=asked.path,
        source=asked.path,
        concurrency=int(prepared.about.settings.get("concurrency", asked.concurrency)),
        timeout_s=asked.timeout_s,
        live_tools=tuple(asked.live_tools),
    )
    if asked.ray is not None:
        from redecode.optimizer.evaluation.on_ray import RayWorkers

        return RayWorkers(settings, max(1, asked.workers), asked.ray)
    return InProcess(settings) if asked.workers == 0 else Workers(settings, asked.workers)


def _say_what(prepared: Prepared) -> None:
    p = prepared
    for note in p.notes:
        say(f"redecode: {note}")
    say(
        f"redecode: study {p.about.name}: {len(p.space.knobs)} knobs, {len(p.cases.search)} runs to search on, "
        f"{len(p.cases.decide)} newer ones to decide on"
    )
    for name, knob in p.space.knobs.items():
        when = f", when {', '.join(f'{k} is {list(v)}' for k, v in knob.when.items())}" if knob.when else ""
        say(f"  {name}: {knob}{when}")
    if not p.cases.decide:
        threads = [case.conversation for case in p.cases.search]
        alone = len(threads) > 1 and threads[0] is not None and len({*threads}) == 1
        why = " (all are of one conversation)" if alone else ""
        say(f"redecode: no run is kept apart to decide on{why}: nothing can be promoted")


def _tell(tuned: Tuned, written: Sequence[Path]) -> None:
    say(f"redecode: the search ended: {tuned.stopped}; {saved_share(tuned) or 0:.0%} of its FM calls were saved")
    typer.echo(f"{tuned.prepared.spec.name}: {verdict_words(tuned)}")
    if why := why_words(tuned):
        typer.echo(why)
    if (none := unmet(tuned)) is not None:
        typer.echo(none)
    for path in written:
        typer.echo(str(path))


def _prices(given: Sequence[str]) -> dict[str, Price]:
    out = {}
    for text in given:
        model, equals, values = text.rpartition("=")
        try:
            parts = [float(v) for v in values.split(",")]
        except ValueError:
            parts = []
        if not equals or len(parts) not in (2, 3) or min(parts, default=-1) < 0:
            raise BadSpec(f"--price {text}: want MODEL=INPUT,OUTPUT[,CACHED] in USD per million tokens")
        out[model] = Price(input=parts[0], output=parts[1], cached=parts[2] if len(parts) == 3 else None)
    return out


def _replica_price(asked: Asked) -> float | Mapping[str, float] | None:
    price = replica_price(asked.replica_prices)
    if price is not None and asked.resume is None and not any(is_placement(name) for name, _ in asked.knobs):
        raise BadSpec("--replica-price is the cost of placement knobs: say --load, and --knob placement.replicas")
    return price


def _margins(given: Sequence[str]) -> Margins:
    values: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = -1.0
        least = 0.0 if name == "error" else 1.0
        if name not in ("error", "cost", "latency") or not values[name] >= least:
            raise BadSpec(f"--margin {text}: want error=0.05 (0 and up), cost=1.05 or latency=1.05 (1 and up)")
    return Margins(**values)
