"""`redecode engine start|status|logs|stop`: a local vLLM with the flags that replay needs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from redecode.agents import BUNDLED_MODELS, DEFAULT_MODEL, model_dir
from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    print_json,
    progress,
    say,
    store_path,
    store_to_read,
)
from redecode.replay.engine import logs as log_files
from redecode.replay.engine import server
from redecode.replay.engine.launch import EngineOptions, check_model, find_device, installed_vllm
from redecode.replay.engine.recorded import Likeness, like_recorded
from redecode.replay.engine.state import EngineState

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Start, ask after and stop a local vLLM engine for replay."
)
_DEFAULT_SEQS = EngineOptions().max_num_seqs


@app.command(
    epilog="Example: redecode engine start --model redecode-fm-xs --port 8000; or: redecode engine start --like 3f2a",
)
def start(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help=f"Model folder, or a bundled one: {', '.join(BUNDLED_MODELS)}; by default {DEFAULT_MODEL}, or the "
            "model of --like.",
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            help="Start one with the model and settings of the engine this run was recorded on.", metavar="RUN"
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port; a free one is picked if not given.", min=1, max=65535)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="Served model name; the folder's name if not given.")] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt and output together, in tokens.", min=1)
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(help=f"Calls decoded at the same time; {_DEFAULT_SEQS} if not given.", min=1)
    ] = None,
    kv_cache_bytes: Annotated[int | None, typer.Option(help="Size of the KV cache.", min=1)] = None,
    dtype: Annotated[str | None, typer.Option(help="Number type, as vLLM names it; the model's if not given.")] = None,
    trace_replay: Annotated[
        bool,
        typer.Option(
            "--trace-replay/--no-trace-replay",
            help="On a GPU: force tokens by vLLM's own trace replay (model runner V2), or by our plug-in.",
        ),
    ] = True,
    extra_args: Annotated[
        list[str] | None, typer.Option("--vllm-arg", help="One argument handed to vLLM as it is; repeatable.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until it must be healthy.", min=1)] = 300.0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start an engine and wait until it is healthy; it keeps running when this command ends."""
    with errors_in_one_line():
        likeness = _like(like, model, store) if like is not None else None
        given = {
            "served_name": name,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "kv_cache_bytes": kv_cache_bytes,
            "dtype": dtype,
        }
        options = replace(
            likeness.options if likeness is not None else EngineOptions(trace_replay=trace_replay),
            host=host,
            **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        options = replace(options, extra_args=(*options.extra_args, *(extra_args or ())))
        chosen = likeness.model if likeness is not None else _resolve_model(model or DEFAULT_MODEL)
        folder = check_model(chosen, bundled=BUNDLED_MODELS)
        differs = likeness.differs if likeness is not None else ()
        for line in differs:
            say(f"not as in run {like}: {line}")
        begin = time.monotonic()
        with progress(f"starting vLLM with {folder.name}") as report:
            state = server.start(
                folder,
                home=_home(store),
                port=port,
                options=options,
                timeout_s=timeout,
                on_progress=lambda _elapsed_s, words: report(words[:100]),
            )
        took_s = time.monotonic() - begin
    if as_json:
        started = {"running": True, "healthy": True, "start_s": round(took_s, 3), "differs": list(differs)}
        print_json({**started, **state.model_dump()})
    else:
        typer.echo(f"engine ready after {took_s:.1f} s: {_describe(state)}")
        typer.echo(f"log: {state.log}")


@app.command(epilog="Example: redecode engine status --json")
def status(*, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say whether an engine runs in this store; exit 1 when none does, or it does not answer."""
    with errors_in_one_line():
        found = server.status(_home(store))
    running = found.state is not None
    if as_json:
        state = found.state.model_dump() if found.state is not None else {}
        print_json({"running": running, "healthy": found.healthy, "note": found.note, **state})
    elif found.state is not None:
        typer.echo(f"running, {found.note}: {_describe(found.state)}")
    else:
        typer.echo(f"not running: {found.note}")
    raise typer.Exit(0 if found.healthy else 1)


@app.command(epilog="Example: redecode engine logs --follow")
def logs(
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines; 0 is all.", min=0)] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the engine ends, or Ctrl-C.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Only what says why it ended.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what the engine of this store has said, or the last one there was."""
    with errors_in_one_line():
        home = _home(store)
        log = server.log_file(home)
        if log is None:
            fail(f"no engine was started in {home}; start one with `redecode engine start`")
        if as_json and follow:
            fail("--json prints one document, --follow never ends: one or the other")
        text = log_files.meaningful_tail(log, lines=lines or 10**9) if errors else log_files.last_lines(log, lines)
        if as_json:
            print_json({"log": str(log), "lines": text})
            return
        for line in text:
            typer.echo(line)
        if follow:
            for line in log_files.follow(log, lambda: server.status(home).state is not None):
                typer.echo(line)


@app.command(epilog="Example: redecode engine stop")
def stop(
    *,
    grace: Annotated[float, typer.Option(help="Seconds to end by itself before it is killed.", min=0)] = 10.0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop the engine of this store, and see that none of its processes is left."""
    with errors_in_one_line():
        begin = time.monotonic()
        state = server.stop(_home(store), grace_s=grace, on_wait=lambda words: say(f"the engine {words}"))
        took_s = time.monotonic() - begin
    if as_json:
        print_json({"stopped": True, "stop_s": round(took_s, 3), **state.model_dump()})
    else:
        typer.echo(f"engine stopped after {took_s:.1f} s: {_describe(state)}")


def _like(run: str, model: str | None, store: str | None) -> Likeness:
    source = store_to_read(store)
    recorded = source.load(run)
    known = (source.engine(decode.engine_id) for decode in recorded.decodes if decode.engine_id)
    return like_recorded(
        next((info for info in known if info), None),
        run_id=recorded.run.run_id,
        device=find_device(),
        vllm_version=installed_vllm(),
        model=None if model is None else _resolve_model(model),
        bundled={name: model_dir(name) for name in BUNDLED_MODELS},
    )


def _home(store: str | None) -> Path:
    return store_path(store) / "engine"


def _resolve_model(model: str) -> Path:
    return model_dir(model) if model in BUNDLED_MODELS else Path(model)


def _describe(state: EngineState) -> str:
    return f"{state.served_name} at {state.base_url} (pid {state.pid}, {state.device})"
