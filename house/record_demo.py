"""Make the recording that `redecode demo` plays back where there is no vLLM: agents/recordings/.

Run it after the bundled FM, the agents or the record have changed: `.venv/bin/python house/record_demo.py`. It starts
an engine, records the reference agents as `redecode record` would, and ships the journal as it was written, less what
names the machine it was made on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from redecode.agents import DEFAULT_MODEL, model_dir
from redecode.replay.engine import start, stop
from redecode.tracer import environment
from redecode.tracer.conventions import dumps
from redecode.tracer.events import parse
from redecode.tracer.spool import frame, read_journal

RECORDINGS = Path(__file__).resolve().parent.parent / "agents" / "recordings"
RUNS, SEED = 10, 11
PROGRAM = [
    "python", "-m", "redecode.agents", "--agent", "all", "--runs", str(RUNS), "--concurrency", "2", "--seed", str(SEED),
    "--temperature", "0.3", "--model", DEFAULT_MODEL,
]  # fmt: skip


def main() -> None:
    """Record and write demo.journal and demo.json."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        state = start(model_dir(DEFAULT_MODEL), home=store / "engine")
        try:
            base = {**os.environ, "OPENAI_BASE_URL": f"{state.base_url}/v1"}
            program = [sys.executable, *PROGRAM[1:]]
            subprocess.run(program, env=environment(base, {"store": str(store)}), check=True)
        finally:
            stop(store / "engine")
        (journal,) = (store / "spool").glob("*.journal")
        payloads = [payload for batch in read_journal(journal) for payload in batch.payloads]
    events = [parse(payload) for payload in payloads]
    runs = {e["run"] for e in events if e["t"] == "end"}
    engine = next(e["info"] for e in events if e["t"] == "engine")
    RECORDINGS.mkdir(exist_ok=True)
    (RECORDINGS / "demo.journal").write_bytes(b"".join(frame(anonymous(payload)) for payload in payloads))
    about = {
        "runs": len(runs),
        "run_ids": sorted(runs),
        "program": PROGRAM,
        "engine": f"vLLM {engine['engine_version']} with {DEFAULT_MODEL}",
        "journal": "shipped-demo-1.journal",
    }
    (RECORDINGS / "demo.json").write_text(json.dumps(about, indent=1) + "\n")


def anonymous(payload: bytes) -> bytes:
    """The record without host name, boot id and paths."""
    event = parse(payload)
    if event["t"] == "process":
        return dumps({**event, "arrays": [], "host": "laptop", "boot_id": None, "argv": PROGRAM})
    if event["t"] == "engine":
        hidden = dict.fromkeys(("host", "boot_id", "model_path", "model"))
        return dumps({**event, "arrays": [], "info": {k: hidden.get(k, v) for k, v in event["info"].items()}})
    return payload


if __name__ == "__main__":
    main()
