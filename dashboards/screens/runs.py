"""Every run: search, facets, latency over time; one to open, several to compare."""

from typing import Any

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.costs import listed
from redecode.dashboards.listing import FACETS, SORTS, Filter, Listing, Mask, Stretch, labels_in
from redecode.dashboards.words import DASH, moment, plain, seconds, share, time_format
from redecode.replay.prices import BadPrices
from redecode.tracer.store import RunColumns

PER_PAGE = 100
NAMES = {
    "agent": "Agent",
    "version": "Version",
    "status": "Status",
    "slo": "SLO",
    "fidelity": "Fidelity",
    "mode": "Mode",
}
MARKS = {"ok": "✓ ok", "error": "✗ error", "open": "● running"}


def show() -> None:
    """Draw it."""
    here = shell.current()
    if not len(here.runs()):
        shell.no_runs()
        return
    search, target_s = _search()
    runs = here.listing(target_s)
    wanted = _filter(runs, search)
    picked = runs.pick(wanted)
    _numbers(runs, picked)
    if not picked.any():
        st.info(
            "Take a facet away, or search for something else.",
            title=f"None of the {len(runs):,} runs is like that",
            icon=":material/filter_alt_off:",
        )
        return
    _over_time(runs.over_time(picked))
    _table(runs, picked)


def _search() -> tuple[str, float | None]:
    """What to search for, and the SLO of runs without one; widgets whose values are in the address."""
    top = st.columns([3, 1.2, 1])
    search = top[0].text_input(
        "Search", key="q", bind="query-params", type="search", live="250ms", icon=":material/search:",
        placeholder="words in id, agent, version, conversation, input or error; LABEL=VALUE      press / to search",
        label_visibility="collapsed",
    )  # fmt: skip
    target_s = top[1].number_input(
        "SLO, s", key="target", bind="query-params", min_value=0.001, value=None, step=0.1, format="%.3g",
        placeholder="SLO in s where none was set", label_visibility="collapsed",
        help="Judges runs that were recorded without an SLO.",
    )  # fmt: skip
    top[2].selectbox("Sort", SORTS, key="sort", bind="query-params", label_visibility="collapsed")
    return search or "", target_s


def _filter(runs: Listing, search: str) -> Filter:
    """A widget for each facet, with every value there is: what the address names must be among them."""
    words, labels = labels_in(search)
    with_labels = [shell.current().labelled(name, value) for name, value in labels]
    within = frozenset[str].intersection(*with_labels) if with_labels else None
    chosen: dict[str, tuple[str, ...]] = {}
    for place, name in zip(st.columns(len(FACETS)), FACETS, strict=True):
        picked = place.multiselect(
            NAMES[name], sorted(runs.values[name][0]), key=name, bind="query-params", placeholder=NAMES[name],
            label_visibility="collapsed",
        )  # fmt: skip
        chosen[name] = tuple(picked)
    counts = runs.facets(Filter(words, **chosen, within=within))
    st.caption("  ·  ".join(_counted(name, counts[name]) for name in FACETS if len(counts[name]) > 1))
    return Filter(words, **chosen, within=within)


def _counted(name: str, counts: dict[str, int]) -> str:
    told = [f"{plain(value, 24)} {n:,}" for value, n in list(counts.items())[:4]]
    return f"**{NAMES[name]}** " + ", ".join(told) + (f" and {len(counts) - 4} more" if len(counts) > 4 else "")


def _numbers(runs: Listing, picked: Mask) -> None:
    p50, p95, p99 = runs.quantiles(picked)
    met, judged = runs.attained(picked)
    with st.container(horizontal=True):
        count = int(picked.sum())
        st.metric("Runs", f"{count:,}", border=True, width=190, help=f"of {len(runs):,} in the store")
        st.metric("p50 latency", seconds(p50), border=True, width=190)
        st.metric("p95", seconds(p95), border=True, width=190)
        st.metric("p99", seconds(p99), border=True, width=190)
        st.metric(
            "SLO met", share(met / judged) if judged else DASH, border=True, width=190,
            help=f"{met:,} of {judged:,} runs that have an SLO" if judged else "no run here has an SLO: set one above",
        )  # fmt: skip


def _over_time(stretches: list[Stretch]) -> None:
    if len(stretches) < 2:
        return
    at = [s.start_ns // 1_000_000 for s in stretches]
    names = ("p50", "p95", "p99")
    lines: dict[str, list[Any]] = {"at": [], "quantile": [], "seconds": [], "runs": []}
    for name in names:
        for when, stretch in zip(at, stretches, strict=True):
            value = getattr(stretch, f"{name}_s")
            if value is not None:
                for column, entry in zip(lines.values(), (when, name, value, stretch.runs), strict=True):
                    column.append(entry)
    axis = {"format": time_format(stretches[0].start_ns, stretches[-1].start_ns), "labelOverlap": True}
    x = {"field": "at", "type": "temporal", "title": None, "scale": {"type": "utc"}, "axis": axis}
    latency = {
        "mark": {"type": "line", "point": {"size": 30}, "interpolate": "monotone"},
        "encoding": {
            "x": x,
            "y": {"field": "seconds", "type": "quantitative", "title": "latency, s"},
            "color": {
                "field": "quantile",
                "type": "nominal",
                "sort": names,
                "legend": {"title": None, "orient": "top"},
            },
            "strokeDash": {"field": "quantile", "type": "nominal", "sort": names, "legend": None},
            "tooltip": [
                {"field": "at", "type": "temporal", "format": "%Y-%m-%d %H:%M:%S", "title": "from (UTC)"},
                {"field": "quantile"},
                {"field": "seconds", "format": ".3f"},
                {"field": "runs", "format": ","},
            ],
        },
    }
    judged = [(when, s.attained) for when, s in zip(at, stretches, strict=True) if s.attained is not None]
    with st.expander("Latency and SLO over time", expanded=True):
        left, right = st.columns([2, 1]) if judged else (st.container(), None)
        left.vega_lite_chart(
            lines, latency, height=190, alt="p50, p95 and p99 of the latency over the time at which runs began"
        )
        if right is not None:
            attained = {
                "mark": {"type": "bar"},
                "encoding": {
                    "x": x,
                    "y": {
                        "field": "met", "type": "quantitative", "title": "SLO met", "axis": {"format": "%"},
                        "scale": {"domain": [0, 1]},
                    },
                    "tooltip": [{"field": "at", "type": "temporal"}, {"field": "met", "format": ".1%"}],
                },
            }  # fmt: skip
            right.vega_lite_chart(
                {"at": [w for w, _ in judged], "met": [m for _, m in judged]}, attained, height=190,
                alt="Part of the runs that met their SLO, over time",
            )  # fmt: skip


def _table(runs: Listing, picked: Mask) -> None:
    order = runs.order(picked, st.session_state["sort"])
    pages = -(-len(order) // PER_PAGE)
    chosen, shown = st.container(horizontal=True, vertical_alignment="center"), st.container()
    number = 1
    if pages > 1:
        number = min(st.pagination(pages, key="page", bind="query-params"), pages)
    at = [int(n) for n in order[(number - 1) * PER_PAGE : number * PER_PAGE]]
    ids = [runs.columns.run_id[n] for n in at]
    rows = _rows(runs, at) | _costs(ids, [runs.columns.decodes[n] for n in at])
    rows |= {name: rows.pop(name) for name in ("version", "input")}  # last, being the longest
    event = shown.dataframe(
        rows, hide_index=True, on_select="rerun", selection_mode="multi-row", key=f"runs {hash(tuple(ids))}",
        height=min(38 + 35 * len(at), 560), alt="The runs",
        column_config={
            "tokens": st.column_config.NumberColumn(format="localized"),
            "prompt": st.column_config.NumberColumn(format="localized"),
            "input": st.column_config.TextColumn(width="large"),
        },
    )  # fmt: skip
    ids = [ids[row] for row in event["selection"]["rows"] if row < len(ids)]
    with chosen:
        if len(ids) == 1:
            shell.run_links(ids[0])
        elif ids:
            st.page_link(
                "screens/compare.py", label=f"Compare these {len(ids)}", icon=":material/compare_arrows:",
                query_params={"run": ids[-1], "with": ids[:-1]},
            )  # fmt: skip
        else:
            st.caption(
                f"{len(order):,} runs, {st.session_state['sort']} first. Tick one to open it, several to compare."
            )


def _rows(runs: Listing, at: list[int]) -> dict[str, list[Any]]:
    c: RunColumns = runs.columns

    def slo(n: int) -> str:
        word = runs.values["slo"][0][runs.values["slo"][1][n]]
        return {"met": "✓ met", "missed": "✗ missed"}.get(word, DASH)

    def headroom(n: int) -> str:
        left = float(runs.slo_s[n] - runs.duration_s[n])
        return DASH if left != left else seconds(left)

    latency = [float(runs.duration_s[n]) for n in at]
    return {
        "run": [c.run_id[n][:12] for n in at],
        "agent": [c.agent[n] for n in at],
        "status": [MARKS.get(c.status[n], c.status[n]) for n in at],
        "started (UTC)": [moment(c.started_ns[n]) for n in at],
        "latency": [seconds(None if s != s else s) for s in latency],
        "SLO": [slo(n) for n in at],
        "headroom": [headroom(n) for n in at],
        "fidelity": [c.fidelity[n] or DASH for n in at],
        "mode": [c.replay_mode[n] or "recorded" for n in at],
        "of": [(c.source_run_id[n] or "")[:12] for n in at],
        "FM calls": [c.decodes[n] for n in at],
        "tools": [c.tools[n] for n in at],
        "tokens": [c.tokens[n] for n in at],
        "prompt": [c.prompt_tokens[n] for n in at],
        "version": [c.agent_version[n] or "" for n in at],
        "input": [c.error[n] or c.input[n] or "" for n in at],
    }


def _costs(ids: list[str], calls: list[int]) -> dict[str, list[str]]:
    """What the runs on this page cost, where one of them called an FM."""
    here = shell.current()
    if not any(calls):
        return {}
    try:
        priced = bool(here.prices())
        costs = here.costs(tuple(ids))
    except BadPrices as error:
        st.warning(plain(str(error), 500), icon=":material/payments:")
        return {}
    name = "cost (USD)" if priced else "engine seconds"
    return {name: [listed(costs.get(i), priced=priced) for i in ids]} if costs else {}


shell.page(show)
