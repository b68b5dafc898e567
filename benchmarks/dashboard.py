"""How long the dashboard takes to open, and how smoothly a long run is drawn: real Chromium, real stores.

Opens `redecode dashboard` on an empty store, on one of 100,000 runs, and on one with a run of 10,000 spans, as a user
does: from the command to the server's answer, and from the address to what is drawn. Then it zooms, pans and scrolls
the waterfall and takes the longest frame. The bare row is Streamlit with a page of one word in the same browser: what
of the time is not ours. Two users open the list of runs at the same moment. Plotly's row is the same run as bars in a
page of its own, without any server, as its Python package makes it. `--quick` takes smaller stores and about a minute;
`--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support.big_stores import long_run, many_runs
from redecode.tracer import Store

_FRAMES = """
() => { window.worst = 0; let last = performance.now();
  const tick = (now) => { window.worst = Math.max(window.worst, now - last); last = now; requestAnimationFrame(tick); };
  requestAnimationFrame((now) => { last = now; requestAnimationFrame(tick); }); }
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One store, opened.

    Attributes:
        server_s: from the command to the first answer of its server; `None` where there is none, or it ran already.
        first_s, again_s: from the address to what the page is about, in a browser that has never been there, and again
            (of two users: until the one and until both see it).
        path_s: of a run, the first time: until its critical path is drawn, too.
        frame_ms: the longest frame while zooming, panning and scrolling; `draw_ms` what drawing took in the last one.
        idle_ms: the longest frame of the same page for as long while nothing happens: what of it is the machine.
    """

    store: str
    server_s: float | None
    first_s: float
    again_s: float
    path_s: float | None = None
    frame_ms: float | None = None
    draw_ms: float | None = None
    idle_ms: float | None = None


@contextmanager
def serving(command: list[str], port: int) -> Iterator[float]:
    """Run a server until the end of the block; gives the seconds until it answered."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.monotonic() - begin < 60:
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.02)
        yield time.monotonic() - begin
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def opened(browser: Any, url: str, wanted: str, then: str | None = None) -> tuple[float, float, float | None, Any]:
    """Seconds to what is wanted, in a browser that knows nothing of the page and in one that does; and the tab.

    The third number is the time to what comes `then`, the first time.
    """
    times: list[float] = []
    later = None
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    for _ in range(2):
        tab = context.new_page()
        begin = time.monotonic()
        tab.goto(url)
        tab.wait_for_selector(wanted, timeout=60_000)
        times.append(time.monotonic() - begin)
        if then is not None and later is None:
            tab.wait_for_selector(then, timeout=60_000)
            later = time.monotonic() - begin
        if len(times) < 2:
            tab.close()
    return times[0], times[1], later, tab


def two_users(browser: Any, url: str, wanted: str) -> tuple[float, float]:
    """Seconds until the first and until the second of two users, who come at the same moment, see what is wanted."""
    contexts = [browser.new_context(viewport={"width": 1400, "height": 900}) for _ in range(2)]
    tabs = [context.new_page() for context in contexts]
    begin = time.monotonic()
    for tab in tabs:
        tab.goto(url, wait_until="commit")
    seen: dict[int, float] = {}
    while len(seen) < len(tabs):
        for n, tab in enumerate(tabs):
            if n not in seen and tab.locator(wanted).count():
                seen[n] = time.monotonic() - begin
        if time.monotonic() - begin > 60:
            raise SystemExit("two users at once: one of them saw nothing for a minute")
        tabs[0].wait_for_timeout(10)
    for context in contexts:
        context.close()
    return min(seen.values()), max(seen.values())


def plotly_page(store: Path, file: Path) -> None:
    """The spans of the only run of a store as bars of Plotly's, one row each."""
    import plotly.graph_objects as go

    opened_store = Store(store)
    spans = opened_store.load(opened_store.runs(limit=1)[0].run_id).spans
    begin = min(span.start_ns for span in spans)
    took = [((span.end_ns or span.start_ns) - span.start_ns) / 1e6 for span in spans]
    bars = go.Bar(
        orientation="h", base=[(span.start_ns - begin) / 1e6 for span in spans], x=took, y=list(range(len(spans))),
        text=[span.name for span in spans], hovertext=[span.step_key for span in spans],
    )  # fmt: skip
    figure = go.Figure(bars, layout={"height": 800, "yaxis": {"autorange": "reversed"}, "dragmode": "pan"})
    figure.write_html(
        file, include_plotlyjs=True, config={"scrollZoom": True},
        post_script="document.body.dataset.ready = '1'", auto_play=False,
    )  # fmt: skip


def plotly_row(browser: Any, file: Path, spans: int) -> Row:
    """How long Plotly's page takes to open, and its longest frame while zooming and panning."""
    first, again, _, tab = opened(browser, file.as_uri(), "body[data-ready] .bars .point")
    tab.wait_for_timeout(1500)
    tab.evaluate(_FRAMES)
    tab.wait_for_timeout(2000)
    idle = float(tab.evaluate("window.worst"))
    plot = tab.locator(".nsewdrag").first.bounding_box()
    x, y = plot["x"] + plot["width"] * 0.6, plot["y"] + 200
    tab.mouse.move(x, y)
    tab.evaluate("window.worst = 0")
    before = tab.evaluate("JSON.stringify(document.querySelector('.js-plotly-plot').layout.xaxis.range)")
    for _ in range(12):
        tab.mouse.wheel(0, -120)
        tab.wait_for_timeout(20)
    tab.mouse.down()
    for n in range(20):
        tab.mouse.move(x - 10 * n, y - 8 * n)
    tab.mouse.up()
    tab.wait_for_timeout(1500)  # it redraws when the wheel has been still for a while
    if tab.evaluate("JSON.stringify(document.querySelector('.js-plotly-plot').layout.xaxis.range)") == before:
        raise SystemExit("Plotly's drawing did not follow: nothing was measured")
    worst = float(tab.evaluate("window.worst"))
    tab.context.close()
    return Row(f"Plotly, {spans:,} spans", None, first, again, None, worst, None, idle)


def smoothness(tab: Any) -> tuple[float, float, float]:
    """`frame_ms`, `draw_ms`, `idle_ms`."""
    tab.wait_for_timeout(1500)
    tab.evaluate(_FRAMES)
    tab.wait_for_timeout(2000)
    idle = float(tab.evaluate("window.worst"))
    before = tab.locator(".waterfall canvas").get_attribute("data-window")
    box = tab.locator(".waterfall canvas").bounding_box()
    x, y = box["x"] + box["width"] * 0.6, box["y"] + 200
    tab.mouse.move(x, y)
    tab.evaluate("window.worst = 0")
    for _ in range(12):
        tab.mouse.wheel(0, -120)
        tab.wait_for_timeout(20)
    tab.mouse.down()
    for n in range(20):
        tab.mouse.move(x - 10 * n, y - 8 * n)
    tab.mouse.up()
    tab.mouse.move(box["x"] + 60, y)
    for _ in range(20):
        tab.mouse.wheel(0, 400)
        tab.wait_for_timeout(20)
    for _ in range(3):
        tab.keyboard.press("-")
    if tab.locator(".waterfall canvas").get_attribute("data-window") == before:
        raise SystemExit("the drawing did not follow: nothing was measured")
    worst = float(tab.evaluate("window.worst"))
    return worst, float(tab.locator(".waterfall canvas").get_attribute("data-draw-ms")), idle


def measure(folder: Path, runs: int, spans: int) -> list[Row]:
    """All rows."""
    from playwright.sync_api import sync_playwright

    chromium = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if chromium is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    bare = folder / "bare.py"
    bare.write_text("import streamlit as st\nst.text('hello')\n")
    Store(folder / "empty").drain()
    many_runs(folder / "many", runs)
    long_run(folder / "long", spans)
    ours = [sys.executable, "-m", "redecode.cli", "dashboard", "--no-browser", "--store"]
    cases = [
        ("(a bare Streamlit page)", None, "/", '[data-testid="stText"]'),
        ("empty", folder / "empty", "/", '[data-testid="stAlert"]'),
        (f"{runs:,} runs", folder / "many", "/", '[data-testid="stDataFrame"]'),
        (f"a run of {spans:,} spans", folder / "long", "/run", ".waterfall canvas[data-ready]"),
    ]
    rows = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=arguments)
        for name, store, page, wanted in cases:
            port = free_port()
            command = [*ours, str(store), "--port", str(port)]
            if store is None:
                options = ["--server.headless=true", "--server.address=127.0.0.1", "--browser.gatherUsageStats=false"]
                command = [sys.executable, "-m", "streamlit", "run", str(bare), f"--server.port={port}", *options]
            with serving(command, port) as server_s:
                then = f'{wanted}:not([data-path="0"])' if page == "/run" else None
                first, again, path_s, tab = opened(browser, f"http://127.0.0.1:{port}{page}", wanted, then)
                smooth = smoothness(tab) if page == "/run" else ()
                rows.append(Row(name, server_s, first, again, path_s, *smooth))
                tab.context.close()
                if store == folder / "many":
                    both = two_users(browser, f"http://127.0.0.1:{port}{page}", wanted)
                    rows.append(Row("  two users at once", None, *both))
        if find_spec("plotly") is not None:
            plotly_page(folder / "long", folder / "plotly.html")
            rows.append(plotly_row(browser, folder / "plotly.html", spans))
        browser.close()
    return rows


def main() -> None:
    """Measure, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="10,000 runs, a run of 2,000 spans")
    arguments.add_argument("--json", action="store_true", help="print the same as data")
    asked = arguments.parse_args()
    runs, spans = (10_000, 2_000) if asked.quick else (100_000, 10_000)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), runs, spans)
    conditions = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "streamlit": version("streamlit"),
        "browser": "Chromium, headless, software drawing, 1400 x 900",
        "plotly": version("plotly") if find_spec("plotly") is not None else "not installed, its row is left out",
    }
    if asked.json:
        print(json.dumps({"conditions": conditions, "rows": [asdict(row) for row in rows]}, indent=1))
        return
    print(", ".join(f"{name}: {value}" for name, value in conditions.items()))
    columns = (
        ("server", 10),
        ("first open", 12),
        ("again", 10),
        ("path", 10),
        ("worst frame", 13),
        ("idle", 8),
        ("drawing", 10),
    )
    print(f"{'store':<26}" + "".join(f"{name:>{width}}" for name, width in columns))
    for row in rows:
        frame = "" if row.frame_ms is None else f"{row.frame_ms:.0f} ms"
        idle = "" if row.idle_ms is None else f"{row.idle_ms:.0f} ms"
        draw = "" if row.draw_ms is None else f"{row.draw_ms:.1f} ms"
        server = f"{'':>10}" if row.server_s is None else f"{row.server_s:>8.2f} s"
        times = f"{server}{row.first_s:>10.2f} s{row.again_s:>8.2f} s"
        path = "" if row.path_s is None else f"{row.path_s:.2f} s"
        print(f"{row.store:<26}{times}{path:>10}{frame:>13}{idle:>8}{draw:>10}")


if __name__ == "__main__":
    main()
