"""The search: an Optuna study that is asked and told by one process, in one order.

hypervolume.py  what a front covers, and which few of its points cover the most
storage.py      where studies are kept; what is said of each; the last one of an agent
search.py       asking for candidates, telling what came of them, going on after a kill
stopping.py     budgets, stagnation, the kill switch
"""
