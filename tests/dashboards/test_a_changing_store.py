"""A page of a store that goes on being written to, in a browser, near and far away."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from redecode.dashboards.canvas import mount
from redecode.dashboards.data import source
from redecode.dashboards.waterfall import drawing
from tests.dashboards.conftest import STEPS
from tests.dashboards.test_in_a_browser import CANVAS, selected, span

pytestmark = [pytest.mark.browser, pytest.mark.long]


class Changes:
    """Something of a store is new, once or all the time."""

    def __init__(self, store: Path) -> None:
        self._file = next((store / "plans").glob("*.json"))
        self._over = threading.Event()

    def once(self) -> None:
        os.utime(self._file)

    def __enter__(self) -> None:
        def often() -> None:
            while not self._over.wait(0.1):
                self.once()

        self._thread = threading.Thread(target=often)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class FarAway:
    """The same server, whose every answer takes `answers_s` to arrive."""

    def __init__(self, url: str) -> None:
        self.answers_s = 0.0
        self._port = int(url.rpartition(":")[2])
        self._started: Future[tuple[str, Callable[[], object]]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._started.set_result((url, lambda: loop.call_soon_threadsafe(over.set)))
            await over.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._carry(reader, to_server), self._carry(from_server, writer, late=True))
        finally:
            to_server.close()
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool = False) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                asyncio.get_running_loop().call_later(self.answers_s * late, writer.write, data)
        await asyncio.sleep(self.answers_s * late)
        writer.close()

    def __enter__(self) -> str:
        self._thread.start()
        return self._started.result()[0]

    def __exit__(self, *_: object) -> None:
        self._started.result()[1]()
        self._thread.join()


def test_the_drawing_stays_and_hears_every_key(tab: Any, dashboard: str, filled: Path, looked_at: Path) -> None:
    tab.goto(f"{dashboard}/run?run={STEPS}")
    tab.wait_for_selector(CANVAS).evaluate("canvas => canvas.first = true")
    with Changes(looked_at):
        for _ in range(2):
            for step in ("ask", "slow", "d"):
                tab.keyboard.press("c")
                selected(tab, span(filled, step))
        tab.get_by_text("node · run/d").wait_for()
    assert tab.locator(CANVAS).evaluate("canvas => canvas.first"), "the drawing was taken away and made anew"


def test_what_was_chosen_while_its_address_was_on_its_way_stays(
    tab: Any, dashboard: str, filled: Path, looked_at: Path
) -> None:
    far = FarAway(dashboard)
    with far as there:
        tab.goto(f"{there}/run?run={STEPS}")
        tab.wait_for_selector(CANVAS)
        tab.wait_for_timeout(1500)  # what is on its way at first has arrived
        far.answers_s = 1.3
        tab.keyboard.press("j")
        selected(tab, span(filled, "brancher"))
        tab.keyboard.press("j")
        tab.wait_for_timeout(400)
        Changes(looked_at).once()  # the page looks every second: with the address of the step before
        selected(tab, span(filled, "a"))
        tab.wait_for_timeout(4000)
        tab.get_by_text("node · run/a").wait_for()
        selected(tab, span(filled, "a"))


TWICE = """async ([script, data]) => {
  const module = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  window.told = [];
  const given = { ...data, selected: null, height: 300 };
  const draw = () => module.default({ parentElement: document, data: given, setStateValue: (_, id) => told.push(id) });
  const undo = draw();
  draw();
  undo();
}"""


def test_a_drawing_that_is_drawn_twice_in_a_moment_still_tells_what_was_chosen(tab: Any, filled: Path) -> None:
    """Streamlit undoes what it drew first after it has drawn again, where both were asked for in one moment."""
    _, data = drawing(source(str(filled), None).load(STEPS))
    tab.set_content(mount._WATERFALL)
    tab.evaluate(TWICE, [mount._script("drawing", "waterfall"), data])
    tab.keyboard.press("j")
    tab.wait_for_function("told.length")
    assert tab.evaluate("told") == [span(filled, "brancher")]
