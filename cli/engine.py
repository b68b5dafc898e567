"""`redecode engine start|status|stop`: a local vLLM with the flags that replay needs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from redecode.agents import BUNDLED_MODELS, DEFAULT_MODEL, model_dir
from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, print_json, progress, say, store_path
from redecode.replay.engine import server
from redecode.replay.engine.launch import EngineOptions, check_model
from redecode.replay.engine.state import EngineState

app = typer.Typer(no_args_is_help=True, help="Start, ask after and stop a local vLLM engine for replay.")


@app.command(
    epilog="Example: redecode engine start --model redecode-fm-xs --port 8000",
)
def start(
    *,
    model: Annotated[
        str, typer.Option("--model", help=f"Model folder, or a bundled one: {', '.join(BUNDLED_MODELS)}.")
    ] = DEFAULT_MODEL,
    port: Annotated[int | None, typer.Option(help="Port; a free one is picked if not given.", min=1, max=65535)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="Served model name; the folder's name if not given.")] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt and output together, in tokens.", min=1)
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Calls decoded at the same time.", min=1)] = 16,
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
    options = EngineOptions(
        served_name=name,
        host=host,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        kv_cache_bytes=kv_cache_bytes,
        dtype=dtype,
        trace_replay=trace_replay,
        extra_args=tuple(extra_args or ()),
    )
    with errors_in_one_line():
        folder = check_model(_resolve_model(model), bundled=BUNDLED_MODELS)
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
        print_json({"running": True, "healthy": True, "start_s": round(took_s, 3), **state.model_dump()})
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


def _home(store: str | None) -> Path:
    return store_path(store) / "engine"


def _resolve_model(model: str) -> Path:
    return model_dir(model) if model in BUNDLED_MODELS else Path(model)


def _describe(state: EngineState) -> str:
    return f"{state.served_name} at {state.base_url} (pid {state.pid}, {state.device})"
