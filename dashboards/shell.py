"""What every page has: the store, the run in the address, errors in a sentence, keys, and news of the store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import streamlit as st

from redecode.dashboards.canvas.mount import keys
from redecode.dashboards.data import Source, Version, source
from redecode.dashboards.menu import RUNS, SCREENS, Screen
from redecode.dashboards.serve import PRICES, STORE
from redecode.dashboards.words import moment, plain
from redecode.tracer import RedecodeError, Run, UnknownRun, default_store

LOOK_EVERY_S = 1.0
_SEEN = "_version_seen"
_WRITTEN = "_address_written"
_ARRIVES_S = 10.0


def current() -> Source:
    """The store that is looked at."""
    return source(os.environ.get(STORE) or str(default_store()), os.environ.get(PRICES))


def page(show: Callable[[], None]) -> None:
    """Draw a page; what a person can do something about is a sentence."""
    try:
        show()
    except UnknownRun as error:
        st.error(plain(str(error), 1000), title="This run is not in the store (any more)", icon=":material/search_off:")
        st.page_link(RUNS.script, label="See the runs that are", icon=":material/list:")
    except RedecodeError as error:
        st.error(plain(str(error), 2000), icon=":material/error:")


def watch(version: Version) -> None:
    """Draw the page again when the store has changed since this version."""
    st.session_state[_SEEN] = version
    _look()


@st.fragment(run_every=LOOK_EVERY_S)
def _look() -> None:
    if current().version() != st.session_state.get(_SEEN) and _has_arrived():
        st.rerun()


def address(name: str, value: str | None) -> None:
    """Put a value into the address, or take it out."""
    if value is None:
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = value
    st.session_state[_WRITTEN] = time.monotonic(), st.query_params.to_dict()


def _has_arrived() -> bool:
    """Whether the browser's address, which every request brings along, is the one written last.

    While it is on its way, a page that draws itself again would do so from the address before: what was chosen in
    between would be lost.
    """
    at, written = st.session_state.get(_WRITTEN, (0.0, None))
    return written is None or st.query_params.to_dict() == written or time.monotonic() - at > _ARRIVES_S


def run_id() -> str | None:
    """The id of the run that the address names, else of the one looked at last, else of the newest; `None`: no runs.

    It is in the address afterwards.
    """
    asked = st.query_params.get("run") or st.session_state.get("run_looked_at")
    if not asked:
        ids = current().runs().run_id
        asked = ids[0] if ids else None
    if asked and st.query_params.get("run") != asked:
        address("run", asked)
    st.session_state["run_looked_at"] = asked
    return asked


def pick(label: str, name: str, options: list[str], words: Callable[[str], str]) -> str:
    """One of some options, the first unless the address names another; it is in the address by itself.

    A widget that is bound to the address would have its words there, which change.
    """
    key = f"picked {name}"

    def changed() -> None:
        address(name, st.session_state[key])

    asked = st.query_params.get(name)
    st.session_state[key] = asked if asked in options else options[0]  # the address has the last word
    return st.selectbox(label, options, key=key, on_change=changed, format_func=words) or options[0]


def run_links(run: str, here: Screen | None = None, **more: str) -> None:
    """To the other pages of the same run."""
    with st.container(horizontal=True, gap="small"):
        for screen in SCREENS:
            if screen.of_a_run and screen is not here:
                st.page_link(screen.script, label=screen.title, icon=screen.icon, query_params={"run": run, **more})


def run_heading(run: Run) -> None:
    """Which run this is."""
    of = f" · {plain(run.replay_mode or 'replay', 20)} of {run.source_run_id[:12]}" if run.source_run_id else ""
    version = f" · {plain(run.agent_version, 40)}" if run.agent_version else ""
    st.markdown(f"#### {plain(run.agent or 'a run', 80)} `{run.run_id[:12]}`")
    st.caption(f"{moment(run.started_ns)} UTC{version}{of}")


def no_runs() -> None:
    """Nothing was recorded yet: what to do."""
    st.info(
        "Record some, and they appear here by themselves:\n\n"
        "- `redecode demo` records and replays the reference agents on a real engine\n"
        "- `redecode record -- python app.py` records a program as it is\n"
        "- `redecode collect` receives OpenTelemetry spans of any other",
        title="No runs in this store yet",
        icon=":material/inbox:",
    )


def begin() -> None:
    """At the top of every page: keys, and news of the store."""
    keys()
    watch(current().version())
