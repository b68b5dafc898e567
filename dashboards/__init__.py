"""Dashboards: what a store holds, drawn; `redecode dashboard` serves them (docs/dashboard.md).

serve.py       runs Streamlit on app.py, the menu; pages/ has a module for each page
data.py        the only place that asks a store anything: plain data out, kept until the store changes
waterfall.py, strip.py, flow.py, bars.py   where things stand on a drawing: pure functions, no Streamlit
canvas/        the drawing itself: small ES modules that draw what they are given, and Python that mounts them
"""
