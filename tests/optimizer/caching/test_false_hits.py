"""What a judge cannot see is excused nowhere: noise of samples, tools that tell something else, few hits among many."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from redecode import tracer
from redecode.optimizer.caching import (
    Call,
    HashedNgrams,
    Hit,
    Level,
    Noise,
    Recorded,
    Savings,
    StepWorth,
    decide,
    recorded_calls,
    worth,
)
from redecode.optimizer.caching.intervals import lower, trials_needed, upper
from redecode.optimizer.caching.replayed import noise
from redecode.tracer import Store
from tests.optimizer.caching.made import call

VECTORS = HashedNgrams(dimensions=256)


@pytest.fixture(autouse=True)
def _every_hit_saves_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls made by hand are of no run whose graph could say what they save."""

    def saved(calls: Sequence[Call], hits: Sequence[Hit], runs: Any, *, lookup_s: float = 0.0) -> Savings:
        return Savings(1, 0, float(len(calls)), float(len(hits)), float(len(hits)), 0)

    monkeypatch.setattr(sys.modules["redecode.optimizer.caching.worth"], "savings", saved)


def judged(calls: list[Call], **options: Any) -> StepWorth:
    (found,) = worth(Recorded(calls, {}, 0, 0), vectors=VECTORS, thresholds=(0.7, 0.999), **options)
    return found


def orders(count: int, different: int, answer: Callable[[int, int], str]) -> list[Call]:
    """Questions that are alike: of so many orders, in turn; `answer` to an order, of the nth call."""
    return [
        call(f"What is the state of order {n % different}?", answer(n % different, n), n * 10) for n in range(count)
    ]


# -- the bound --


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("trials", [1, 7, 40])
def test_the_bound_is_above_the_true_rate_as_often_as_it_says(trials: int, floor: float) -> None:
    bounds = [upper(bad, trials, confidence=0.9, floor=floor) for bad in range(trials + 1)]
    assert bounds[-1] == 1.0
    for rate in (0.001, 0.02, 0.1, 0.3, 0.6, 0.95):
        seen = rate + (1 - rate) * floor
        missed = sum(
            math.comb(trials, bad) * seen**bad * (1 - seen) ** (trials - bad)
            for bad, bound in enumerate(bounds)
            if bound < rate
        )
        assert missed <= 0.1 + 1e-9


def test_noise_makes_no_bound_better_than_as_many_hits_that_all_agree() -> None:
    assert upper(3, 50) == upper(3, 50, floor=0.0)
    for floor in (0.0, 0.01, 0.02, 0.04):
        assert upper(0, 50, floor=floor) == pytest.approx(upper(0, 50))
    assert upper(0, 50) < upper(5, 50, floor=0.1) < upper(5, 50, floor=0.05) < upper(5, 50)
    assert upper(5, 50, floor=0.8) == upper(5, 50)  # the noise of something else


def test_how_many_trials_are_needed_where_there_is_noise() -> None:
    def known(_: int) -> float:
        return 0.2

    some = trials_needed(0.2, 0.05, confidence=0.95, floor=known)
    assert some is not None
    assert upper(round(0.2 * some), some, floor=0.2) <= 0.05 < upper(round(0.2 * (some - 1)), some - 1, floor=0.2)
    assert trials_needed(0.3, 0.05, confidence=0.95, floor=known) is None  # (0.3 - 0.2) / (1 - 0.2)
    assert trials_needed(1.0, 0.05, confidence=0.95, floor=lambda _: 1.0) is None


# -- FM calls --


def test_where_no_two_answers_are_alike_nobody_can_say_and_a_judge_is_the_way_out() -> None:
    """A stranger's: 450 hits of the same question, 49 of another, all worded anew, were "at most 1.5% falsely"."""
    calls = orders(500, 50, lambda order, n: f"Order {order} is on its way, says clerk {n}.")
    found = judged(calls)
    assert (found.noise.pairs, found.noise.differing) == (250, 250)
    assert (found.verdict.choice, found.verdict.refused) == ("exact", True)
    assert "`judge`" in found.verdict.why and found.verdict.hits_needed is None
    broad = found.semantic[0]
    assert broad.judged == broad.judged_false > 0 and broad.excess_upper == pytest.approx(broad.judged / broad.hits)

    told = judged(calls, judge=lambda asked, answer: asked.answer.split()[1] == answer.split()[1])
    assert told.noise.differing == 0 and told.verdict.refused and told.semantic[0].judged_false == broad.judged
    assert "`judge`" not in told.verdict.why


def test_a_judge_that_sees_past_the_wording_finds_what_is_alike() -> None:
    marks = ["", "!", "!!", ".", " !", " ."]
    calls = [
        call(f"Where is my order number 4711, please look into it{marks[n % 6]}", f"On its way, {n}", n * 10)
        for n in range(400)
    ]
    assert judged(calls).verdict.refused
    found = judged(calls, judge=lambda asked, answer: asked.answer[:10] == answer[:10])
    assert (found.verdict.choice, found.verdict.threshold, found.verdict.refused) == ("semantic", 0.7, False)


def test_some_noise_is_taken_off_and_costs_more_hits() -> None:
    rng = random.Random(1)
    asked = [f"Where is my order number 4711, please look into it{'!' * (n % 40)}" for n in range(6000)]
    calls = [call(text, rng.choices("xy", [9, 1])[0], n * 10) for n, text in enumerate(asked)]
    few = judged(calls[:400], budget=0.05)
    assert few.verdict.refused and few.verdict.hits_needed is not None and "`judge`" in few.verdict.why
    assert 0 < few.verdict.hits_needed < 10_000
    many = judged(calls, budget=0.05)
    level = many.semantic[0]
    assert (many.verdict.choice, many.verdict.threshold) == ("semantic", 0.7) and "noise among them" in many.verdict.why
    assert level.excess_upper < 0.05 < 0.1 < level.judged_false / level.judged


def test_hits_on_the_very_same_prompt_hide_none_on_another() -> None:
    """Three of five calls ask what has one answer; the noise of the others must not excuse their own false hits."""
    quiet = [call("Is it open?", "yes", n * 10 + 5) for n in range(3000)]
    noisy = orders(2000, 50, lambda order, n: f"{n}")
    found = judged(sorted([*quiet, *noisy], key=lambda c: c.sent_ns))
    level = found.semantic[0]
    assert found.noise.low == pytest.approx(1 - 0.6**0.5, abs=0.03) and level.false_hits / level.hits < 0.41
    assert found.verdict.refused and level.excess_upper > 0.3


def test_noise_that_the_hits_do_not_have_is_not_theirs() -> None:
    """What answers in other words each time is asked again and again; alike are others, of which a tenth is false."""
    noisy = [call(f"{n % 20} " * 30, f"{n}", n * 10) for n in range(400)]
    alike = [
        call(f"Where is my order number 4711, please look into it{'!' * n}", "lost" if n % 10 == 9 else "sent", n * 10)
        for n in range(400)
    ]
    found = judged(sorted([*noisy, *alike], key=lambda c: c.sent_ns))
    level = found.semantic[1]
    assert found.noise.low > 0.8 and level.judged_false / level.judged < 0.2
    assert level.excess_upper > 0.02 and found.verdict.choice != "semantic"


def test_more_hits_than_an_exact_cache_has_are_of_no_use_if_all_of_them_are_false() -> None:
    def level(threshold: float | None, hits: int, more: int) -> Level:
        saved = Savings(1, 0, 9.0, hits / 1000, 1.0, 0)
        bound = upper(more, more) * more / hits if more else 0.0
        return Level(threshold, 2000, hits, 0.0, 1.0, more, 0.1, more, more, bound, saved)

    found = decide(level(None, 1000, 0), [level(0.7, 1005, 5)], Noise(500, 0, 0.0), 0.02, 0.99)
    assert (found.choice, found.refused) == ("exact", True) and "5 of 5" in found.why


def test_an_exact_cache_of_a_step_says_how_many_answers_were_others() -> None:
    found = judged([call("What time is it?", f"{n}", n * 10) for n in range(20)])
    assert found.verdict.choice == "exact" and "19 of them for another answer" in found.verdict.why


def test_noise_is_of_the_same_prompt_whatever_it_says_in_words_and_of_the_same_judge() -> None:
    pictures = [call("What is on this picture?", f"{n}", n, prompt=f"p{n}") for n in range(6)]
    assert noise(pictures) == (0, 0)
    seeded = [call("q", f"{n}", n, prompt="p") for n in range(6)]
    assert noise(seeded) == (3, 3) and noise(seeded, lambda asked, answer: True) == (3, 0)


# -- tools --


def results(count: int, result: Callable[[int], str]) -> list[Call]:
    return [call('weather {"city":"Rome"}', result(n), n * 10, kind="tool") for n in range(count)]


def test_a_tool_that_tells_something_else_each_time_is_not_cached() -> None:
    found = judged(results(200, str))
    assert found.exact is not None and (found.exact.hits, found.exact.false_hits) == (199, 199)
    assert (found.verdict.choice, found.verdict.refused) == ("none", True)
    assert "199 of them for another result" in found.verdict.why and found.verdict.hits_needed is None
    assert found.noise.low == 0.0 and found.exact.excess_upper == found.exact.false_upper == 1.0


def test_a_tool_is_cached_once_its_bound_is_within_the_budget() -> None:
    enough = judged(results(150, lambda n: "sunny"))
    assert (enough.verdict.choice, enough.verdict.refused) == ("exact", False) and "2.0%" in enough.verdict.why
    few = judged(results(149, lambda n: "sunny"))
    assert (few.verdict.choice, few.verdict.refused, few.verdict.hits_needed) == ("none", True, 1)
    assert "could be 2%" in few.verdict.why and "1 more hits" in few.verdict.why
    none = judged([*results(1, str), call('weather {"city":"Oslo"}', "", 99, kind="tool")])
    assert (none.verdict.choice, none.verdict.refused) == ("none", False)
    stale = judged(results(400, lambda n: "rain" if n == 200 else "sunny"))
    assert stale.exact is not None and stale.exact.false_hits == 1
    assert stale.verdict.choice == "exact" and stale.exact.excess_upper == upper(1, 399)


# -- what was not recorded as it was --


@pytest.mark.parametrize("privacy", [{"content": False}, {"redact": [("number", r"\d+", "#")]}], ids=["none", "part"])
def test_what_was_taken_out_of_a_recording_makes_nothing_equal(
    store: Path, serve: Callable[..., Any], privacy: dict[str, Any]
) -> None:
    openai = pytest.importorskip("openai")
    tools = pytest.importorskip("langchain_core.tools")

    @tools.tool  # type: ignore[untyped-decorator]
    def look(what: str) -> str:
        """Look."""
        return f"saw {what}"

    look.metadata = {"side_effect": False}
    tracer.instrument(store, **privacy)
    try:
        client = openai.OpenAI(base_url=serve(lambda body: "sent").base_url, api_key="x", max_retries=0)
        with tracer.run("desk"):
            for n in range(3):
                client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": f"Where is order {n}?"}], temperature=0
                )
                look.invoke({"what": f"order {n}"})
        client.close()
    finally:
        tracer.uninstrument()
    recorded = recorded_calls(Store(store))
    assert (recorded.calls, recorded.withheld) == ([], 6)


def test_bounds_of_nothing_are_none() -> None:
    found = judged([call(t, "x", n) for n, t in enumerate(["alpha beta", "gamma delta"])])
    assert all((lv.hits, lv.judged, lv.excess_upper) == (0, 0, 1.0) for lv in found.semantic)
    assert lower(0, 0) == 0.0
