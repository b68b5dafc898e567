"""Latency by simulation: the same runs at a higher load take longer, and luck is the same for all candidates."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest

from redecode.agents import model_dir
from redecode.cli.demo import RECORDINGS
from redecode.optimizer.configuration import read_context, toml
from redecode.optimizer.errors import BadSpec
from redecode.optimizer.evaluation.ladder import Ladder
from redecode.optimizer.evaluation.placing import asked_for, replica_price, with_placement
from redecode.optimizer.evaluation.session import Block
from redecode.optimizer.evaluation.simulated import AtLoad, share_of
from redecode.optimizer.knobs import Config, values_of
from redecode.optimizer.objectives import Goals, Outcome, Usage
from redecode.optimizer.schema import parse_knob
from redecode.optimizer.spec import Case, Spec, space_of
from redecode.optimizer.study.search import Asked
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.errors import NoProfile, SimulationError
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
    assert [o.simulated_s for o in AtLoad(store=store, rate_per_s=1.0)([failed])] == [None]
    with pytest.raises(SimulationError, match=FM):
        AtLoad(store=store, rate_per_s=1.0)(outcomes(recorded[:1]))


def test_each_case_has_its_own_quantile_whatever_the_candidate() -> None:
    shares = sorted(share_of(str(i)) for i in range(400))
    assert all(0 < s < 1 for s in shares)
    assert max(abs(s - (i + 0.5) / 400) for i, s in enumerate(shares)) < 0.1


def placed_study(store: Path, recorded: list[Run], *knobs: str, **at_load: Any) -> tuple[Any, Ladder]:
    """A study of placement whose graph has no say: its runs are the recorded ones."""
    catalogue.keep(store, profile())
    spec = Spec(name="agent", build=lambda values: None, knobs={"wording": ["a", "b"]}, incumbent={"wording": "a"})
    given = {"replicas": 1, "profiles": [], **at_load}
    spec, rest = with_placement(spec, [parse_knob(k) for k in knobs], given)
    space, incumbent = space_of(spec, knobs=rest)
    goals = Goals(provisioned=True, replica_usd_h=at_load.get("replica_usd_h"))
    cases = [Case(id=r.run_id, input=None) for r in recorded]
    ladder = Ladder(
        evaluates=AsRecorded(recorded), space=space, goals=goals, cases=cases, race=False,
        simulates=AtLoad(store=store, rate_per_s=60.0, replica_usd_h=goals.replica_usd_h),
    )  # fmt: skip
    return (space, incumbent), ladder


class AsRecorded:
    """Evaluates a block by what was recorded of its cases."""

    workers = 1

    def __init__(self, runs: list[Run]) -> None:
        self.made = {o.case: o for o in outcomes(runs)}
        self.blocks = 0

    def evaluate(self, block: Block) -> list[Outcome]:
        self.blocks += 1
        return [self.made[c.id] for c in block.cases]

    def close(self) -> None:
        pass


def test_placement_is_searched_beside_the_graphs_own_knobs(store: Path, recorded: list[Run]) -> None:
    (space, incumbent), ladder = placed_study(store, recorded, "placement.replicas=1..4", "placement.routing")
    assert incumbent == {"wording": "a", "placement.replicas": 1, "placement.routing": "least"}
    assert space.size() == 2 * 4 * 3
    (narrow, _), _ = placed_study(store, recorded, "placement.replicas=1..4", "wording=a,b,c")
    assert {name: len(values_of(knob) or ()) for name, knob in narrow.knobs.items()} == {
        "placement.replicas": 4,
        "wording": 3,
    }
    found = {
        n: ladder.one(Asked(0, {**incumbent, "placement.replicas": n}, cast(Any, None)), []).measured for n in (1, 2, 4)
    }
    one, two, four = (found[n] for n in (1, 2, 4))
    assert one is not None and two is not None and four is not None
    assert one.latency_s > two.latency_s > four.latency_s
    # At 60 runs a second a run's share of four replicas is 4/60 s of them, used or not.
    assert [m.cost for m in (one, two, four)] == pytest.approx([1 / 60, 2 / 60, 4 / 60])
    assert cast(AsRecorded, ladder.evaluates).blocks == 1  # what runs is the same: it ran once
    ladder.one(Asked(1, {**incumbent, "wording": "b"}, cast(Any, None)), [])
    assert cast(AsRecorded, ladder.evaluates).blocks == 2


def test_replicas_cost_what_an_hour_of_them_does(store: Path, recorded: list[Run]) -> None:
    (_, incumbent), ladder = placed_study(store, recorded, "placement.replicas=2,3", replica_usd_h=3.6)
    assert incumbent["placement.replicas"] == 2  # one, in use, is not among them
    found = ladder.one(Asked(0, incumbent, cast(Any, None)), []).measured
    assert found is not None and found.cost == pytest.approx(2 / 60 * 3.6 / 3600)
    assert ladder.goals.cost_unit == "USD"


def test_each_fm_that_is_called_has_replicas_of_its_own(store: Path) -> None:
    catalogue.keep(store, profile())
    catalogue.keep(store, profile().model_copy(update={"model": "judge"}))
    slow = catalogue.keep(store, profile().model_copy(update={"model": "judge", "hardware": "slow"})).profile
    both = Outcome(
        case="c", run_id=None, quality=1.0, latency_s=1.0, usage={FM: Usage(calls=1), "judge": Usage(calls=1)}
    )
    simulates = AtLoad(store=store, rate_per_s=2.0, replicas=3)
    with pytest.raises(NoProfile, match="2 engine profiles of judge"):
        simulates([both])
    chosen: Config = {"placement.replicas": 2, "placement.profile": slow.key}
    assert [o.provisioned_s for o in simulates([both], chosen)] == [2 * 2 / 2.0]
    in_use = AtLoad(store=store, rate_per_s=2.0, replicas=3, in_use={"placement.profile": slow.key})
    assert [o.provisioned_s for o in in_use([both])] == [2 * 3 / 2.0]


def test_each_hardware_has_a_price_of_its_own(store: Path) -> None:
    fast = catalogue.keep(store, profile()).profile
    slow = catalogue.keep(store, profile().model_copy(update={"hardware": "slow"})).profile
    prices = {fast.key: 3.6, slow.key[:8]: 0.36}
    simulates = AtLoad(store=store, rate_per_s=2.0, replicas=3, replica_usd_h=prices)
    done = Outcome(case="c", run_id=None, quality=1.0, latency_s=1.0, usage={FM: Usage(calls=1)})
    goals = Goals(provisioned=True, replica_usd_h=prices)
    costs = [goals.cost(simulates([done], {"placement.profile": p.key})[0]) for p in (fast, slow)]
    assert costs == pytest.approx([3 / 2 * 3.6 / 3600, 3 / 2 * 0.36 / 3600]) and goals.cost_unit == "USD"
    lacking = AtLoad(store=store, rate_per_s=2.0, replica_usd_h={fast.key: 3.6})
    with pytest.raises(BadSpec, match=rf"profile {slow.key} .* has no replica price"):
        lacking([done], {"placement.profile": slow.key})
    with pytest.raises(NoProfile, match="no engine profile 'moon'"):
        AtLoad(store=store, rate_per_s=2.0, replica_usd_h={"moon": 1.0})


@pytest.mark.parametrize(
    ("said", "price"),
    [((), None), (("1.2",), 1.2), (("a=1.2", "b=0"), {"a": 1.2, "b": 0.0}), (("x/y=z.json=2",), {"x/y=z.json": 2.0})],
)
def test_a_replicas_price_is_one_for_all_or_one_for_each(said: tuple[str, ...], price: Any) -> None:
    assert replica_price(said) == price


@pytest.mark.parametrize("said", [("much",), ("-1",), ("nan",), ("1", "2"), ("a=1", "2"), ("a=1", "a=2"), ("a=",)])
def test_a_price_that_is_none_is_refused(said: tuple[str, ...]) -> None:
    with pytest.raises(BadSpec, match="--replica-price"):
        replica_price(said)


def test_hardware_that_was_not_measured_is_refused_before_anything_runs(store: Path) -> None:
    def check(*knobs: str, **in_use: str) -> None:
        spec, _ = with_placement(Spec(name="agent", build=lambda values: None), list(map(parse_knob, knobs)), {})
        space, _ = space_of(spec.model_copy(update={"knobs": {**spec.knobs, "wording": ["a"]}, "incumbent": {
            **spec.incumbent, "wording": "a"}}))  # fmt: skip
        AtLoad(store=store, rate_per_s=1.0, in_use={f"placement.{k}": v for k, v in in_use.items()}).check(space)

    with pytest.raises(NoProfile, match=r"there is no engine profile in .*redecode profile"):
        check("placement.replicas=1,2")
    key = catalogue.keep(store, profile()).profile.key
    check(f"placement.profile={key}")
    with pytest.raises(BadSpec, match=r"placement\.profile: no engine profile 'moon'"):
        check(f"placement.profile={key},moon")
    with pytest.raises(BadSpec, match=r"placement\.profile: no engine profile 'moon'"):
        check(profile="moon")


def test_an_fm_with_two_profiles_of_which_none_is_named_is_refused_before_anything_runs(
    store: Path, recorded: list[Run]
) -> None:
    slow, fast = (
        catalogue.keep(store, profile().model_copy(update={"hardware": name})).profile.key for name in ("slow", "fast")
    )
    for name in ("slow", "fast"):
        catalogue.keep(store, profile().model_copy(update={"model": "other", "hardware": name}))

    def check(models: list[str], *knobs: str, profiles: tuple[str, ...] = (), runs: list[Run] = recorded) -> None:
        spec = Spec(name="agent", build=lambda values: None)
        spec, _ = with_placement(spec, list(map(parse_knob, knobs)), {"replicas": 1, "profiles": list(profiles)})
        given = {"knobs": {**spec.knobs, "model": models}, "incumbent": {**spec.incumbent, "model": models[0]}}
        space, _ = space_of(spec.model_copy(update=given))
        AtLoad(store=store, rate_per_s=1.0, profiles=profiles).check(space, [r.run_id for r in runs])

    several = rf"2 engine profiles of {FM}, say which by --profile"
    with pytest.raises(NoProfile, match=several):
        check(["moon"])  # the recorded runs call it
    with pytest.raises(NoProfile, match=several):
        check(["moon", FM], runs=[])
    with pytest.raises(NoProfile, match="2 engine profiles of other"):
        check(["moon", "other"], f"placement.profile={slow},{fast}")
    check(["moon"], f"placement.profile={slow},{fast}")
    check(["moon"], profiles=(fast,))
    check(["moon"], runs=[])


def in_use(replicas: int | None, *knobs: str, incumbent: int | None = None) -> Any:
    """What the configuration in use has, by the command line."""
    asked = list(map(parse_knob, knobs))
    had = {} if incumbent is None else {"placement.replicas": incumbent}
    settings = asked_for("6rps", replicas=replicas, profiles=(), replica_usd_h=None, incumbent=had, knobs=asked)[
        "at_load"
    ]
    spec, _ = with_placement(Spec(name="agent", build=lambda values: None), asked, settings)
    return settings["replicas"], spec.incumbent.get("placement.replicas")


def test_replicas_in_use_that_the_knob_does_not_take_are_refused_and_only_the_default_gives_way() -> None:
    assert in_use(None) == (1, None) and in_use(8) == (8, None)
    assert in_use(None, "placement.replicas=1..4") == (1, 1) and in_use(3, "placement.replicas=1..4") == (3, 3)
    assert in_use(None, "placement.replicas=2..4") == (2, 2)  # the study is called by what is in use
    assert in_use(8, "placement.replicas=1..4", incumbent=2) == (2, 2)
    for replicas, knob, incumbent in ((8, "1..4", None), (1, "2..4", None), (None, "1..4", 8), (3, "2,4", None)):
        with pytest.raises(BadSpec, match=r"placement\.replicas takes .*, not \d, .*widen it"):
            in_use(replicas, f"placement.replicas={knob}", incumbent=incumbent)
    # A night's settings, which say nothing of its knobs.
    spec, knobs = Spec(name="agent", build=lambda values: None), [parse_knob("placement.replicas=2..4")]
    with pytest.raises(BadSpec, match=r"takes 2 to 4, not 8"):
        with_placement(spec, knobs, {"replicas": 8})
    assert with_placement(spec, knobs, {"replicas": 1})[0].incumbent == {"placement.replicas": 2}


def test_a_profile_in_use_that_the_knob_does_not_take_is_refused(store: Path) -> None:
    slow, fast, odd = (
        catalogue.keep(store, profile().model_copy(update={"hardware": name})).profile.key
        for name in ("slow", "fast", "odd")
    )
    judge = catalogue.keep(store, profile().model_copy(update={"model": "judge"})).profile.key

    def now(*profiles: str, **placed: str) -> Any:
        at_load = {"replicas": 1, "profiles": list(profiles)}
        spec = Spec(name="agent", build=lambda values: None)
        spec, _ = with_placement(spec, [parse_knob(f"placement.profile={slow},{fast}")], at_load)
        knobs = {**spec.knobs, "wording": ["a"]}
        given: Config = {f"placement.{k}": v for k, v in placed.items()}
        space, incumbent = space_of(
            spec.model_copy(update={"knobs": knobs, "incumbent": {**spec.incumbent, "wording": "a"}}), incumbent=given
        )
        AtLoad(store=store, rate_per_s=1.0, profiles=profiles, in_use=given).check(space)
        return incumbent["placement.profile"]

    assert (now(), now(fast), now(judge), now(judge, fast)) == (slow, fast, slow, fast)
    assert now(slow[:-1], judge) == slow  # by enough of its key
    assert now(odd, profile=fast) == fast  # what is in use is known
    for profiles, said in (
        ((odd,), rf"placement\.profile takes .*, not '{odd}', .*{FM} in use; widen it"),
        ((judge, odd), "widen it"),
        ((fast[:-1],), rf"say {fast}, as the knob does"),
        ((slow, fast), "say one of each FM"),
    ):
        with pytest.raises(BadSpec, match=said):
            now(*profiles)


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ("placement.replicas=0..2", "whole numbers from 1"),
        ("placement.replicas=1..4:0.5", "whole numbers from 1"),
        ("placement.replicas=1..2147483648", "whole numbers from 1 to 10000"),
        ("placement.replicas=1.5,2", "whole numbers from 1"),
        ("placement.routing=best", "takes least, turns, prefix"),
        ("placement.profile", "wants the profiles"),
        ("placement.gpus=1,2", "there are placement.replicas"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(knob: str, said: str) -> None:
    spec = Spec(name="agent", build=lambda values: None)
    with pytest.raises(BadSpec, match=said):
        with_placement(spec, [parse_knob(knob)], {"replicas": 1})
    with pytest.raises(BadSpec, match="--load"):
        with_placement(spec, [parse_knob(knob)], None)


def test_a_placement_is_written_beside_the_context() -> None:
    text = toml({"wording": "a", "placement.replicas": 2, "placement.routing": "least"})
    assert tomllib.loads(text) == {"context": {"wording": "a"}, "placement": {"replicas": 2, "routing": "least"}}


def test_a_placement_is_read_back_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuned.toml"
    config = {"wording": "a", "placement.replicas": 2, "placement.routing": "least"}
    path.write_text(toml(config))
    assert read_context(path) == config
    path.write_text("[context]\n[placement]\ngpus = 2\n")
    with pytest.raises(BadSpec, match="placement has no gpus; it is a table of replicas, routing, profile"):
        read_context(path)
