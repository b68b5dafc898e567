"""`redecode worth`: whether fine-tuning would pay, at the recorded volume and given prices."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    duration_s,
    errors_in_one_line,
    fail,
    print_json,
    store_to_read,
)
from redecode.tracer import Clock, Store
from redecode.tracer.store.places import local_path

_DAY_S = 86400.0
EXAMPLE = "Example: redecode worth --train-cost 400 --price my-model=0.15,0.6 --tuned-price 0.3,1.2 --horizon 180d"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE)(worth)


def worth(
    *,
    train_cost: Annotated[float, typer.Option(help="USD for one training, data and evaluation included.", min=0)],
    price: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL=INPUT,OUTPUT[,CACHED]: USD per million tokens now; repeatable. By default what the store's "
            "prices.toml says (of a dataset: one that lies in its folder)."
        ),
    ] = None,
    tuned_price: Annotated[
        str | None,
        typer.Option(help="INPUT,OUTPUT[,CACHED] of the fine-tuned model; by default as now.", metavar="PRICE"),
    ] = None,
    hosting: Annotated[float, typer.Option(help="USD a day to keep a model of one's own.", min=0)] = 0.0,
    retrain: Annotated[
        str | None, typer.Option(help="Train again every 30d, 12w; by default once.", metavar="TIME")
    ] = None,
    horizon: Annotated[str, typer.Option(help="It has to pay within this time.", metavar="TIME")] = "180d",
    keep_tokens: Annotated[
        int, typer.Option(help="Of the constant part of a prompt so many tokens are needed all the same.", min=0)
    ] = 20,
    removed: Annotated[
        float, typer.Option(help="Share of the rest that fine-tuning makes unnecessary.", min=0, max=1)
    ] = 1.0,
    output_factor: Annotated[
        float, typer.Option(help="Length of the tuned model's answers over those of now.", min=0)
    ] = 1.0,
    agent: Annotated[str | None, typer.Option(help="Only this agent's calls.")] = None,
    node: Annotated[list[str] | None, typer.Option(help="Only calls in this node; repeatable.")] = None,
    since: Annotated[str, typer.Option(help="Look at runs of this time.", metavar="TIME")] = "28d",
    calls_per_day: Annotated[
        float | None, typer.Option(help="FM calls a day, where not all (or too few days) are recorded.", min=0.001)
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune or prompt: what the constant part of prompts costs, against training it in.

    From the recorded calls: how many a day, their tokens, how many come from the engine's cache, and how much of a
    prompt is the same in nearly every call. Exit 0: fine-tuning pays; 1: it does not, or it cannot be told; 2: bad
    input, or too little is recorded.
    """
    with errors_in_one_line():
        try:
            from redecode.optimizer.worth import Assumptions, lines, volume_of
            from redecode.optimizer.worth import worth as worth_of
            from redecode.optimizer.worth.telling import headline
        except ModuleNotFoundError as error:
            fail(f"{error.name} is not installed; pip install 'redecode[optimizer]'")
        from redecode.replay.prices import prices_of

        _finite(train_cost=train_cost, hosting=hosting, output_factor=output_factor, calls_per_day=calls_per_day)
        _at_most(10**9, keep_tokens=keep_tokens)
        _at_most(10**12, calls_per_day=calls_per_day)
        horizon_days = _days("--horizon", horizon)
        retrain_days = None if retrain is None else _days("--retrain", retrain)
        prices = dict(_price(p, named=True) for p in price or ())
        tuned = None if tuned_price is None else _price(tuned_price, named=False)[1]
        source = store_to_read(store)
        folder = source.path if isinstance(source, Store) else local_path(source.url)
        now = Clock.start().now_ns()
        oldest = now - int(duration_s(since) * 1e9)
        runs = [r for r in source.runs() if r.started_ns >= oldest and agent in (None, r.agent)]
        if agent is not None and not runs:
            fail(f"no run of {agent} in the last {since}; `redecode runs` lists them")
        volume = volume_of(source, runs, now_ns=now, nodes=node or (), calls_per_day=calls_per_day)
        found = worth_of(
            volume,
            Assumptions(
                prices=prices or ({} if folder is None else prices_of(folder)),
                train_cost=train_cost,
                tuned=tuned,
                retrain_days=retrain_days,
                hosting=hosting,
                keep_tokens=keep_tokens,
                removed=removed,
                output_factor=output_factor,
                horizon_days=horizon_days,
            ),
        )
        if as_json:
            print_json({"headline": headline(found), **found.to_json()})
        else:
            typer.echo(f"{headline(found)}\n")
            for line in lines(found):
                typer.echo(line)
    raise typer.Exit(0 if found.choice == "fine-tune" else 1)


def _price(text: str, *, named: bool) -> tuple[str, Any]:
    from redecode.replay.prices import Price

    model, equals, values = text.rpartition("=")
    try:
        parts = [float(v) for v in values.split(",")]
        if named != bool(equals and model) or len(parts) not in (2, 3):
            raise ValueError
        return model, Price(input=parts[0], output=parts[1], cached=parts[2] if len(parts) == 3 else None)
    except ValueError:
        option, shape = (
            ("--price", "MODEL=INPUT,OUTPUT[,CACHED]") if named else ("--tuned-price", "INPUT,OUTPUT[,CACHED]")
        )
        fail(f"{option} {text}: want {shape} in USD per million tokens, numbers that are 0 or more")


def _finite(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            fail(f"--{name.replace('_', '-')} {value:g}: want a finite number")


def _at_most(most: int, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value > most:
            fail(f"--{name.replace('_', '-')} {value}: want {most} at most")


def _days(option: str, text: str) -> float:
    if (seconds := duration_s(text)) <= 0:
        fail(f"{option} {text}: want a time that is more than none, 180d say")
    return seconds / _DAY_S
