"""`redecode dashboard`: what a store holds, in a browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, print_json, say, shown, store_to_read
from redecode.replay.prices import read_prices


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode dashboard --port 8600")(dashboard)


def dashboard(
    *,
    port: Annotated[int, typer.Option(help="On this machine only.", min=1, max=65535)] = 8501,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Serve, and open no browser.")] = False,
    prices: Annotated[
        Path | None,
        typer.Option(
            help="What FMs cost: a TOML file with a table for each, [MODEL] input, output, cached: USD per million "
            "tokens. By default prices.toml in the store.",
            metavar="FILE",
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at runs in a browser: where their time went, token by token, against their SLO, against each other.

    Needs the extra `dashboards`. It reads the store in short turns: recording and other commands go on beside it.
    """
    with errors_in_one_line():
        opened = store_to_read(store)
        from redecode.dashboards.serve import serve

        location = shown(opened)
        if prices is not None:
            read_prices(prices)

        def ready(url: str) -> None:
            if as_json:
                print_json({"url": url, "store": location, "pid": os.getpid()})
            else:
                say(f"dashboard of {location}: {url} (Ctrl-C stops it)")

        serve(location, port, browser=not no_browser, on_ready=ready, prices=None if prices is None else str(prices))
