"""What FM calls cost by a store's prices, and what is said of a file that is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.replay.prices import BadPrices, Price, cost_of, prices_of, read_prices, usd
from redecode.tracer import Decode, RecordedRun, SpanKind
from tests.tracer.export.recorded_runs import Builder, keep

PRICES = '["org/big-7b"]\ninput = 1.0\noutput = 4.0\ncached = 0.5\n[small]\ninput = 0.1\noutput = 0.2\n'


def run() -> RecordedRun:
    b = Builder("asker")
    root = b.span(SpanKind.RUN, "asker", 0, 100)
    b.decode("ask", 1, 50, root, [1, 2, 3], tokens=4)
    return b.build()


def call(model: str, **fields: int | None) -> Decode:
    told = {"input_tokens": 1000, "output_tokens": 100, "cached_tokens": None, "prefill_ns": None, "decode_ns": None}
    return replace(run().decodes[0], model=model, **{**told, **fields})  # type: ignore[arg-type]


def test_tokens_are_paid_by_model_and_cached_ones_at_their_own_price(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(PRICES)
    prices = prices_of(tmp_path)
    assert cost_of([call("org/big-7b", cached_tokens=600)], prices).usd == pytest.approx(
        (400 * 1.0 + 600 * 0.5 + 100 * 4.0) / 1e6
    )
    both = cost_of([call("small", cached_tokens=600), call("org/big-7b")], prices)
    assert both.usd == pytest.approx((1000 * 0.1 + 100 * 0.2 + 1000 * 1.0 + 100 * 4.0) / 1e6)
    assert both.calls == 2


def test_without_a_price_of_each_there_are_engine_seconds_and_the_model_is_named() -> None:
    known = call("small", prefill_ns=2_000_000, decode_ns=3_000_000)
    found = cost_of([known, call("other")], {"small": Price(input=1, output=1)})
    assert (found.usd, found.unpriced) == (None, ("other",))
    assert found.engine_s == pytest.approx(0.005 + 0.049)  # its own split, else sent → done


def test_a_call_of_unknown_tokens_is_not_taken_to_be_free_in_silence() -> None:
    found = cost_of([call("small"), call("small", output_tokens=None)], {"small": Price(input=1, output=0)})
    assert found.usd == pytest.approx(1e-3)
    assert found.uncounted == 1


def test_a_store_without_a_file_has_no_prices(tmp_path: Path) -> None:
    assert prices_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("input = 1.0\n", "input"),
        ("[m]\ninput = -1\noutput = 1\n", "m.input"),
        ("[m]\ninput = 1\n", "m.output"),
        ("[m]\ninput = 1\noutput = nan\n", "m.output"),
        ("[m]\ninput = 1\noutput = 1\nprompt = 2\n", "m.prompt"),
        ("[m\n", "no TOML"),
        ("[m]\ninput = '\xff'\n", "no TOML"),
    ],
)
def test_a_file_that_is_no_table_of_prices_is_named_with_the_place(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadPrices, match=r"prices\.toml") as said:
        read_prices(path)
    assert named in str(said.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0.00 USD"), (12.345, "12.35 USD"), (0.0437, "0.044 USD"), (4.355e-05, "0.000044 USD"), (0.1, "0.10 USD")],
)
def test_amounts_have_two_digits_that_count(value: float, words: str) -> None:
    assert usd(value) == words


def test_show_says_what_a_run_cost(tmp_path: Path) -> None:
    store = keep(tmp_path / "store", [run()])
    model = run().decodes[0].model

    def show(*more: str) -> str:
        done = CliRunner().invoke(app, ["show", run().run.run_id, "--store", str(store.path), *more])
        assert done.exit_code == 0, done.output
        return done.output

    assert f"(no price of {model} in prices.toml)" in " ".join(show().split())
    assert json.loads(show("--json"))["cost"]["usd"] is None
    (store.path / "prices.toml").write_text(f'["{model}"]\ninput = 100\noutput = 1000\n')
    assert "cost: 0.0043 USD" in show()
    assert json.loads(show("--json"))["cost"]["usd"] == pytest.approx(3 * 1e-4 + 4 * 1e-3)
