"""`redecode`: the verbs put together."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

import typer

from redecode.cli import (
    collect,
    compare,
    dashboard,
    demo,
    doctor,
    engine,
    export,
    front,
    import_,
    place,
    profile,
    record,
    replay,
    runs,
    show,
    simulate,
    store,
    tune,
    whatif,
)

app = typer.Typer(
    name="redecode",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Record an agent's run, replay it token for token, and see what it waited for.",
    epilog="Start with: redecode demo",
)


def _version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"redecode {metadata.version('redecode')}\n")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=lambda wanted: _version(wanted=wanted))
    ] = False,
) -> None:
    pass


demo.register(app)
record.register(app)
collect.register(app)
app.add_typer(engine.app, name="engine")
runs.register(app)
show.register(app)
replay.register(app)
compare.register(app)
whatif.register(app)
tune.register(app)
profile.register(app)
simulate.register(app)
place.register(app)
dashboard.register(app)
export.register(app)
import_.register(app)
app.add_typer(store.app, name="store")
front.register(app)
doctor.register(app)


def run() -> None:
    """Entry point of the `redecode` command."""
    app()
