"""Placement: profiler, latency budgets, router, provisioner and cluster, compared with Ray Serve.

Nothing lives here yet.
"""
