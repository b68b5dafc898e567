"""One FM call, without a browser."""

from __future__ import annotations

from pathlib import Path

from redecode.tracer import Store
from tests.dashboards.conftest import HOSTILE, STEPS, App


def test_the_longest_call_is_shown_and_all_are_listed(open_page: App, filled: Path) -> None:
    run = next(r for r in Store(filled).runs() if r.decodes > 1)
    loaded = Store(filled).load(run.run_id)
    at = open_page(filled, "decode", run=run.run_id)
    longest = max(loaded.decodes, key=lambda d: d.e2e_ns or 0)
    assert at.selectbox(key="call").value == longest.span_id
    assert len(at.dataframe[0].value) == run.decodes
    labels = {m.label for m in at.metric}
    assert {"TTFT", "queue", "prefill", "decode", "stalls", "unlikely"} <= labels


def test_picking_a_call_puts_it_into_the_address(open_page: App, filled: Path) -> None:
    run = next(r for r in Store(filled).runs() if r.decodes > 1)
    calls = Store(filled).load(run.run_id).decodes
    at = open_page(filled, "decode", run=run.run_id, step=calls[0].span_id)
    assert at.selectbox(key="call").value == calls[0].span_id
    at.selectbox(key="call").set_value(calls[1].span_id).run()
    assert at.query_params["step"] == calls[1].span_id
    assert at.selectbox(key="call").value == calls[1].span_id


def test_the_slider_says_what_is_unlikely(open_page: App, filled: Path) -> None:
    at = open_page(filled, "decode", run=STEPS)

    def unlikely() -> str:
        return next(str(m.value) for m in at.metric if m.label == "unlikely")

    assert unlikely() == "1"  # of logprobs -0.1, -2.5, -0.2, -0.1
    at.slider(key="low").set_value(0.85).run()
    assert unlikely() == "2"


def test_a_call_without_token_times_says_how_to_get_them(open_page: App, filled: Path) -> None:
    at = open_page(filled, "decode", run=HOSTILE)
    assert "step clock" in at.info[0].value
