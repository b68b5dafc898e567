"""Step keys and edges of any graph: distinct within a run, and the same on every run of the same path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("langgraph")

from hypothesis import HealthCheck, given, settings

from redecode.tracer import Provenance, Store
from tests.replay.analysis.adding_up import adds_up
from tests.tracer.langgraph import random_graphs
from tests.tracer.langgraph.random_graphs import Recorded, Shape, run_every_way, shapes

# One of everything.
MUCH: Shape = [
    {"nodes": [["mixed", 2], ["flaky", 1]], "enter": "all", "width": 1, "rounds": 2},
    {"nodes": [["threads", 3]], "enter": "send", "width": 4, "rounds": 1},
    {"nodes": [["tools", 2], ["called", [{"nodes": [["chat", 1]], "enter": "send", "width": 2, "rounds": 2}]]],
     "enter": "all", "width": 1, "rounds": 1},
    {"nodes": [["graph", [{"nodes": [["tools", 1], ["tools", 2]], "enter": "all", "width": 1, "rounds": 1}]]],
     "enter": "goto", "width": 0, "rounds": 1},
]  # fmt: skip


def hold(runs: list[Recorded]) -> None:
    """What holds of all runs of one graph."""
    keys, edges = runs[0]
    assert max(Counter(keys).values()) == 1
    assert {how for _, _, _, how in edges} <= {p.value for p in Provenance} - {Provenance.TIME.value}
    assert {dst for _, dst, *_ in edges} >= set(keys) - {"run"}
    for other_keys, other_edges in runs[1:]:
        assert other_keys == keys
        assert other_edges == edges


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes())
def test_on_every_run(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "store"
    hold(run_every_way(shape, path))
    store = Store(path)
    for run in store.runs():
        adds_up(store.load(run.run_id))


def test_in_every_process(tmp_path: Path) -> None:
    programs = []
    for seed in ("0", "1"):
        command = [sys.executable, random_graphs.__file__, str(tmp_path / seed)]
        env = {**os.environ, "PYTHONHASHSEED": seed}
        programs.append(subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    runs: list[Recorded] = []
    for program in programs:
        out, _ = program.communicate(json.dumps(MUCH))
        assert program.returncode == 0
        runs += json.loads(out)
    assert len(runs) == 12
    hold(runs)
    assert len(runs[0][0]) > 50
