"""Live clusters: the policies of a simulation, asked where calls go on Ray Serve and before plain servers.

reading.py      a request: its model, prompt, run, step, deadline
calls.py        what a router sees of it (`CallView`)
live.py         what a router sees of a replica (`ReplicaView`); prefixes.py, prometheus.py: where that comes from
names.py, policies.py   the policies by name
placing.py      asks the policy, counts what was sent, keeps the reasons; the same for every cluster
http_*.py       plain OpenAI-compatible servers behind one front
ray_*.py        replicas on Ray Serve
paced*.py       an engine that takes the time of a profile, and computes nothing
errors.py       what can go wrong
"""
