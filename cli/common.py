"""What every verb shares: the store option, JSON on stdout, words on stderr, errors in one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console

from redecode.tracer import RedecodeError, default_store

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Store directory; by default .redecode.", envvar="REDECODE_STORE", show_envvar=True),
]
ContentOption = Annotated[
    bool | None,
    typer.Option(
        "--content/--no-content",
        help="Record what was said, or only structure, lengths and times; by default $REDECODE_CONTENT, else all.",
        show_default=False,
    ),
]
RedactOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Take this out before anything is written: patterns (all built-in ones), the name of one, or "
        "MODULE:FUNCTION; repeatable. By default $REDECODE_REDACT.",
        metavar="RULE",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


def store_path(store: Path | None) -> Path:
    """The store directory asked for, absolute."""
    return (store if store is not None else default_store()).absolute()


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(document, option=options, default=str).decode() + "\n")


def say(words: str) -> None:
    """Our own words, on stderr."""
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


def fail(message: str) -> NoReturn:
    """One line that names the thing and the way out; exit 2."""
    say(f"redecode: {message}")
    raise typer.Exit(2)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Exit 2 with the message of an error a user can act on."""
    try:
        yield
    except RedecodeError as error:
        fail(str(error))
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        fail(f"{error.filename} cannot be used: {error.strerror}; choose another --store")
    except KeyboardInterrupt:
        say("redecode: interrupted")
        raise typer.Exit(130) from None


@contextmanager
def progress(what: str, *, every_s: float = 5.0) -> Iterator[Callable[[str], None]]:
    """Show on stderr that `what` goes on, once it has taken a second: a spinner on a terminal, else lines."""
    console, begin, said = Console(stderr=True), time.monotonic(), 0.0
    if console.is_terminal:
        with console.status(what) as status:
            yield lambda detail: status.update(f"{what}: {detail} ({time.monotonic() - begin:.0f} s)")
        return

    def report(detail: str) -> None:
        nonlocal said
        elapsed = time.monotonic() - begin
        if elapsed >= said + every_s or (said == 0.0 and elapsed > 1):
            say(f"{what}: {detail} ({elapsed:.0f} s)")
            said = elapsed

    yield report


def seconds(value: float | None) -> str:
    """A duration for a screen: ms below a second, dash if unknown."""
    if value is None:
        return "-"
    return f"{value * 1e3:.1f} ms" if abs(value) < 1 else f"{value:.2f} s"
