"""The FM calls of recorded runs alone, each made when what it waited for has happened: on an engine, or on its model.

engine_replay.py   `force`, `resample`; simulated.py: `simulate`
options.py         how runs are replayed: arrivals.py when they begin, scaling.py waits longer or shorter,
                   alterations.py fewer tokens, calls left out
plan.py            before anything is sent: can these runs be replayed on this engine
loop.py            every point of every run when what it waits for has happened
session.py         the runs under way, what becomes of them when stopped; calls.py one call; mirror.py their record
batch.py           what is written down before the first begins; report.py what came of it
"""
