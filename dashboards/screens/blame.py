"""Who spent the run's time, what of the SLO was whose, and what would be if a step were faster."""

import hashlib
from typing import Any

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.blaming import Row, arguments, changeable, command, table, waiting
from redecode.dashboards.data import LoadedRun
from redecode.dashboards.measuring import Measurements
from redecode.dashboards.menu import BLAME
from redecode.dashboards.words import DASH, duration, plain, signed, visible
from redecode.replay import RunAnalysis
from redecode.replay.analysis.changes import Change, OffBarrier, Scale
from redecode.replay.analysis.errors import AnalysisError
from redecode.replay.analysis.what_if import what_if

BASES = ("this run", "p50 of others", "p95 of others", "p99 of others")
_MOST_BARS = 15
LABELS = {"labelLimit": 360, "labelOverlap": False}


def show() -> None:
    """Draw it."""
    run_id = shell.run_id()
    if run_id is None:
        shell.no_runs()
        return
    here = shell.current()
    first = here.load(run_id)
    shell.run_heading(first.run)
    shell.run_links(run_id, BLAME)
    slo_s, basis = _settings(first)
    loaded = here.load(run_id, slo_s, None if basis == BASES[0] else basis[:3])
    if loaded.analysis is None:
        st.warning(plain(loaded.why or "", 500), title="This run cannot be analysed", icon=":material/route:")
        return
    _numbers(loaded.analysis)
    _what_if(loaded, loaded.analysis)
    _blame(loaded, loaded.analysis)


def _settings(loaded: LoadedRun) -> tuple[float | None, str]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        slo_s = st.number_input(
            "SLO, s", key="slo_s", bind="query-params", min_value=0.001, value=None, step=0.1, format="%.3g", width=220,
            placeholder="none" if loaded.run.slo_s is None else f"{loaded.run.slo_s:g}, as recorded",
            help="What the run may take. Its budgets and burns follow from it.",
        )  # fmt: skip
        basis = st.segmented_control(
            "Budgets shared out by the times of", BASES, default=BASES[0], required=True, key="basis",
            bind="query-params",
            help="Each step may take of the SLO in proportion to what it took in this run, or takes in others.",
        )  # fmt: skip
    return slo_s, basis or BASES[0]


def _numbers(analysis: RunAnalysis) -> None:
    with st.container(horizontal=True, gap="small"):
        st.metric("Latency", duration(analysis.makespan_ns), border=True, width=140)
        if analysis.headroom_ns is not None and analysis.deadline_ns is not None:
            st.metric("SLO", duration(analysis.deadline_ns - analysis.start_ns), border=True, width=140)
            word = "✗ missed by" if analysis.headroom_ns < 0 else "✓ met with"
            st.metric(f"SLO {word}", duration(abs(analysis.headroom_ns)), border=True, width=160)
        st.metric(
            "Barrier cost", duration(analysis.barrier_cost_ns), border=True, width=150,
            help="How much shorter the run would be if each step waited for its data alone.",
        )  # fmt: skip
        if analysis.person_ns:
            st.metric("Waited for a person", duration(analysis.person_ns), border=True, width=180)
    if analysis.deadline_ns is None:
        st.caption("The run has no SLO: give one above to see budgets and who burnt more than theirs.")
    if analysis.no_profile:
        st.caption(f"{len(analysis.no_profile)} parts have no times in other runs: their own stand in.")
    for warning in analysis.warnings[:3]:
        st.caption(f"⚠ {plain(warning, 300)}")


def _blame(loaded: LoadedRun, analysis: RunAnalysis) -> None:
    everything = st.toggle("Steps off the critical path, too", key="all", bind="query-params")
    rows = table(loaded, analysis, everything=everything)
    _bars([r for r in rows if r.path_ns], budgets=analysis.deadline_ns is not None)
    columns: dict[str, list[Any]] = {
        "step": [visible(r.step) for r in rows],
        "what": [r.what.replace("_", " ") for r in rows],
        "on the path": [duration(r.path_ns) if r.path_ns else DASH for r in rows],
        "of the run": [r.path_ns / analysis.makespan_ns if analysis.makespan_ns else 0.0 for r in rows],
        "drag": [duration(r.drag_ns) if r.path_ns else DASH for r in rows],
        "total float": [duration(r.float_ns) for r in rows],
    }
    if analysis.deadline_ns is not None:
        columns["budget"] = [duration(r.budget_ns) for r in rows]
        columns["burn"] = [signed(r.burn_ns) for r in rows]
        columns["deadline slack"] = [signed(r.margin_ns) for r in rows]
    st.dataframe(
        columns, hide_index=True, alt="What each step took, might have taken, and kept waiting",
        column_config={"of the run": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)},
    )  # fmt: skip
    st.caption(
        f"On the path: {duration(sum(r.path_ns for r in rows))} in all, which is the run. Drag: what the run gains if "
        "the step took no time; 0 beside another branch as long. Float: how much later it may end and the run ends no "
        "later. Burn: actual − budget."
    )


def _bars(rows: list[Row], *, budgets: bool) -> None:
    shown = rows[:_MOST_BARS]
    data: dict[str, list[Any]] = {"step": [], "ms": [], "is": [], "budget": []}
    for row in shown:
        name = f"{'gap before ' if row.what == 'gap before' else ''}{visible(row.step)}"
        over = row.burn_ns is not None and row.burn_ns > 0
        within = row.path_ns - max(row.burn_ns or 0, 0) if over else row.path_ns
        for ms, what in ((within, "within budget" if budgets else "time"), (row.path_ns - within, "over budget")):
            if ms > 0:
                for column, value in zip(
                    data.values(), (name, ms / 1e6, what, (row.budget_ns or 0) / 1e6), strict=True
                ):
                    column.append(value)
    order = list(dict.fromkeys(data["step"]))
    kinds = ["within budget", "over budget"] if budgets else ["time"]
    height = (90 if budgets else 60) + 22 * len(order)
    spec = {
        "mark": {"type": "bar", "height": 13},
        "encoding": {
            "y": {"field": "step", "type": "nominal", "sort": order, "title": None, "axis": LABELS},
            "x": {"field": "ms", "type": "quantitative", "title": "on the critical path, ms"},
            "color": {
                "field": "is", "type": "nominal", "legend": {"title": None, "orient": "top"} if budgets else None,
                "scale": {"domain": kinds, "range": ["#60a5fa", "#ea580c"]},
            },
            "tooltip": [{"field": "step"}, {"field": "is"}, {"field": "ms", "format": ".1f"}],
        },
    }  # fmt: skip
    if data["step"]:
        st.vega_lite_chart(data, spec, height=height, alt="Time on the critical path, step by step")


def _what_if(loaded: LoadedRun, analysis: RunAnalysis) -> None:
    assert loaded.cut is not None
    cut, steps = loaded.cut, changeable(loaded)
    with st.container(border=True):
        st.markdown("###### What if")
        if not steps:
            st.caption("No tools or FM calls to change in this run.")
            return
        chosen = st.multiselect(
            "Steps to change", steps, default=steps[:2], key="change", bind="query-params",
            help="A tool or FM by its name: all its calls. A step key: that step alone.",
        )  # fmt: skip
        factors: dict[str, float] = {}
        for place, step in zip(st.columns(max(1, min(3, len(chosen)))) * len(chosen), chosen, strict=False):
            percent = place.slider(
                f"{plain(step, 70)}: takes %", 0, 200, 100, 5, format="%d %%",
                key=f"w_{hashlib.sha256(step.encode()).hexdigest()[:8]}", bind="query-params",
            )  # fmt: skip
            if percent != 100:
                factors[step] = percent / 100
        barriers = waiting(analysis, cut)
        loosened: list[str] = []
        if barriers:
            loosened = st.multiselect(
                "Nodes off the barrier", barriers, key="off", bind="query-params",
                help="They wait, and are waited for, for data alone.",
            )  # fmt: skip
        changes: list[Change] = [*(Scale(s, f) for s, f in factors.items()), *(OffBarrier(s) for s in loosened)]
        _predicted(loaded, analysis, changes, factors, loosened)


def _predicted(
    loaded: LoadedRun, analysis: RunAnalysis, changes: list[Change], factors: dict[str, float], loosened: list[str]
) -> None:
    assert loaded.cut is not None
    if not changes:
        st.caption("Move a slider: 50 % is twice as fast, 0 % takes no time. The prediction is there at once.")
        return
    try:
        outcome = what_if(loaded.cut, changes)
    except AnalysisError as error:
        st.warning(plain(str(error), 500))
        return
    with st.container(horizontal=True, gap="small"):
        st.metric("Recorded", duration(outcome.recorded_ns), border=True, width=140)
        st.metric(
            "Predicted", duration(outcome.predicted_ns), signed(-outcome.gain_ns), delta_color="inverse", border=True,
            width=170,
        )  # fmt: skip
        if analysis.headroom_ns is not None:
            left = analysis.headroom_ns + outcome.gain_ns
            met = left >= 0
            st.metric(
                "Headroom then", signed(left), "met" if met else "missed", border=True, width=170,
                delta_arrow="up" if met else "down", delta_color="normal" if met else "inverse",
            )  # fmt: skip
    for note in outcome.notes:
        st.caption(plain(note, 300))
    st.caption("The same prediction, held against replays on an engine:")
    st.code(command(loaded.run.run_id, factors, loosened), language=None)
    _measured(arguments(loaded.run.run_id, factors, loosened))


@st.cache_resource
def _measurements() -> Measurements:
    return Measurements()


@st.fragment
def _measured(wanted: list[str]) -> None:
    """The button that runs the command, and what came of it."""
    place = st.container(horizontal=True, vertical_alignment="bottom")
    url = place.text_input(
        "Engine", key="engine_url", placeholder="the engine started in this store", width=300,
        label_visibility="collapsed", help="URL of another one, as http://127.0.0.1:8000",
    )  # fmt: skip
    asked = [*wanted, "--engine", url.strip()] if url and url.strip() else wanted
    one = _measurements().get(asked)
    running = one is not None and one.running
    if place.button("Measure it", icon=":material/timer:", disabled=running, key="measure"):
        if not _measurements().begin(asked, shell.current().location):
            st.warning("Another measurement is under way; two at a time would measure each other.")
        one = _measurements().get(asked)
        running = one is not None and one.running
    if one is None:
        return
    if running:
        _progress(asked)
    elif one.found is None:
        st.warning(plain(one.error or "", 1000), title="It could not be measured", icon=":material/timer_off:")
    else:
        _outcome(one.found)


@st.fragment(run_every=1.0)
def _progress(asked: list[str]) -> None:
    one = _measurements().get(asked)
    if one is None or not one.running:
        st.rerun()
        return
    place = st.container(horizontal=True, vertical_alignment="center")
    place.caption(f"Replaying on the engine, as it was and changed in turns… {one.took_s:.0f} s")
    if place.button("Stop", key="stop_measuring"):
        one.stop()


def _outcome(found: dict[str, Any]) -> None:
    """Predicted against measured."""
    before, after = found["baseline"], found["measured"]
    with st.container(horizontal=True, gap="small"):
        st.metric("Unchanged, replayed", duration(before["median_ns"]), border=True, width=180)
        st.metric("Predicted of these", duration(found["predicted_ns"]), border=True, width=170)
        st.metric(
            "Measured", duration(after["median_ns"]), f"prediction off by {signed(found['error_ns'])}",
            delta_color="off", delta_arrow="off", border=True, width=230,
        )  # fmt: skip
    noise = f"{duration(after['low_ns'])} to {duration(after['high_ns'])}"
    word = "✓ within" if found["within_noise"] else "✗ outside of"
    tells = (
        "" if found["telling"] or not found["within_noise"] else " The noise is wider than the gain, and tells little."
    )
    st.caption(
        f"The prediction is {word} the noise of the measurement ({noise}: where one more replay would fall 19 times of "
        f"20; {after['n']} replays of each kind).{tells}"
    )
    for warning in found["warnings"][:2]:
        st.caption(f"⚠ {plain(warning, 300)}")


shell.page(show)
