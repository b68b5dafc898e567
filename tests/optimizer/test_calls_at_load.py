"""At a load a candidate has replicas of the FMs that it calls, and its runs wait for calls that took some time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from redecode.optimizer.errors import BadSpec, OptimizerError
from redecode.optimizer.evaluation.ladder import Ladder
from redecode.optimizer.evaluation.simulated import AtLoad
from redecode.optimizer.knobs import Choice, Config, Space
from redecode.optimizer.objectives import Goals, Outcome, Usage
from redecode.optimizer.spec import Case
from redecode.optimizer.study.search import Asked
from redecode.optimizer.tuning import _check_first
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.errors import NoProfile
from redecode.tracer import RecordedRun, Recorder, SpanKind
from redecode.tracer.fm.decode_attributes import decode_attributes
from tests.optimizer.test_at_load import AsRecorded
from tests.replay.closed_loop.test_engine_replay import run_of
from tests.replay.simulator.made import made_profile

FAILED = {"sampled_ids": None, "output_tokens": None, "error": "400: no"}
UNTOLD = {"prompt_ids": None, "sampled_ids": None, "input_tokens": None, "output_tokens": None}


def ran(store: Path, *runs: RecordedRun) -> list[Outcome]:
    """Outcomes of these runs, as a program would have recorded them, each its own case."""
    recorder = Recorder(store, agent="chain")
    out = []
    for run in runs:
        root = recorder.start_run("chain", start_ns=run.run.started_ns)
        for decode in run.decodes:
            span = next(s for s in run.spans if s.span_id == decode.span_id)
            live = recorder.start(SpanKind.DECODE, "chat", root, "chat", start_ns=span.start_ns)
            recorder.end(live, attributes=decode_attributes(decode), error=decode.error, end_ns=span.end_ns)
        recorder.end(root, end_ns=run.run.ended_ns)
        out.append(Outcome(
            case=root.run_id, run_id=root.run_id, quality=1.0, latency_s=run.run.duration_s or 0.0,
            usage={d.model: Usage(calls=1) for d in run.decodes},
        ))  # fmt: skip
    recorder.close()
    return out


def key_of(store: Path, model: str, hardware: str = "a machine") -> str:
    return catalogue.keep(store, made_profile(model, hardware=hardware)).profile.key


def test_a_profile_that_is_named_and_that_nobody_calls_costs_nothing(store: Path) -> None:
    """At 5 runs a second a run's share of one replica is 0.2 s, of two 0.4."""
    keys = [key_of(store, model) for model in ("fast", "slow")]
    found = ran(store, run_of(0, model="slow"), run_of(1, model="fast"))
    at_load = AtLoad(store=store, rate_per_s=5.0, profiles=keys, replica_usd_h=3600.0)
    for outcome in found:
        (alone,) = at_load([outcome])
        assert (alone.provisioned_s, alone.provisioned_usd) == pytest.approx((0.2, 0.2))
        (by_itself,) = AtLoad(store=store, rate_per_s=5.0)([outcome])  # by the profile of its FM
        assert alone.simulated_s == by_itself.simulated_s, "a replica that nobody calls was in the way"
    assert [o.provisioned_s for o in at_load(found)] == pytest.approx([0.4, 0.4])
    router = [replace(o, usage={}) for o in found]
    assert [o.provisioned_s for o in at_load(router)] == pytest.approx([0.2, 0.2])


def test_a_profile_that_is_chosen_for_an_fm_that_is_not_called_changes_nothing(store: Path) -> None:
    key_of(store, "fast")
    cheap, dear = key_of(store, "slow"), key_of(store, "slow", "dear")
    prices = {"fast": 3600.0, cheap: 3600.0, dear: 7200.0}
    (fast,) = ran(store, run_of(model="fast"))
    at_load = AtLoad(store=store, rate_per_s=5.0, replica_usd_h=prices)
    found = [at_load([fast], {"placement.profile": key})[0] for key in (cheap, dear)]
    assert found[0] == found[1]
    assert (found[0].provisioned_s, found[0].provisioned_usd) == pytest.approx((0.2, 0.2))


def test_an_fm_without_a_profile_beside_those_that_are_named_is_told(store: Path) -> None:
    at_load = AtLoad(store=store, rate_per_s=5.0, profiles=[key_of(store, "slow")])
    outcomes = ran(store, run_of(model="fast"))
    with pytest.raises(NoProfile, match=r"call fast, and the profile is of slow; say one of each FM by --profile$"):
        at_load(outcomes)
    with pytest.raises(BadSpec, match="call fast, and the profile is of slow"):  # another candidate has another one
        at_load(outcomes, {"placement.profile": at_load.profiles[0]})


@pytest.mark.parametrize(
    "decode",
    [{"calls": 0}, FAILED, {"sampled_ids": (), "output_tokens": 0}],
    ids=["no call", "a call that failed", "a call without a token"],
)
def test_a_run_without_a_call_to_simulate_takes_what_it_took(store: Path, decode: dict[str, Any]) -> None:
    key_of(store, "m")
    outcomes = ran(store, run_of(0), run_of(1, **decode), run_of(2))
    at_load = AtLoad(store=store, rate_per_s=5.0)
    asked, without, other = at_load(outcomes)
    assert without.simulated_s == without.latency_s
    assert asked.simulated_s not in (None, asked.latency_s) and other.simulated_s not in (None, other.latency_s)
    (alone,) = at_load(outcomes[1:2])
    assert alone.simulated_s == alone.latency_s


def test_runs_that_call_no_fm_are_no_load(store: Path) -> None:
    """Of three runs two are answered by a rule: at 24 runs a second the engine has 8, and not 24."""
    key_of(store, "m")
    outcomes = ran(store, run_of(0), run_of(1, calls=0), run_of(2, calls=0))
    routed = AtLoad(store=store, rate_per_s=24.0)(outcomes)[0]
    fewer = AtLoad(store=store, rate_per_s=8.0)(outcomes[:1])[0]
    assert routed.simulated_s == pytest.approx(fewer.simulated_s)
    busy = AtLoad(store=store, rate_per_s=24.0)(outcomes[:1])[0]
    assert routed.seconds < 0.9 * busy.seconds


TOO_LONG = "a call of .* cannot run on replica 0 .*it is 7 tokens long, and the engine takes 5"
NO_COUNT = r"decode .* has no count of prompt tokens \(fidelity .*\); the engine has to tell them \(`usage`\)$"


@pytest.mark.parametrize(("decode", "why"), [(UNTOLD, NO_COUNT), ({}, TOO_LONG)], ids=["no lengths", "too long"])
def test_a_candidate_that_cannot_be_simulated_is_out_and_the_study_goes_on(
    store: Path, decode: dict[str, Any], why: str
) -> None:
    short = made_profile().limits.model_copy(update={"max_model_len": 5})
    catalogue.keep(store, made_profile(limits=made_profile().limits if decode else short))
    outcomes = ran(store, run_of(0), run_of(1, **decode))
    evaluates = AsRecorded([])
    evaluates.made = {o.case: o for o in outcomes}
    ladder = Ladder(
        evaluates=evaluates, space=Space({"wording": Choice("a", "b")}), goals=Goals(),
        cases=[Case(id=o.case, input=None) for o in outcomes], simulates=AtLoad(store=store, rate_per_s=5.0),
    )  # fmt: skip
    config: Config = {"wording": "b"}
    found = ladder.one(Asked(1, config, cast(Any, None)), [])
    assert found.failed is not None
    with pytest.raises(OptimizerError, match=f"^the incumbent cannot be evaluated: .*{why}"):
        _check_first(found)
