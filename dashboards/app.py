"""The menu; Streamlit runs this for every page."""

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.menu import RUNS, SCREENS, shown

# Named here, or each page's icon is fetched from the net for the browser's tab.
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><g fill="#c2410c">'
    '<rect x="1" y="2" width="8" height="3"/><rect x="6" y="7" width="6" height="3"/>'
    '<rect x="10" y="12" width="5" height="3"/></g></svg>'
)
st.set_page_config(page_title="redecode", page_icon=_ICON, layout="wide")

# The default page lives at / alone: Streamlit answers /runs with an inert dialog, so a hidden page stands there.
in_menu = shown(shell.current().location)
chosen = st.navigation(
    [
        *(
            st.Page(
                s.script,
                title=s.title,
                icon=s.icon,
                url_path=s.url,
                default=s is RUNS,
                visibility="visible" if s in in_menu else "hidden",
            )
            for s in SCREENS
        ),
        st.Page("screens/to_runs.py", title="Runs", url_path="runs", visibility="hidden"),
    ],
    position="top",
)
shell.begin()
shell.page(chosen.run)
