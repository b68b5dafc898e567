"""What `redecode place` planned: replicas, how surely they attain the SLO, what breaks it, and the router's reasons."""

from typing import Any

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.planned import Decision, Kept, Plan, decisions_of
from redecode.dashboards.tuned import CannotRead
from redecode.dashboards.words import DASH, moment, plain, seconds, share, visible
from redecode.replay.prices import usd

_ACTIONS = {"send": "→ send", "hold": "… hold", "refuse": "✗ refuse"}
_PER_PAGE = 100


def show() -> None:
    """Draw it."""
    found = shell.current().plans()
    if not found:
        st.info(
            "`redecode place --slo 2s@p95 --load 10rps --from-store` finds how many replicas of what serve the "
            "recorded agents; its plans appear here.",
            title="Nothing was planned in this store yet",
            icon=":material/dns:",
        )
        return
    kept = _chosen(found)
    plan = kept.plan
    if plan is None:
        st.error(
            f"{plain(kept.why or '', 1000)}. Make it anew, or delete the file.",
            title="This plan cannot be shown",
            icon=":material/error:",
        )
        return
    _head(plan)
    if plan.reason is not None:
        most = f" The most that they serve is about {plan.most_per_s:.3g} runs a second." if plan.most_per_s else ""
        st.error(f"{plain(plan.reason, 1500)}.{most}", title="There is no such plan", icon=":material/block:")
        return
    left, right = st.columns([1, 1.15], gap="medium")
    with left:
        _replicas(plan)
    with right:
        _classes(plan)
    left, right = st.columns([1.15, 1], gap="medium")
    with left:
        _curve(plan)
    with right:
        _breaks(plan)
    if plan.guesses:
        st.caption(f"⚠ Beyond what was measured: {plain('; '.join(plan.guesses), 800)}.")
    _decisions(kept)


def _chosen(found: list[Kept]) -> Kept:
    """The plan in the address, else the newest."""
    by_name = {k.name: k for k in found}
    if len(found) == 1:
        return found[0]
    return by_name[shell.pick("Plan", "plan", list(by_name), lambda n: _called(by_name[n]))]


def _called(kept: Kept) -> str:
    plan = kept.plan
    if plan is None:
        return f"{visible(kept.name)} · ✗ unreadable"
    slos = ", ".join(f"{a}={s}" if a else s for a, s in plan.asked.slos.items())
    verdict = "✓ attained" if plan.met else "✗ not attained"
    return visible(f"{kept.name} · {plan.asked.per_s:g} runs a second · {slos} · {verdict}")


def _head(plan: Plan) -> None:
    slos = ", ".join(f"{a} {s}" if a else s for a, s in plan.asked.slos.items())
    st.markdown(f"#### {plan.asked.per_s:g} runs a second, SLO {plain(slos, 200)}")
    others = f"; {len(plan.left_out)} others could not be simulated" if plan.left_out else ""
    st.caption(f"planned {moment(plan.made_ns)} UTC from {len(plan.drawn_from)} recorded runs{others}")
    if plan.reason is not None:
        return
    with st.container(horizontal=True, gap="small"):
        met = all(c.met for c in plan.classes)
        worst = min(plan.classes, key=lambda c: c.attained, default=None)
        if worst is not None:
            st.metric(
                "In time", share(worst.attained), "attained" if met else "not attained", border=True, width=170,
                delta_color="normal" if met else "inverse", delta_arrow="up" if met else "down",
                help=f"{share(worst.low)} to {share(worst.high)}, 95 %",
            )  # fmt: skip
        st.metric("Replicas", f"{sum(r.replicas for r in plan.replicas)}", border=True, width=120)
        hourly = DASH if plan.usd_per_hour is None else f"{plan.usd_per_hour:,.2f}"
        st.metric("USD an hour", hourly, border=True, width=150)
        if plan.usd_per_good_run is not None:
            st.metric("1,000 runs in time", usd(plan.usd_per_good_run * 1000), border=True, width=190)
        if plan.utilisation is not None:
            st.metric("In a step", share(plan.utilisation), border=True, width=130, help="of a replica's time")
        if plan.refused:
            st.metric("Refused", share(plan.refused), border=True, width=130, help="of the runs")


def _replicas(plan: Plan) -> None:
    st.markdown("###### Replicas")
    st.dataframe(
        {
            "FM": [visible(r.model) for r in plan.replicas],
            "hardware": [visible(r.hardware) for r in plan.replicas],
            "replicas": [r.replicas for r in plan.replicas],
            "USD/h each": [r.usd_per_hour for r in plan.replicas],
        },
        hide_index=True,
        alt="Replicas of each FM on each hardware",
    )


def _classes(plan: Plan) -> None:
    st.markdown("###### Expected attainment")
    st.dataframe(
        {
            "agent": [visible(c.agent or "runs") for c in plan.classes],
            "SLO": [visible(c.slo) for c in plan.classes],
            "": ["✓ attained" if c.met else "✗ not attained" for c in plan.classes],
            "in time": [share(c.attained) for c in plan.classes],
            "95 %": [f"{share(c.low)} to {share(c.high)}" for c in plan.classes],
            "p50": [seconds(c.run.p50) for c in plan.classes],
            "p95": [seconds(c.run.p95) for c in plan.classes],
        },
        hide_index=True,
        alt="Which part of each agent's runs is in time",
    )
    st.caption(f"Over {plan.asked.seeds} simulations of {plan.asked.runs} runs.")


def _curve(plan: Plan) -> None:
    if len(plan.curve) < 2:
        return
    st.markdown("###### Attainment against load")
    columns: dict[str, list[Any]] = {
        "load": [a.per_s for a in plan.curve],
        "attained": [a.attained for a in plan.curve],
        "low": [a.low for a in plan.curve],
        "high": [a.high for a in plan.curve],
        "SLO": ["met" if a.met else "missed" for a in plan.curve],
    }
    x = {"field": "load", "type": "quantitative", "title": "runs a second",
         "scale": {"type": "log", "nice": False, "padding": 18}}  # fmt: skip
    y = {"field": "attained", "type": "quantitative", "title": "runs in time", "axis": {"format": "%"},
         "scale": {"domain": [max(0.0, min(columns["low"]) - 0.1), 1]}}  # fmt: skip
    tips = [{"field": "load", "format": ".3g"}, {"field": "attained", "format": ".1%"}, {"field": "SLO"},
            {"field": "low", "format": ".1%"}, {"field": "high", "format": ".1%"}]  # fmt: skip
    domain = ["met", "missed"]
    colour = {"field": "SLO", "type": "nominal", "scale": {"domain": domain, "range": ["#2563eb", "#ea580c"]},
              "legend": {"title": "SLO", "orient": "top"}}  # fmt: skip
    shape = {"field": "SLO", "type": "nominal", "scale": {"domain": domain, "range": ["circle", "cross"]}}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "area", "opacity": 0.15},
         "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}},
        {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"x": x, "y": y}},
        {"mark": {"type": "point", "filled": True, "size": 85, "opacity": 1},
         "encoding": {"x": x, "y": y, "color": colour, "shape": shape, "tooltip": tips}},
        {"mark": {"type": "rule", "strokeDash": [6, 4], "color": "#71717a"},
         "encoding": {"x": {"datum": plan.asked.per_s}}},
    ]  # fmt: skip
    st.vega_lite_chart(
        columns, {"layer": layers}, height=320, alt="Which part of the runs is in time, against the load"
    )
    st.caption("With these replicas; dashed: the load that was asked for. Shaded: 95 %.")


def _breaks(plan: Plan) -> None:
    st.markdown("###### What would break it")
    b = plan.breaks
    if b is not None and b.per_s is None:
        st.markdown(f"It still holds at **{b.holds_per_s:.3g}** runs a second, the most that was tried.")
    elif b is not None:
        st.markdown(
            f"About **{b.per_s:.3g}** runs a second: it holds at {b.holds_per_s:.3g}. Then {plain(b.step, 120)} of "
            f"{plain(b.agent or 'the runs', 60)} takes {seconds(b.more_s)} more of a run."
        )
    for alone in plan.alone[:4]:
        st.markdown(f"Alone, {plain(alone.name or 'a run', 60)} takes **{seconds(alone.seconds)}**:")
        st.dataframe(
            {
                "step": [visible(f"wait before {leg.step}" if leg.wait else leg.step) for leg in alone.way],
                "takes": [seconds(leg.seconds) for leg in alone.way],
            },
            hide_index=True,
            alt="The way of a run that takes its time",
        )


def _decisions(kept: Kept) -> None:
    try:
        found = decisions_of(kept)
    except CannotRead as error:
        st.warning(plain(str(error), 500), icon=":material/report:")
        return
    if not found:
        return
    st.markdown("##### What the router decided")
    kinds = ["all", *dict.fromkeys(d.action for d in found)]
    which = st.segmented_control("Decisions", kinds, default="all", required=True, key="action", bind="query-params",
                                 label_visibility="collapsed")  # fmt: skip
    picked = [d for d in found if which in (None, "all", d.action)]
    pages = -(-len(picked) // _PER_PAGE)
    shown, number = st.container(), 1
    if pages > 1:
        number = min(st.pagination(pages, key="page", bind="query-params"), pages)
    shown.dataframe(_rows(picked[(number - 1) * _PER_PAGE : number * _PER_PAGE]), hide_index=True, height=380,
                    alt="Decisions of the router, in order")  # fmt: skip
    shown.caption(
        "In one simulation of this plan, in order; of each replica l_est = l_x (execution at the load it would meet) + "
        "l_q (until it is in the batch) + l_r (until the replica takes calls)."
    )
    calls = [f"{d.call}" for d in picked[:500]]
    if not calls:
        return
    call = st.selectbox("Call", calls, key="call", bind="query-params", index=None, placeholder="a call in detail",
                        width=260, label_visibility="collapsed")  # fmt: skip
    decision = next((d for d in picked if f"{d.call}" == call), None)
    if decision is not None:
        _one(decision)


def _rows(decisions: list[Decision]) -> dict[str, list[Any]]:
    chosen = [next((c for c in d.candidates if c.replica == d.replica), None) for d in decisions]
    return {
        "at": [seconds(d.now_s) for d in decisions],
        "call": [d.call for d in decisions],
        "run": [d.run for d in decisions],
        "step": [visible(d.step) for d in decisions],
        "": [visible(_ACTIONS.get(d.action, d.action)) for d in decisions],
        "replica": [d.replica for d in decisions],
        "why": [visible(d.reason) for d in decisions],
        "l_x": [seconds(c.l_x) if c else DASH for c in chosen],
        "l_q": [seconds(c.l_q) if c else DASH for c in chosen],
        "l_r": [seconds(c.l_r) if c else DASH for c in chosen],
        "deadline slack": [seconds(d.deadline_slack_s) for d in decisions],
        "believed from": [visible(d.belief) for d in decisions],
    }


def _one(decision: Decision) -> None:
    st.markdown(f"Call {decision.call}, {plain(decision.step, 120)}: {plain(decision.reason, 300)}")
    st.dataframe(
        {
            "": ["→" if c.replica == decision.replica else "" for c in decision.candidates],
            "replica": [c.replica for c in decision.candidates],
            "l_est": [seconds(c.l_est) for c in decision.candidates],
            "l_x": [seconds(c.l_x) for c in decision.candidates],
            "l_q": [seconds(c.l_q) for c in decision.candidates],
            "l_r": [seconds(c.l_r) for c in decision.candidates],
            "cached tokens": [c.cached_tokens for c in decision.candidates],
            "calls in the batch": [c.calls for c in decision.candidates],
            "chance to be in time": [DASH if c.attains is None else share(c.attains) for c in decision.candidates],
        },
        hide_index=True,
        alt="What the call was believed to take on each replica",
    )


shell.page(show)
