"""What `redecode tune` found: the verdict with its evidence, the trials, and the configuration it came to."""

from datetime import UTC, datetime
from typing import Any

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.canvas.mount import parallel
from redecode.dashboards.forest import Forest, forests, points
from redecode.dashboards.menu import RUNS
from redecode.dashboards.parallel import MOST, axes_of
from redecode.dashboards.tuned import Measure, Report, Study, Trial, changes, opened
from redecode.dashboards.words import DASH, plain, seconds, visible

KEY = "trials"
PICK = "picked"
NAMES = {"error": "error", "cost": "cost", "latency_s": "latency"}
PAIRS = {"cost and error": ("cost", "error"), "latency and error": ("latency_s", "error"),
         "cost and latency": ("cost", "latency_s")}  # fmt: skip
MARKS = {"decided": "✓ decided", "not finished": "● not finished", "unreadable": "✗ unreadable",
         "text only": "✓ in words alone", "not searched": "– not searched"}  # fmt: skip
VERDICTS = {
    "promote": ("▲ promote", "green"),
    "keep": ("= keep what is in use", "gray"),
    "not enough evidence": ("? not enough evidence", "orange"),
}
STANDINGS = ["incumbent", "on the front", "dominated", "left the race", "misses the SLO"]


def show() -> None:
    """Draw it."""
    found = shell.current().studies()
    if not found:
        st.info(
            "`redecode tune MODULE:SPEC` searches for a better configuration of a graph on its recorded runs; "
            "its studies appear here by themselves, while they run and when they have decided.",
            title="Nothing was tuned in this store yet",
            icon=":material/tune:",
        )
        return
    study = opened(_chosen(found))
    _head(study)
    if study.report is None:
        return
    _decided(study.report)
    _trials(study.report)
    _searched(study)


def _chosen(found: list[Study]) -> Study:
    """The study in the address, else the newest."""
    names = [s.name for s in found]
    by_name = dict(zip(names, found, strict=True))
    if len(found) > 1:
        expander = st.expander(f"{len(found)} studies in this store")
        expander.dataframe(
            {
                "study": [visible(s.name) for s in found],
                "state": [MARKS[s.state] for s in found],
                "verdict": [visible(s.verdict or DASH) for s in found],
                "at (UTC)": [_moment(s.at_ns) for s in found],
                "trials": [len(s.report.trials) if s.report else None for s in found],
            },
            hide_index=True,
            alt="The studies of this store",
        )
    return by_name[shell.pick("Study", "study", names, lambda n: _called(by_name[n]))]


def _called(study: Study) -> str:
    return f"{visible(study.name)} · {visible(study.verdict or MARKS[study.state])}"


def _head(study: Study) -> None:
    report, night = study.report, study.night
    if night is not None:
        why = f" {plain(night.why[:1].upper() + night.why[1:], 600)}." if night.why else ""
        verdict = plain(night.verdict_words or night.verdict, 200)
        st.markdown(f"Night {plain(night.night, 40)} of {plain(night.job, 80)}: **{verdict}**.{why}")
        if night.drift.words:
            st.caption(f"Mix of runs: {plain(night.drift.words, 400)}")
    if study.state == "not searched":
        st.info(plain((night.skipped if night else None) or "no reason was given", 500),
                title="Nothing was searched that night", icon=":material/bedtime:")  # fmt: skip
        return
    if report is None:
        st.error(
            f"{plain(study.why or '', 1000)}. `redecode tune` writes it anew when the study is gone on with "
            "(`--resume`).",
            title="This study cannot be shown",
            icon=":material/error:",
        )
        return
    st.markdown(f"#### {plain(report.agent, 80)}")
    with st.container(horizontal=True, gap="small"):
        if report.decision is not None:
            words, colour = VERDICTS.get(report.decision.verdict, (plain(report.decision.verdict, 60), "gray"))
            st.badge(words, color=colour)  # type: ignore[arg-type]
        elif study.state == "text only":
            st.badge("in words alone", icon=":material/description:", color="gray")
        else:
            st.badge("● not finished", color="blue")
        told = (("searched on", "search"), ("decided on", "held_out"))
        for words, name in told:
            if report.runs.get(name) is not None:
                st.badge(f"{words} {report.runs[name]} runs", color="gray")
        st.badge(f"{len(report.trials)} candidates", color="gray")
        st.badge(plain(_goals(report), 120), icon=":material/flag:", color="gray")
    if study.state == "not finished":
        last = f" The last candidate ended at {plain(report.last, 40)}." if report.last else ""
        st.info(
            f"It goes on, or was stopped; nothing is lost.{last} To go on with a stopped one:\n\n"
            f"`redecode tune {visible(report.spec)} --resume {visible(report.study)}`",
            title="No decision yet",
            icon=":material/hourglass:",
        )
    if study.state == "text only":
        st.caption(f"{plain(study.why or '', 300)}: {plain(str(study.words), 300)}")
    if not report.trials:
        why = f": {plain(report.failures[0].why, 400)}" if report.failures else ""
        st.warning(f"No candidate was evaluated{why}.", icon=":material/report:")


def _goals(report: Report) -> str:
    slo, error = report.goals.get("slo_s"), report.goals.get("most_error")
    parts = [] if slo is None else [f"{report.goals.get('percentile', 95):g} of 100 runs within {slo:g} s"]
    parts += [] if error is None else [f"error at most {error:g}"]
    return "; ".join(parts) or "no SLO"


def _decided(report: Report) -> None:
    decision = report.decision
    if decision is None:
        return
    told = visible(report.verdict or decision.verdict)
    why = f" {plain(decision.why[:1].upper() + decision.why[1:], 800)}." if not decision.finalists else ""
    st.markdown(f"**{plain(told[:1].upper() + told[1:], 200)}.**{why}")
    for finalist in decision.finalists:
        p = "" if finalist.p_adjusted is None else f" (p = {finalist.p_adjusted:.3g} after Holm)"
        reasons = "; ".join(finalist.why) or "no reason was given"
        st.markdown(f"{plain(finalist.name, 60)}: **{plain(finalist.verdict, 60)}**{p}: {plain(reasons, 800)}.")
    if report.cut:
        st.caption(f"⚠ The decision ended early: {plain(report.cut, 300)}")
    left, right = st.columns([1.25, 1], gap="medium")
    with left:
        _forests(report)
    with right:
        _changes(report)
    _lanes(report)


def _forests(report: Report) -> None:
    charts = forests(report)
    if not charts:
        return
    st.markdown("###### Finalists against the incumbent")
    for chart in charts:
        _forest(chart)
    st.caption(
        "◀ better   ● within the margin   ◆ not certain   ✚ worse than the margin (dashed: as much worse as it may "
        "be). Point and interval: one-sided 95 % bounds on "
        f"{report.decision.pairs if report.decision else 0} pairs of runs; left of 0 is better."
    )


def _forest(chart: Forest) -> None:
    axis = f"{chart.name}, difference in {chart.unit}"
    y = {"field": "finalist", "type": "nominal", "title": None, "axis": {"labelLimit": 110}}
    kinds = ["better", "within the margin", "not certain", "worse than the margin", "not known"]
    colour = {
        "field": "is", "type": "nominal", "legend": None,
        "scale": {"domain": kinds[:4], "range": ["#16a34a", "#2563eb", "#d97706", "#dc2626"]},
    }  # fmt: skip
    shape = {
        "field": "is", "type": "nominal", "legend": None,
        "scale": {"domain": kinds[:4], "range": ["triangle-left", "circle", "diamond", "cross"]},
    }  # fmt: skip
    x = {"type": "quantitative", "title": axis}
    tips = [{"field": "finalist"}, {"field": "is"}, {"field": "estimate", "format": "+.2f"},
            {"field": "low", "format": "+.2f"}, {"field": "high", "format": "+.2f"}]  # fmt: skip
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "rule", "color": "#71717a"}, "encoding": {"x": {"datum": 0}}},
        {"mark": {"type": "rule", "size": 2.5},
         "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour, "tooltip": tips}},
        {"mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
         "encoding": {"x": {**x, "field": "estimate"}, "y": y, "color": colour, "shape": shape, "tooltip": tips}},
    ]  # fmt: skip
    if chart.margin is not None:
        margin = {"type": "rule", "strokeDash": [6, 4], "color": "#b91c1c", "size": 1.5}
        layers.append({"mark": margin, "encoding": {"x": {"datum": chart.margin}}})
    columns = {name: [row[name] for row in chart.rows] for name in chart.rows[0]}
    st.vega_lite_chart(
        columns, {"layer": layers}, height=104 + 30 * len(chart.rows),
        alt=f"Finalists against the incumbent: {axis}",
    )  # fmt: skip


def _changes(report: Report) -> None:
    decision = report.decision
    if decision is None:
        return
    name = decision.chosen
    if name is None and report.finalists:
        best = min(decision.finalists, key=lambda f: f.p_adjusted if f.p_adjusted is not None else 1.0, default=None)
        name = best.name if best else next(iter(report.finalists))
    becomes = report.finalists.get(name or "") or report.chosen or report.incumbent
    title = "What it changes" if decision.chosen else f"What {plain(name, 60)} would change" if name else "In use"
    st.markdown(f"###### {title}")
    rows = changes(report.incumbent, becomes)
    different = sum(was != now for _, was, now in rows)
    st.dataframe(
        {
            "": ["≠" if was != now else "" for _, was, now in rows],
            "knob": [visible(knob) for knob, _, _ in rows],
            "in use": [visible(was) for _, was, _ in rows],
            "becomes" if decision.chosen else "candidate": [visible(now) for _, _, now in rows],
        },
        hide_index=True,
        alt="The configuration in use beside the candidate's",
    )
    if decision.chosen:
        st.caption(f"{different} of {len(rows)} knobs differ. The graph loads it from tuned.toml beside the report.")


def _lanes(report: Report) -> None:
    if not report.lanes:
        st.caption("Nothing was run on held-out runs.")
        return
    st.markdown("###### Held-out runs, lane by lane")
    called = {"observed": "as observed", "incumbent": "incumbent, run again"}
    lanes = report.lanes
    st.dataframe(
        {
            "lane": [visible(called.get(name, name)) for name in lanes],
            "runs": [m.runs for m in lanes.values()],
            "error": [_number(m.error) if m.scored else DASH for m in lanes.values()],
            f"cost ({report.cost_unit})": [
                DASH if name == "observed" else _number(m.cost) for name, m in lanes.items()
            ],
            f"p{report.goals.get('percentile', 95):g}": [seconds(m.latency_s) for m in lanes.values()],
            "median": [seconds(m.median_s) for m in lanes.values()],
            "missed the SLO": [m.missed for m in lanes.values()],
            "failed": [m.failed for m in lanes.values()],
        },
        hide_index=True,
        alt="The held-out runs as observed, of the incumbent run again, and of each finalist",
    )
    with st.container(horizontal=True, gap="small"):
        for name in lanes:
            if name != "observed":
                _runs_link(f"Runs of {visible(called.get(name, name))}", report, f"tune.lane={name}")
    st.caption("The incumbent, run again, says what running it once more changes by itself.")


def _trials(report: Report) -> None:
    if not report.trials:
        return
    st.markdown("##### Trials")
    numbers = [t.number for t in report.trials]
    asked = st.query_params.get("trial", "")
    chosen = int(asked) if asked.isdecimal() and int(asked) in numbers else None
    left, right = st.columns([1.25, 1], gap="medium")
    with left:
        _front(report, chosen)
    with right:
        _importances(report)
    axes = axes_of(report, [(name, _axis_title(report, name)) for name in NAMES])
    shown = report.trials[-MOST:]
    parallel(
        {
            "study": report.study,
            "axes": [axis.to_json() for axis in axes],
            "trials": [t.number for t in shown],
            "standing": [report.standing(t) for t in shown],
            "selected": chosen,
        },
        key=KEY,
        on_trial=_picked,
    )
    if len(report.trials) > MOST:
        st.caption(f"The newest {MOST:,} of {len(report.trials):,} trials are drawn.")
    trial = next((t for t in report.trials if t.number == chosen), None)
    if trial is not None:
        _trial(report, trial)
    _as_a_table(report)


def _picked() -> None:
    """The drawing says which trial was chosen: into the address with it."""
    _choose(st.session_state[KEY].trial)


def _clicked(key: str, chosen: int | None) -> None:
    """A point of the chart: chosen, or let go if it is the one that was."""
    points = st.session_state[key].selection[PICK]
    if points:
        trial = int(points[0]["trial"])
        _choose(None if trial == chosen else trial)


def _choose(trial: int | None) -> None:
    shell.address("trial", None if trial is None else str(int(trial)))


def _axis_title(report: Report, name: str) -> str:
    percentile = f"{report.goals.get('percentile', 95):g}"
    return {"error": "error", "cost": f"cost, {report.cost_unit}", "latency_s": f"latency p{percentile}, s"}[name]


def _front(report: Report, chosen: int | None) -> None:
    pair = st.segmented_control("Axes", list(PAIRS), default="cost and error", required=True, key="axes",
                                bind="query-params", label_visibility="collapsed")  # fmt: skip
    x, y = PAIRS[pair or "cost and error"]
    rows = points(report, x, y)
    if not rows:
        st.caption("No trial has both values.")
        return
    there = [s for s in STANDINGS if any(row["is"] == s for row in rows)]
    rows.sort(key=lambda row: row["is"] in STANDINGS[:2])  # drawn last, over the others
    colours = dict(zip(STANDINGS, ["#7c3aed", "#ea580c", "#64748b", "#94a3b8", "#dc2626"], strict=True))
    shapes = dict(zip(STANDINGS, ["square", "diamond", "circle", "triangle-right", "cross"], strict=True))
    legend = {"title": None, "orient": "top", "symbolSize": 90, "columns": 2}
    scale = {"zero": False, "nice": True}
    spec: dict[str, Any] = {
        "params": [{"name": PICK, "select": {"type": "point", "fields": ["trial"], "toggle": False}}],
        "mark": {"type": "point", "size": 75, "strokeWidth": 1.8, "cursor": "pointer"},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": _axis_title(report, x), "scale": scale},
            "y": {"field": "y", "type": "quantitative", "title": _axis_title(report, y), "scale": scale},
            "color": {"field": "is", "type": "nominal", "legend": legend,
                      "scale": {"domain": there, "range": [colours[s] for s in there]}},
            "fill": {"condition": {"test": "datum.is === 'on the front'", "value": colours["on the front"]},
                     "value": "transparent"},
            "shape": {"field": "is", "type": "nominal", "legend": legend,
                      "scale": {"domain": there, "range": [shapes[s] for s in there]}},
            "tooltip": [{"field": "trial"}, {"field": "is"}, {"field": "x", "title": _axis_title(report, x)},
                        {"field": "y", "title": _axis_title(report, y)}, {"field": "candidate"}],
            "size": {"condition": {"test": f"datum.trial === {chosen}", "value": 320}, "value": 75},
            "strokeWidth": {"condition": {"test": f"datum.trial === {chosen}", "value": 4}, "value": 1.8},
        },
    }  # fmt: skip
    if chosen is None:
        del spec["encoding"]["size"], spec["encoding"]["strokeWidth"]
    key = f"front {report.study} {pair} {chosen}"  # another one each time: what was clicked before can be clicked again
    st.vega_lite_chart(
        {name: [row[name] for row in rows] for name in rows[0]}, spec, height=330, key=key, selection_mode=PICK,
        on_select=lambda: _clicked(key, chosen),
        alt=f"Trials by {pair}; those on the feasible front are diamonds",
    )  # fmt: skip
    st.caption(
        "To the lower left is better; click a point for its trial. The front is of trials that keep the SLO, over "
        "error, cost and latency together: on two axes one may look dominated."
    )


def _importances(report: Report) -> None:
    st.markdown("###### What each knob explains")
    rows = [
        {"knob": visible(knob), "objective": NAMES.get(objective, visible(objective)), "share": share}
        for objective, found in report.importances.items()
        for knob, share in found.items()
    ]
    if not rows:
        st.caption("Not known: too few trials, or nothing varied.")
        return
    weight: dict[str, float] = {}
    for found in report.importances.values():
        for knob, share in found.items():
            weight[visible(knob)] = weight.get(visible(knob), 0.0) + share
    order = sorted(weight, key=lambda knob: -weight[knob])
    spec = {
        "mark": {"type": "bar"},
        "encoding": {
            "y": {"field": "knob", "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 150}},
            "yOffset": {"field": "objective", "sort": list(NAMES.values())},
            "x": {"field": "share", "type": "quantitative", "axis": {"format": "%"}, "title": "of the variance"},
            "color": {"field": "objective", "type": "nominal", "sort": list(NAMES.values()),
                      "scale": {"domain": list(NAMES.values()), "range": ["#2563eb", "#0d9488", "#d97706"]},
                      "legend": {"title": None, "orient": "top"}},
            "tooltip": [{"field": "knob"}, {"field": "objective"}, {"field": "share", "format": ".0%"}],
        },
    }  # fmt: skip
    st.vega_lite_chart(
        {name: [row[name] for row in rows] for name in rows[0]}, spec, height=max(200, 46 * len(order) + 130),
        alt="What each knob explains of each objective",
    )  # fmt: skip
    st.caption("Share of the objective's variance (PED-ANOVA); of a few trials it says little.")


def _trial(report: Report, trial: Trial) -> None:
    with st.container(border=True):
        st.markdown(f"###### Trial {trial.number}: {report.standing(trial)}")
        if trial.out:
            st.caption(f"After {trial.measured.runs} runs: {plain(trial.out, 400)}")
        left, right = st.columns(2)
        rows = changes(report.incumbent, trial.candidate)
        left.dataframe(
            {
                "": ["≠" if was != now else "" for _, was, now in rows],
                "knob": [visible(knob) for knob, _, _ in rows],
                "in use": [visible(was) for _, was, _ in rows],
                f"trial {trial.number}": [visible(now) for _, _, now in rows],
            },
            hide_index=True,
            alt=f"The configuration of trial {trial.number} beside the one in use",
        )
        right.dataframe(_measured(trial.measured, report), hide_index=True, alt=f"What trial {trial.number} came to")
        with right:
            _runs_link(f"Runs of trial {trial.number}", report, f"tune.trial={trial.number}")


def _measured(measured: Measure, report: Report) -> dict[str, list[str]]:
    rows = {
        "error": f"{_number(measured.error)} ± {_number(measured.error_se)}",
        f"cost, {report.cost_unit}": f"{_number(measured.cost)} ± {_number(measured.cost_se)}",
        _axis_title(report, "latency_s"): seconds(measured.latency_s),
        "median": seconds(measured.median_s),
        "missed the SLO": f"{measured.missed} of {measured.runs}",
        "failed": str(measured.failed),
    }
    return {"of its runs": list(rows), "": list(rows.values())}


def _runs_link(words: str, report: Report, label: str) -> None:
    st.page_link(
        RUNS.script, label=words, icon=":material/list:", query_params={"q": f"tune.study={report.study} {label}"}
    )


def _as_a_table(report: Report) -> None:
    expander = st.expander("The trials as a table", on_change="rerun", key="as_a_table")
    if not expander.open:
        return
    knobs = list(dict.fromkeys(name for t in report.trials for name in t.candidate))
    expander.dataframe(
        {
            "trial": [t.number for t in report.trials],
            "is": [report.standing(t) for t in report.trials],
            "error": [t.measured.error for t in report.trials],
            f"cost ({report.cost_unit})": [t.measured.cost for t in report.trials],
            _axis_title(report, "latency_s"): [t.measured.latency_s for t in report.trials],
            **{visible(k): [visible(str(t.candidate.get(k, DASH))) for t in report.trials] for k in knobs},
            "left because": [visible(t.out or "") for t in report.trials],
        },
        hide_index=True,
        alt="Every trial of the study",
    )


def _searched(study: Study) -> None:
    report = study.report
    if report is None:
        return
    calls = report.fm_calls
    told = [f"spec {report.spec}"] if report.spec else []
    told += [report.fidelity] if report.fidelity else []
    told += [f"ended: {report.stopped}"] if report.stopped else []
    if calls:
        told.append(f"{calls.get('made') or 0:g} FM calls made, {calls.get('from_memo') or 0:g} answered from the memo")
    told += [] if report.seconds is None else [seconds(report.seconds)]
    st.caption(plain(" · ".join(told), 800))
    for note in report.notes[:8]:
        st.caption(f"· {plain(note, 400)}")
    for failure in report.failures[:3]:
        what = ", ".join(f"{k}={v}" for k, v in failure.candidate.items())
        st.caption(f"⚠ could not be evaluated: {plain(what, 300)}: {plain(failure.why, 300)}")


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4g}"


def _moment(ns: int) -> str:
    return DASH if not ns else datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M")


shell.page(show)
