"""Running the dashboard: Streamlit on app.py, bound to this machine, with the store's place in the environment."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from redecode.tracer import RedecodeError

APP = Path(__file__).with_name("app.py")
HOST = "127.0.0.1"
STORE = "REDECODE_STORE"
PRICES = "REDECODE_PRICES"
_READY_S = 60.0
_NEEDED = (
    "pandas", "pyarrow",  # Streamlit's, at its first table
    *(f"redecode.dashboards.{name}" for name in ("shell", "waterfall", "flow", "gains", "drawer", "strip", "blaming")),
)  # fmt: skip

_LIGHT = {
    "primaryColor": "#c2410c",
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f5f5f4",
    "textColor": "#1c1917",
    "borderColor": "#d6d3d1",
}
_DARK = {
    "primaryColor": "#fb923c",
    "backgroundColor": "#14171c",
    "secondaryBackgroundColor": "#1e232b",
    "textColor": "#e7e5e4",
    "borderColor": "#3b424d",
}


class CannotServe(RedecodeError):
    """The dashboard cannot be started; the message says why and what to do."""


def check(port: int) -> None:
    """Whether it could be served on a port.

    Raises:
        CannotServe: Streamlit is not installed, or the port is taken.
    """
    if find_spec("streamlit") is None:
        raise CannotServe("the dashboard needs Streamlit, which is not installed: pip install 'redecode[dashboards]'")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CannotServe(
                f"port {port} on {HOST} cannot be had ({error.strerror}); name another with --port"
            ) from error


def serve(
    location: str, port: int, *, browser: bool, on_ready: Callable[[str], None], prices: str | None = None
) -> None:
    """Serve until interrupted.

    Args:
        location: of the store or dataset; it is there.
        browser: whether to open one.
        on_ready: called with the URL once pages can be had, from another thread.
        prices: file of the prices of FMs; by default the store's.

    Raises:
        CannotServe: as `check`.
    """
    check(port)
    from streamlit.web import bootstrap

    os.environ[STORE] = location
    os.environ.pop(PRICES, None)
    if prices is not None:
        os.environ[PRICES] = prices
    options = _options(port, browser=browser)
    bootstrap.load_config_options(options)
    threading.Thread(target=_announce, args=(location, port, on_ready, sys.stdout), daemon=True).start()
    with redirect_stdout(sys.stderr):  # stdout is for what `on_ready` prints
        bootstrap.run(str(APP), is_hello=False, args=[], flag_options=options)


def _options(port: int, *, browser: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "server_address": HOST,
        "server_port": port,
        "server_headless": not browser,
        "server_allowedHosts": [HOST, "localhost"],  # no other name may be made to point here
        "server_fileWatcherType": "none",
        "server_runOnSave": False,
        "runner_magicEnabled": False,
        "browser_gatherUsageStats": False,
        "browser_serverAddress": HOST,
        # A browser that is to take a message from its cache and has just dropped it gives the page up for good, as
        # happens where runs of a page follow each other fast (streamlit/streamlit#11299): nothing is cached there.
        "global_minCachedMessageSize": 1 << 40,
        "client_toolbarMode": "minimal",
        "client_showErrorDetails": "type",
        "logger_hideWelcomeMessage": True,
        "theme_baseRadius": "small",
        "theme_paddingTop": "1.2rem",
        "theme_baseFontSize": 15,
        "theme_metricValueFontSize": "1.4rem",
    }
    for mode, colours in (("light", _LIGHT), ("dark", _DARK)):
        options |= {f"theme_{mode}_{name}": value for name, value in colours.items()}
    return options


def _warm(location: str) -> None:
    """Import what pages need and read the list of runs while the browser is still on its way."""
    from redecode.dashboards.data import source

    for name in _NEEDED:
        import_module(name)

    with suppress(RedecodeError):  # the page says it
        source(location, os.environ.get(PRICES)).listing()


def _announce(location: str, port: int, on_ready: Callable[[str], None], stdout: TextIO) -> None:
    url = f"http://{HOST}:{port}"
    begin = time.monotonic()
    while time.monotonic() - begin < _READY_S:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    else:
        return
    with redirect_stdout(stdout):
        on_ready(url)
    _warm(location)
