"""Optimizer: the nightly search that makes recorded agents faster, and the SLA-aware placement below it.

Nothing lives here yet. What will: knobs read from a graph's context schema, objectives, an evaluation
ladder (memo, simulation, live engine), the Optuna study, promotion on held-out runs, the nightly job.
"""
