"""The nightly job: what `redecode nightly` does, each step kept in a file so that a second start goes on from there.

config.py      `nightly.toml`
home.py        where everything of a job is: nights, configurations, the lock
history.py     which configuration is in use, since when, and back to an earlier one
carrying.py    what its file says besides, which goes along
window.py      which recorded runs a night is about
mix.py, drift.py   what these runs are, and whether they are others than before
reference.py   which of those before were of the same configuration
profiling.py   the engine measured anew, compared with how it was
spending.py    what a night may spend, and has spent
tuning.py      the study and its decision, as `redecode tune` makes them
gate.py        whether the decision is carried out
ending.py      what is in use when a night ends
trends.py      measures of all nights, for Apache Otava
night.py       the steps in order
report.py      what is told of a night
"""
