"""What FM calls take on their engine, prefix reuse, load; and the engine profiles with how well they are met."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from redecode.dashboards import fits, shell
from redecode.dashboards.calls import Line, by_model, decode_points, in_flight, line_through, prefill_points
from redecode.dashboards.data import CALLS_OF, Source
from redecode.dashboards.words import DASH, duration, plain, share, time_format, visible
from redecode.replay.analysis.profiles import Quantiles
from redecode.replay.simulator.profile import EngineProfile
from redecode.tracer.store import CallTimes

_MOST_POINTS = 3000


def show() -> None:
    """Draw it."""
    here = shell.current()
    _calls(here)
    _profiles(here)


def _calls(here: Source) -> None:
    everything = here.runs()
    if not len(everything):
        shell.no_runs()
        return
    kinds = ("recorded", "replays", "all")
    which = st.segmented_control(
        "Runs", kinds, default=kinds[0], required=True, key="from", bind="query-params",
        help=f"The newest {CALLS_OF} of them.",
    )  # fmt: skip
    ids = [
        run_id
        for run_id, source in zip(everything.run_id, everything.source_run_id, strict=True)
        if which == "all" or (source is None) == (which == "recorded")
    ]
    calls = here.calls(tuple(ids[:CALLS_OF]))
    if not calls:
        st.info("Record an agent that calls an FM, or look at other runs.", title="No FM calls in these runs")
        return
    models = by_model(calls)
    _models(models)
    names = [m.model for m in models]
    model = names[0]
    if len(names) > 1:
        model = st.selectbox("FM", names, key="fm", bind="query-params", format_func=visible) or names[0]
    mine = [c for c in calls if c.model == model]
    left, right = st.columns(2)
    with left:
        _points("Prefill against prompt tokens that were not cached", prefill_points(mine), "prompt tokens not cached")
    with right:
        _points("Decode against tokens after the first", decode_points(mine), "tokens after the first")
    _load(calls)


def _models(models: Sequence[Any]) -> None:
    def q(found: Quantiles | None, name: str) -> str:
        return DASH if found is None else duration(found.at(name))

    st.dataframe(
        {
            "FM": [visible(m.model or DASH) for m in models],
            "calls": [m.calls for m in models],
            "failed": [m.failed for m in models],
            "TTFT p50": [q(m.ttft, "p50") for m in models],
            "p95": [q(m.ttft, "p95") for m in models],
            "TPOT p50": [q(m.tpot, "p50") for m in models],
            "p95 ": [q(m.tpot, "p95") for m in models],
            "queue p50": [q(m.queue, "p50") for m in models],
            "p95  ": [q(m.queue, "p95") for m in models],
            "E2E p50": [q(m.e2e, "p50") for m in models],
            "p95   ": [q(m.e2e, "p95") for m in models],
            "prompt tokens": [m.prompt_tokens for m in models],
            "from the prefix cache": [share(m.reused) for m in models],
            "sampled tokens": [m.sampled_tokens for m in models],
        },
        hide_index=True,
        alt="Calls of each FM",
    )


def _points(title: str, points: list[tuple[int, int]], axis: str) -> None:
    st.markdown(f"###### {title}")
    if not points:
        st.caption("Not known: the engine does not tell prefill and decode apart (fidelity below `engine`).")
        return
    line = line_through(points)
    step = -(-len(points) // _MOST_POINTS)
    shown = points[::step]
    data: dict[str, list[Any]] = {"tokens": [x for x, _ in shown], "ms": [y / 1e6 for _, y in shown]}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "point", "size": 18, "opacity": 0.6},
            "encoding": {
                "x": {"field": "tokens", "type": "quantitative", "title": axis},
                "y": {"field": "ms", "type": "quantitative", "title": "ms"},
                "tooltip": [{"field": "tokens"}, {"field": "ms", "format": ".2f"}],
            },
        }
    ]
    if line is not None:
        data["fit"] = [(line.base_ns + line.per_token_ns * x) / 1e6 for x, _ in shown]
        layers.append(
            {
                "mark": {"type": "line", "color": "#ea580c", "strokeDash": [6, 4]},
                "encoding": {
                    "x": {"field": "tokens", "type": "quantitative"}, "y": {"field": "fit", "type": "quantitative"},
                },
            }
        )  # fmt: skip
    st.vega_lite_chart(data, {"layer": layers}, height=260, alt=title)
    st.caption(_words(line))


def _words(line: Line | None) -> str:
    if line is None:
        return "Too few points for a line."
    fit = "" if line.r2 is None else f"; it explains {line.r2:.0%} of the variance"
    return f"Least squares (dashed): {duration(line.base_ns)} + {duration(line.per_token_ns)} a token{fit}."


def _load(calls: list[CallTimes]) -> None:
    steps = in_flight(calls)
    if not steps:
        return
    st.markdown("###### FM calls in flight")
    most = max(n for _, n in steps)
    axis = {"format": time_format(steps[0][0], steps[-1][0]), "labelOverlap": True}
    step = -(-len(steps) // _MOST_POINTS)
    shown = steps if step == 1 else [max(steps[i : i + step], key=lambda s: s[1]) for i in range(0, len(steps), step)]
    st.vega_lite_chart(
        {"at": [at / 1e6 for at, _ in shown], "calls": [n for _, n in shown]},
        {
            "mark": {"type": "area", "interpolate": "step-after", "opacity": 0.6, "line": True},
            "encoding": {
                "x": {"field": "at", "type": "temporal", "title": None, "scale": {"type": "utc"}, "axis": axis},
                "y": {"field": "calls", "type": "quantitative", "title": "in flight"},
            },
        },
        height=180,
        alt="FM calls in flight over time",
    )
    st.caption(f"At most {most} at once, of the runs looked at.")


def _profiles(here: Source) -> None:
    """The engine models that simulations run on."""
    st.markdown("##### Engine profiles")
    found = here.engine_profiles()
    for why in found.left_out.values():
        st.warning(plain(why, 500), title="A file is left out", icon=":material/warning:")
    profiles = found.profiles
    if not profiles:
        st.caption("None yet: `redecode profile --engine URL` measures one, `redecode profile --from-store` fits one.")
        return
    st.dataframe(fits.listed(profiles), hide_index=True, alt="Engine profiles of this store")
    keys = {p.key: p for p in profiles}
    key = profiles[0].key
    if len(profiles) > 1:
        key = st.selectbox("Profile", list(keys), key="profile", bind="query-params") or key
    chosen = keys[key]
    left, right = st.columns(2)
    with left:
        st.markdown("###### Steps: measured against predicted")
        _fit(chosen)
    with right:
        st.markdown("###### Residuals by kind of step")
        st.dataframe(fits.residuals(chosen), hide_index=True, alt="Residuals by kind of step")
        st.dataframe(fits.parts(chosen), hide_index=True, alt="What a step is made of")
    st.caption(fits.words(chosen))


def _fit(profile: EngineProfile) -> None:
    data = fits.points(profile)
    if not data["kind"]:
        st.caption("This profile keeps no steps; measure it again.")
        return
    ends = [min(data["measured"] + data["predicted"]), max(data["measured"] + data["predicted"])]
    scale, legend = {"type": "log", "domain": ends}, {"orient": "bottom", "columns": 2, "title": None}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "point", "size": 18, "opacity": 0.6},
            "encoding": {
                "x": {"field": "measured", "type": "quantitative", "title": "measured, ms", "scale": scale},
                "y": {"field": "predicted", "type": "quantitative", "title": "predicted, ms", "scale": scale},
                "color": {"field": "kind", "type": "nominal", "legend": legend},
                "tooltip": [
                    {"field": "kind"}, {"field": "measured", "format": ".2f"}, {"field": "predicted", "format": ".2f"},
                    {"field": "error", "format": "+.1%"},
                ],
            },
        },
        {
            "data": {"values": [{"measured": end, "predicted": end} for end in ends]},
            "mark": {"type": "line", "color": "#94a3b8", "strokeDash": [6, 4]},
            "encoding": {
                "x": {"field": "measured", "type": "quantitative"}, "y": {"field": "predicted", "type": "quantitative"},
            },
        },
    ]  # fmt: skip
    st.vega_lite_chart(data, {"layer": layers}, height=360, alt="Measured against predicted time of steps")
    fit = "" if profile.r2 is None else f" The fit explains {profile.r2:.1%} of the variance of the steps' times."
    st.caption(f"On the dashed line both are equal.{fit}")


shell.page(show)
