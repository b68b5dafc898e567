"""One FM call of a run: what passed before the first token, and the gap before each."""

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.canvas.mount import strip
from redecode.dashboards.menu import DECODE
from redecode.dashboards.strip import LOW, Strip, strip_of
from redecode.dashboards.words import DASH, duration, plain, visible
from redecode.tracer import Decode, RecordedRun


def show() -> None:
    """Draw it."""
    run_id = shell.run_id()
    if run_id is None:
        shell.no_runs()
        return
    loaded = shell.current().load(run_id)
    shell.run_heading(loaded.run)
    links, (pick, mark) = st.container(), st.columns([3, 1], vertical_alignment="bottom")
    with pick:
        decode = _chosen(loaded.recorded)
    with links:
        shell.run_links(run_id, DECODE, **({"step": decode.span_id} if decode else {}))
    if decode is None:
        st.info("This page is about FM calls: pick a run that made some.", title="No FM calls in this run")
        return
    low = mark.slider(
        "Unlikely: p below", 0.0, 1.0, LOW, 0.05, key="low", bind="query-params",
        help="Tokens whose probability, before temperature, was lower are marked ▾ ▴.",
    )  # fmt: skip
    laid = strip_of(decode, low)
    _numbers(decode, laid)
    if decode.error:
        st.error(plain(decode.error, 500), icon=":material/error:")
    if laid.total_ns:
        strip(laid.to_json(), key="strip")
    _source(decode, laid)
    _all(loaded.recorded, low)


def _chosen(recorded: RecordedRun) -> Decode | None:
    """The call in the address, else the longest; another can be picked."""
    calls = {d.span_id: d for d in recorded.decodes}
    if not calls:
        return None
    step = st.query_params.get("step")
    if step not in calls:
        step = max(calls.values(), key=lambda d: d.e2e_ns or 0).span_id
    ids = list(calls)

    def changed() -> None:
        shell.address("step", st.session_state["call"])

    st.session_state["call"] = step  # the address has the last word
    picked = st.selectbox(
        "FM call", ids, key="call", on_change=changed,
        format_func=lambda i: f"{ids.index(i) + 1}. {visible(calls[i].step_key)} · {duration(calls[i].e2e_ns)}",
    )  # fmt: skip
    return calls[picked or step]


def _numbers(decode: Decode, laid: Strip) -> None:
    itl = laid.itl_ns
    with st.container(horizontal=True, gap="small"):
        st.metric("E2E", duration(decode.e2e_ns), border=True, width=120, help="sent → last token, at the client")
        st.metric("TTFT", duration(decode.ttft_ns), border=True, width=120, help="sent → first token")
        st.metric("queue", duration(decode.queue_ns), border=True, width=115)
        st.metric("prefill", duration(decode.prefill_ns), border=True, width=120)
        st.metric("decode", duration(decode.decode_ns), border=True, width=120)
        st.metric(
            "TPOT", duration(decode.tpot_ns), border=True, width=120, help="mean per output token after the first"
        )
        st.metric("gap p50", duration(itl[0] if itl else None), border=True, width=115)
        st.metric("p99", duration(itl[2] if itl else None), border=True, width=115)
        st.metric("longest", duration(itl[3] if itl else None), border=True, width=115)
        st.metric(
            "stalls", f"{len(laid.stalls)}", border=True, width=105,
            help=f"gaps over three times the median; they took {duration(laid.stalled_ns)} beyond it",
        )  # fmt: skip
        st.metric("unlikely", f"{len(laid.low)}", border=True, width=105)


def _source(decode: Decode, laid: Strip) -> None:
    if not laid.times_ns:
        st.info(
            "Replay the run on an engine of ours (`redecode engine start`, then `redecode replay`): its step clock "
            "times every token.",
            title="The times of its tokens were not recorded",
        )
        return
    source = decode.token_time_source.value if decode.token_time_source else "client"
    words = {
        "engine": "the engine's step clock: exact, one time per token",
        "client": "arrival at the client: chunks can hold several tokens, and they merge under load",
        "request": "the engine's split of the request",
    }
    st.caption(f"Times from {words[source]}.")


def _all(recorded: RecordedRun, low: float) -> None:
    st.markdown("###### All FM calls of this run")
    laid = [strip_of(d, low) for d in recorded.decodes]
    calls = recorded.decodes
    st.dataframe(
        {
            "step": [visible(d.step_key) for d in calls],
            "FM": [visible(d.model) for d in calls],
            "E2E": [duration(d.e2e_ns) for d in calls],
            "queue": [duration(d.queue_ns) for d in calls],
            "prefill": [duration(d.prefill_ns) for d in calls],
            "decode": [duration(d.decode_ns) for d in calls],
            "TTFT": [duration(d.ttft_ns) for d in calls],
            "TPOT": [duration(d.tpot_ns) for d in calls],
            "prompt": [d.input_tokens for d in calls],
            "cached": [d.cached_tokens for d in calls],
            "sampled": [d.output_tokens for d in calls],
            "stalls": [len(each.stalls) for each in laid],
            "unlikely": [len(each.low) for each in laid],
            "ended": [visible(d.finish_reason or DASH) for d in calls],
        },
        hide_index=True,
        alt="All FM calls of the run",
    )


shell.page(show)
