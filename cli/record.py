"""`redecode record -- CMD`: run a program unchanged and record its agents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from redecode.cli.common import (
    ContentOption,
    ForwardHeaderOption,
    ForwardOption,
    RedactOption,
    StoreOption,
    errors_in_one_line,
    fail,
    forward_headers,
    say,
    store_path,
)
from redecode.tracer import RedecodeError, Store, asked_privacy, environment


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        context_settings={"allow_interspersed_args": False},
        epilog="Example: redecode record --agent invoices -- python app.py --fast",
    )(record)


def record(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after `--`.", metavar="-- CMD")],
    *,
    agent: Annotated[str | None, typer.Option(help="Name recorded with the runs; by default each graph's own.")] = None,
    slo: Annotated[float | None, typer.Option(help="Latency each run should meet, in seconds.", min=0)] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE recorded with the runs; repeatable.")] = None,
    content: ContentOption = None,
    redact: RedactOption = None,
    forward: ForwardOption = None,
    forward_header: ForwardHeaderOption = None,
    store: StoreOption = None,
) -> None:
    """Run a program and record every agent run of its Python processes.

    Its stdout, stderr and exit code are its own; what redecode has to say comes after it, on stderr.
    """
    path = store_path(store)
    with errors_in_one_line():
        opened = Store(path)
        before = {r.run_id for r in opened.runs()}
        asked_privacy(content=content, redact=redact)
        headers = forward_headers(forward, forward_header)
    labels = dict(_pair(text) for text in label or ())
    settings: dict[str, Any] = {"store": str(path), "agent": agent, "slo_s": slo, "labels": labels or None}
    settings |= {"content": content, "redact": redact, "forward": forward, "forward_headers": headers}
    code = run_program(command, environment(os.environ, settings))
    try:
        new = [r for r in opened.runs() if r.run_id not in before]
    except RedecodeError as error:  # the program has run, and its exit code is its own
        say(f"redecode: what was recorded cannot be read: {error}")
        end_like(code)
    if new:
        say(f"redecode: recorded {len(new)} run{'s' * (len(new) != 1)} into {path}; see: redecode runs")
    else:
        say(
            f"redecode: recorded no run into {path}: the program ran no LangGraph graph and called no OpenAI client, "
            "or its Python ignores PYTHONPATH (-E, -I) or has no redecode installed"
        )
    end_like(code)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        fail(f"--label {text}: want KEY=VALUE")
    return key, value


def end_like(code: int) -> NoReturn:
    """End this process as the program's ended; of the same signal if it was killed by one."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def run_program(command: list[str], env: dict[str, str]) -> int:
    """Run a program with our stdin, stdout and stderr; returns its exit code, negative for a signal."""
    try:
        process = subprocess.Popen(command, env=env)
    except FileNotFoundError:
        fail(f"no such program: {command[0]}")
    except PermissionError:
        fail(f"{command[0]} cannot be run: it is not executable (did you mean: python {command[0]}?)")

    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    # Ctrl-C reaches the program by itself (same process group); a signal sent to us alone is handed on.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    return process.wait()
