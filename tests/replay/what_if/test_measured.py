"""What-if, measured: what is replayed in which order, what is predicted from what, and the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from redecode.replay.analysis.changes import CacheHit, Change, FewerTokens, OffBarrier, Remove, Scale
from redecode.replay.closed_loop.batch import LABEL
from redecode.replay.closed_loop.scaling import UnknownStep
from redecode.replay.errors import ReplayError
from redecode.replay.what_if.measured import Measured, NotMeasurable, measure, options_of
from redecode.tracer import Store
from tests.replay.closed_loop.test_engine_replay import MS, run_of
from tests.replay.token_engine import TokenEngine, token_engine


async def measured(store: Path, *changes: Change, repeat: int = 2) -> Measured:
    async with token_engine(TokenEngine()) as url:
        return await measure(store, run_of(wait_ms=40), changes, url, repeat=repeat)


async def test_unchanged_and_changed_in_alternation_and_the_prediction_is_made_of_the_unchanged(store: Path) -> None:
    """Three waits of 40 ms: a replay takes them, less what a point was late at their beginning."""
    found = await measured(store, Scale("wait", 0.5))
    runs = {r.run_id: r for r in Store(store).runs()}
    order = sorted(runs, key=lambda run_id: runs[run_id].started_ns)
    scaled = [bool(runs[run_id].labels[LABEL]["steps"]) for run_id in order]
    assert scaled == [False, False, True, True, False]
    assert order[0] == found.warm_up_run
    assert [i for i, s in zip(order[1:], scaled[1:], strict=True) if not s] == list(found.baseline_runs)
    assert [i for i, s in zip(order, scaled, strict=True) if s] == list(found.changed_runs)
    assert [round((runs[i].duration_s or 0) * 1e9) for i in found.changed_runs] == pytest.approx(found.changed_ns)

    gains = [before - after for before, after in zip(found.baseline_ns, found.predictions_ns, strict=True)]
    assert all(50 * MS < gain <= before / 2 for gain, before in zip(gains, found.baseline_ns, strict=True))
    assert min(found.baseline_ns) >= 120 * MS
    assert min(found.changed_ns) >= 60 * MS
    (step,) = found.steps
    assert step.baseline.median_ns > 100 * MS
    assert step.predicted_ns == round(step.baseline.median_ns * 0.5)
    assert step.measured.median_ns > 50 * MS
    assert all(known > 50 * MS for known in found.calls_known_ns)
    told = found.to_json()
    assert told["error_ns"] == found.predicted_ns - found.measured.median_ns
    assert told["predicted_gain_ns"] == found.baseline.median_ns - found.predicted_ns
    assert told["measured_gain_ns"] == found.baseline.median_ns - found.measured.median_ns


@pytest.mark.parametrize(
    ("measured_ms", "within", "telling"),
    [([99, 100, 101], True, True), ([79, 80, 81], False, True), ([10, 100, 300], True, False)],
    ids=["agrees", "is off", "cannot be told"],
)
def test_the_verdict(measured_ms: list[int], within: bool, telling: bool) -> None:
    found = Measured(
        changes=("x",), engine="", warm_up_run="", baseline_runs=(), changed_runs=(), steps=(), warnings=(),
        baseline_ns=(150 * MS, 151 * MS, 149 * MS), predictions_ns=(100 * MS, 101 * MS, 99 * MS),
        changed_ns=tuple(ms * MS for ms in measured_ms), calls_known_ns=(98 * MS, 97 * MS, 96 * MS),
    )  # fmt: skip
    assert (found.within_noise, found.telling) == (within, telling)
    assert found.predicted_ns == 100 * MS
    assert found.calls_known_errors_ns[0] == (98 - measured_ms[0]) * MS


@pytest.mark.parametrize(
    "change",
    [Remove("wait"), OffBarrier("wait")],
    ids=lambda change: type(change).__name__,
)
def test_what_no_replay_can_do_is_said_and_not_faked(change: Change) -> None:
    with pytest.raises(NotMeasurable, match="cannot be measured yet"):
        options_of([Scale("wait", 0.5), change], run_of(wait_ms=1))


async def test_fewer_tokens_are_forced_and_nothing_else_is_otherwise(store: Path) -> None:
    engine = TokenEngine()
    async with token_engine(engine) as url:
        run = run_of(wait_ms=1)
        found = await measure(store, run, [FewerTokens("run/chat#1", 3)], url, repeat=2)
    forced: dict[tuple[int, ...], list[int]] = {tuple(d.prompt_ids or ()): [] for d in run.decodes}
    for (_, body), place in zip(engine.calls, range(100), strict=False):
        assert place // 3 in (0, 1, 2, 3, 4)
        forced[tuple(body["prompt"])].append(body["max_tokens"])
    assert list(forced.values()) == [[4] * 5, [4, 4, 1, 1, 4], [4] * 5]
    changed = Store(store).load(found.changed_runs[0])
    assert [len(d.sampled_ids or ()) for d in changed.decodes] == [4, 1, 4]
    assert [d.sampled_ids for d in changed.decodes] == [
        (run.decodes[n].sampled_ids or ())[: (4, 1, 4)[n]] for n in range(3)
    ]
    assert changed.decodes[1].output is None
    assert changed.run.labels[LABEL]["shorter"] == {"run/chat#1": 3}
    assert [s.step for s in found.steps] == ["run/chat#1"]


async def test_what_is_cached_is_neither_called_nor_waited_for(store: Path) -> None:
    engine = TokenEngine()
    async with token_engine(engine) as url:
        found = await measure(store, run_of(wait_ms=40), [CacheHit("chat#1"), CacheHit("wait")], url, repeat=2)
    changed = Store(store).load(found.changed_runs[0])
    assert len(changed.decodes) == 2
    assert len(engine.calls) == 3 * 3 + 2 * 2
    assert min(found.baseline_ns) >= 120 * MS
    assert max(found.changed_ns) < 60 * MS
    assert max(found.predictions_ns) < 60 * MS


def test_a_call_keeps_at_least_one_token() -> None:
    with pytest.raises(ReplayError, match="made 4 tokens: it can be 0 to 3 tokens shorter, not 4"):
        options_of([FewerTokens("chat", 4)], run_of(wait_ms=1))
    with pytest.raises(UnknownStep, match=r"no FM call 'chatt'.*the nearest: chat"):
        options_of([FewerTokens("chatt", 1)], run_of(wait_ms=1))
    with pytest.raises(UnknownStep, match=r"no step 'wai'.*the nearest: wait"):
        options_of([CacheHit("wai")], run_of(wait_ms=1))
    with pytest.raises(ReplayError, match="no FM call is left"):
        options_of([CacheHit("chat")], run_of(wait_ms=1))


def test_an_fm_call_is_the_engines_and_a_step_must_be_there() -> None:
    with pytest.raises(ReplayError, match="is an FM call"):
        options_of([Scale("chat", 0.5)], run_of(wait_ms=1))
    with pytest.raises(UnknownStep, match="the nearest: wait"):
        options_of([Scale("waits", 0.5)], run_of(wait_ms=1))


async def test_once_tells_nothing_of_noise(store: Path) -> None:
    with pytest.raises(NotMeasurable, match="at least 2"):
        await measured(store, Scale("wait", 0.5), repeat=1)
    assert Store(store).runs() == []


async def test_an_engine_that_fails_ends_it_and_says_how_far_it_came(store: Path) -> None:
    async with token_engine(TokenEngine(refuse=500)) as url:
        with pytest.raises(ReplayError, match=r"run/chat#0: .*0 of 5 replays are done"):
            await measure(store, run_of(wait_ms=1), [Scale("wait", 0.5)], url, repeat=2)


async def test_other_tokens_are_no_measurement(store: Path) -> None:
    async with token_engine(TokenEngine(wrong=True)) as url:
        with pytest.raises(ReplayError, match="came out with other tokens"):
            await measure(store, run_of(wait_ms=1), [Scale("wait", 0.5)], url, repeat=2)
