"""Dashboards: what a store holds, drawn; `redecode dashboard` serves them (docs/dashboard.md).

serve.py       runs Streamlit on app.py, the menu; screens/ has a script for each page
data.py        the only place that asks a store anything: plain data out, kept until the store changes
listing.py, waterfall.py, strip.py, flow.py, bars.py   what stands where: pure functions, no Streamlit
canvas/        the drawing itself: small ES modules that draw what they are given, and Python that mounts them
"""
