"""Dashboards: the Streamlit pages over the store, critical paths and deadline slack first.

Nothing lives here yet; until it does, `redecode show RUN` draws a run in the terminal.
"""
