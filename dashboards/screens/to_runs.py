"""/runs is at /."""

import streamlit as st

st.switch_page("screens/runs.py", query_params=st.query_params)
