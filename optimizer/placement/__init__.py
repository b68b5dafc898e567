"""Placement: which replica serves an FM call, in what order, and how many replicas there are, for an SLO of whole runs.

work.py           what calls ask of an engine, and its pace at a load
beliefs.py        what may be expected of a call: by step, from recorded runs
estimates.py      l_est = l_x + l_q + l_r, and the chance to meet a deadline
decisions.py      what was decided, and why; kept only if asked
simple.py         round robin, least outstanding, shortest expected delay, prefix affinity
serve_router.py   Ray Serve's power of two choices
deadline.py       ours; committed.py: what runs that have begun will still ask for
serve_scaling.py  Ray Serve's autoscaling rule; risk_scaling.py: our provisioner
mix.py            the cheapest hardware for a mix, an integer programme; kinds.py: what it is asked
alone.py          runs by themselves, and the way a run takes; plan.py: the plan
cluster/          the same policies before live replicas

The policies are the simulator's `Router` and `Provisioner`: what runs simulated runs live.
"""
