"""What forcing tokens costs on a real vLLM: the same prompts, sampled freely and forced, turn by turn.

Starts an engine of its own with a bundled FM. Free and forced passes alternate, so that the ratio holds on
a noisy machine; times are the engine's own (its step clock). `--quick` takes under a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from redecode.agents import BUNDLED_MODELS, DEFAULT_MODEL, model_dir
from redecode.replay.engine import Completion, EngineClient, start, stop

_PROMPT = list(range(3, 103))
_SAMPLING = {"temperature": 1.0, "ignore_eos": True}


async def measure(url: str, repeats: int, tokens: int) -> list[dict[str, Any]]:
    """Rows of the table: one per number of concurrent calls."""
    rows = []
    async with EngineClient(url) as client:
        info = await client.info()

        async def call(rid: str, force: list[int] | None) -> Completion:
            sampling = _SAMPLING | ({} if force else {"max_tokens": tokens, "seed": 1})
            return await client.complete(_PROMPT, sampling=sampling, rid=rid, force=force)

        known = list((await call("warm", None)).token_ids)
        for concurrency in (1, 8):
            tpot: dict[str, list[float]] = {"free": [], "forced": []}
            equal = 0
            for turn in range(repeats):
                for kind, force in (("free", None), ("forced", known)):
                    rids = [f"{kind}-{concurrency}-{turn}-{n}" for n in range(concurrency)]
                    done = await asyncio.gather(*(call(rid, force) for rid in rids))
                    for completion in done:
                        times = completion.token_times_ns or (0, 0)
                        tpot[kind].append((times[-1] - times[0]) / (len(times) - 1) / 1e6)
                    if force:
                        equal += sum(list(c.token_ids) == known for c in done)
            free, forced = median(tpot["free"]), median(tpot["forced"])
            rows.append(
                {
                    "model": info.served_model_name,
                    "concurrent": concurrency,
                    "free_tpot_ms": round(free, 3),
                    "forced_tpot_ms": round(forced, 3),
                    "ratio": round(forced / free, 3),
                    "forced_equal": f"{equal}/{repeats * concurrency}",
                }
            )
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--model", choices=BUNDLED_MODELS, default=DEFAULT_MODEL)
    args = parser.parse_args()
    repeats, tokens = (6, 64) if args.quick else (40, 256)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "engine"
        state = start(model_dir(args.model), home=home)
        try:
            rows = asyncio.run(measure(state.base_url, repeats, tokens))
        finally:
            stop(home)
    conditions = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "device": state.device,
        "repeats": repeats,
        "tokens": tokens,
    }
    if args.json:
        sys.stdout.write(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
    print("".join(f"{name:>16}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value!s:>16}" for value in row.values()))


if __name__ == "__main__":
    main()
