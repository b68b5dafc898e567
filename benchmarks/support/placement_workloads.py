"""Engines and runs for `benchmarks/placement.py`. Engines are made up; each workload says where it is from."""

from __future__ import annotations

import json
import random
import shutil
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from redecode.optimizer.placement.beliefs import Beliefs
from redecode.optimizer.placement.kinds import longest_s
from redecode.optimizer.placement.work import Model
from redecode.replay import ReplayMode
from redecode.replay.closed_loop.engine_replay import choose
from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.workload import Call, Contents, Shape, Workload, chain, shape_of, single
from redecode.tracer import Store

BLOCK = 64
MOONCAKE = Path(__file__).with_name("mooncake_conversation_500.jsonl")
RECORDING = Path(str(files("redecode.agents"))) / "recordings"


def made_up_engine(hardware: str, slower: float, usd_per_hour: float, calls: int = 64) -> Engine:
    """An 8B-like model on this hardware: `slower` times the steps of the fastest."""
    costs = StepCosts(
        step=to_ps(7e-3 * slower), prefill_token=to_ps(2.2e-5 * slower), prefill_pair=to_ps(2e-9 * slower),
        prefill_call=to_ps(2e-4 * slower), decode=to_ps(1.2e-4 * slower), context_token=to_ps(6e-8 * slower),
        gap=to_ps(8e-4), gap_row=to_ps(1e-5),
    )  # fmt: skip
    return Engine(
        costs=costs,
        limits=Limits(
            max_num_seqs=calls, token_budget=2048, kv_blocks=round(400_000 / BLOCK / slower**0.5), block_size=BLOCK,
        ),
        hardware=hardware, before_ps=to_ps(4e-3), after_ps=to_ps(1e-3), cold_start_ps=to_ps(40.0),
        cost_per_s=usd_per_hour / 3600,
    )  # fmt: skip


def pools() -> dict[str, list[Engine]]:
    """Equal replicas, and unequal ones."""
    fast, middle, slow = (made_up_engine(*k) for k in (("fast", 1.0, 4.0), ("middle", 2.0, 1.8), ("slow", 5.0, 0.7)))
    return {"equal": [fast] * 4, "unequal": [fast, fast, middle, middle, slow, slow]}


@dataclass(frozen=True, slots=True)
class Mix:
    """Runs to draw from.

    Attributes:
        known: other runs of the same kind: what was recorded before, and all that policies may learn from.
        deadlines: by name of the shape, ps.
        in_order: they come in this order, each once (then again), not drawn.
    """

    name: str
    source: str
    shapes: tuple[Shape, ...]
    known: tuple[Shape, ...]
    deadlines: dict[str, int]
    in_order: bool = False


def sessions(rng: random.Random, count: int, *, scale: float = 1 / 16) -> list[Shape]:
    """Turns of coding agents; see `mix_sessions`."""
    out = []
    for _ in range(count):
        calls = 1
        while rng.random() > 1 / 7.83 and calls < 16:
            calls += 1
        shared = rng.randrange(6)
        tokens = max(BLOCK * 4, int(rng.lognormvariate(10.6, 0.7) * scale))
        parts, gaps, own = [], [], 0
        for place in range(calls):
            prompt = tokens if not place else tokens + max(8, int(rng.lognormvariate(7.6, 1.2) * scale))
            output = max(2, int(rng.lognormvariate(5.9, 0.85) / 4))
            tokens = min(prompt + output, 24_000)
            blocks = tokens // BLOCK
            hashes = [shared * 4096 + b for b in range(min(4, blocks))]
            own = blocks - len(hashes)
            hashes += [-b - 1 for b in range(own)]
            parts.append(
                Call(
                    step=f"run/agent@{place}/chat",
                    prompt_tokens=min(prompt, 23_000),
                    output_tokens=output,
                    hashes=tuple(hashes),
                )
            )
            gaps.append(to_ps(min(20.0, rng.lognormvariate(-1.0, 1.3))) if place else 0)
        out.append(replace(chain(parts, gaps), name="coder"))
    return out


def chats(rng: random.Random, count: int) -> list[Shape]:
    """Single calls with a person waiting: short and long ones."""
    out = []
    for _ in range(count):
        prompt = min(8000, int(rng.lognormvariate(6.6, 0.9)) + 64)
        output = min(1500, int(rng.lognormvariate(4.8, 0.8)) + 2)
        shared = rng.randrange(4)
        hashes = tuple(900_000 + shared * 8 + b for b in range(min(6, prompt // BLOCK)))
        call = Call(step="run/answer@1/chat", prompt_tokens=prompt, output_tokens=output, hashes=hashes)
        out.append(replace(single(call), name="chat"))
    return out


def _drawn_call(rng: random.Random, step: str, prompt: tuple[float, float], output: tuple[float, float]) -> Call:
    return Call(
        step=step,
        prompt_tokens=int(rng.lognormvariate(*prompt)) + 16,
        output_tokens=int(rng.lognormvariate(*output)) + 2,
    )


def fan_outs(rng: random.Random, count: int) -> list[Shape]:
    """A plan, then two to eight calls side by side, then a summary of all."""
    out = []
    for _ in range(count):
        width, gap = rng.randint(2, 8), to_ps(0.02)
        plan = _drawn_call(rng, "run/plan@1/chat", (6.5, 0.5), (4.3, 0.6))
        side = [_drawn_call(rng, "run/work@2/chat", (7.2, 0.6), (4.9, 0.9)) for _ in range(width)]
        end = replace(
            _drawn_call(rng, "run/summary@3/chat", (5.0, 0.1), (5.0, 0.5)),
            prompt_tokens=300 + sum(c.output_tokens for c in side),
        )
        out.append(
            Shape(
                calls=(plan, *side, end),
                first=((0, 0),),
                after=(tuple((i + 1, gap) for i in range(width)), *(((width + 1, gap),) for _ in side), ()),
                waits=(1, *(1 for _ in side), width),
                last={width + 1: 0},
                name="research",
            )
        )
    return out


def deadlines_for(shapes: Sequence[Shape], engine: Engine, factors: dict[str, float]) -> dict[str, int]:
    """One SLO for each agent: a multiple of the 95th percentile of its runs alone on this engine."""
    speed = Model(engine, Beliefs(shapes, [engine]).typical[""]).speed(1)
    out = {}
    for name, factor in factors.items():
        times = sorted(longest_s(s, speed, engine.limits.block_size) for s in shapes if s.name == name)
        out[name] = to_ps(factor * times[-(-95 * len(times) // 100) - 1])
    return out


def capacity(engines: Sequence[Engine], known: Sequence[Shape]) -> float:
    """About how many runs a second these engines could end."""
    beliefs = Beliefs(known, engines)
    calls = sum(len(s.calls) for s in known) / len(known)
    return sum(Model(e, beliefs.typical[""]).most_per_s() for e in engines) / calls


def drawn(mix: Mix, rate: float, runs: int, seed: int) -> Workload:
    """So many runs of a mix, beginning as a Poisson process."""
    rng = random.Random(f"{mix.name}/{seed}")
    at, begins, which = 0.0, array("q"), array("l")
    for _ in range(runs):
        at += rng.expovariate(rate)
        begins.append(to_ps(at))
        which.append(next_of(mix, len(which), rng))
    limits = array("q", [mix.deadlines[mix.shapes[i].name] for i in which])
    return Workload(mix.shapes, begins, which, limits)


def next_of(mix: Mix, place: int, rng: random.Random) -> int:
    """The shape of the run that comes as number `place`."""
    return place % len(mix.shapes) if mix.in_order else rng.randrange(len(mix.shapes))


def mooncake() -> list[Shape]:
    """Requests of Mooncake's conversation trace (mooncake.md), each a run of one call; blocks are of 512 tokens."""
    out, parts = [], 512 // BLOCK
    for line in MOONCAKE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        hashes = tuple(h * parts + part for h in row["hash_ids"] for part in range(parts))
        prompt, output = row["input_length"], max(1, row["output_length"])
        call = Call(
            step="chat", prompt_tokens=prompt, output_tokens=output, hashes=hashes[: (prompt + output) // BLOCK]
        )
        out.append(replace(single(call), name="conversation"))
    return out


def mixes(store: str | None = None) -> dict[str, Mix]:
    """All workloads: of each kind some runs to learn from, and others to place."""
    rng = random.Random(5)
    fast = pools()["equal"][0]
    coders, chat, research = ((make(rng, 240), make(rng, 240)) for make in (sessions, chats, fan_outs))
    matched = (
        "synthetic, matched to published means (GitHub Copilot coding agents, arXiv 2608.00101: 7.83 calls a turn, "
        "prompts 67.8k and outputs 527 tokens, 86 % of prompts cached), lengths scaled to 1/16 and 1/4"
    )
    made = {
        "tenants": Mix(
            "tenants", f"one in five a turn of a coding agent ({matched}), the others chats; made up",
            tuple(coders[0][:48] + chat[0][:192]), tuple(coders[1][:48] + chat[1][:192]),
            deadlines_for(coders[1] + chat[1], fast, {"coder": 3.0, "chat": 1.5}),
        ),
        "research": Mix(
            "research", "made up: a plan, two to eight calls side by side, a summary", tuple(research[0]),
            tuple(research[1]), deadlines_for(research[1], fast, {"research": 2.0}),
        ),
        "coders": Mix(
            "coders", f"turns of coding agents: {matched}", tuple(coders[0]), tuple(coders[1]),
            deadlines_for(coders[1], fast, {"coder": 2.0}),
        ),
    }  # fmt: skip
    requests = mooncake()
    made["mooncake"] = Mix(
        "mooncake", "500 requests of Mooncake's conversation trace, in their order, Poisson arrivals at our rate",
        tuple(requests[250:]), tuple(requests[:250]), deadlines_for(requests, fast, {"conversation": 2.0}),
        in_order=True,
    )  # fmt: skip
    shapes = recorded(store)
    agents = sorted({s.name for s in shapes})
    by_agent = [[s for s in shapes if s.name == agent] for agent in agents]
    known = tuple(s for runs in by_agent for s in (runs[::2] if len(runs) > 1 else runs))
    others = tuple(s for runs in by_agent for s in (runs[1::2] if len(runs) > 1 else runs))
    made["recorded"] = Mix(
        "recorded", f"{len(shapes)} recorded runs of {', '.join(agents)}; every other one of each agent is learnt from",
        others, known, deadlines_for(shapes, fast, dict.fromkeys(agents, 2.0)),
    )  # fmt: skip
    return made


def recorded(store: str | None = None) -> list[Shape]:
    """Recorded runs, FM names taken out: any engine here serves them. By default those that come with the package."""
    with TemporaryDirectory() as folder:
        if store is None:
            opened = Store(Path(folder))
            shutil.copy(
                RECORDING / "demo.journal", opened.spool / json.loads((RECORDING / "demo.json").read_text())["journal"]
            )
        else:
            opened = Store(Path(store))
        runs = [opened.load(r.run_id) for r in opened.runs() if r.source_run_id is None and r.decodes]
    plans = choose(runs, ReplayMode.SIMULATE, leave_out=True).plans
    contents = Contents(BLOCK)
    found = [shape_of(plan, contents) for plan in plans.values()]
    return [replace(s, calls=tuple(replace(c, model="") for c in s.calls)) for s in found]
