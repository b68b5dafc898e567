"""The demo where there is no engine: the shipped recording, read, shown and played back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from redecode.cli.demo import RECORDINGS
from redecode.tracer import Store


@pytest.mark.long
def test_the_shipped_recording_is_played_back(tmp_path: Path) -> None:
    pytest.importorskip("langgraph")
    path = tmp_path / "store"
    about = json.loads((RECORDINGS / "demo.json").read_text())
    shutil.copy(RECORDINGS / "demo.journal", Store(path).spool / about["journal"])
    assert len(Store(path).runs()) == 10  # as if the demo had been here: nothing is to be recorded twice
    command = [sys.executable, "-m", "redecode.cli", "demo", "--no-engine", "--store", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "played back 10 of 10 recorded runs" in done.stderr
    assert "critical path" in done.stdout
    runs = Store(path).runs()
    recorded = [r for r in runs if r.source_run_id is None]
    played = [r for r in runs if r.replay_mode == "playback"]
    assert (len(recorded), len(played)) == (10, 10)
    outputs = {r.run_id: without_ids(r.output) for r in recorded}
    assert all(without_ids(r.output) == outputs[str(r.source_run_id)] for r in played)


def without_ids(output: object) -> str:
    """The output less the random ids LangChain gives to messages."""
    return re.sub(r'"id": "[^"]*"', "", json.dumps(output))
