"""AIPerf itself reads an exported trace: its own loader's model takes every row, with the values that were written.

AIPerf with all it can do is 1.2 GB; what its trace loader imports is 5 MB, and is installed beside the project for the
duration of these tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from redecode.tracer import SpanKind
from redecode.tracer.export.mooncake import Rows, load_trace
from tests.tracer.export.recorded_runs import Builder

LOADER = ("aiperf==0.13.0", "aiofiles", "cyclopts", "ffmpeg-python", "future", "ruamel.yaml")
BESIDES = ("zmq", "PIL", "tqdm", "transformers")  # that the loader imports too, and vLLM brings
READ = """
import json, sys
from aiperf.dataset.loader.models import MooncakeTrace
from aiperf.dataset.loader.mooncake_trace import MooncakeTraceDatasetLoader

rows = [json.loads(line) for line in sys.stdin]
assert all(MooncakeTraceDatasetLoader.can_load(row) for row in rows)
print(json.dumps([MooncakeTrace.model_validate(row).model_dump(mode="json", exclude_none=True) for row in rows]))
"""


@pytest.fixture(scope="module")
def aiperf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with AIPerf's loader in it."""
    missing = [name for name in BESIDES if importlib.util.find_spec(name) is None]
    folder = tmp_path_factory.mktemp("aiperf")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--target", str(folder), *LOADER], capture_output=True, text=True, check=False)
    if os.environ.get("CI"):
        assert not missing
        assert done.returncode == 0, done.stderr
    if missing or done.returncode:
        pytest.skip(f"AIPerf's loader cannot be installed here: {missing or done.stderr.strip().splitlines()[-1]}")
    return folder


def two_calls() -> Any:
    made = Builder()
    run = made.span(SpanKind.RUN, "agent", 0, 100)
    first = made.decode("a", 0, 10, run, [1] * 700)
    made.edge(first, made.decode("b", 30, 40, run, [1] * 1300))
    return made.build()


@pytest.mark.parametrize("rows", Rows)
def test_aiperf_reads_every_row(aiperf: Path, rows: Rows) -> None:
    written = load_trace([two_calls()], rows).rows
    text = "".join(json.dumps(row) + "\n" for row in written)
    env = {**os.environ, "PYTHONPATH": str(aiperf)}
    done = subprocess.run(
        [sys.executable, "-c", READ], input=text, capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert len(read) == 2
    for before, after in zip(written, read, strict=True):
        assert {name: after[name] for name in before} == before
    assert read[0]["hash_ids"][0] == read[1]["hash_ids"][0]
