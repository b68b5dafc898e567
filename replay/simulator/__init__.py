"""The engine model, and a simulator of engines, clusters and the runs on them.

costs.py      what a step costs, in whole picoseconds
rows.py       a call on a replica; what an engine can take at once
blocks.py     KV blocks and the prefixes in them
replica.py    one engine, vLLM's scheduler, from event to event
workload.py   what is simulated: runs as graphs of calls, recorded or made up
views.py      what routers and provisioners may know and say
cluster.py    the loop: runs, calls, replicas that come and go
results.py    what came of it

observed.py, sweep.py, recorded_fit.py   steps of a real engine: a designed load, or recorded runs
fit.py, least_squares.py, lasting.py     what they say of it
profile.py, catalogue.py                 that, as a file, and the ones of a store
fleet.py      replicas of measured engines
"""
