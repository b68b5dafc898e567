"""Whether runs meet their SLO, when they did not, and which steps burn it."""

from typing import Any

import numpy as np
import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.data import SUMMED
from redecode.dashboards.listing import Filter, Listing, Mask
from redecode.dashboards.words import DASH, duration, plain, seconds, share, signed, time_format, visible
from redecode.replay.analysis.aggregate import Aggregate

_BINS = 40


def show() -> None:
    """Draw it."""
    here = shell.current()
    everything = here.runs()
    if not len(everything):
        shell.no_runs()
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        agents = sorted(set(everything.agent))
        agent = st.selectbox("Agent", agents, key="of", bind="query-params", index=None, placeholder="all", width=280)
        target = st.number_input(
            "SLO, s", key="slo_target", bind="query-params", min_value=0.001, value=None, step=0.1, format="%.3g",
            placeholder="as recorded", width=220, help="For runs that were recorded without one.",
        )  # fmt: skip
        objective = st.slider(
            "To be met by % of the runs", 50, 100, 95, key="objective", bind="query-params", width=260,
            help="What is missing to 100 % is the error budget.",
        )  # fmt: skip
    runs = here.listing(target)
    picked = runs.pick(Filter(agent=(agent,) if agent else (), mode=("recorded",)))
    met, judged = runs.attained(picked)
    if not judged:
        st.info(
            "Give one above, or record with one: `redecode record --slo 1.5 -- python app.py`.",
            title="No recorded run here has an SLO",
            icon=":material/flag:",
        )
        return
    _numbers(runs, picked, met, judged, objective)
    _over_time(runs, picked, objective)
    _histogram(runs, picked)
    ids = [runs.columns.run_id[int(n)] for n in np.flatnonzero(picked)[:SUMMED]]
    own = any(runs.columns.slo_s[int(n)] is not None for n in np.flatnonzero(picked)[:SUMMED])
    _steps(here.summed(tuple(ids), None if own else target), len(ids), int(picked.sum()))


def _numbers(runs: Listing, picked: Mask, met: int, judged: int, objective: int) -> None:
    allowed = judged * (100 - objective) / 100
    missed = judged - met
    with st.container(horizontal=True, gap="small"):
        ok = missed <= allowed
        st.metric(
            "SLO met", share(met / judged), "objective met" if ok else "objective missed", border=True, width=200,
            delta_arrow="up" if ok else "down", delta_color="normal" if ok else "inverse",
        )  # fmt: skip
        st.metric("Missed", f"{missed:,} of {judged:,}", border=True, width=190)
        spent = missed / allowed if allowed else None
        st.metric(
            "Error budget spent", DASH if spent is None else f"{spent:.0%}", border=True, width=190,
            help=f"{allowed:.1f} of these runs may miss it",
        )  # fmt: skip
        p50, p95, p99 = runs.quantiles(picked)
        for name, value in (("p50", p50), ("p95", p95), ("p99", p99)):
            st.metric(name, seconds(value), border=True, width=130)


def _over_time(runs: Listing, picked: Mask, objective: int) -> None:
    stretches = [s for s in runs.over_time(picked) if s.attained is not None]
    if len(stretches) < 2:
        return
    data = {
        "at": [s.start_ns // 1_000_000 for s in stretches],
        "met": [s.attained for s in stretches],
        "runs": [s.runs for s in stretches],
        "objective": [objective / 100] * len(stretches),
        "is": ["met" if (s.attained or 0) >= objective / 100 else "missed" for s in stretches],
    }
    axis = {"format": time_format(stretches[0].start_ns, stretches[-1].start_ns), "labelOverlap": True}
    x = {"field": "at", "type": "temporal", "title": None, "scale": {"type": "utc"}, "axis": axis}
    y = {
        "field": "met", "type": "quantitative", "title": "SLO met",
        "axis": {"format": "%"}, "scale": {"domain": [0, 1]},
    }  # fmt: skip
    spec = {
        "layer": [
            {
                "mark": {"type": "bar"},
                "encoding": {
                    "x": x, "y": y,
                    "color": {
                        "field": "is", "type": "nominal", "legend": {"title": "objective", "orient": "top"},
                        "scale": {"domain": ["met", "missed"], "range": ["#60a5fa", "#ea580c"]},
                    },
                    "tooltip": [
                        {"field": "at", "type": "temporal", "format": "%Y-%m-%d %H:%M:%S", "title": "from (UTC)"},
                        {"field": "met", "format": ".1%"}, {"field": "runs", "format": ","},
                    ],
                },
            },
            {
                "mark": {"type": "line", "strokeDash": [6, 4], "color": "#b91c1c"},
                "encoding": {"x": x, "y": {"field": "objective", "type": "quantitative"}},
            },
        ]
    }  # fmt: skip
    st.vega_lite_chart(data, spec, height=220, alt="Part of the runs that met their SLO, over time, and the objective")


def _histogram(runs: Listing, picked: Mask) -> None:
    took = runs.duration_s[picked]
    slo = runs.slo_s[picked]
    ended = ~np.isnan(took)
    if not ended.any():
        return
    most = float(np.percentile(took[ended], 99.5)) * 1.05 or 1.0
    edges = np.linspace(0, most, _BINS + 1)
    data: dict[str, list[Any]] = {"from": [], "to": [], "runs": [], "is": []}
    with np.errstate(invalid="ignore"):
        kinds = (("met", took <= slo), ("missed", took > slo), ("no SLO", np.isnan(slo)))
    for name, which in kinds:
        counts, _ = np.histogram(np.minimum(took[ended & which], most), bins=edges)
        for n, count in enumerate(counts):
            if count:
                for column, value in zip(
                    data.values(), (float(edges[n]), float(edges[n + 1]), int(count), name), strict=True
                ):
                    column.append(value)
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "bar"},
            "encoding": {
                "x": {"field": "from", "type": "quantitative", "bin": {"binned": True}, "title": "latency, s"},
                "x2": {"field": "to"},
                "y": {"field": "runs", "type": "quantitative", "title": "runs", "stack": True},
                "color": {
                    "field": "is", "type": "nominal", "legend": {"title": None, "orient": "top"},
                    "scale": {"domain": ["met", "missed", "no SLO"], "range": ["#60a5fa", "#ea580c", "#a1a1aa"]},
                },
                "tooltip": [{"field": "is"}, {"field": "from", "format": ".3f"}, {"field": "runs", "format": ","}],
            },
        }
    ]  # fmt: skip
    targets = sorted({float(s) for s in slo[~np.isnan(slo)]})[:5]
    for target in targets:
        if target <= most:
            layers.append(
                {
                    "mark": {"type": "rule", "strokeDash": [6, 4], "color": "#b91c1c", "size": 2},
                    "encoding": {"x": {"datum": target}},
                }
            )
    told = ", ".join(seconds(t) for t in targets)
    st.vega_lite_chart(data, {"layer": layers}, height=240, alt="Latencies of the runs, and their SLO")
    st.caption(f"SLO (dashed): {told}. The last bar holds all that is longer.")


def _steps(summed: Aggregate, taken: int, of: int) -> None:
    st.markdown("###### Which steps burn it")
    if not summed.steps:
        st.caption("Nothing of these runs could be analysed.")
        return
    steps = sorted(summed.steps, key=lambda s: -(s.burn.p95_ns if s.burn else -1))
    st.dataframe(
        {
            "step": [visible(s.step_key or "(the run)") for s in steps],
            "what": [s.kind for s in steps],
            "runs": [s.runs for s in steps],
            "on the path in": [s.on_path for s in steps],
            "of all time": [s.path_share for s in steps],
            "p50": [duration(s.duration.p50_ns) for s in steps],
            "p95": [duration(s.duration.p95_ns) for s in steps],
            "burn p50": [signed(s.burn.p50_ns) if s.burn else DASH for s in steps],
            "burn p95": [signed(s.burn.p95_ns) if s.burn else DASH for s in steps],
            "float p50": [duration(s.total_float.p50_ns) if s.total_float else DASH for s in steps],
        },
        hide_index=True,
        alt="Steps of many runs, the one that burns most of the SLO first",
        column_config={"of all time": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)},
    )
    note = f" Of {of:,} runs the newest {taken:,} are added up." if taken < of else ""
    st.caption(
        plain(
            "Burn: what a step took beyond its latency budget, its share of the SLO in proportion to its time in its "
            f"run. {summed.left_out} runs could not be analysed.{note}",
            400,
        )
    )


shell.page(show)
