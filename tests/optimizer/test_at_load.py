"""Latency by simulation: the same runs at a higher load take longer, and luck is the same for all candidates."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from redecode.agents import model_dir
from redecode.cli.demo import RECORDINGS
from redecode.optimizer.evaluation.simulated import AtLoad, share_of
from redecode.optimizer.objectives import Outcome
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.errors import SimulationError
from redecode.replay.simulator.profile import EngineLimits, EngineProfile, Overheads, Range, Seconds
from redecode.tracer import Run, Store

FM = "redecode-fm-s"


@pytest.fixture
def recorded(store: Path) -> list[Run]:
    """The shipped recording of a real vLLM."""
    shutil.copy(RECORDINGS / "demo.journal", Store(store).spool / "demo.journal")
    return [r for r in Store(store).runs() if r.status == "ok" and r.decodes][:6]


def profile() -> EngineProfile:
    assert model_dir(FM).exists()
    return EngineProfile(
        engine={},
        made="2026-11-21T00:00:00+00:00",
        model=FM,
        hardware="made up",
        seconds=Seconds(
            step=0.004,
            prefill_token=5e-5,
            prefill_pair=0,
            prefill_call=0,
            decode=5e-4,
            context_token=0,
            gap=0,
            gap_row=0,
        ),
        overheads=Overheads(),
        limits=EngineLimits(
            max_num_seqs=16,
            token_budget=4096,
            kv_blocks=4096,
            block_size=16,
            chunked_prefill=False,
            prefix_caching=True,
        ),
        range=Range(rows=16, prefill_tokens=4096, prefill_pairs=10**7, context_tokens=10**5),
        source="sweep",
        steps=0,
        left_out={},
        step_spread=(),
        prefill_spread=(),
        residuals=(),
    )


def outcomes(runs: list[Run]) -> list[Outcome]:
    return [Outcome(case=r.run_id, run_id=r.run_id, quality=1.0, latency_s=r.duration_s or 0.0) for r in runs]


def test_a_higher_load_takes_longer_and_more_replicas_help(store: Path, recorded: list[Run]) -> None:
    catalogue.keep(store, profile())

    def mean_s(rate: float, replicas: int = 1) -> float:
        found = AtLoad(store=store, rate_per_s=rate, replicas=replicas)(outcomes(recorded))
        times = [o.simulated_s for o in found if o.simulated_s is not None]
        assert len(times) == len(recorded)
        return sum(times) / len(times)

    assert mean_s(0.5) < 0.8 * mean_s(60.0)
    assert mean_s(60.0, replicas=4) < 0.8 * mean_s(60.0)
    assert mean_s(5.0) == mean_s(5.0)


def test_a_failed_run_is_not_simulated_and_an_fm_without_a_profile_is_refused(store: Path, recorded: list[Run]) -> None:
    failed = Outcome(case="c", run_id=recorded[0].run_id, quality=None, latency_s=1.0, error="boom")
    assert AtLoad(store=store, rate_per_s=1.0)([failed]) == [failed]
    with pytest.raises(SimulationError, match=FM):
        AtLoad(store=store, rate_per_s=1.0)(outcomes(recorded[:1]))


def test_each_case_has_its_own_quantile_whatever_the_candidate() -> None:
    shares = sorted(share_of(str(i)) for i in range(400))
    assert all(0 < s < 1 for s in shares)
    assert max(abs(s - (i + 0.5) / 400) for i, s in enumerate(shares)) < 0.1
