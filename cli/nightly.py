"""`redecode nightly`: tune an agent on the day's runs, every night; look at what was changed, and change it back."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, fail, print_json, say, store_path
from redecode.tracer import Clock, Store

if TYPE_CHECKING:
    from redecode.optimizer.nightly.history import History

DEFAULT = "run"


class FileFirst(typer.core.TyperGroup):
    """`redecode nightly nightly.toml` is `redecode nightly run nightly.toml`."""

    default = DEFAULT

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb in that was not said."""
        if args and args[0] not in self.commands and args[0] != "--help":
            if len(args) > 1 and args[0].isalpha() and not args[1].startswith("-") and not Path(args[0]).exists():
                raise typer.BadParameter(f"there is no {args[0]}; there are {', '.join(self.commands)}, or a FILE", ctx)
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=FileFirst,
    add_completion=False,
    no_args_is_help=True,
    help="Tune an agent on the day's runs, every night: `redecode nightly nightly.toml`.",
    epilog="Example: redecode nightly nightly.toml --ok-if-kept",
)
FileArgument = Annotated[Path, typer.Argument(help="The configuration: docs/nightly.md shows one.", metavar="FILE")]


@app.command(epilog="Example: redecode nightly nightly.toml --ok-if-kept")
def run(
    file: FileArgument,
    *,
    ok_if_kept: Annotated[
        bool, typer.Option("--ok-if-kept", help="Exit 0 also if nothing was promoted: a normal night.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Begin a further night, though one has just been.")] = False,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Give up a night that has not ended, or take over another spec's job; begin one."),
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Select the day's runs, compare their mix, profile the engine, tune, decide; report, and use what was promoted.

    Started twice it goes on where it was, or says that the night is over. Exit 0: a configuration was promoted; 1: the
    one in use stays (kept, not enough evidence, or the kill switch is set); 2: bad input, or something must be mended.
    """
    with errors_in_one_line():
        nightly = _nightly()
        config, path = _place(file, store)
        with _terminated():
            try:
                ended = nightly.Nightly(
                    config=config,
                    store=Store(path),
                    now_ns=Clock.start().now_ns,
                    clock=_monotonic(),
                    tell=lambda words: say(f"redecode: {words}"),
                    again=again,
                    anew=anew,
                ).run()
            except nightly.Halted as halted:
                if as_json:
                    told = {"verdict": "stopped", "verdict_words": "stopped", "why": str(halted), "promoted": False}
                    print_json({**told, "folder": None, "already": False})
                say(f"redecode: {halted}")
                raise typer.Exit(0 if ok_if_kept else 1) from None
        if as_json:
            print_json({**ended.document, "folder": str(ended.folder.path), "already": ended.already})
        else:
            said = " (it was over already; --again begins another)" if ended.already else ""
            typer.echo(f"night {ended.folder.id}: {ended.document['verdict_words']}{said}")
            typer.echo(str(ended.document["why"]))
            typer.echo(str(ended.folder.path / "report.md"))
    raise typer.Exit(0 if ended.promoted or ok_if_kept else 1)


@app.command(epilog="Example: redecode nightly history nightly.toml")
def history(file: FileArgument, *, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """The nights there were, and which configuration was in use since when."""
    with errors_in_one_line():
        _nightly()
        found, other = _history(file, store)
        if other is not None:
            say(f"redecode: {other}")
        nights = [_told(n) for n in found.home.nights()]
        events, now = found.events(), found.loaded()
        if as_json:
            told = {"nights": nights, "configurations": [e.to_json() for e in events]}
            print_json({**told, "in_use": now.config, "note": now.note})
            return
        from redecode.optimizer.nightly.history import since_words

        for night in nights:
            typer.echo(f"{night['night']}  {night['verdict']}{': ' + night['problem'] if night['problem'] else ''}")
        typer.echo("")
        for line in since_words(events):
            typer.echo(line)
        if now.config is not None:
            typer.echo(f"\nin use: {now.config} ({found.home.current})")
        if now.note is not None:
            typer.echo(now.note if now.config is not None else f"\n{now.note}")


@app.command(epilog="Example: redecode nightly rollback nightly.toml 2026-11-20")
def rollback(
    file: FileArgument,
    to: Annotated[
        str | None,
        typer.Argument(
            help="A configuration (enough of its id), or a night: what was in use when it ended. By default the one "
            "before the present one."
        ),
    ] = None,
    *,
    why: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Use an earlier configuration again, at once, also while a night runs. Nothing is lost, and it can be undone.

    The configuration that is rolled back from is promoted again only on runs recorded from now on.
    """
    with errors_in_one_line():
        _nightly()
        found, other = _history(file, store)
        if other is not None:
            fail(other)
        now = Clock.start().now_ns()
        with found.home.moving():
            if (note := found.settle(now)) is not None:
                say(f"redecode: {note}")
            event = found.roll_back(to, now_ns=now, why=why)
        problem = _nightly().refused(*_place(file, store), found.context(event.config))
        if problem is not None:
            say(f"redecode: WARNING: the agent may not take configuration {event.config} any more: {problem}")
        if as_json:
            print_json({**event.to_json(), "file": str(found.home.current)})
        else:
            typer.echo(
                f"configuration {event.config} is in use again, in place of {event.before}: {found.home.current}"
            )


def _nightly() -> Any:
    """The job's modules; Optuna and scipy are an extra, and slow to import."""
    try:
        from redecode.cli import nightly_run
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; pip install 'redecode[optimizer]'")
    return nightly_run


def _place(file: Path, store: str | None) -> tuple[Any, Path]:
    """The configuration, and the store: the one that it names, unless another is asked for."""
    from redecode.optimizer.nightly.config import load_config

    config = load_config(file)
    path = config.store if store is None and config.store is not None else store_path(store)
    Store(path, create=False)
    return config, path


def _history(file: Path, store: str | None) -> tuple[History, str | None]:
    """Of a job; and why it is another one's, if it is."""
    from redecode.optimizer.nightly.history import History
    from redecode.optimizer.nightly.night import home_of, taken

    config, path = _place(file, store)
    home = home_of(config, Store(path))
    return History(home, lambda words: say(f"redecode: {words}")), taken(home, config)


def _told(night: Any) -> dict[str, Any]:
    done, problem = night.step("done"), night.step("problem")
    verdict = "not ended" if done is None else "promoted" if done["promoted"] else done["verdict"]
    if done is not None and verdict == "promote":  # and it is not in use
        verdict = "not promoted" if done.get("then") is None else f"promoted, then {done['then']}"
    return {
        "night": night.id,
        "verdict": verdict,
        "config": None if done is None else done["config"],
        "problem": None if problem is None else problem["why"],
        "folder": str(night.path),
    }


def _monotonic() -> Any:
    import time

    return time.monotonic


@contextlib.contextmanager
def _terminated() -> Any:
    """SIGTERM (systemd, Kubernetes) ends it as Ctrl-C does: workers end, and the next start goes on."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
