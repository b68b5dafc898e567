"""Whether a replay gives each branch of a fan-out its own answer: eight branches, equal prompts, different answers.

One LangGraph run (`Send` to eight branches) is recorded by redecode and by reeltime, sync and async, and then replayed
again and again in fresh processes, with the server gone. A replay is right if each branch got the answer it got when it
was recorded. redecode: `redecode replay RUN --mode playback -- CMD`; reeltime: `tape replay`, as it comes, and with
`--strict`. `--quick` takes under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redecode.tracer import Store

_SUPPORT = Path(__file__).parent / "support"
RIGHT, WRONG, FAILED = "right", "wrong branch", "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One way to replay.

    Attributes:
        wrong: replays that ended as if all were well, with an answer in another branch than recorded.
        failed: replays that said they could not.
    """

    tool: str
    how: str
    branches: int
    replays: int
    right: int
    wrong: int
    failed: int


def run(command: list[str], folder: Path) -> tuple[int, list[str] | None]:
    """Exit code of a program, and the list it printed."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("["):
            found: list[str] = json.loads(line)
            return done.returncode, found
    return done.returncode, None


def replays(command: list[str], folder: Path, recorded: list[str], count: int) -> Counter[str]:
    """What came of so many replays, two at a time."""

    def once(_: int) -> str:
        code, answers = run(command, folder)
        if answers == recorded:
            return RIGHT
        return FAILED if code or answers is None else WRONG

    with ThreadPoolExecutor(2) as pool:
        return Counter(pool.map(once, range(count)))


def measure(how: str, ours: int, theirs: int) -> list[Row]:
    """Record once with each, take the server away, replay."""
    rows = []
    agent = [sys.executable, str(_SUPPORT / "fanout_agent.py"), how]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        server = subprocess.Popen(
            [sys.executable, str(_SUPPORT / "token_server.py"), "names"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        program = [*agent, server.stdout.readline().strip()]
        redecode = [sys.executable, "-m", "redecode.cli"]
        _, recorded = run([*redecode, "record", "--store", "store", "--", *program], folder)
        tape = [sys.executable, "-m", "reeltime.cli"]
        with_tape = importlib.util.find_spec("reeltime") is not None
        taped = run([*tape, "run", *program], folder)[1] if with_tape else None
        server.communicate()
        assert recorded is not None and len(set(recorded)) == len(recorded), "the answers must differ"
        run_id = Store(folder / "store").runs()[0].run_id
        playback = [*redecode, "replay", run_id, "--store", "store", "--mode", "playback", "--speed"]
        ways = [
            ("redecode, at once", [*playback, "0", "--", *program], recorded, ours),
            ("redecode, at recorded pace", [*playback, "1", "--", *program], recorded, ours),
        ]
        if taped is not None:
            ways += [("reeltime", [*tape, "replay"], taped, theirs)]
            ways += [("reeltime --strict", [*tape, "replay", "--strict"], taped, theirs)]
        for tool, command, answers, count in ways:
            came = replays(command, folder, answers, count)
            rows.append(Row(tool, how, len(answers), count, came[RIGHT], came[WRONG], came[FAILED]))
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--replays", type=int, default=100, help="of redecode, for each way")
    parser.add_argument("--peer-replays", type=int, default=20, help="of reeltime, for each way")
    args = parser.parse_args()
    ours, theirs = (2, 2) if args.quick else (args.replays, args.peer_replays)
    rows = [row for how in ("sync", "async") for row in measure(how, ours, theirs)]
    conditions = {name: version(name) for name in ("langgraph", "openai", "langchain-openai")}
    if importlib.util.find_spec("reeltime") is not None:
        conditions["reeltime"] = version("reeltime")
    if args.json:
        document: dict[str, Any] = {"conditions": conditions, "rows": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
    print(f"\n{'tool':28}{'graph':8}{'branches':>9}{'replays':>9}{'right':>7}{'wrong':>7}{'failed':>8}")
    for row in rows:
        print(f"{row.tool:28}{row.how:8}{row.branches:9}{row.replays:9}{row.right:7}{row.wrong:7}{row.failed:8}")


if __name__ == "__main__":
    main()
