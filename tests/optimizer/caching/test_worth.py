"""What a step is worth caching: chosen under a budget of false hits, or refused with what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode import tracer
from redecode.optimizer.caching import (
    Call,
    HashedNgrams,
    Recorded,
    StepWorth,
    label,
    prefix_use,
    recorded_calls,
    savings,
    worth,
)
from redecode.optimizer.caching.intervals import lower, trials_needed, upper, wilson
from redecode.optimizer.caching.replayed import exact_hits
from redecode.tracer import Store
from tests.optimizer.caching.made import call

VECTORS = HashedNgrams(dimensions=512)


def judged(calls: list[Call], **options: Any) -> StepWorth:
    (found,) = worth(Recorded(calls, {}, 0, 0), vectors=VECTORS, **options)
    return found


def binomial_tail(bad: int, trials: int, rate: float) -> float:
    """P(at most `bad` of `trials`)."""
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(bad + 1))


@given(trials=st.integers(1, 60), data=st.data(), confidence=st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=80, deadline=None)
def test_exact_bounds_are_where_the_binomial_says(trials: int, data: st.DataObject, confidence: float) -> None:
    bad = data.draw(st.integers(0, trials))
    high, low = upper(bad, trials, confidence=confidence), lower(bad, trials, confidence=confidence)
    assert 0 <= low <= bad / trials <= high <= 1
    if bad < trials:
        assert binomial_tail(bad, trials, high) == pytest.approx(1 - confidence, abs=1e-6)
    if bad > 0:
        assert 1 - binomial_tail(bad - 1, trials, low) == pytest.approx(1 - confidence, abs=1e-6)
    rate_low, rate_high = wilson(bad, trials)
    assert 0 <= rate_low <= bad / trials <= rate_high <= 1


def test_how_many_trials_are_needed() -> None:
    assert trials_needed(0, 0.10, confidence=0.95) == 29
    assert trials_needed(0, 0.01, confidence=0.95) == 299
    assert trials_needed(0.1, 0.1, confidence=0.95) is None
    some = trials_needed(0.01, 0.05, confidence=0.95)
    assert some is not None and upper(round(0.01 * some), some) <= 0.05


# -- verdicts, over recordings --


def record(recording: Path, url: str, questions: list[str], **more: Any) -> Store:
    client = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
    for question in questions:
        with tracer.run("desk", attributes=more.get("attributes")), tracer.step("ask"):
            client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": question}], temperature=0, seed=1
            )
    client.close()
    tracer.uninstrument()
    return Store(recording)


ALIKE = "Where is my order number 4711? I have been waiting for two weeks now, please look into it{}"


def test_alike_questions_with_equal_answers_are_worth_a_semantic_cache(
    recording: Path, serve: Callable[..., Any]
) -> None:
    server = serve(lambda body: "on its way", delay_s=0.005)
    marks = ["", "!", "!!", ".", " !", " .", "!.", ".."]
    store = record(recording, server.base_url, [ALIKE.format(m) for m in marks])
    recorded = recorded_calls(store)
    found = worth(recorded, vectors=VECTORS, budget=0.6)[0]
    assert found.verdict.choice == "semantic" and found.verdict.threshold == 0.7 and not found.verdict.refused
    level = next(lv for lv in found.semantic if lv.threshold == found.verdict.threshold)
    assert (level.calls, level.hits, level.false_hits) == (8, 7, 0)
    assert 0.025 < level.savings.saved_s < level.savings.recorded_s
    assert level.savings.runs == 8 and level.savings.not_analysed == 0
    assert VECTORS.name in found.vectors

    few = worth(recorded, vectors=VECTORS, budget=0.01)[0]
    assert few.verdict.choice == "none" and few.verdict.refused
    more = few.verdict.hits_needed
    assert more is not None and "more hits" in few.verdict.why
    each = 1 - 0.05 / (2 * 7)
    assert upper(0, 7 + more, confidence=each) <= 0.01 < upper(0, 7 + more - 1, confidence=each)


def test_alike_questions_with_other_answers_are_refused(recording: Path, serve: Callable[..., Any]) -> None:
    server = serve(lambda body: f"as to {body['messages'][0]['content'][-3:]}", delay_s=0.002)
    store = record(recording, server.base_url, [ALIKE.format(f" {n:03}") for n in range(5)])
    found = worth(recorded_calls(store), vectors=VECTORS, budget=0.5)[0]
    assert found.verdict.choice == "none" and found.verdict.refused
    assert found.verdict.hits_needed is None and "false" in found.verdict.why


def test_equal_questions_are_worth_an_exact_cache(recording: Path, serve: Callable[..., Any]) -> None:
    server = serve(lambda body: "yes", delay_s=0.002)
    store = record(recording, server.base_url, ["Is it open?", "Is it open?", "Who?", "Is it open?"])
    found = worth(recorded_calls(store), vectors=VECTORS)[0]
    assert found.verdict.choice == "exact" and found.exact is not None
    assert (found.exact.hits, found.exact.calls) == (2, 4)


def test_what_a_lookup_costs_is_taken_off(recording: Path, serve: Callable[..., Any]) -> None:
    server = serve(lambda body: "yes", delay_s=0.002)
    store = record(recording, server.base_url, ["a", "b", "c"])
    recorded = recorded_calls(store)
    none = savings(recorded.calls, exact_hits(recorded.calls), recorded.runs)
    assert none.saved_s == 0 and none.runs == 3
    dear = savings(recorded.calls, [], recorded.runs, lookup_s=0.5)
    assert dear.saved_s == pytest.approx(-1.5, rel=1e-3)


def test_a_lookup_that_takes_longer_than_the_call_is_lost_on_hits_too(
    recording: Path, serve: Callable[..., Any]
) -> None:
    server = serve(lambda body: "yes", delay_s=0.002)
    recorded = recorded_calls(record(recording, server.base_url, ["a"] * 4))
    hits = exact_hits(recorded.calls)
    assert len(hits) == 3
    took = sum(hit.call.done_ns - hit.call.sent_ns for hit in hits) / 1e9
    dear = savings(recorded.calls, hits, recorded.runs, lookup_s=0.5)
    assert dear.saved_s == pytest.approx(took - 4 * 0.5, abs=0.02) and dear.not_analysed == 0


def test_tenants_are_read_from_labels(recording: Path, serve: Callable[..., Any]) -> None:
    server = serve(lambda body: "yes")
    store = record(recording, server.base_url, ["Is it open?"] * 3)
    runs = store.runs()
    by_run = {run.run_id: f"t{n}" for n, run in enumerate(runs)}
    apart = recorded_calls(store, tenant=lambda run: by_run[run.run_id])
    assert {c.tenant for c in apart.calls} == {"t0", "t1", "t2"}
    assert exact_hits(apart.calls) == [] and len(exact_hits(recorded_calls(store).calls)) == 2
    assert label("tenant")(runs[0]) == ""


def test_a_step_with_effects_is_never_cached(recording: Path) -> None:
    pytest.importorskip("langgraph")
    from langchain_core.tools import tool

    @tool
    def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    @tool
    def look(what: str) -> str:
        """Look."""
        return f"saw {what}"

    @tool
    def guess(what: str) -> str:
        """Guess."""
        return f"guessed {what}"

    pay.metadata, look.metadata = {"side_effect": True}, {"side_effect": False}
    with tracer.run("desk"):
        for _ in range(3):
            pay.invoke({"amount": 1})
            look.invoke({"what": "x"})
            guess.invoke({"what": "x"})
    tracer.uninstrument()
    found_by_step = worth(recorded_calls(Store(recording)), vectors=VECTORS)
    found = {w.node.rpartition(":")[2].rpartition("/")[2]: w.verdict for w in found_by_step}
    verdicts = {name: (v.choice, v.refused) for name, v in found.items()}
    assert verdicts == {"pay": ("none", True), "look": ("none", True), "guess": ("none", True)}
    assert "has effects" in found["pay"].why and "does not say" in found["guess"].why


def test_the_noise_of_equal_prompts_is_no_fault_of_a_cache() -> None:
    calls = []
    for n in range(120):
        answer = "x" if n % 2 else "y"
        calls.append(call(f"question {n // 40}, please", answer, n * 10))
    noisy = judged(calls)
    assert noisy.noise.pairs == 60 and noisy.noise.differing == 60
    levels = noisy.semantic
    assert all(lv.excess_upper < lv.false_upper for lv in levels if lv.hits)


def test_nothing_alike_is_no_cache_and_no_refusal() -> None:
    found = judged([call(t, "x", n) for n, t in enumerate(["alpha beta", "gamma delta", "epsilon zeta"])])
    assert (found.verdict.choice, found.verdict.refused) == ("none", False)
    assert found.nearest is not None and f"{found.nearest:.3f}" in found.verdict.why


# -- prompts in the engine's cache --


def prompt(n: int, ids: list[int], **more: Any) -> Call:
    return call(f"p{n}", "x", n, prompt_ids=tuple(ids), model="m", **more)


def test_what_is_stable_is_of_use_only_in_front() -> None:
    stable = list(range(1000, 1064))
    behind = [prompt(n, [*range(n * 50, n * 50 + 40), *stable, 1, 2, 3]) for n in range(6)]
    front = [prompt(n, [*stable, *range(n * 50, n * 50 + 40), 1, 2, 3]) for n in range(6)]
    other = [prompt(9, [5] * 10 + [1, 2, 3], node="run/other")]  # tells the template's end from the question
    use = prefix_use([*behind, *other])["a run/ask"]
    assert (use.reusable, use.reordered, use.gain) == (0, 5 * 64, 5 * 64)
    assert prefix_use([*front, *other])["a run/ask"].reusable == 5 * 64


def test_another_order_can_be_the_worse_one() -> None:
    article = list(range(500, 580))
    asked = [list(range(100 * k, 100 * k + 20)) for k in (1, 2, 3)]
    calls = []
    for n in range(4):
        for k, question in enumerate(asked):
            ids = [x + 1000 * n for x in article] + question
            calls.append(prompt(10 * n + k, ids, node=f"run/ask{k}"))
    use = prefix_use(calls)[""]
    assert use.reusable == 4 * 2 * 80 and use.gain < 0


def test_a_prompt_is_never_reused_to_its_last_token() -> None:
    same = [prompt(n, list(range(32))) for n in range(3)]
    assert prefix_use(same)[""].reusable == 2 * 16
