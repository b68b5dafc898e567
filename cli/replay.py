"""`redecode replay RUN`: repeat recorded runs on an engine and compare."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from redecode.cli.choosing import choose_selected
from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    shown,
    store_path,
    store_to_read,
)
from redecode.cli.engine_models import (
    NoNoiseOption,
    OtherFmOption,
    ProfileOption,
    ReplicasOption,
    RoutingOption,
    fleet_of,
)
from redecode.cli.replay_engine import Selection, load_selected, replay_runs, resume
from redecode.cli.replay_program import fork_overrides, play
from redecode.cli.replay_simulated import simulate_runs
from redecode.replay import Changed, Fork, Playback, ReplayMode, ReplayOptions
from redecode.replay.closed_loop.arrivals import Arrivals
from redecode.replay.closed_loop.scaling import Scaling, parse_steps
from redecode.replay.simulator.fleet import Routing
from redecode.tracer import Dataset


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode replay 3f2a --mode force")(replay)


class Mode(StrEnum):
    """How a replay treats FM calls and tools."""

    FORCE = "force"
    RESAMPLE = "resample"
    SIMULATE = "simulate"
    PLAYBACK = "playback"
    FORK = "fork"


_FORK: Any = {"rich_help_panel": "Fork"}


def replay(
    run: Annotated[
        list[str] | None, typer.Argument(help="Run ids, or enough of their beginnings.", metavar="[RUN]... [-- CMD]")
    ] = None,
    *,
    mode: Annotated[
        Mode,
        typer.Option(
            help="force: the recorded tokens through the engine; resample: the recorded seeds, and see; simulate: the "
            "recorded lengths on an engine model, in no time; "
            "playback: run CMD, answered from the recording, no engine; fork: likewise up to a step, live from there."
        ),
    ] = Mode.FORCE,
    last: Annotated[int | None, typer.Option(help="Replay the last N recorded runs together.", min=1)] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Replay what was recorded within this time: 90s, 15m, 24h, 7d.", metavar="TIME"),
    ] = None,
    agent: Annotated[str | None, typer.Option(help="With --last or --since: only runs of this agent.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="URL of the engine; by default the one started in this store.", metavar="URL")
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Runs arrive so many times faster (playback: answers; 0 is at once).", min=0)
    ] = 1.0,
    arrivals: Annotated[
        Arrivals, typer.Option(help="When runs begin: as recorded, as a Poisson process, or as given in a file.")
    ] = Arrivals.RECORDED,
    rate: Annotated[float | None, typer.Option(help="Of Poisson arrivals: runs a second.", metavar="R")] = None,
    seed: Annotated[
        int, typer.Option(help="Of Poisson arrivals, and of simulated step times: the same seed gives the same.")
    ] = 0,
    arrivals_file: Annotated[
        Path | None,
        typer.Option(help="Given arrivals: seconds after the first, a JSON list or a CSV column.", metavar="FILE"),
    ] = None,
    tool_speed: Annotated[
        float, typer.Option(help="Every tool is so many times as fast as recorded; 0 is at once.", min=0)
    ] = 1.0,
    step: Annotated[
        list[str] | None,
        typer.Option(
            help="Scale what was waited at one step (a step key, its last part, the name of a tool or node) and below "
            "it: STEP=FACTOR, 0 is at once; repeatable.",
            metavar="STEP=FACTOR",
        ),
    ] = None,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Ask for whole answers even where the recorded caller streamed.")
    ] = False,
    repeat: Annotated[
        int, typer.Option(help="So many times, one after the other: how much do its times vary?", min=1)
    ] = 1,
    resume_batch: Annotated[
        str | None,
        typer.Option("--resume", help="Go on with a batch that was stopped (`last` is the newest).", metavar="BATCH"),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="Playback: hold this as it was in the recorded run: clock, random, uuid or all; repeatable.",
            metavar="WHAT",
        ),
    ] = None,
    changed: Annotated[
        Changed,
        typer.Option(help="Playback: what a call gets that asks something else than was recorded at its step."),
    ] = Changed.REFUSE,
    until: Annotated[
        str | None,
        typer.Option(help="The first step to be live: its step key, or enough of its end.", metavar="STEP", **_FORK),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model of live FM calls.", **_FORK)] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="The system prompt of live FM calls, or @FILE.", metavar="TEXT", **_FORK),
    ] = None,
    message: Annotated[
        list[str] | None,
        typer.Option(
            help="A message of the FM call at STEP: 0 is the first, -1 the last; repeatable.",
            metavar="PLACE=TEXT",
            **_FORK,
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of live FM calls.", **_FORK)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A sampling parameter of live FM calls (max_tokens=50), or a field of the LangGraph context "
            "from STEP on (context.wording=brief); repeatable.",
            metavar="KEY=VALUE",
            **_FORK,
        ),
    ] = None,
    live_tool: Annotated[
        list[str] | None,
        typer.Option(help="A tool that may run from STEP on; repeatable.", metavar="NAME", **_FORK),
    ] = None,
    profile: ProfileOption = None,
    replicas: ReplicasOption = 1,
    routing: RoutingOption = Routing.LEAST,
    other_fm: OtherFmOption = False,
    no_noise: NoNoiseOption = False,
    warm: Annotated[bool, typer.Option("--warm", help="Keep the engine's prefix cache as it is.")] = False,
    into: Annotated[
        str | None,
        typer.Option(
            help="Store to record the replay in; by default the one the runs are in. A published dataset takes none.",
            metavar="PATH",
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay runs on a real engine, closed loop, with tool waits as recorded or scaled.

    Each replay is recorded as a run too, and belongs to a batch; what stopped in the middle (Ctrl-C, an engine that
    died) is gone on with by --resume. Exit 1 when any decode came out with other tokens.
    With --mode simulate no engine is needed but its profile (redecode profile): each run is recorded as it would have
    gone, with the recorded lengths.
    With --mode playback or fork it runs CMD instead, whose FM calls and tools are answered from the recording;
    the exit code is then CMD's, or 1 if CMD went on after asking for something that was not recorded.
    """
    command = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    ids = (run or [])[: len(run or []) - len(command)]
    runs_program = mode in (Mode.PLAYBACK, Mode.FORK)
    if bool(command) != runs_program:
        fail("--mode playback or fork, and only they, run a program: redecode replay RUN --mode playback -- CMD")
    if (until is None) == (mode is Mode.FORK):
        fail("--mode fork goes with --until STEP, and --until with it alone; step keys: redecode show RUN --json")
    changes = fork_overrides(
        model=model, prompt=prompt, message=message or (), temperature=temperature, settings=set_ or (),
        base_url=engine if mode is Mode.FORK else None,
    )  # fmt: skip
    if mode is not Mode.FORK and (changes.to_json() or live_tool):
        fail("--model, --prompt, --message, --temperature, --set and --live-tool are of --mode fork")
    with errors_in_one_line():
        if resume_batch is not None:
            if ids or last is not None or since is not None:
                fail("--resume goes on with a batch as it was begun: name no runs")
            resume(store_path(store if into is None else into), resume_batch, engine, as_json=as_json)
        source = store_to_read(store)
        if into is None and isinstance(source, Dataset):
            fail(f"{source.url} is a published dataset: name a store to record the replay in, say --into .redecode")
        path = store_path(store if into is None else into)
        selection = Selection(ids, last, since, agent)
        if runs_program:
            chosen = load_selected(source, selection)
            # What cannot be played back is refused before CMD runs without it.
            settings: dict[str, Any] = {
                "store": str(path),
                "source": shown(source),
                "runs": [r.run.run_id for r in chosen],
            }
            settings |= {"pace": 1 / speed if speed else 0.0, "pin": pin or [], "changed": changed.value}
            if until is None:
                Playback(chosen, pin=pin or ()).close()
            else:
                forked = Fork(chosen, until, changes, live_tools=live_tool or (), pin=pin or ())
                forked.close()
                settings |= {"until": forked.until, "overrides": changes.to_json(), "live_tools": live_tool or []}
            play(path, settings, command)
        if mode is Mode.SIMULATE:
            _no_engine(engine, warm=warm)
        elif profile or replicas != 1 or other_fm or no_noise or routing is not Routing.LEAST:
            fail("--profile, --replicas, --routing, --other-fm and --no-noise are of --mode simulate")
        options = ReplayOptions(
            arrivals=arrivals,
            speed=speed,
            rate_per_s=rate,
            seed=seed,
            arrivals_file=arrivals_file,
            scaling=Scaling(tool_speed, parse_steps(step or ())),
            cold=not warm,
            as_streamed=not no_stream,
        )
        if mode is Mode.SIMULATE:
            lengths = choose_selected(source, selection, ReplayMode.SIMULATE)
            fleet = fleet_of(
                path, source, lengths.plans.values(), profile, replicas=replicas, other_fm=other_fm, routing=routing
            )
            simulate_runs(
                path, source, lengths, fleet, options, seed=seed, noise=not no_noise, repeat=repeat,
                one=selection.by_id and len(lengths.plans) == 1, as_json=as_json,
            )  # fmt: skip
        replay_runs(path, source, selection, ReplayMode(mode), options, engine, repeat=repeat, as_json=as_json)


def _no_engine(engine: str | None, *, warm: bool) -> None:
    """Refuse what a simulation has no use for."""
    if engine is not None:
        fail("--mode simulate runs on an engine profile (--profile), not on an engine; `redecode profile` lists them")
    if warm:
        fail("--warm: a simulated prefix cache begins empty")
