"""`redecode`: the verbs put together, each imported when it is asked for (all of them take a second)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
import typer.core
import typer.main

VERBS = [
    "demo", "record", "collect", "engine", "runs", "show", "replay", "compare", "whatif", "tune", "nightly", "worth",
    "profile", "simulate", "place", "dashboard", "export", "import", "store", "front", "doctor",
]  # fmt: skip
"""In the order of `--help`; each is a module of this folder (`import_` for import) with `register(app)` or an `app`."""


class _Loaded(dict[str, Any]):
    """Verb → command, as `TyperGroup` wants it."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(VERBS))

    def __getitem__(self, verb: str) -> Any:
        command = super().__getitem__(verb)
        if command is None:
            module = import_module(f"redecode.cli.{'import_' if verb == 'import' else verb}")
            app = getattr(module, "app", None)
            if app is None:
                app = typer.Typer(add_completion=False)
                module.register(app)
            command = typer.main.get_command(app)
            command.name = verb
            self[verb] = command
        return command

    def get(self, verb: str, default: Any = None) -> Any:
        try:
            return self[verb]
        except KeyError:
            return default

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        return ((verb, self[verb]) for verb in self)

    def values(self) -> Iterator[Any]:  # type: ignore[override]
        return (self[verb] for verb in self)


class _Verbs(typer.core.TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Loaded()


app = typer.Typer(
    cls=_Verbs,
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


def run() -> None:
    """Entry point of the `redecode` command."""
    app()
