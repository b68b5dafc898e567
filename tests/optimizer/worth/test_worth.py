"""Fine-tune or prompt: by hand on paper, on a recorded store, and refused where there is too little."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from redecode import tracer
from redecode.cli.main import app
from redecode.optimizer.worth import Assumptions, Volume, VolumeError, lines, volume_of, worth
from redecode.optimizer.worth.volume import DAY_NS, Step
from redecode.replay.prices import Price
from redecode.tracer import Clock, Dataset, Store, publish_runs
from tests.tracer.export.recorded_runs import keep
from tests.tracer.publish.support import some_run

PRICES = {"m": Price(input=1.0, output=4.0, cached=0.5)}
BASE = Assumptions(prices=PRICES, train_cost=100.0, keep_tokens=20, horizon_days=100)


def volume(calls: float = 10_000.0, *, cached: float = 0.0, constant: float = 520.0, spread: float = 0.1) -> Volume:
    """Ten days of one step: 1000 tokens in, 50 out, so many of them cached."""
    rng = np.random.default_rng(1)
    count = np.maximum(1.0, calls * rng.normal(1, spread, 10))
    count *= calls * 10 / count.sum()
    use = np.stack([count, 1000 * count, 50 * count, cached * count], axis=1)[:, None, :]
    return Volume(days=10, steps=(Step("a", "ask", "m", constant, "tokens"),), use=use, day=np.arange(10))


def test_it_is_what_one_calculates_by_hand() -> None:
    """10,000 calls: 10 M tokens in, 0.5 M out: 12 USD a day. 500 of 1000 tokens fall away: 5 USD a day less."""
    found = worth(volume(), BASE)
    assert found.prompt_per_day.estimate == pytest.approx(12.0)
    assert found.tuned_per_day.estimate == pytest.approx(7.0)
    assert found.net.estimate == pytest.approx(100 * 5 - 100) and found.choice == "fine-tune"
    assert found.break_even_days.estimate == pytest.approx(20.0)
    assert found.break_even_calls.estimate == pytest.approx(2000.0)
    assert found.net.low < found.net.estimate < found.net.high


def test_what_is_cached_is_cheap_already() -> None:
    """400 of the 500 tokens that fall away came at half the price: 3 USD a day less instead of 5."""
    found = worth(volume(cached=400.0), BASE)
    assert found.prompt_per_day.estimate - found.tuned_per_day.estimate == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("changed", "choice"),
    [
        ({"train_cost": 5000.0}, "prompt"),
        ({"tuned": Price(input=3.0, output=12.0)}, "prompt"),
        ({"hosting": 20.0}, "prompt"),
        ({"retrain_days": 1.0}, "prompt"),
        ({"removed": 0.0}, "prompt"),
        ({"train_cost": 500.0}, "cannot tell"),
        ({"output_factor": 0.5}, "fine-tune"),
    ],
)
def test_other_assumptions_are_another_choice(changed: dict[str, Any], choice: str) -> None:
    assert worth(volume(spread=0.3), replace(BASE, **changed)).choice == choice


def test_hosting_that_eats_what_calls_save_says_from_which_volume_on_it_would_pay() -> None:
    found = worth(volume(), replace(BASE, hosting=20.0))
    (first, *_) = lines(found)
    assert "never at this volume, since hosting costs more than calls save; from 42000 calls a day on" in first
    nothing, *_ = lines(worth(volume(), replace(BASE, removed=0.0)))
    assert "never: without what is left out a call costs no less" in nothing


def test_a_training_that_does_not_last_until_it_is_paid_back_never_is() -> None:
    """It pays for itself in 20 days, and the next one is due after 10; twice the calls, and it is just paid."""
    found = worth(volume(), replace(BASE, retrain_days=10.0))
    text = "\n".join(lines(found))
    assert found.choice == "prompt" and math.isinf(found.break_even_days.estimate)
    assert found.to_json()["break_even_days"]["estimate"] is None
    assert (
        "never at this volume, since a training lasts 10 days, and would be paid back after 20; from 20000 calls"
        in text
    )
    assert worth(volume(20_001.0), replace(BASE, retrain_days=10.0)).break_even_days.estimate == pytest.approx(
        10, rel=1e-3
    )
    assert "after 20 days" in next(lines(worth(volume(), replace(BASE, retrain_days=30.0))))


def test_few_calls_are_not_said_to_be_none() -> None:
    (first, *_) = lines(worth(volume(calls=0.05), replace(BASE, train_cost=1e-4)))
    assert first.startswith("At 0.05 FM calls a day") and "from 0.002 calls a day on" in first
    (calls,) = [s for s in worth(volume(calls=0.05), replace(BASE, train_cost=1e-4)).sensitivity if "calls" in s.name]
    assert (calls.value, calls.flips) == ("0.05", "below 0.002")


def test_a_constant_part_that_must_stay_saves_nothing() -> None:
    found = worth(volume(constant=15.0), BASE)
    assert found.choice == "prompt" and math.isinf(found.break_even_days.estimate)
    assert json.loads(json.dumps(found.to_json()))["break_even_days"]["estimate"] is None
    assert "never" in "\n".join(lines(found))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("calls a day", lambda a, v: replace(a, volume_factor=v / 10_000)),
        ("cost of a training", lambda a, v: replace(a, train_cost=v)),
        ("hosting a day", lambda a, v: replace(a, hosting=v)),
        ("share of the constant", lambda a, v: replace(a, removed=v)),
        ("length of answers", lambda a, v: replace(a, output_factor=v)),
        ("tuned price, output", lambda a, v: replace(a, tuned=Price(input=1.0, output=v, cached=0.5))),
    ],
)
def test_where_the_choice_turns_it_makes_no_difference(name: str, change: Callable[[Any, float], Any]) -> None:
    (found,) = [s for s in worth(volume(), BASE).sensitivity if s.name.startswith(name)]
    assert found.flips is not None
    value = found.flips.split()[-1]
    at = float(value.rstrip("%")) / (100 if value.endswith("%") else 1)
    assert abs(worth(volume(), change(BASE, at)).net.estimate) < 0.03 * 500  # as exact as it is written


@pytest.mark.parametrize(("cached", "at"), [(0.0, 0.20), (400.0, 0.40), (500.0, 0.40)])
def test_the_share_at_which_the_choice_turns_counts_what_was_cached(cached: float, at: float) -> None:
    """Cached at half the price: 1 USD a day, which pays 100 in 100 days, is 100 tokens of 500 or 200 cached ones."""
    found = worth(volume(cached=cached), replace(BASE, train_cost=100.0))
    (share,) = [s for s in found.sensitivity if s.name.startswith("share")]
    assert share.flips == f"below {at:.0%}"


def test_the_share_turns_where_net_is_nothing_though_half_of_it_tells_another_slope() -> None:
    """Cached for nothing: the first 400 of 500 tokens save nothing, so that half a share says little of the whole."""
    free = replace(BASE, prices={"m": Price(input=1.0, output=4.0, cached=0.0)}, train_cost=50.0)
    (share,) = [s for s in worth(volume(cached=400.0), free).sensitivity if s.name.startswith("share")]
    assert share.flips == "below 90%"
    (none,) = [s for s in worth(volume(cached=400.0), replace(free, train_cost=500.0)).sensitivity
               if s.name.startswith("share")]  # fmt: skip
    assert none.flips is None


def test_a_model_without_a_price_is_named() -> None:
    with pytest.raises(VolumeError, match="--price m=INPUT"):
        worth(volume(), replace(BASE, prices={}))


def test_each_model_tuned_at_its_own_price_is_the_headline_too() -> None:
    """A dear model with a long constant part, and a cheap one with none: with a mean price of both it would not pay."""
    count = np.full(10, 200.0)
    big, small = (np.stack([count, size * count, 10 * count, 0 * count], axis=1) for size in (1050, 9000))
    steps = (Step("a", "plan", "big", 1000, "tokens"), Step("a", "write", "small", 0, "tokens"))
    both = Volume(days=10, steps=steps, use=np.stack([big, small], axis=1), day=np.arange(10))
    prices = {"big": Price(input=10, output=10), "small": Price(input=1, output=1)}
    found = worth(both, Assumptions(prices=prices, train_cost=100))
    # 200 calls a day: 980 tokens of the dear one fall away, 70 and 9000 are asked at the tuned prices.
    asked = 180 * 200 * (70 * 10 + 9000 * 1) / 1e6
    assert found.net.estimate == pytest.approx(180 * 200 * 980 * 10 / 1e6 - 100)
    price = next(s for s in found.sensitivity if s.name.startswith("tuned price, input"))
    assert (price.low, price.high) == pytest.approx((found.net.estimate + asked / 2, found.net.estimate - asked))
    assert price.value == f"{(1050 * 10 + 9000) / 10050:.4g}" and "mean" in price.name
    assert price.flips is not None and price.flips.startswith("above")


@pytest.fixture
def recorded_store(store: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty calls of one node: a long instruction that is always the same, and a question that is not."""
    openai = pytest.importorskip("openai")
    server = serve(lambda _: "yes", vllm=False)
    tracer.instrument(store)
    client = openai.OpenAI(base_url=server.base_url, api_key="none")
    try:
        for number in range(40):
            rule = "Answer with yes or with no and with nothing else whatever the question may be"
            messages = [
                {"role": "system", "content": rule},
                {"role": "user", "content": f"is {number} even or {-number}"},
            ]
            with tracer.run("asker"):
                client.chat.completions.create(model="m", messages=messages)
    finally:
        client.close()
        tracer.uninstrument()
    return store


def test_volume_is_counted_by_day_and_the_constant_part_by_words(recorded_store: Path) -> None:
    source = Store(recorded_store)
    runs = [replace(run, started_ns=run.started_ns - n % 8 * DAY_NS) for n, run in enumerate(source.runs())]
    found = volume_of(source, runs, now_ns=Clock.start().now_ns())
    # Of the eight days the oldest one is not over, so it does not count.
    assert found.days == 7 and found.by_day()[:, 0, 0].tolist() == [5.0] * 7
    (step,) = found.steps
    # 15 of 19 words are the same in each; the server says that every prompt has three tokens.
    assert step.source == "words" and step.constant == pytest.approx(3 * 15 / 19, rel=0.2)
    assert found.notes and "cache" in found.notes[0]


def test_a_conversation_of_several_days_is_counted_on_each(recorded_store: Path) -> None:
    """Ten users with one conversation each, who come back every day."""
    source, now = Store(recorded_store), Clock.start().now_ns()
    runs = [
        replace(run, started_ns=run.started_ns - n // 10 * DAY_NS * 2, conversation_id=f"user {n % 10}")
        for n, run in enumerate(source.runs())
    ]
    oldest = min(runs, key=lambda r: r.started_ns)
    runs.append(replace(oldest, run_id="f" * 32, started_ns=oldest.started_ns - DAY_NS))
    found = volume_of(source, runs, now_ns=now)
    assert found.days == 7 and found.by_day()[:, 0, 0].tolist() == [10.0, 0.0] * 3 + [10.0]
    said = volume_of(source, runs, now_ns=now, calls_per_day=5.0)
    assert said.draws_of == 10 and said.use[:, 0, 0].tolist() == [4.0] * 10  # these are drawn anew as a whole
    nine = [replace(r, conversation_id=f"user {n % 9}") for n, r in enumerate(runs)]
    with pytest.raises(VolumeError, match="40 FM calls of 9 conversations"):
        volume_of(source, nine, now_ns=now)


@pytest.fixture
def streaming(store: Path, serve: Callable[..., Any]) -> Callable[..., Path]:
    """Record thirty-six calls of models, streams of some models without a count of tokens."""
    openai = pytest.importorskip("openai")

    def make(streamed: Callable[[int, str], bool], models: tuple[str, ...] = ("m",)) -> Path:
        tracer.instrument(store)
        try:
            with openai.OpenAI(base_url=serve(lambda _: "yes", vllm=False).base_url, api_key="none") as client:
                for number in range(36):
                    with tracer.run("asker"):
                        for model in models:
                            said = [{"role": "user", "content": f"is {number} even"}]
                            stream = streamed(number, model)
                            answer = client.chat.completions.create(model=model, messages=said, stream=stream)
                            _ = list(answer) if stream else answer
        finally:
            tracer.uninstrument()
        return store

    return make


def test_calls_that_do_not_tell_their_tokens_are_as_the_others_of_their_step(streaming: Callable[..., Path]) -> None:
    source = Store(streaming(lambda number, _: number % 3 > 0))
    found = volume_of(source, source.runs(), now_ns=Clock.start().now_ns(), calls_per_day=36.0)
    assert found.a_day()[0, :3].tolist() == pytest.approx([36.0, 36 * 3.0, 36 * 3.0])
    assert found.use[:, 0, 1].tolist() == pytest.approx([3.0] * 36) and found.steps[0].constant <= 3.0
    assert found.notes[0].startswith("24 of 36 FM calls do not say how many tokens") and "12 FM calls" in found.notes[1]


def test_a_step_that_tells_no_tokens_is_refused_with_the_way_out(streaming: Callable[..., Path]) -> None:
    """And not said to cost nothing."""
    store = streaming(lambda _, model: model == "silent", ("m", "silent"))
    prices = ("--price", "m=1,1", "--price", "silent=100,100")
    found = worth_of(store, "--train-cost", "1", *prices, "--calls-per-day", "1e6")
    assert found.exit_code == 2 and "the 36 FM calls of asker" in found.stderr and "(silent)" in found.stderr
    assert "stream_usage=True" in found.stderr and '{"include_usage": True}' in found.stderr


def worth_of(store: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["worth", "--store", str(store), *options], catch_exceptions=False)


def test_too_few_days_are_refused_and_a_volume_can_be_said(recorded_store: Path) -> None:
    price = ("--train-cost", "10", "--price", "m=1000,4")
    refused = worth_of(recorded_store, *price)
    assert refused.exit_code == 2 and "0 full days" in refused.stderr and "--calls-per-day" in refused.stderr
    said = worth_of(recorded_store, *price, "--calls-per-day", "1e6", "--keep-tokens", "0", "--json")
    found = json.loads(said.stdout)
    assert (said.exit_code, found["choice"]) == (0, "fine-tune") and found["volume_said"]
    assert worth_of(recorded_store, *price, "--calls-per-day", "1").exit_code == 1


@pytest.mark.parametrize("ids", [True, False], ids=["tokens", "words"])
def test_a_dataset_of_two_stores_says_what_one_store_of_both_would(tmp_path: Path, ids: bool) -> None:
    """One with the tokens of each prompt, or with its words alone; one call failed, one tells nothing."""
    runs = []
    for number in range(33):
        run = some_run(number, days=-2000 - number % 9)
        (call,) = run.decodes
        given = (*range(400, 440), number) if ids else None
        said = [{"role": "user", "content": "always the same " * 10 + f"what is {number}"}]
        told: dict[str, Any] = {"input_tokens": None if number == 3 else 41, "error": "gone" if number == 4 else None}
        calls = [replace(call, prompt_ids=given, messages=said, cached_tokens=number, **told)]
        runs.append(replace(run, decodes=calls))
    for name, some in {"one": runs[:20], "two": runs[17:], "both": runs}.items():
        keep(tmp_path / name, some)
    for name in ("one", "two"):
        publish_runs(Store(tmp_path / name), tmp_path / "dataset")
    until = max(run.run.started_ns for run in runs) + 1
    found, known = (
        volume_of(source, source.runs(), now_ns=until)
        for source in (Dataset(tmp_path / "dataset"), Store(tmp_path / "both"))
    )
    assert known.days == 8 and known.steps == found.steps and known.notes == found.notes
    assert known.steps[0].source == ("tokens" if ids else "words") and known.steps[0].constant > 20
    assert known.by_day().tolist() == found.by_day().tolist()
    if not ids:
        return
    asked = ("--train-cost", "1", "--calls-per-day", "1e6", "--since", "9000d", "--json")
    (tmp_path / "both" / "prices.toml").write_text("[m]\ninput = 1\noutput = 4\n")
    first = worth_of(tmp_path / "both", *asked)
    assert first.exit_code < 2, first.stderr
    refused = worth_of(tmp_path / "dataset", *asked)
    assert refused.exit_code == 2 and "model m has no price" in refused.stderr
    (tmp_path / "both" / "prices.toml").rename(tmp_path / "dataset" / "prices.toml")
    assert worth_of(tmp_path / "dataset", *asked).stdout == first.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--calls-per-day", "9"], "model m has no price"),
        (["--price", "m=1"], "want MODEL=INPUT,OUTPUT"),
        (["--tuned-price", "m=1,2"], "want INPUT,OUTPUT"),
        (["--agent", "nobody"], "no run of nobody"),
        (["--price", "m=-1,2"], "numbers that are 0 or more"),
        (["--retrain", "0d"], "--retrain 0d: want a time that is more than none"),
        (["--horizon", "0s"], "--horizon 0s: want a time that is more than none"),
        (["--hosting", "inf"], "--hosting inf: want a finite number"),
        (["--calls-per-day", "inf"], "--calls-per-day inf: want a finite number"),
        (["--calls-per-day", "1e300"], "--calls-per-day 1e+300: want 1000000000000 at most"),
        (["--keep-tokens", str(2**64)], f"--keep-tokens {2**64}: want 1000000000 at most"),
        (["--calls-per-day", "9", "--node", "nowhere"], "0 FM calls of 0 conversations are recorded in nowhere"),
    ],
)
def test_bad_input_is_one_line(recorded_store: Path, options: list[str], said: str) -> None:
    result = worth_of(recorded_store, "--train-cost", "1", *options)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output
