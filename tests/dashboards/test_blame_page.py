"""Slack and blame, what-ifs; without a browser."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.dashboards.blaming import changeable, command, table
from redecode.dashboards.data import source
from redecode.dashboards.gains import most_to_gain
from redecode.tracer import EdgeKind, SpanKind, Store
from tests.dashboards.conftest import STEPS, App
from tests.replay.closed_loop.test_engine_replay import run_of
from tests.tracer.export.recorded_runs import Builder, keep

MS = 1_000_000


def metric(at, label: str) -> str:  # type: ignore[no-untyped-def]
    return next(str(m.value) for m in at.metric if m.label == label)


def test_the_table_adds_up_to_the_run(filled: Path) -> None:
    here = source(str(filled))
    for run_id in here.runs().run_id:
        loaded = here.load(run_id, 0.05)
        analysis = loaded.analysis
        assert analysis is not None
        rows = table(loaded, analysis)
        assert sum(r.path_ns for r in rows) == analysis.makespan_ns
        everything = table(loaded, analysis, everything=True)
        assert sum(r.path_ns for r in everything) == analysis.makespan_ns
        assert len(everything) >= len(rows)


def test_who_burnt_the_slo_stands_first(filled: Path) -> None:
    loaded = source(str(filled)).load(STEPS, 0.05)
    assert loaded.analysis is not None
    rows = table(loaded, loaded.analysis, everything=True)
    assert rows[0].step == "run/slow"
    assert rows[0].burn_ns == 42 * MS - 21 * MS
    off = next(r for r in rows if r.step == "run/b")
    assert (off.path_ns, off.float_ns) == (0, 30 * MS)
    assert off.margin_ns == 30 * MS - 50 * MS


def test_drags_of_a_steps_parts_do_not_add_up(tmp_path: Path) -> None:
    """A call of several parts beside a branch 20 ms shorter: without the call the run gains those 20 ms, no more."""
    b = Builder("parts", "9" * 32)
    root = b.span(SpanKind.RUN, "parts", 0, 100)
    call = b.decode("call", 0, 100, root, [1], queue_ns=30 * MS, prefill_ns=30 * MS, decode_ns=40 * MS)
    other = b.tool("other", 0, 80, root)
    for span in (call, other):
        b.edge(root, span, EdgeKind.CALL)
        b.edge(span, root, EdgeKind.JOIN)
    keep(tmp_path / "store", [b.build()])
    loaded = source(str(tmp_path / "store")).load("9" * 32)
    assert loaded.analysis is not None
    assert sum(a.drag_ns for a in loaded.analysis.activities) == 60 * MS
    assert table(loaded, loaded.analysis)[0].drag_ns == 20 * MS
    assert most_to_gain(loaded) == (call, 20 * MS)


def test_an_slo_of_ones_own_shows_budgets(open_page: App, filled: Path) -> None:
    at = open_page(filled, "blame", run=STEPS)
    assert "budget" not in at.dataframe[0].value
    at.number_input(key="slo_s").set_value(0.05).run()
    assert "burn" in at.dataframe[0].value
    assert metric(at, "SLO ✗ missed by") == "50.0 ms"


@pytest.mark.parametrize("basis", ["p50 of others", "p99 of others"])
def test_budgets_may_come_from_other_runs(open_page: App, filled: Path, basis: str) -> None:
    at = open_page(filled, "blame", run=STEPS, slo_s="0.05", basis=basis)
    assert at.segmented_control(key="basis").value == basis
    assert "burn" in at.dataframe[0].value


def test_a_slider_predicts_at_once_and_names_the_command(open_page: App, filled: Path) -> None:
    at = open_page(filled, "blame", run=STEPS, change="slow")
    assert not at.code
    at.slider[0].set_value(50).run()
    assert metric(at, "Predicted") == "79.0 ms"  # 42 ms halved, and b is not in the way
    line = at.code[0].value
    assert line == f"redecode whatif {STEPS[:12]} --step slow=0.5 --measure"
    words = [*shlex.split(line)[1:-1], "--store", str(filled), "--json"]
    said = CliRunner().invoke(app, words)
    assert '"predicted_ns": 79000000' in said.output, said.output


def test_step_keys_are_quoted_in_the_command() -> None:
    line = command("ab" * 16, {"run/a@1[pull:a]/x y": 0.25}, ["run/b@2"])
    assert shlex.split(line)[3:] == ["--step", "run/a@1[pull:a]/x y=0.25", "--data-only", "run/b@2", "--measure"]


def test_a_step_at_once_is_a_cached_one_so_that_calls_can_be_measured_too() -> None:
    assert shlex.split(command("ab" * 16, {"ask": 0.0}, []))[3:] == ["--cached", "ask", "--measure"]


@pytest.fixture
def small_engine() -> Iterator[str]:
    program = Path(__file__).parents[1] / "replay" / "token_engine.py"
    with subprocess.Popen([sys.executable, str(program), "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def measured(at: AppTest) -> AppTest:
    at.button(key="measure").click().run()
    until = time.monotonic() + 60
    while any(b.label == "Stop" for b in at.button) and time.monotonic() < until:
        time.sleep(0.2)
        at.run()
    assert not at.exception
    return at


def test_the_button_measures_on_an_engine(open_page: App, tmp_path: Path, small_engine: str) -> None:
    run = run_of(wait_ms=40)
    keep(tmp_path / "store", [run])
    at = open_page(tmp_path / "store", "blame", run=run.run.run_id, change="wait")
    at.slider[0].set_value(50).run()
    at.text_input(key="engine_url").set_value(small_engine).run()
    measured(at)
    assert metric(at, "Measured").endswith("ms")
    assert metric(at, "Unchanged, replayed").endswith("ms")
    assert any("the noise of the measurement" in c.value for c in at.caption)
    assert len(Store(tmp_path / "store").runs()) == 1 + 11


def test_what_cannot_be_measured_says_why(open_page: App, filled: Path) -> None:
    at = open_page(filled, "blame", run=STEPS, change="slow")
    at.slider[0].set_value(50).run()
    measured(at)
    assert "redecode engine start" in at.warning[-1].value


def test_what_may_be_changed_begins_with_what_matters(filled: Path) -> None:
    found = changeable(source(str(filled)).load(STEPS))
    assert found[:2] == ["slow", "ask"]
    assert "run/slow" in found
