"""The store itself: sizes, backlog, losses, damage."""

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.words import plain


def show() -> None:
    """Draw it."""
    here = shell.current()
    st.subheader("Health")
    st.caption(plain(here.location))
    health = here.health()
    with st.container(horizontal=True):
        for name, value in health.facts.items():
            st.metric(name, value, border=True, width=190)
    for trouble in health.troubles:
        st.warning(plain(trouble, 500), icon=":material/warning:")
    if not health.troubles:
        st.success("Nothing was lost, nothing is damaged.", icon=":material/check:")
    st.caption("`redecode doctor` checks more: whether the store can be written, the engine, what is forwarded.")


shell.page(show)
