"""Whether a mix of runs has changed: found where it did, not where it did not, and said where nothing can be told."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from redecode.optimizer.nightly.drift import Drift, Feature, compare, difference_interval
from redecode.optimizer.nightly.mix import Row, characters, rows_of
from redecode.tracer import Run, Store


def rows(
    count: int, seed: int, *, output: float = 1.0, tool: float = 0.3, agent: str = "a", model: str = "m"
) -> list[Row]:
    rng = random.Random(seed)
    return [
        Row(
            agent=agent,
            numbers={
                "input_chars": rng.gauss(200, 40),
                "output_tokens": output * rng.lognormvariate(4, 0.5),
                "fm_calls": rng.choice((1, 1, 2)),
            },
            models=frozenset({model}),
            tools=frozenset({"search"} if rng.random() < tool else ()),
        )
        for _ in range(count)
    ]


def drift(before: list[Row], now: list[Row], **options: object) -> Drift:
    return compare(before, now, agents=["a"], **options)  # type: ignore[arg-type]


def test_longer_answers_are_found_and_said_by_how_much() -> None:
    found = drift(rows(120, 1), rows(80, 2, output=1.8))
    assert found.verdict == "drifted" and [f.name for f in found.drifted] == ["output tokens"]
    (feature,) = found.drifted
    assert feature.low is not None and feature.high is not None and feature.low < 1.8 < feature.high
    assert "output tokens: median" in found.words


def test_the_same_mix_is_rarely_called_another() -> None:
    """Twenty comparisons at 1 % each, all features together: two false alarms are very unlikely."""
    alarms = sum(drift(rows(60, 2 * s), rows(60, 2 * s + 1), matters=0.01).verdict == "drifted" for s in range(20))
    assert alarms <= 1


@pytest.mark.parametrize(
    ("now", "name"),
    [
        (rows(60, 3, tool=0.9), "tool search"),
        (rows(60, 3, model="other"), "model m"),
        ([*rows(20, 3), *rows(40, 4, agent="b")], "agent b"),
    ],
    ids=["tool", "model", "agent"],
)
def test_another_share_is_found(now: list[Row], name: str) -> None:
    found = drift(rows(60, 5), now)
    (feature,) = [f for f in found.drifted if f.name == name]
    assert feature.effect is not None and feature.low is not None and feature.high is not None
    assert feature.low <= feature.effect < feature.high and feature.p_adjusted <= 0.01
    assert "points" in str(feature)


def test_what_is_significant_and_small_is_no_drift() -> None:
    before, now = rows(2000, 6, tool=0.30), rows(2000, 7, tool=0.38)
    found = drift(before, now)
    tool = next(f for f in found.features if f.name == "tool search")
    assert tool.p_adjusted < 0.01 and not tool.drifted
    assert next(f for f in drift(before, now, matters=0.02).features if f.name == "tool search").drifted


def of_lengths(*lengths: float, what: str = "input_chars") -> list[Row]:
    return [Row(agent="a", numbers={what: length}) for length in lengths]


@pytest.mark.parametrize(
    ("before", "now", "drifted"),
    [
        ([53.0] * 60, [54.5] * 60, False),  # every one is longer, by 3 %
        ([54.5] * 60, [53.0] * 60, False),
        ([53.0] * 60, [60.0] * 60, True),
        ([60.0] * 60, [53.0] * 60, True),
        ([100.0] * 210 + [1000.0] * 90, [100.0] * 255 + [1000.0] * 45, True),  # 10, 50 and 90 % stay where they were
        ([0.0] * 60, [1.0] * 60, True),
        ([0.0] * 60, [0.0] * 40 + [0.01] * 20, True),  # of nothing anything is much
    ],
)
def test_numbers_differ_by_a_part_of_themselves_too(before: list[float], now: list[float], drifted: bool) -> None:
    found = drift(of_lengths(*before), of_lengths(*now))
    (feature,) = [f for f in found.features if f.name == "characters of input"]
    assert feature.p_adjusted <= 0.01 and feature.difference > 0.14
    assert feature.drifted is drifted and (found.verdict == "drifted") is drifted
    assert Feature.from_json(asdict(feature)) == feature
    assert drift(of_lengths(*before), of_lengths(*now), matters=0.02).verdict == "drifted"


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("how?", 4),
        ({"question": "how?"}, 4),
        ({"messages": [["user", "how?"]]}, 4),
        ({"messages": [{"type": "human", "content": "how?", "id": "1", "additional_kwargs": {}, "name": None}]}, 4),
        ([{"role": "user", "content": "how?"}], 4),
        ([{"role": "user", "content": '{"question": "how?", "n": 5}'}], 5),
        ({"question": "how?", "n": 5, "none": None}, 5),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "how?"}]}], "n": "5"}, 5),
        ({"messages": [{"lc": 1, "type": "constructor", "id": ["x"], "kwargs": {"type": "ai", "content": "how?"}}]}, 4),
        ({"content": "how?", "type": "article"}, 11),
        ("{how?", 5),
        ([0.5, True], 7),
    ],
)
def test_characters_are_of_what_was_said_whoever_wrote_it_down(given: object, count: int) -> None:
    assert characters(given) == count


def test_too_few_runs_are_said_and_nothing_is_concluded() -> None:
    found = drift(rows(19, 1), rows(500, 2, output=9))
    assert found.verdict == "too few runs" and "19 before" in found.words and not found.features
    theirs = drift([*rows(5, 1), *rows(60, 2, agent="b")], [*rows(60, 3), *rows(60, 4, agent="b")])
    assert theirs.untested == {"all of a": "60 tonight and 5 before"}
    assert {f.name for f in theirs.features} == {"agent a", "agent b"}


def test_what_follows_from_a_configuration_that_changed_is_told_and_is_no_drift() -> None:
    before, now = rows(60, 1), rows(60, 2, output=3.0, model="other")
    assert {f.name for f in drift(before, now).drifted} == {"output tokens", "model m", "model other"}
    found = drift(before, now, moved=("at noon", rows(19, 1)))
    assert found.verdict == "same" and "none of 4 features changed" in found.words
    assert "no drift is what also follows from the configuration, which changed at noon: " in found.words
    told = {f.name for f in found.features if f.follows}
    assert told == {"output tokens", "model m", "model other"} and all(f"{name}: " in found.words for name in told)
    assert [f.name in told for f in found.features] == [True] * 3 + [False] * 4  # told first
    assert all(Feature.from_json(asdict(f)) == f for f in found.features)


def test_agents_and_inputs_count_though_the_configuration_changed() -> None:
    long = [replace(r, numbers={**r.numbers, "input_chars": 900.0}) for r in rows(60, 2, output=3.0)]
    found = drift(rows(60, 1), [*long, *rows(60, 3, agent="b")], moved=("at noon", []))
    assert found.verdict == "drifted" and {f.name for f in found.drifted} == {
        "agent a",
        "agent b",
        "characters of input",
    }
    assert [f.name for f in found.features if f.follows] == ["output tokens"]


def test_with_enough_runs_of_the_same_configuration_all_counts_against_those() -> None:
    """Answers became three times as long by a promotion, in the middle of the reference."""
    early, since = rows(60, 1), rows(25, 2, output=3.0)
    alike = drift([*early, *since], rows(60, 3, output=3.0), moved=("at noon", since))
    assert alike.verdict == "same" and not any(f.follows for f in alike.features)
    assert "which changed at noon, against the 25 conversations since then" in alike.words
    assert {f.name: f.rows for f in alike.features}.items() >= {
        "output tokens": (25, 60),
        "characters of input": (85, 60),
    }.items()
    other = drift([*early, *since], rows(60, 3, output=9.0), moved=("at noon", since))
    assert [f.name for f in other.drifted] == ["output tokens"]


def test_a_difference_of_shares_has_newcombes_interval() -> None:
    """His own example (1998, table II): 56 of 70 against 48 of 80 is .0524 to .3339."""
    low, high = difference_interval((48, 80), (56, 70))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_runs_of_one_conversation_are_one_row(store: Path) -> None:
    runs = [
        Run(
            run_id=f"{n:032x}", agent="a", status="ok", started_ns=n, ended_ns=n + 1, fidelity=None, decodes=1 + n,
            tools=0, tokens=10 * n, prompt_tokens=5, conversation_id="c" if n < 3 else None, input={"q": "x" * n},
        )
        for n in range(5)
    ]  # fmt: skip
    found = rows_of(Store(store), runs)
    assert [r.numbers["fm_calls"] for r in found] == [2.0, 4.0, 5.0]
    assert found[0].numbers["output_tokens"] == 10.0


def test_tokens_that_nobody_told_are_not_none(uncounted: Path) -> None:
    """Of a conversation those of the runs that tell them; FM calls are known of all."""
    store = Store(uncounted)
    numbers = [r.numbers for r in rows_of(store, store.runs())]
    assert [n["fm_calls"] for n in numbers] == [2.0] * 4
    assert sorted(n.get("prompt_tokens", -1) for n in numbers) == [-1, -1, 6, 6]
    assert sorted(n.get("output_tokens", -1) for n in numbers) == [-1, -1, 6, 6]
    (one,) = rows_of(store, [replace(r, conversation_id="c") for r in store.runs()])
    assert one.numbers["prompt_tokens"] == 6.0
