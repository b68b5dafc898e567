"""How long the dashboard takes to open, and how smoothly a long run is drawn: real Chromium, real stores.

Opens `redecode dashboard` on an empty store, on one of 100,000 runs, and on one with a run of 10,000 spans, as a user
does: from the command to the server's answer, and from the address to what is drawn. Then it zooms, pans and scrolls
the waterfall and takes the longest frame. The bare row is Streamlit with a page of one word in the same browser: what
of the time is not ours. `--quick` takes smaller stores and under a minute; `--json` prints the same as data.
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
        server_s: from the command to the first answer of its server.
        first_s, again_s: from the address to what the page is about, in a browser that has never been there, and again.
        frame_ms: the longest frame while zooming, panning and scrolling; `draw_ms` what drawing took in the last one.
        idle_ms: the longest frame of the same page for as long while nothing happens: what of it is the machine.
    """

    store: str
    server_s: float
    first_s: float
    again_s: float
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


def opened(browser: Any, url: str, wanted: str) -> tuple[float, float, Any]:
    """Seconds to what is wanted, in a browser that knows nothing of the page and in one that does; and the tab."""
    times = []
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    for _ in range(2):
        tab = context.new_page()
        begin = time.monotonic()
        tab.goto(url)
        tab.wait_for_selector(wanted, timeout=60_000)
        times.append(time.monotonic() - begin)
        if len(times) < 2:
            tab.close()
    return times[0], times[1], tab


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
                first, again, tab = opened(browser, f"http://127.0.0.1:{port}{page}", wanted)
                smooth = smoothness(tab) if page == "/run" else ()
                rows.append(Row(name, server_s, first, again, *smooth))
                tab.context.close()
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
    }
    if asked.json:
        print(json.dumps({"conditions": conditions, "rows": [asdict(row) for row in rows]}, indent=1))
        return
    print(", ".join(f"{name}: {value}" for name, value in conditions.items()))
    print(f"{'store':<26}{'server':>10}{'first open':>12}{'again':>10}{'worst frame':>13}{'idle':>8}{'drawing':>10}")
    for row in rows:
        frame = "" if row.frame_ms is None else f"{row.frame_ms:.0f} ms"
        idle = "" if row.idle_ms is None else f"{row.idle_ms:.0f} ms"
        draw = "" if row.draw_ms is None else f"{row.draw_ms:.1f} ms"
        times = f"{row.server_s:>8.2f} s{row.first_s:>10.2f} s{row.again_s:>8.2f} s"
        print(f"{row.store:<26}{times}{frame:>13}{idle:>8}{draw:>10}")


if __name__ == "__main__":
    main()
