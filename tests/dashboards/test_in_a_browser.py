"""What only a browser can tell: the canvas, keys, addresses in and out, hostile text, news of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from redecode import tracer
from redecode.tracer import Store
from tests.dashboards.conftest import HOSTILE, STEPS, serving

pytestmark = [pytest.mark.browser, pytest.mark.long]
CANVAS = ".waterfall canvas[data-ready]"


def window(tab: Any) -> tuple[int, int]:
    start, end = tab.locator(CANVAS).get_attribute("data-window").split()
    return int(start), int(end)


def span(filled: Path, name: str) -> str:
    return next(s.span_id for s in Store(filled).load(STEPS).spans if s.name == name)


def selected(tab: Any, span_id: str) -> None:
    """Wait until a step is selected, in the drawing and in the address."""
    tab.wait_for_selector(f'.waterfall canvas[data-selected="{span_id}"]')
    tab.wait_for_url(f"**step={span_id}**" if span_id else lambda url: "step=" not in url)


def test_keys_walk_through_steps_and_along_the_path(tab: Any, dashboard: str, filled: Path) -> None:
    tab.goto(f"{dashboard}/run?run={STEPS}")
    tab.wait_for_selector(CANVAS)
    tab.keyboard.press("j")
    selected(tab, span(filled, "brancher"))
    tab.keyboard.press("j")
    selected(tab, span(filled, "a"))
    tab.get_by_text("node · run/a").wait_for()  # the drawer
    tab.keyboard.press("k")
    selected(tab, span(filled, "brancher"))
    walked = [span(filled, n) for n in ("ask", "slow", "d")]
    for step in walked:
        tab.keyboard.press("c")
        selected(tab, step)
    tab.keyboard.press("Shift+C")
    selected(tab, walked[1])
    tab.get_by_text("secret result").wait_for()
    tab.keyboard.press("Escape")
    selected(tab, "")


def test_the_wheel_zooms_and_dragging_pans_and_folding_hides(tab: Any, dashboard: str, filled: Path) -> None:
    tab.goto(f"{dashboard}/run?run={STEPS}")
    canvas = tab.wait_for_selector(CANVAS)
    whole = window(tab)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] * 0.7, box["y"] + 100
    tab.mouse.move(x, y)
    tab.mouse.wheel(0, -400)
    tab.wait_for_function("() => !document.querySelector('.x')")
    tab.wait_for_function(
        "w => [...document.querySelectorAll('*')].some(e => e.shadowRoot?.querySelector('canvas[data-window]')"
        " && e.shadowRoot.querySelector('canvas').dataset.window !== w)",
        arg=f"{whole[0]} {whole[1]}",
    )
    zoomed = window(tab)
    assert zoomed[1] - zoomed[0] < whole[1] - whole[0]
    tab.mouse.down()
    tab.mouse.move(x - 120, y, steps=4)
    tab.mouse.up()
    panned = window(tab)
    assert panned[0] > zoomed[0]
    assert abs((panned[1] - panned[0]) - (zoomed[1] - zoomed[0])) <= 2
    tab.keyboard.press("f")
    tab.wait_for_selector(f'.waterfall canvas[data-window="{whole[0]} {whole[1]}"]')
    tab.get_by_role("button", name="Fold").click()
    tab.wait_for_selector('.waterfall canvas[data-rows="5"]')  # the call and the tool are folded away
    tab.get_by_role("button", name="Path only").click()
    tab.wait_for_selector('.waterfall canvas[data-rows="4"]')  # b is not on the path


def test_a_step_in_the_address_opens_with_its_drawer(tab: Any, dashboard: str, filled: Path) -> None:
    tool = span(filled, "slow")
    tab.goto(f"{dashboard}/run?run={STEPS}&step={tool}")
    selected(tab, tool)
    tab.get_by_text("ValueError: broken").first.wait_for()


def test_a_filter_goes_into_the_address_and_comes_back(tab: Any, dashboard: str) -> None:
    tab.goto(f"{dashboard}/")
    tab.get_by_test_id("stDataFrame").wait_for()
    tab.keyboard.press("/")
    tab.keyboard.type("brancher")
    tab.wait_for_url("**q=brancher**")
    tab.get_by_text("3 runs, newest first").wait_for()
    tab.goto(f"{dashboard}/?q=brancher&mode=force&sort=slowest")
    tab.get_by_text("2 runs, slowest first").wait_for()
    expect(tab.get_by_label("Search", exact=True)).to_have_value("brancher")


def test_the_name_of_the_default_page_leads_to_it(tab: Any, dashboard: str) -> None:
    """Streamlit puts an inert dialog before a default page that is asked for by name."""
    tab.goto(f"{dashboard}/runs?q=brancher")
    tab.get_by_text("3 runs, newest first").wait_for()
    assert tab.get_by_role("dialog").count() == 0


def test_help_opens_and_closes(tab: Any, dashboard: str) -> None:
    tab.goto(f"{dashboard}/health")
    tab.get_by_text("Nothing was lost").wait_for()
    tab.wait_for_function("window.redecodeKeys !== undefined")  # keys are heard once the page is there
    tab.keyboard.press("?")
    help_ = tab.get_by_role("dialog", name="Keys")
    help_.wait_for()
    assert "along" in help_.inner_text() or "critical path" in help_.inner_text()
    tab.keyboard.press("Escape")
    help_.wait_for(state="detached")


def test_hostile_words_are_drawn_as_words(tab: Any, dashboard: str, filled: Path) -> None:
    """On every page; the fixture fails on any request that leaves this machine, such as a picture in Markdown."""
    call = Store(filled).load(HOSTILE).decodes[0].span_id
    tool = Store(filled).load(HOSTILE).tools[0].span_id
    for page in (f"run?step={call}&", f"run?step={tool}&", "decode?", "blame?slo_s=0.05&", "compare?", "?q=script&"):
        tab.goto(f"{dashboard}/{page}run={HOSTILE}")
        tab.get_by_text("script").first.wait_for(state="attached")
        if page.startswith(("run", "decode")):
            tab.wait_for_selector("canvas[data-ready]")
        assert "owned" not in tab.title()
        assert tab.locator("img[src='x'], img[src*='example.invalid']").count() == 0
    tab.goto(f"{dashboard}/run?run={HOSTILE}&step={call}")
    tab.get_by_text("<img src=x").first.wait_for()


@pytest.mark.parametrize("page", ["decode", "blame", "compare", "sql", "health"])
def test_every_page_opens_in_the_dark_and_on_a_narrow_screen(
    chromium: Any, tab: Any, dashboard: str, page: str
) -> None:
    tab.emulate_media(color_scheme="dark")
    tab.set_viewport_size({"width": 420, "height": 800})
    tab.goto(f"{dashboard}/{page}?run={STEPS}")
    tab.get_by_test_id("stDataFrame").or_(tab.get_by_text("Nothing was lost")).first.wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")


def test_a_run_in_progress_appears_and_ends_without_a_reload(tab: Any, tmp_path: Path) -> None:
    tracer.instrument(tmp_path / "store")
    try:
        with tracer.run("first"):
            pass
        with serving(tmp_path / "store") as url:
            tab.goto(f"{url}/")
            tab.get_by_text("1 runs, newest first").wait_for()
            with tracer.run("second"):
                tab.get_by_text("2 runs, newest first").wait_for()
                run_id = Store(tmp_path / "store").runs()[0].run_id
                tab.goto(f"{url}/run?run={run_id}")
                tab.get_by_text("● running").wait_for()
                with tracer.step("a node"):
                    tab.wait_for_selector('.waterfall canvas[data-rows="2"]')
            tab.get_by_text("✓ ok").wait_for()
            tab.goto("about:blank")
    finally:
        tracer.uninstrument()


def test_ticked_runs_are_opened_and_compared(tab: Any, dashboard: str) -> None:
    tab.goto(f"{dashboard}/?q=brancher&sort=slowest")
    tab.get_by_text("3 runs, slowest first").wait_for()

    def tick(row: int) -> None:
        tab.locator(".dvn-scroller").click(position={"x": 17, "y": 38 + 35 * row + 17})

    tick(0)
    tab.get_by_role("link", name="Slack and blame").last.wait_for()
    tick(1)
    tab.get_by_role("link", name="Compare these 2").click()
    tab.wait_for_url("**/compare?**")
    tab.get_by_text("Where the difference comes from").wait_for()
    assert f"with={'d' * 32}" in tab.url
