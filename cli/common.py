"""What every verb shares: the store option, JSON on stdout, words on stderr, errors in one line."""

from __future__ import annotations

import errno
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console

from redecode.tracer import Dataset, RedecodeError, Store, default_store, open_store
from redecode.tracer.export.send import Target
from redecode.tracer.store.places import local_path

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Store directory, or (to read) a published dataset's folder or URL; by default .redecode.",
        metavar="PATH",
        envvar="REDECODE_STORE",
        show_envvar=True,
    ),
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

ForwardOption = Annotated[
    str | None,
    typer.Option(
        help="Also send every span to this OTLP/HTTP backend (content too, unless that is off); "
        "`env` means $OTEL_EXPORTER_OTLP_ENDPOINT and its headers.",
        metavar="URL",
    ),
]
ForwardHeaderOption = Annotated[
    list[str] | None, typer.Option(help="With --forward: KEY=VALUE sent with every request; repeatable.")
]

_OF_THE_DISK = {
    errno.ENOSPC: "make room and start again",
    errno.EDQUOT: "make room and start again",
    errno.EROFS: "choose another --store",
    errno.EIO: "look at the disk, and start again",
}
"""What a disk may say → the way out."""
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def header_pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """The headers of a repeatable KEY=VALUE option; a value is never repeated in an error."""
    out = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            fail(f"{option}: want KEY=VALUE")
        out[name.strip()] = value.strip()
    return out


def forward_headers(url: str | None, given: list[str] | None) -> dict[str, str]:
    """The headers of `--forward-header`, once it is sure that `--forward` is a URL."""
    headers = header_pairs("--forward-header", given)
    if url is not None:
        Target.parse(url, headers)
    elif headers:
        fail("--forward-header goes with --forward")
    return headers


def store_path(store: str | None) -> Path:
    """The store directory asked for, absolute."""
    path = local_path(store if store is not None else default_store())
    if path is None:
        fail(f"{store} is elsewhere: what is published there can be read, nothing else; name a directory with --store")
    return path


def store_to_read(store: str | None) -> Store | Dataset:
    """The store, or the published dataset, that was asked for.

    Raises:
        StoreError: there is none, or it cannot be used.
    """
    return open_store(store if store is not None else default_store())


def shown(store: Store | Dataset) -> str:
    """Where it is, in our own words' messages."""
    return store.url if isinstance(store, Dataset) else str(store.path)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(document, option=options, default=str).decode() + "\n")
    sys.stdout.flush()  # a program that goes on running may be read by another


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
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        way = _OF_THE_DISK[error.errno]
        fail(f"{error.filename or 'the disk'} cannot be written: {error.strerror}; {way}")
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


def duration_s(text: str) -> float:
    """Seconds of "90s", "15m", "24h", "7d" or "2w".

    Raises:
        RedecodeError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if found is None:
        raise RedecodeError(f"a duration is like 90s, 15m, 24h, 7d or 2w, not '{text}'")
    return float(found[1]) * _UNITS_S[found[2]]
