"""Really recorded runs, of a graph with everything and of the reference architectures: all of their time is found.

Runs of any graph are in tests/tracer/langgraph/test_any_graph.py.
"""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("langgraph")

from redecode.replay.analysis.activities import activities_of
from redecode.replay.analysis.runs import analyze_run
from redecode.tracer import Store
from tests.replay.analysis.adding_up import adds_up
from tests.tracer.langgraph.random_graphs import run_every_way
from tests.tracer.langgraph.test_any_graph import MUCH


def test_runs_of_a_graph_with_one_of_everything_add_up(tmp_path: Path) -> None:
    run_every_way(MUCH, tmp_path)
    store = Store(tmp_path)
    cuts = [activities_of(store.load(run.run_id)) for run in store.runs()]
    for run in store.runs():
        adds_up(store.load(run.run_id))
    # The same graph has the same activities on every run, but for code and gaps too short to be seen.
    assert len({frozenset(a.profile_key for a in cut.activities) for cut in cuts}) == 1


def test_the_reference_architectures_add_up(tmp_path: Path) -> None:
    """As they were recorded on vLLM, with its split and step clock."""
    recordings = Path(str(files("redecode.agents"))) / "recordings"
    about = json.loads((recordings / "demo.json").read_text())
    store = Store(tmp_path / "store")
    shutil.copy(recordings / "demo.journal", store.spool / about["journal"])
    runs = store.runs()
    assert {r.agent for r in runs} >= {"single", "sequential", "parallel", "debate", "contacts_desk"}
    for run in runs:
        adds_up(store.load(run.run_id))
        split = analyze_run(store, run.run_id[:12]).split
        assert min(split.prefill_ns, split.decode_ns, split.queue_ns) > 0
        assert split.decode_ns > split.total_ns / 4
        assert (split.tool_ns > 0) == (run.tools > 0)
