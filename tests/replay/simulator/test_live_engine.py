"""On a real vLLM: the sweep sees its steps, and the simulated prefix cache finds what the real one finds."""

from __future__ import annotations

import random

import pytest

from redecode.replay.engine import EngineClient
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS, StepCosts
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.fit import fit_profile
from redecode.replay.simulator.observed import FOREIGN
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.sweep import sweep
from redecode.replay.simulator.workload import Call, Contents, Workload, single

pytestmark = pytest.mark.vllm


async def test_a_short_sweep_gives_an_engine_profile(engine_url: str) -> None:
    async with EngineClient(engine_url) as client:
        swept = await sweep(client, rng=random.Random(1), rounds=1, output=12, at_once=(1, 2), seconds=1.5)
        info = await client.info()
    assert FOREIGN not in swept.observed.left_out
    assert any(s.prefill_calls and s.decodes for s in swept.observed.steps), "some steps did both"
    assert swept.passages
    profile = fit_profile(swept.observed, info, source="sweep", now_ns=0, passages=swept.passages)
    assert profile.seconds.step > 0
    assert profile.limits.kv_blocks * profile.limits.block_size >= (info.max_model_len or 0)
    assert profile.step_s(decodes=1, context_tokens=20) > 0
    assert profile.to_engine().limits.max_num_seqs == info.max_num_seqs


async def test_prompts_find_in_the_cache_what_the_simulator_says(engine_url: str) -> None:
    rng = random.Random(2)
    async with EngineClient(engine_url) as client:
        info = await client.info()
        size = int((info.model_extra or {})["block_size"])
        vocab, room = info.vocab_size or 0, (info.max_model_len or 0) - 8

        def fresh(count: int) -> list[int]:
            return [rng.randrange(vocab) for _ in range(count)]

        first, output = fresh(min(room, 2 * size + size // 3)), fresh(4)
        prompts = [
            first, first, first + output, first[: size + 5] + fresh(size), first[: 2 * size], first[: size + 1],
            first[: size], fresh(size), fresh(3) + first[:size],
        ]  # fmt: skip
        prompts = [p for p in prompts if len(p) <= room]
        assert await client.reset_prefix_cache()
        found = []
        for n, prompt in enumerate(prompts):
            rid = f"cached-{rng.getrandbits(64):x}-{n}"
            done = await client.complete(prompt, sampling={"temperature": 0.0}, rid=rid, force=output, with_steps=False)
            found.append(done.cached_tokens)
    contents = Contents(size)
    hashes = [contents.of([*p, *output]) for p in prompts]
    calls = [
        Call(step="s", prompt_tokens=len(p), output_tokens=4, hashes=h) for p, h in zip(prompts, hashes, strict=True)
    ]
    blocks = int((info.model_extra or {})["kv_blocks"])
    limits = Limits(max_num_seqs=1, token_budget=4096, kv_blocks=blocks, block_size=size)
    engine = Engine(costs=StepCosts(step=1000), limits=limits)
    simulated = Simulation(Workload.of([single(c) for c in calls], [n * PS for n in range(len(calls))]), [engine]).run()
    assert list(simulated.cached) == found
    assert max(simulated.cached) >= size
