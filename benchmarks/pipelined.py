"""What it saves to carry a plan out while it is being written, and what a rejected plan costs.

1. A plan of six steps written at a steady pace, carried out when it is whole, and while it is written: steps that run
   beside each other, likewise with one long step among short ones, first or last in the plan, and steps that have
   effects and run one after another. No engine: the pace is ours.
2. The clerk on a real engine (`--url`): articles in turns, both ways, the directory (asked first) or the service
   (asked last) slow by so much; the seconds of a run, and whether the answers are the same.

`--quick` takes under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from redecode import tracer
from redecode.agents.catalogue import make_agent
from redecode.agents.context import close_clients
from redecode.agents.pipelined import PlanRejected, Step, pipelined
from redecode.agents.plan_parts import JsonParts
from redecode.agents.runner import Job, run_job_async

STEPS, TOKENS_EACH = 6, 20
SLOW = ((200.0, 30.0), (800.0, 30.0), (30.0, 200.0))
SHAPES = ("beside each other", "the first is long", "the last is long", "one after another")


def plan() -> list[str]:
    """A plan in pieces of a token each, about."""
    text = json.dumps({"steps": [{"step": n, "what": "x" * (TOKENS_EACH * 4 - 24)} for n in range(STEPS)]})
    return [text[at : at + 4] for at in range(0, len(text), 4)]


async def written(token_s: float) -> AsyncIterator[str]:
    """The plan at a pace."""
    for piece in plan():
        await asyncio.sleep(token_s)
        yield piece


async def one_plan(token_s: float, shape: str, long_s: float, *, ahead: bool, rejected: bool) -> float:
    """Seconds until a plan has been carried out, or rejected and undone."""
    effects = shape == "one after another"
    short_s = 0.02 if shape.startswith("the") else long_s

    def step_of(part: Any) -> Step:
        number = part["step"]
        is_long = number == {"the first is long": 0, "the last is long": STEPS - 1}.get(shape, number)
        step_s = long_s if is_long else short_s

        async def run(_: Sequence[Any]) -> None:
            await asyncio.sleep(step_s)

        async def undo(_: Any) -> None:
            await asyncio.sleep(step_s)

        return Step(name=str(part["step"]), run=run, side_effect=effects, undo=undo if effects else None)

    def accept(text: str, parts: Sequence[Any]) -> None:
        if rejected:
            raise PlanRejected("no")

    begun = time.perf_counter()
    with contextlib.suppress(PlanRejected):
        await pipelined(written(token_s), JsonParts(within="steps"), step_of, accept, ahead=ahead)
    return time.perf_counter() - begun


def plans(token_ms: float, steps_ms: Sequence[float], repeats: int) -> list[dict[str, Any]]:
    """A row for each shape of a plan and length of a step."""
    rows = []
    for shape in SHAPES:
        for step_ms in steps_ms:
            found: dict[str, list[float]] = {}
            for _ in range(repeats):
                for name, ahead, rejected in (
                    ("whole", False, False),
                    ("ahead", True, False),
                    ("rejected", True, True),
                ):
                    took = asyncio.run(one_plan(token_ms / 1e3, shape, step_ms / 1e3, ahead=ahead, rejected=rejected))
                    found.setdefault(name, []).append(took)
            middle = {name: statistics.median(values) for name, values in found.items()}
            rows.append({"shape": shape, "step_ms": step_ms, "saved": 1 - middle["ahead"] / middle["whole"], **middle})
    return rows


def clerk(url: str, model: str, waits_ms: Sequence[tuple[float, float]], count: int) -> list[dict[str, Any]]:
    """A row for each wait: the clerk both ways, article by article, in turns."""
    agent = make_agent("clerk", count=count, seed=77)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tracer.instrument(Path(folder) / "store")
        for directory_ms, service_ms in waits_ms:
            took: dict[str, list[float]] = {"plan_then_run": [], "pipelined": []}
            outputs: dict[str, list[Any]] = {"plan_then_run": [], "pipelined": []}
            for number, case in enumerate(agent.cases):
                for execution in sorted(took, reverse=number % 2 == 0):
                    waits = {"tool_wait_s": directory_ms / 1e3, "service_wait_s": service_ms / 1e3}
                    knobs = {**waits, "execution": execution, "seed": 0}
                    context = agent.context_type(base_url=url, model=model, **knobs)
                    result = asyncio.run(_once(Job(number=number, agent=agent, case=case, context=context)))
                    took[execution].append(result.duration_s)
                    outputs[execution].append(result.output.get("answer"))
            saved = [1 - b / a for a, b in zip(took["plan_then_run"], took["pipelined"], strict=True)]
            rows.append(
                {
                    "directory_ms": directory_ms,
                    "service_ms": service_ms,
                    **{name: statistics.median(values) for name, values in took.items()},
                    "saved": statistics.median(saved),
                    "same": outputs["plan_then_run"] == outputs["pipelined"],
                    "rejected": sum(o is None for o in outputs["pipelined"]),
                }
            )
        tracer.uninstrument()
        for row in rows:
            row["runs"] = count
    return rows


async def _once(job: Job) -> Any:
    try:
        return await run_job_async(job)
    finally:
        await close_clients()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("OPENAI_BASE_URL"), help="of a real engine, for part 2")
    parser.add_argument("--model", default="redecode-fm-s")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "none")
    steps_ms, waits_ms = ((400.0,), SLOW[:1]) if args.quick else ((100.0, 400.0, 1600.0), SLOW)
    repeats, count = (1, 4) if args.quick else (3, 16)
    first = plans(8.0, steps_ms, repeats)
    second = clerk(args.url, args.model, waits_ms, count) if args.url else []
    conditions = {"tokens of a plan": len(plan()), "ms a token": 8, "python": sys.version.split()[0]}
    conditions["load average"] = round(os.getloadavg()[0], 1)
    if args.json:
        sys.stdout.write(json.dumps({"conditions": conditions, "plans": first, "clerk": second}, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
    print(f"\n{'six steps':30}{'when whole':>12}{'while written':>15}{'saved':>8}{'rejected, undone':>18}")
    for row in first:
        name = f"{row['shape']}, {row['step_ms']:g} ms"
        print(f"{name:30}{row['whole']:>10.2f} s{row['ahead']:>13.2f} s{row['saved']:>8.0%}{row['rejected']:>16.2f} s")
    if second:
        print(f"\n{'clerk':36}{'when whole':>12}{'while written':>15}{'saved':>8}  answers")
    for row in second:
        said = "the same" if row["same"] else "DIFFER"
        name = f"directory {row['directory_ms']:g} ms, service {row['service_ms']:g} ms"
        times = f"{row['plan_then_run']:>10.2f} s{row['pipelined']:>13.2f} s{row['saved']:>8.0%}"
        print(f"{name:36}{times}  {said}, {row['rejected']} of {row['runs']} rejected")


if __name__ == "__main__":
    main()
