"""What if steps took another time: measured.py on an engine, simulated.py on its model.

What is only predicted, on the recorded graph, is in analysis/what_if.py.
"""
