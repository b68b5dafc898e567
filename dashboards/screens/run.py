"""One run: where its time went, and everything that is known of a step."""

from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from redecode.dashboards import shell
from redecode.dashboards.canvas.mount import waterfall
from redecode.dashboards.costs import named
from redecode.dashboards.data import LoadedRun
from redecode.dashboards.drawer import drawer
from redecode.dashboards.flow import flow_of, to_dot
from redecode.dashboards.gains import most_to_gain
from redecode.dashboards.menu import RUN
from redecode.dashboards.sameness import Sameness
from redecode.dashboards.waterfall import KINDS, Waterfall, drawing
from redecode.dashboards.words import DASH, duration, plain, seconds, signed
from redecode.replay import RunAnalysis
from redecode.replay.prices import BadPrices, cost_of
from redecode.tracer import RecordedRun

KEY = "waterfall"
ROW_PX, HEAD_PX = 22, 66
_MANY = 2000  # spans, from which on analysing a run takes long enough to be waited for


def show() -> None:
    """Draw it."""
    run_id = shell.run_id()
    if run_id is None:
        shell.no_runs()
        return
    here = shell.current()
    recorded = here.recorded(run_id)
    shell.run_heading(recorded.run)
    shell.run_links(run_id, RUN)
    # Where its time went takes a while to find out for a large run: what is known at once is drawn at once. Nothing is
    # emptied otherwise: a drawing that is taken away and put back blinks whenever the store changes, and misses keys.
    known_first = len(recorded.spans) >= _MANY and st.session_state.get("run_drawn") != run_id
    known_first = known_first and not here.is_loaded(run_id)
    places = [st.empty() if known_first else st.container() for _ in range(4)]
    if known_first:
        _as_it_is_known(recorded, places)
    loaded = here.load(run_id)
    numbers, badges, told, place = [place.container() if known_first else place for place in places]
    with numbers:
        _numbers(loaded)
    if not recorded.spans:
        with badges:
            _badges(loaded)
        st.info("It is drawn as soon as something of it ends up in the store.", title="Nothing of this run yet")
        return
    if known_first:
        with told:
            _in_a_sentence(loaded, None)
    with place:
        _drawing(loaded)
    st.session_state["run_drawn"] = run_id
    with badges:
        _badges(loaded)
    worst = _worst(loaded)  # it goes through the whole run again, for several steps
    with places[2].container() if known_first else told:
        _in_a_sentence(loaded, worst)
    _graph(loaded)
    _as_a_table(loaded)


def _as_it_is_known(recorded: RecordedRun, places: list[DeltaGenerator]) -> None:
    numbers, badges, told, place = places
    known = LoadedRun(recorded, None, None, None)
    with numbers.container():
        _numbers(known)
    badges.badge("…")
    told.markdown("Finding the critical path…")
    with place.container():
        _first_drawing(known)


def _numbers(loaded: LoadedRun) -> None:
    run, analysis = loaded.run, loaded.analysis
    with st.container(horizontal=True, gap="small"):
        now = analysis.makespan_ns if analysis else None
        st.metric("Latency", "running" if run.ended_ns is None else seconds(run.duration_s), border=True, width=150)
        if run.ended_ns is None:
            st.metric("so far", duration(now), border=True, width=150)
        if analysis is not None and analysis.headroom_ns is not None and analysis.deadline_ns is not None:
            missed = analysis.headroom_ns < 0
            st.metric("SLO", duration(analysis.deadline_ns - analysis.start_ns), border=True, width=130)
            st.metric(
                "Headroom", signed(analysis.headroom_ns), "missed" if missed else "met", border=True, width=150,
                delta_color="inverse" if missed else "normal", delta_arrow="down" if missed else "up",
            )  # fmt: skip
        st.metric("FM calls", f"{run.decodes}", border=True, width=110)
        st.metric("Tools", f"{run.tools}", border=True, width=100)
        st.metric(
            "Tokens", f"{run.tokens:,}", border=True, width=120, help=f"sampled; {run.prompt_tokens:,} in prompts"
        )
        _cost(loaded)
        st.metric("Fidelity", run.fidelity.value if run.fidelity else DASH, border=True, width=130, help=_FIDELITY)


def _cost(loaded: LoadedRun) -> None:
    try:
        prices = shell.current().prices()
    except BadPrices as error:
        st.metric("Cost", DASH, border=True, width=170, help=plain(str(error), 500))
        return
    name, value, known = named(cost_of(loaded.recorded.decodes, prices))
    st.metric(name, value, border=True, width=170, help=plain(known, 500))


_FIDELITY = "How much was recorded: structure < text < seeded < tokens < engine; a run has the least of its FM calls."


def _badges(loaded: LoadedRun) -> None:
    with st.container(horizontal=True, gap="small"):
        _each_badge(loaded)


def _each_badge(loaded: LoadedRun) -> None:
    run, analysis = loaded.run, loaded.analysis
    word = {"ok": ("✓ ok", "green"), "error": ("✗ failed", "red"), "open": ("● running", "blue")}
    label, colour = word.get(run.status, (plain(run.status), "gray"))
    st.badge(label, color=colour)  # type: ignore[arg-type]
    for same in shell.current().sameness(run.run_id):
        _sameness(same)
    if run.source_run_id is None and not shell.current().replays(run.run_id) and run.ended_ns is not None:
        st.badge("never replayed", icon=":material/replay:", color="gray", help=f"redecode replay {run.run_id[:12]}")
    if run.lost:
        st.badge(f"{run.lost} events of it were lost", icon=":material/warning:", color="orange")
    if analysis is not None and analysis.edges_by_time:
        st.badge(f"{analysis.edges_by_time} edges guessed from times", icon=":material/help:", color="orange")
    if run.error:
        st.badge(plain(run.error, 120), icon=":material/error:", color="red")


def _sameness(same: Sameness) -> None:
    how = {"force": "forced", "resample": "resampled"}.get(same.mode, plain(same.mode))
    if same.same == same.compared:
        words = f"same tokens in {same.compared} {how} replay{'s' * (same.compared != 1)}"
        st.badge(words, icon=":material/check:", color="green")
    else:
        where = f"run {same.differs[0][:12]} at {same.differs[1]}" if same.differs else ""
        words = f"other tokens in {same.compared - same.same} of {same.compared} {how} replays"
        st.badge(words, icon=":material/difference:", color="orange", help=plain(where, 300))


def _in_a_sentence(loaded: LoadedRun, worst: str | None) -> None:
    """What a person should know first."""
    analysis = loaded.analysis
    if analysis is None:
        st.warning(plain(loaded.why or "", 500), title="No critical path", icon=":material/route:")
        return
    told = [f"The critical path is **{duration(analysis.makespan_ns)}**: {_split(analysis)}."]
    if worst:
        told.append(worst)
    if analysis.barrier_cost_ns > 0:
        told.append(f"Without barriers it could be {duration(analysis.barrier_cost_ns)} shorter.")
    st.markdown(" ".join(told))
    for warning in analysis.warnings[:3]:
        st.caption(f"⚠ {plain(warning, 300)}")


def _split(analysis: RunAnalysis) -> str:
    words = {"fm": "other FM time", "tool": "tools", "code": "the agent's code", "framework": "gaps"}
    parts = sorted(((ns, n.removesuffix("_ns")) for n, ns in analysis.split.to_json().items() if ns), reverse=True)
    named = [f"{ns / analysis.makespan_ns:.0%} {words.get(name, name.replace('_', ' '))}" for ns, name in parts]
    return ", ".join(named[:4])


def _worst(loaded: LoadedRun) -> str | None:
    """The step with the most to gain."""
    found = most_to_gain(loaded)
    if found is None:
        return None
    span_id, ns = found
    name = next((s.step_key or s.name for s in loaded.recorded.spans if s.span_id == span_id), span_id)
    return f"Most is to be gained at **{plain(name, 90)}**: {duration(ns)} if it took no time."


def _selected(drawn: Waterfall) -> str | None:
    step = st.query_params.get("step")
    return step if step in drawn.id else None


def _chosen(key: str = KEY) -> None:
    """The drawing says which step was chosen: into the address with it."""
    shell.address("step", st.session_state[key].step or None)


def _height(drawn: Waterfall) -> int:
    return min(560, max(200, HEAD_PX + ROW_PX * len(drawn.id) + 10))


def _first_drawing(loaded: LoadedRun) -> None:
    """The steps in time, before it is known what waited for what."""
    drawn, data = drawing(loaded)
    left, right = st.columns([1.9, 1], gap="small")
    with left:
        key = f"{KEY} at first"
        waterfall(data, key=key, selected=_selected(drawn), height=_height(drawn), on_step=partial(_chosen, key))
    right.container(height=620, border=True)


@st.fragment
def _drawing(loaded: LoadedRun) -> None:
    """Waterfall and drawer: a click draws these two again, not the page."""
    drawn, data = drawing(loaded)
    step = _selected(drawn)
    # Both stand always: a drawing that is moved is made anew, and would miss keys meanwhile.
    left, right = st.columns([1.9, 1], gap="small")
    with left:
        waterfall(data, key=KEY, selected=step, height=_height(drawn), on_step=_chosen)
        st.caption("Click a step, or press j, to see all of it · c goes along the critical path · ? shows the keys")
    with right.container(height=620, border=True):
        drawer(loaded, step or drawn.id[0])


def _graph(loaded: LoadedRun) -> None:
    flow = flow_of(loaded.recorded, loaded.analysis)
    if len(flow.nodes) < 2:
        return
    with st.expander("The graph, with times", expanded=True):
        dark = st.context.theme.type == "dark"
        st.graphviz_chart(
            to_dot(flow, dark=dark), width="content", alt="The agent's graph with the time spent in each node"
        )


def _as_a_table(loaded: LoadedRun) -> None:
    expander = st.expander("The steps as a table", on_change="rerun", key="as_a_table")
    if not expander.open:
        return
    drawn, _ = drawing(loaded)
    keys = {s.span_id: s.step_key for s in loaded.recorded.spans}
    words = ("ok", "failed", "running")
    expander.dataframe(
        {
            "step": ["   " * d + drawn.names[n] for d, n in zip(drawn.depth, drawn.name, strict=True)],
            "kind": [KINDS[k] for k in drawn.kind],
            "from": [duration(ns) for ns in drawn.start],
            "took": [duration(b - a) for a, b in zip(drawn.start, drawn.stop, strict=True)],
            "on the critical path": [duration(ns) if ns else "" for ns in drawn.on_path],
            "total float": [duration(ns) if ns >= 0 else DASH for ns in drawn.slack],
            "status": [words[s] for s in drawn.status],
            "step key": [keys[i] for i in drawn.id],
            "span": drawn.id,
        },
        hide_index=True,
        alt="Every step of the run",
    )


shell.page(show)
