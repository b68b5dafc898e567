"""What only a browser can tell: the canvas, keys, addresses in and out, hostile text, news of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from redecode import tracer
from redecode.dashboards.parallel import axes_of
from redecode.dashboards.tuned import studies_in
from redecode.tracer import Store
from tests.dashboards.conftest import HOSTILE, STEPS

pytestmark = [pytest.mark.browser, pytest.mark.long]
CANVAS = ".waterfall canvas[data-ready]"


def window(tab: Any) -> tuple[int, int]:
    start, end = tab.locator(CANVAS).get_attribute("data-window").split()
    return int(start), int(end)


def settled(tab: Any) -> tuple[int, int]:
    """The window once it has stopped moving."""
    before, now = None, window(tab)
    while before != now:
        tab.wait_for_timeout(200)
        before, now = now, window(tab)
    return now


def span(filled: Path, name: str) -> str:
    return next(s.span_id for s in Store(filled).load(STEPS).spans if s.name == name)


def selected(tab: Any, span_id: str) -> None:
    """Wait until a step is selected, in the drawing and in the address."""
    tab.wait_for_selector(f'.waterfall canvas[data-selected="{span_id}"]')
    tab.wait_for_url(f"**step={span_id}**" if span_id else lambda url: "step=" not in url)


WATCH = """sel => {
  const canvas = document.querySelector(sel) ?? [...document.querySelectorAll('*')]
    .map(e => e.shadowRoot?.querySelector('canvas[data-selected]')).find(Boolean);
  window.chosen = [];
  new MutationObserver(() => {
    const now = canvas.dataset.selected;
    if (now !== window.chosen.at(-1)) window.chosen.push(now);
  }).observe(canvas, { attributes: true, attributeFilter: ['data-selected'] });
}"""


def test_keys_walk_through_steps_and_along_the_path(tab: Any, dashboard: str, filled: Path) -> None:
    tab.goto(f"{dashboard}/run?run={STEPS}")
    tab.wait_for_selector(CANVAS)
    tab.wait_for_load_state("networkidle")
    tab.evaluate(WATCH, CANVAS)
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
        tab.wait_for_timeout(160)  # each is told, and its answer comes while the next is chosen
    tab.keyboard.press("Shift+C")
    selected(tab, walked[1])
    tab.get_by_text("secret result").wait_for()
    first = [span(filled, n) for n in ("brancher", "a", "brancher")]
    assert tab.evaluate("window.chosen") == [*first, *walked, walked[1]], "nothing is chosen anew by an answer"
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
    zoomed = settled(tab)  # a browser may send one turn of the wheel in parts
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
    tab.wait_for_function("window.redecodeKeys !== undefined")  # keys are heard once the page is there
    tab.keyboard.press("/")
    expect(tab.get_by_label("Search", exact=True)).to_be_focused()
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
    tab.wait_for_function("window.redecodeKeys !== undefined")
    tab.keyboard.press("?")
    help_ = tab.get_by_role("dialog", name="Keys")
    help_.wait_for()
    assert "along" in help_.inner_text() or "critical path" in help_.inner_text()
    tab.keyboard.press("Escape")
    help_.wait_for(state="detached")


PAGES = (
    "?q=script", "run?step={call}", "run?step={tool}", "decode", "blame?slo_s=0.05", "compare", "slo?slo_target=0.05",
    "engine", "placement?call=0", "tuning?trial=3", "sql", "health",
)  # fmt: skip


def test_every_page_opens_in_the_dark_on_a_narrow_screen_and_draws_hostile_words_as_words(
    tab: Any, dashboard: str, looked_at: Path
) -> None:
    """The fixture fails on errors, and on any request that leaves this machine, such as a picture in Markdown."""
    run = Store(looked_at).load(HOSTILE)
    tab.emulate_media(color_scheme="dark")
    tab.set_viewport_size({"width": 420, "height": 800})
    for page in PAGES:
        address = page.format(call=run.decodes[0].span_id, tool=run.tools[0].span_id)
        tab.goto(f"{dashboard}/{address}{'&' if '?' in address else '?'}run={HOSTILE}")
        drawn = tab.locator('[data-testid="stDataFrame"]:visible, [data-testid="stAlert"], canvas[data-ready]')
        drawn.first.wait_for()
        if page.startswith(("run", "decode", "tuning")):
            tab.wait_for_selector("canvas[data-ready]")
        if not page.startswith(("engine", "sql", "health", "slo")):
            tab.get_by_text("script").first.wait_for(state="attached")
        assert "owned" not in tab.title(), page
        assert tab.locator("img[src='x'], img[src*='example.invalid']").count() == 0, page
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), page
    tab.goto(f"{dashboard}/run?run={HOSTILE}&step={run.decodes[0].span_id}")
    tab.get_by_text("<img src=x").first.wait_for()


def test_trials_are_chosen_by_key_and_click_and_dragging_an_axis_keeps_some(
    tab: Any, dashboard: str, looked_at: Path
) -> None:
    tab.goto(f"{dashboard}/tuning")
    tab.get_by_test_id("stVegaLiteChart").first.wait_for()
    chart = ".parallel canvas"
    canvas = tab.wait_for_selector(f"{chart}[data-ready]")
    (report,) = studies_in(looked_at)
    assert report.report is not None
    trials = [t.number for t in report.report.trials]
    assert canvas.get_attribute("data-kept") == str(len(trials))
    tab.keyboard.press("j")
    tab.wait_for_url(f"**trial={trials[0]}**")
    tab.get_by_text(f"Trial {trials[0]}: incumbent").wait_for()
    tab.keyboard.press("k")  # there is none before
    tab.keyboard.press("j")
    tab.wait_for_url(f"**trial={trials[1]}**")
    canvas = tab.wait_for_selector(f'{chart}[data-selected="{trials[1]}"]')
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    names = [a.name for a in axes_of(report.report, [])]
    wording = int(canvas.get_attribute("data-axes").split()[names.index("wording")])
    x, top, low = box["x"] + wording, box["y"] + 34, box["y"] + box["height"] - 44
    tab.mouse.move(x, top)
    tab.mouse.down()
    tab.mouse.move(x, (top + low) / 2, steps=3)  # the upper choice
    tab.mouse.up()
    upper = report.report.knobs["wording"]["choices"][-1]
    kept = sum(t.candidate["wording"] == upper for t in report.report.trials)
    assert 0 < kept < len(trials)
    tab.wait_for_selector(f'{chart}[data-kept="{kept}"]')
    tab.get_by_text(f"{kept} of {len(trials)} trials pass where you dragged").wait_for()
    tab.mouse.dblclick(x, low + 10)
    tab.wait_for_selector(f'{chart}[data-kept="{len(trials)}"]')
    point = tab.locator(".mark-symbol.role-mark path[aria-label*='trial: ']").last  # the one on top
    number = point.get_attribute("aria-label").partition("trial: ")[2].partition(";")[0]
    assert number.isdecimal()
    assert number != str(trials[1])
    for now in (number, "", number):  # chosen, let go, chosen again
        point.click()
        tab.wait_for_selector(f'{chart}[data-selected="{now}"]')
        tab.wait_for_url(lambda url, now=now: ("trial=" in url) == bool(now) and (not now or f"trial={now}" in url))
    tab.get_by_text(f"Trial {number}:").wait_for()
    tab.goto(f"{dashboard}/tuning?trial={trials[2]}&axes=cost+and+latency")  # an address that was passed on
    tab.wait_for_selector(f'{chart}[data-selected="{trials[2]}"]')
    tab.get_by_text(f"Trial {trials[2]}:").wait_for()
    tab.get_by_role("link", name=f"Runs of trial {trials[2]}").click()
    tab.wait_for_url(f"**tune.trial*{trials[2]}**")
    tab.get_by_text("None of the").wait_for()  # nothing was recorded of it here


def test_decisions_are_filtered_and_one_of_them_opens_by_its_address(tab: Any, dashboard: str) -> None:
    tab.goto(f"{dashboard}/placement")
    tab.get_by_text("What the router decided").wait_for()
    tab.get_by_text("hold", exact=True).click()
    tab.wait_for_url("**action=hold**")
    tab.goto(f"{dashboard}/placement?action=send&call=2")
    tab.get_by_text("Call 2, run/ask").wait_for()


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


def test_a_run_in_progress_appears_and_ends_without_a_reload(tab: Any, dashboard: str, looked_at: Path) -> None:
    """The last one here: it adds to the store."""
    tracer.instrument(looked_at)
    try:
        tab.goto(f"{dashboard}/?q=under-way")
        tab.get_by_text("None of the 14 runs is like that").wait_for()
        with tracer.run("under-way"):
            tab.get_by_text("1 runs, newest first").wait_for()
            (run_id,) = (r.run_id for r in Store(looked_at).runs() if r.status == "open")
            tab.goto(f"{dashboard}/run?run={run_id}")
            tab.get_by_text("● running").wait_for()
            with tracer.step("a node"):
                tab.wait_for_selector('.waterfall canvas[data-rows="2"]')
        tab.get_by_text("✓ ok").wait_for()
        tab.goto("about:blank")
    finally:
        tracer.uninstrument()
