"""A run against another: what it did otherwise, and where the difference in time comes from."""

from typing import Any

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.bars import cascade, window
from redecode.dashboards.data import LoadedRun
from redecode.dashboards.menu import COMPARE
from redecode.dashboards.words import DASH, duration, moment, plain, signed, visible
from redecode.replay import RunComparison
from redecode.replay.comparison.lanes import Change
from redecode.tracer.store import RunColumns

_MOST_CHOICES = 300
_MOST_CHANGES = 40


def show() -> None:
    """Draw it."""
    here = shell.current()
    run_id = shell.run_id()
    if run_id is None:
        shell.no_runs()
        return
    recorded = here.load(run_id)
    shell.run_heading(recorded.run)
    shell.run_links(run_id, COMPARE)
    other = _other(recorded)
    if other is None:
        st.info(
            f"Replay it (`redecode replay {run_id[:12]}`), or tick two runs on the page Runs.",
            title="Nothing to set against this run yet",
            icon=":material/compare_arrows:",
        )
        return
    base = tuple(r for r in here.plain_replays(recorded.run.run_id) if r != other)
    found = here.compare(recorded.run.run_id, other, base)
    _verdict(found)
    _bars(found)
    _steps(found)
    _changes(found)


def _other(recorded: LoadedRun) -> str | None:
    """The run to set against it: those the address names first, then replays, then runs of the same agent."""
    columns = shell.current().runs()
    asked = st.query_params.get_all("with")
    known = {run_id: n for n, run_id in enumerate(columns.run_id)}
    mine = recorded.run.run_id
    replays = [i for i, s in zip(columns.run_id, columns.source_run_id, strict=True) if s == mine]
    source = [recorded.run.source_run_id] if recorded.run.source_run_id else []
    alike = [i for i, a in zip(columns.run_id, columns.agent, strict=True) if a == recorded.run.agent]
    named = [full for prefix in asked for full in [next((i for i in known if i.startswith(prefix)), None)] if full]
    options = [i for i in dict.fromkeys([*named, *source, *replays, *alike]) if i != mine and i in known]
    options = options[:_MOST_CHOICES]
    if not options:
        return None

    def changed() -> None:
        shell.address("with", st.session_state["against"])

    if len(named) > 1:
        st.caption(f"{len(named)} runs were picked: they stand first in the list.")
    st.session_state["against"] = options[0]  # the address has the last word
    picked = st.selectbox(
        "Against", options, key="against", on_change=changed,
        format_func=lambda i: _words(columns, known[i], mine),
    )  # fmt: skip
    if picked and not named:
        shell.address("with", picked)
    return picked


def _words(c: RunColumns, n: int, mine: str) -> str:
    how = f"{c.replay_mode[n] or 'replay'} of {'it' if c.source_run_id[n] == mine else (c.source_run_id[n] or '')[:12]}"
    what = how if c.source_run_id[n] else "recorded"
    ended = c.ended_ns[n]
    took = "running" if ended is None else duration(ended - c.started_ns[n])
    return f"{c.run_id[n][:12]} · {visible(c.agent[n])} · {what} · {took} · {moment(c.started_ns[n])}"


def _verdict(found: RunComparison) -> None:
    with st.container(horizontal=True, gap="small"):
        st.metric("Recorded", duration(found.recorded_ns), border=True, width=150)
        if found.baseline is not None:
            b = found.baseline
            st.metric(
                f"Baseline, {b.n} replays", duration(b.median_ns), border=True, width=190,
                help=f"{duration(b.low_ns)} to {duration(b.high_ns)} is noise",
            )  # fmt: skip
        word = {None: None, True: "beyond noise", False: "within noise"}[found.beyond_noise]
        delta = f"{signed(found.delta_ns)}{f', {word}' if word else ''}"
        st.metric("Candidate", duration(found.candidate_ns), delta, delta_color="inverse", border=True, width=240)
    if found.baseline is None:
        st.caption(
            "How much its times vary anyway is not known: "
            f"`redecode replay {found.recorded_id[:12]} --repeat 5` makes a baseline."
        )
    if found.same:
        st.success("Both did, asked and answered the same; only times differ.", icon=":material/check:")
    elif found.changes:
        first = found.changes[0]
        st.warning(
            f"{plain(first.what)}: {plain(_details(first, ' '), 400)}",
            title=f"First difference: {plain(first.step_key or 'the run', 120)}",
            icon=":material/call_split:",
        )


def _bars(found: RunComparison) -> None:
    bars = cascade(found.recorded_ns, found.candidate_ns, found.shares, names=("recorded", "candidate"))
    st.markdown("###### Where the difference comes from")
    data: dict[str, list[Any]] = {
        "step": [visible(b.label) for b in bars],
        "from": [b.from_ns / 1e6 for b in bars],
        "to": [b.to_ns / 1e6 for b in bars],
        "is": [b.kind for b in bars],
        "words": [duration(b.to_ns) if b.kind == "total" else signed(b.delta_ns) for b in bars],
    }
    y = {
        "field": "step",
        "type": "nominal",
        "sort": None,
        "title": None,
        "axis": {"labelLimit": 360, "labelOverlap": False},
    }
    kinds = ["total", "longer", "shorter"]
    view = [ns / 1e6 for ns in window(bars)]
    spec = {
        "layer": [
            {
                "mark": {"type": "bar", "height": 14, "clip": True},
                "encoding": {
                    "y": y,
                    "x": {"field": "from", "type": "quantitative", "title": "ms", "scale": {"domain": view}},
                    "x2": {"field": "to"},
                    "color": {
                        "field": "is", "type": "nominal", "legend": {"title": None, "orient": "top"},
                        "scale": {"domain": kinds, "range": ["#94a3b8", "#ea580c", "#2563eb"]},
                    },
                    "tooltip": [{"field": "step"}, {"field": "is"}, {"field": "words", "title": "by"}],
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 5, "color": "#888"},
                "encoding": {"y": y, "x": {"field": "right", "type": "quantitative"}, "text": {"field": "words"}},
            },
        ]
    }  # fmt: skip
    data["right"] = [max(b.from_ns, b.to_ns) / 1e6 for b in bars]
    st.vega_lite_chart(
        data,
        spec,
        height=70 + 24 * len(bars),
        alt="From the recorded duration to the candidate's, difference by difference",
    )
    st.caption(
        "Stretches of the two critical paths, step by step: they add up to the difference exactly."
        + (f" The axis begins at {duration(view[0] * 1e6)}." if view[0] else "")
    )


def _steps(found: RunComparison) -> None:
    steps = found.steps
    only = {None: "", True: "beyond noise", False: "within noise"}
    st.markdown("###### Step by step")
    st.dataframe(
        {
            "step": [visible(s.step_key or "(the run)") for s in steps],
            "kind": [s.kind for s in steps],
            "recorded": [duration(s.recorded_ns) for s in steps],
            "baseline": [duration(s.baseline.median_ns) if s.baseline else DASH for s in steps],
            "noise": [
                f"{duration(s.baseline.low_ns)} to {duration(s.baseline.high_ns)}" if s.baseline else DASH
                for s in steps
            ],
            "candidate": [duration(s.candidate_ns) for s in steps],
            "difference": [signed(s.delta_ns) for s in steps],
            "": [
                "in one only" if s.recorded_ns is None or s.candidate_ns is None else only[s.beyond_noise]
                for s in steps
            ],
        },
        hide_index=True,
        alt="Durations of every step in the three lanes",
    )


def _details(change: Change, between: str) -> str:
    """What is known of it; of a step that one run has not, that."""
    lacks = {
        "only recorded": "the candidate has no such step",
        "only in the candidate": "the recorded run has no such step",
    }
    return between.join(change.details) or lacks.get(change.what, "")


def _changes(found: RunComparison) -> None:
    if not found.changes and not found.edges:
        return
    with st.expander(f"What it did otherwise: {len(found.changes)} steps"):
        st.dataframe(
            {
                "step": [visible(c.step_key) for c in found.changes[:_MOST_CHANGES]],
                "what": [c.what for c in found.changes[:_MOST_CHANGES]],
                "details": [visible(_details(c, "\n")) for c in found.changes[:_MOST_CHANGES]],
            },
            hide_index=True,
            alt="Differences in what was done, asked and answered",
        )
        if len(found.changes) > _MOST_CHANGES:
            st.caption(f"and {len(found.changes) - _MOST_CHANGES} more: `redecode compare --json` has all")
        for src, dst, kind, more in found.edges[:_MOST_CHANGES]:
            where = "only in the candidate" if more > 0 else "only recorded"
            st.text(f"edge {where}: {visible(src)} -{kind}-> {visible(dst)}")


shell.page(show)
