"""A store of the shipped recording, replays and a hostile run; pages without and in a browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from redecode.cli.demo import RECORDINGS
from redecode.dashboards.serve import APP, STORE
from redecode.tracer import RecordedRun, SpanKind, Store
from tests.dashboards import studies
from tests.tracer.export.recorded_runs import Builder, keep

HOSTILE = "bad" + "0" * 29
HOSTILE_NAME = "<script>document.title='owned'</script> ![x](http://example.invalid/x.png) :red[boo] $x$"
HOSTILE_TEXT = "<img src=x onerror=\"document.title='owned'\"> ![y](http://example.invalid/y.png) \x1b[31mred\u202eback"
STEPS = "f" * 32
"""A run with two branches, of which one has float, a tool that failed and a barrier."""


def branches(run_id: str = STEPS) -> RecordedRun:
    """One node, then two beside each other, then one: b waits for c at the barrier."""
    from redecode.tracer import EdgeKind
    from redecode.tracer import conventions as c

    b = Builder("brancher", run_id)
    root = b.span(SpanKind.RUN, "brancher", 0, 100)
    a = b.span(SpanKind.NODE, "a", 5, 30, root)
    ask = b.decode("ask", 6, 29, a, [1, 2, 3], tokens=4, logprobs=(-0.1, -2.5, -0.2, -0.1))
    left = b.span(SpanKind.NODE, "b", 35, 50, root)
    right = b.span(SpanKind.NODE, "c", 36, 80, root)
    slow = b.tool("slow", 37, 79, right, error="ValueError: broken")
    last = b.span(SpanKind.NODE, "d", 85, 95, root)
    b.spans = [replace(s, attributes={c.SUPERSTEP: 1}) if s.kind is SpanKind.NODE else s for s in b.spans]
    b.edge(root, a, EdgeKind.CALL)
    b.edge(a, ask, EdgeKind.CALL)
    b.edge(ask, a, EdgeKind.RETURN)
    b.edge(right, slow, EdgeKind.CALL)
    b.edge(slow, right, EdgeKind.RETURN)
    for src, dst in ((a, left), (a, right), (left, last), (right, last)):
        b.edge(src, dst, EdgeKind.BARRIER)
    b.edge(a, left, EdgeKind.DATA)
    b.edge(a, right, EdgeKind.DATA)
    b.edge(right, last, EdgeKind.DATA)
    b.edge(last, root, EdgeKind.JOIN)
    return b.build()


def hostile() -> RecordedRun:
    """A run whose every word would like to be markup."""
    b = Builder(HOSTILE_NAME, HOSTILE)
    root = b.span(SpanKind.RUN, HOSTILE_NAME, 0, 100)
    node = b.span(SpanKind.NODE, HOSTILE_NAME, 1, 90, root)
    b.decode(HOSTILE_NAME, 2, 60, node, [1], output=HOSTILE_TEXT, messages=[{"role": "user", "content": HOSTILE_TEXT}])
    b.tool(HOSTILE_NAME, 61, 80, node, error=HOSTILE_TEXT)
    b.tools[0] = replace(b.tools[0], result=HOSTILE_TEXT)
    return b.build()


def replayed(recorded: RecordedRun, run_id: str, *, slower: float = 1.0, tokens: bool = True) -> RecordedRun:
    """A replay of a run by force, its times stretched; without `tokens` the first call sampled something else."""
    begin = recorded.run.started_ns

    def moved(ns: int | None) -> Any:
        return None if ns is None else begin + round((ns - begin) * slower)

    run = replace(
        recorded.run, run_id=run_id, source_run_id=recorded.run.run_id, replay_mode="force",
        ended_ns=moved(recorded.run.ended_ns),
    )  # fmt: skip
    spans = [replace(s, run_id=run_id, start_ns=moved(s.start_ns), end_ns=moved(s.end_ns)) for s in recorded.spans]
    calls = [replace(d, run_id=run_id, sent_ns=moved(d.sent_ns), done_ns=moved(d.done_ns)) for d in recorded.decodes]
    if not tokens:
        calls[0] = replace(calls[0], sampled_ids=tuple(x + 1 for x in calls[0].sampled_ids or ()))
    tools = [replace(t, run_id=run_id) for t in recorded.tools]
    return RecordedRun(run=run, spans=spans, edges=recorded.edges, decodes=calls, tools=tools)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recording of real agents on a real engine, and runs of known shape."""
    path = tmp_path_factory.mktemp("dashboard") / "store"
    known = branches()
    keep(path, [known, hostile(), replayed(known, "e" * 32), replayed(known, "d" * 32, slower=1.5, tokens=False)])
    shutil.copy(RECORDINGS / "demo.journal", path / "spool" / "0-demo.journal")
    studies.tuned(path, HOSTILE_NAME.replace("/", "|"), named="<b>x</b> :red[boo]")
    studies.planned(path, agent=HOSTILE_NAME)
    assert len(Store(path).runs()) == 14
    return path


App = Callable[..., AppTest]


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> App:
    """Open a page of a store without a browser: `open_page(store, "run", run=...)`."""

    def run(store: Path, screen: str = "", **address: str) -> AppTest:
        monkeypatch.setenv(STORE, str(store))
        at = AppTest.from_file(str(APP), default_timeout=60)
        for name, value in address.items():
            at.query_params[name] = value
        at.run()
        if screen:
            at.switch_page(f"screens/{screen}.py").run()
        assert not at.exception, at.exception
        return at

    return run


@pytest.fixture(scope="module")
def looked_at(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The filled store, of this module alone: what it records is nobody else's."""
    return Path(shutil.copytree(filled, tmp_path_factory.mktemp("looked-at") / "store"))


@pytest.fixture(scope="module")
def dashboard(looked_at: Path) -> Iterator[str]:
    """`redecode dashboard` of that store, as a user starts it."""
    with serving(looked_at) as url:
        yield url


class serving:
    """A dashboard of a store in a process of its own; gives its URL."""

    def __init__(self, store: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.store = store

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "redecode.cli", "dashboard", "--no-browser", "--store", str(self.store)]
        self.log = (self.store.parent / f"dashboard-{self.port}.log").open("w+")
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=self.log, stderr=self.log)
        url, begin = f"http://127.0.0.1:{self.port}", time.monotonic()
        while time.monotonic() - begin < 60 and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5):
                    return url
            except OSError:
                time.sleep(0.05)
        self.log.seek(0)
        raise AssertionError(self.log.read())

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; a machine without one skips, unless it is CI.

    A module's, not the session's: while Playwright is open, this thread counts as one that runs an event loop, and the
    `asyncio.run` of every test after it in the same process would be refused.
    """
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium here, and CI must have one: apt-get install chromium")
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=arguments)
        yield browser.new_context()  # one for all: what a page needs is fetched once
        browser.close()


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """A page of the browser, on which nothing may go wrong and which speaks to this machine alone."""
    page = chromium.new_page()
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.set_default_timeout(30_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def stays_here(request: Any) -> None:
        if "127.0.0.1" not in request.url and not request.url.startswith(("data:", "blob:")):
            wrong.append(request.url)

    page.on("request", stays_here)
    yield page
    exceptions = page.locator('[data-testid="stException"]').all_inner_texts()
    page.close()
    assert wrong == []
    assert exceptions == []
