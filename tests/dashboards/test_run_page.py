"""One run, without a browser."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from redecode.tracer import EdgeKind, SpanKind, Store
from redecode.tracer.store.forget import forget
from tests.dashboards.conftest import HOSTILE, STEPS, App, branches
from tests.tracer.export.recorded_runs import Builder, keep


def words(at) -> str:  # type: ignore[no-untyped-def]
    """All that is said on the page, escapes taken out."""
    parts = [e.value for kind in (at.markdown, at.caption, at.code, at.error, at.info, at.warning) for e in kind]
    return "\n".join(map(str, parts)).replace("\\", "")


def test_the_path_is_told_in_a_sentence(open_page: App, filled: Path) -> None:
    at = open_page(filled, "run", run=STEPS)
    assert "critical path is **100 ms**: 42% tools" in words(at)
    assert "run/slow**: 42.0 ms if it took no time" in words(at) or "slow" in words(at)
    assert at.get("bidi_component")


def test_replays_make_the_badge_of_determinism(open_page: App, filled: Path) -> None:
    at = open_page(filled, "run", run=STEPS)
    assert "other tokens in 1 of 2 forced replays" in words(at)
    at = open_page(filled, "run", run="e" * 32)
    assert "same tokens in 1 forced replay" in words(at)


def test_without_a_run_in_the_address_it_is_the_newest(open_page: App, filled: Path) -> None:
    at = open_page(filled, "run")
    newest = max(run.started_ns for run in Store(filled).runs())
    assert Store(filled).load(at.query_params["run"]).run.started_ns == newest


def test_the_drawer_tells_all_of_a_step(open_page: App, filled: Path) -> None:
    run = Store(filled).load(STEPS)
    tool = run.tools[0]
    at = open_page(filled, "run", run=STEPS, step=tool.span_id)
    said = words(at)
    for part in ("run/slow", "ValueError: broken", '"secret": "argument"', "secret result"):
        assert part in said
    call = run.decodes[0]
    at = open_page(filled, "run", run=STEPS, step=call.span_id)
    tokens = next(d.value for d in at.dataframe if "logprob" in d.value)
    assert list(tokens["id"]) == list(call.sampled_ids or ())


def test_a_step_that_is_not_there_is_left_aside(open_page: App, filled: Path) -> None:
    at = open_page(filled, "run", run=STEPS, step="nothing")
    assert "critical path is" in words(at)


def test_an_unknown_run_is_a_sentence_with_a_way_out(open_page: App, filled: Path) -> None:
    at = open_page(filled, "run", run="0" * 32)
    assert "no run starts with" in words(at)
    assert at.page_link[-1].value == "See the runs that are"


def test_a_run_deleted_while_it_is_open_is_a_sentence(
    open_page: App, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    store = tmp_path / "copy"
    shutil.copytree(filled, store)
    at = open_page(store, "run", run=STEPS)
    forget(Store(store), runs=[STEPS])
    at.run()
    assert not at.exception
    assert "no run starts with" in words(at)


def test_what_models_said_is_text(open_page: App, filled: Path) -> None:
    call = Store(filled).load(HOSTILE).decodes[0]
    at = open_page(filled, "run", run=HOSTILE, step=call.span_id)
    answers = [e.value for e in at.code]
    assert any("<img src=x" in a and "\\x1b[31m" in a and "\\u202e" in a for a in answers)
    for element in (*at.markdown, *at.caption, *at.error):
        assert "<script>" not in str(element.value)
        assert "![x](" not in str(element.value)


def metric(at: Any, label: str) -> str:
    return next(str(m.value) for m in at.metric if m.label == label)


def test_the_header_says_what_the_run_cost_or_else_engine_seconds(open_page: App, tmp_path: Path) -> None:
    run = branches()
    store = tmp_path / "store"
    keep(store, [run])
    assert metric(open_page(store, "run", run=STEPS), "Engine seconds") == "23.0 ms"
    (store / "prices.toml").write_text("[m]\ninput = 1000\noutput = 2000\n")  # 3 tokens in, 4 out
    assert metric(open_page(store, "run", run=STEPS), "Cost") == "0.011 USD"
    listed = open_page(store).dataframe[0].value
    assert list(listed["cost (USD)"]) == ["0.011"]
    (store / "prices.toml").write_text("[m]\ninput = 1000\n")
    assert metric(open_page(store, "run", run=STEPS), "Cost") == "–"
    at = open_page(store)
    assert "prices.toml" in at.warning[0].value.replace("\\", "")
    assert len(at.dataframe[0].value) == 1


def test_a_long_run_is_drawn_twice_and_ends_as_any_other(open_page: App, tmp_path: Path) -> None:
    """Before it is known what waited for what, and then; the first drawing gives its place to the second."""
    b = Builder("long", "c" * 32)
    root = b.span(SpanKind.RUN, "long", 0, 9000)
    before = root
    for n in range(2100):
        step = b.tool(f"t{n}", 4 * n, 4 * n + 3, root)
        b.edge(before, step, EdgeKind.CALL if before == root else EdgeKind.RETURN)
        before = step
    b.edge(before, root)
    keep(tmp_path / "store", [b.build()])
    at = open_page(tmp_path / "store", "run", run="c" * 32)
    drawn = [e for e in at.get("bidi_component") if e.proto.component_name.endswith("waterfall")]
    assert len(drawn) == 1
    path = json.loads(drawn[0].proto.json)["path"]["row"]["i4"]
    assert len(base64.b64decode(path)) // 4 >= 2100
    said = words(at)
    assert "The critical path is **9.00 s**" in said
    assert "Finding" not in said
