"""Evaluating candidates: their graph runs on the inputs of recorded runs, as far as their calls were not paid already.

memo.py       answers FM calls that were made before, and tools as recorded
runs.py       a graph on cases, several at a time, and what the tracer saw of it
session.py    what a process that evaluates has open; evaluating in this one
worker.py     a process that evaluates blocks of cases
process.py    its other end
ladder.py     a candidate's blocks in order, and whether it is out of the race
racing.py     the rules of that race
simulated.py  what the runs would take at load, on an engine profile
"""
