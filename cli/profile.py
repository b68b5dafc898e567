"""`redecode profile`: measure the engine model of an FM once, and look at the ones there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    print_json,
    progress,
    say,
    seconds,
    shown,
    store_path,
    store_to_read,
)
from redecode.cli.replay_engine import engine_of
from redecode.cli.screen import clean, screen
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.measuring import measured_profile
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.recorded_fit import RecordedFits, fit_store
from redecode.tracer import Clock, Dataset

_UNMEASURED = "not measured"
_BUSY = 0.1


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode profile --engine http://127.0.0.1:8000")(profile)


def profile(
    *,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the engine started in this store; it must be idle.")
    ] = False,
    engine: Annotated[
        str | None, typer.Option(help="Measure the engine at this URL; it must be idle.", metavar="URL")
    ] = None,
    from_store: Annotated[
        bool, typer.Option("--from-store", help="Fit the recorded runs, each engine that made them on its own.")
    ] = False,
    show: Annotated[
        str | None, typer.Option(help="All of one: its key, the name of its FM, or a file.", metavar="PROFILE")
    ] = None,
    seconds_: Annotated[float, typer.Option("--seconds", help="Time to measure for.", min=1)] = 45.0,
    cold_start: Annotated[
        float | None,
        typer.Option(help="Seconds from starting a replica until it takes calls, if it is known.", min=0),
    ] = None,
    kv_blocks: Annotated[
        int | None, typer.Option(help="KV blocks of the engine, if it was recorded without saying.", min=1)
    ] = None,
    last: Annotated[int, typer.Option(help="With --from-store: look at the last N runs.", min=1)] = 500,
    seed: Annotated[int, typer.Option(help="Of the prompts that it is measured with, and their order.")] = 0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure engine models and list them: step times, cold start, memory and KV capacity per FM and hardware.

    Each is kept in the store, one for each FM, engine and hardware, and used by redecode replay --mode simulate,
    redecode simulate and redecode whatif --simulate. Without an option: those there are.
    """
    if sum((measure or engine is not None, from_store, show is not None)) > 1:
        fail("--engine (or --measure), --from-store and --show are different things: one at a time")
    with errors_in_one_line():
        if show is not None:
            _show(catalogue.named(store_path(store), show), as_json=as_json)
        elif from_store:
            _from_store(store, last, kv_blocks, as_json=as_json)
        elif measure or engine is not None:
            _measure(store_path(store), engine, seconds_, cold_start, seed, as_json=as_json)
        else:
            _list(store_path(store), as_json=as_json)


def _list(path: Path, *, as_json: bool) -> None:
    known = catalogue.profiles_in(path)
    if as_json:
        print_json([_summary(p) for p in known])
    elif not known:
        say(f"no engine profiles in {path}; `redecode profile --engine URL` or `--from-store` makes one")
    else:
        screen().print(_table(known))


def _measure(
    path: Path, engine: str | None, seconds_: float, cold_start: float | None, seed: int, *, as_json: bool
) -> None:
    url = engine or engine_of(path)
    with progress(f"measuring the engine at {url}") as tell:
        made = asyncio.run(
            measured_profile(
                url,
                home=path / "engine",
                now_ns=Clock.start().now_ns,
                seconds=seconds_,
                seed=seed,
                cold_start_s=cold_start,
                on_cell=lambda done, total: tell(f"{done} of {total} loads"),
            )
        )
    _kept(catalogue.keep(path, made), as_json=as_json)


def _from_store(store: str | None, last: int, kv_blocks: int | None, *, as_json: bool) -> None:
    source = store_to_read(store)
    if isinstance(source, Dataset):
        fail(f"{shown(source)} is a published dataset: profiles are kept in a store; import its runs into one")
    with progress("reading recorded runs") as tell:
        found = fit_store(
            source,
            most_runs=last,
            now_ns=Clock.start().now_ns(),
            kv_blocks=kv_blocks,
            on_run=lambda done, total: tell(f"{done} of {total} runs"),
        )
    for engine, why in found.refused.items():
        say(f"no profile of {engine}: {why}")
    if not found.profiles:
        fail(_nothing(found, shown(source)))
    kept = [catalogue.keep(source.path, made) for made in found.profiles]
    if as_json:
        documents = [_summary(k.profile) | {"carried": list(k.carried)} for k in kept]
        print_json({"profiles": documents, "refused": found.refused, "unusable": found.unusable})
        return
    for one in kept:
        _kept(one, as_json=False)
    for why, count in found.unusable.items():
        say(f"{count} of {found.decodes} FM calls say nothing of steps: {why}")


def _nothing(found: RecordedFits, where: str) -> str:
    if not found.runs:
        return f"no recorded run with FM calls in {where}; record some on an engine of `redecode engine start`"
    why = "; ".join(f"{count} of {found.decodes} FM calls: {w}" for w, count in found.unusable.items())
    return (
        f"no engine can be fitted from {found.runs} runs in {where}" + (f" ({why})" if why else "")
        + "; record more on an engine of `redecode engine start`, or measure one with `redecode profile --engine URL`"
    )  # fmt: skip


def _kept(kept: catalogue.Kept, *, as_json: bool) -> None:
    off = max((r.p50 for r in kept.profile.residuals), default=0.0)
    if off > _BUSY:
        say(
            f"WARNING half of the steps of one kind are off by {off:.0%} and more: the machine did other work, and the "
            "profile is of it doing that; measure again when it is idle"
        )
    if as_json:
        print_json(_summary(kept.profile) | {"carried": list(kept.carried), "path": str(kept.path)})
        return
    _draw(kept.profile)
    if kept.replaced is not None:
        say(f"it takes the place of the profile of {kept.replaced.made}")
    for name in kept.carried:
        say(f"{name} is from that one: it was not measured now")
    say(f"profile {kept.profile.key}: {kept.path}")


def _show(found: EngineProfile, *, as_json: bool) -> None:
    if as_json:
        print_json({"key": found.key, **found.model_dump(mode="json")})
    else:
        _draw(found)


def _summary(p: EngineProfile) -> dict[str, Any]:
    names = (
        "model", "hardware", "engine", "made", "source", "steps", "left_out", "r2", "limits", "range", "residuals",
        "cold_start_s", "memory_bytes",
    )  # fmt: skip
    data = p.model_dump(mode="json")
    return {"key": p.key, **{name: data[name] for name in names}, "kv_tokens": p.kv_tokens}


def _table(known: list[EngineProfile]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("profile", "FM", "hardware"):
        table.add_column(column, no_wrap=column == "profile")
    for column in ("steps", "R²", "|error| p50", "p95", "cold start", "memory", "KV tokens", "from", "made"):
        table.add_column(column, justify="right", no_wrap=True)
    for p in known:
        p50, p95 = (max((getattr(r, name) for r in p.residuals), default=None) for name in ("p50", "p95"))
        table.add_row(
            p.key,
            clean(p.model),
            clean(p.hardware),
            str(p.steps),
            "-" if p.r2 is None else f"{p.r2:.3f}",
            "-" if p50 is None else f"{p50:.1%}",
            "-" if p95 is None else f"{p95:.1%}",
            seconds(p.cold_start_s),
            _mib(p.memory_bytes),
            str(p.kv_tokens),
            p.source,
            p.made[:10],
        )
    table.caption = "errors of single steps, of the kind of step that is met worst"
    return table


def _draw(p: EngineProfile) -> None:
    console = screen()
    for line in _facts(p):
        console.print(line)
    table = Table(box=None, pad_edge=False)
    for column in ("steps of", "count", "mean ms", "bias", "|error| p50", "p95"):
        table.add_column(column, justify="left" if column == "steps of" else "right")
    for r in p.residuals:
        table.add_row(r.kind, str(r.steps), f"{r.measured_ms:.2f}", f"{r.bias:+.1%}", f"{r.p50:.1%}", f"{r.p95:.1%}")
    console.print(table)


def _facts(p: EngineProfile) -> Iterator[Text]:
    yield Text(f"{clean(p.model)} on {clean(p.hardware)}", style="bold")
    version = p.engine.get("engine_version") or "of unknown version"
    yield Text(f"engine     {p.engine.get('engine', 'unknown')} {version}, {p.engine.get('dtype', 'unknown dtype')}")
    left = ", ".join(f"{count} left out: {why}" for why, count in p.left_out.items())
    fit = "" if p.r2 is None else f", R² {p.r2:.3f}"
    yield Text(f"fit        {p.steps} steps{f' ({left})' if left else ''}, from a {p.source}, {p.made}{fit}")
    s = p.seconds
    parts = (
        ("a step", s.step), ("prompt token", s.prefill_token), ("pair", s.prefill_pair), ("prompt", s.prefill_call),
        ("decode", s.decode), ("token of context", s.context_token), ("pause", s.gap), ("pause, a call", s.gap_row),
    )  # fmt: skip
    yield Text("step       " + ", ".join(f"{name} {value * 1e6:.4g} µs" for name, value in parts if value))
    o = p.overheads
    way = f"{o.before_s * 1e3:.2f} ms before the first step, {o.after_s * 1e3:.2f} ms after the last token"
    yield Text(f"call       {way if o.known else 'the way to the engine and back ' + _UNMEASURED + ', taken as 0'}")
    cold = _UNMEASURED + ", taken as 0" if p.cold_start_s is None else f"{p.cold_start_s:.1f} s"
    memory = _UNMEASURED if p.memory_bytes is None else _mib(p.memory_bytes)
    kv = f"{p.kv_tokens} tokens ({p.limits.kv_blocks} blocks)"
    yield Text(f"replica    cold start {cold}; memory {memory}; KV {kv}")
    r = p.range
    yield Text(
        f"measured   up to {r.rows} calls, {r.prefill_tokens} prompt tokens and {r.context_tokens} tokens of context "
        "in a step"
    )


def _mib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f} MiB"
