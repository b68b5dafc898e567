"""The demo where there is no engine: the shipped recording, read, shown and played back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from redecode.tracer import Store


def test_the_shipped_recording_is_played_back(tmp_path: Path) -> None:
    pytest.importorskip("langgraph")
    command = [sys.executable, "-m", "redecode.cli", "demo", "--no-engine", "--store", str(tmp_path / "store")]
    for _ in range(2):  # a second time in the same store: nothing is recorded twice
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "played back 10 of 10 recorded runs" in done.stderr
        assert "critical path" in done.stdout
    runs = Store(tmp_path / "store").runs()
    recorded = [r for r in runs if r.source_run_id is None]
    played = [r for r in runs if r.replay_mode == "playback"]
    assert (len(recorded), len(played)) == (10, 20)
    outputs = {r.run_id: without_ids(r.output) for r in recorded}
    assert all(without_ids(r.output) == outputs[str(r.source_run_id)] for r in played)


def without_ids(output: object) -> str:
    """The output less the random ids LangChain gives to messages."""
    return re.sub(r'"id": "[^"]*"', "", json.dumps(output))
