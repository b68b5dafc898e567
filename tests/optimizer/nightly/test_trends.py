"""Measures of all nights for Apache Otava: written as it reads them, and what it says read back."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.nightly.home import Home
from redecode.optimizer.nightly.report import _trends
from redecode.optimizer.nightly.trends import MEASURES, changes, iso, measured, previous, written
from redecode.replay.prices import Price
from redecode.tracer import Store

PRICE = Price(input=1.0, output=4.0)

# What Otava 0.8 printed for the nights of `nights` (one line for each measure).
SAID = [
    {"job.p50_s": [{"time": 1, "attributes": {}, "changes": [
        {"metric": "p50_s", "index": 12, "time": 1, "forward_change_percent": "30", "magnitude": "0.3",
         "mean_before": "1.002039", "stddev_before": "0.02", "mean_after": "1.316200", "stddev_after": "0.03",
         "pvalue": "0.000000"}]}]},
    {"job.error": []},
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Twenty nights; from the thirteenth on another configuration, and a third more latency."""
    home = Home(tmp_path)
    rng = random.Random(1)
    first = datetime.now(UTC) - timedelta(days=40)
    for number in range(20):
        at = int((first + timedelta(days=number)).timestamp() * 1e9)
        night = home.new_night(at)
        night.keep("begin", {})
        slower = 1.0 if number < 12 else 1.3
        measures = dict.fromkeys(MEASURES) | {"p50_s": slower * rng.gauss(1, 0.03)}
        if number % 3:  # nights that ran no incumbent again
            measures["error"] = 0.1
        night.keep("trends", {"time": iso(at), "config": "old" if number < 12 else "new", "measures": measures})
    return home


def otava(folder: Path, text: str, code: int = 0) -> str:
    """A program that says this, if it is asked as Otava wants to be."""
    path = folder / "program"
    path.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        "tests = json.loads(pathlib.Path('otava.yaml').read_text())['tests']\n"
        "asked = [w for w in sys.argv[2:] if w in tests]\n"
        "assert sys.argv[1] == 'analyze' and asked and all(pathlib.Path(tests[t]['file']).exists() for t in asked)\n"
        f"print({text!r})\nsys.exit({code})\n"
    )
    path.chmod(0o755)
    return str(path)


def test_every_measure_has_a_file_of_the_nights_that_have_it(home: Home) -> None:
    rows = written(home, "job")
    table = list(csv.DictReader((home.root / "measures.csv").read_text().splitlines()))
    assert len(rows) == len(table) == 20 and table[0]["error"] == "" and table[1]["error"] == "0.1"
    tests = json.loads((home.root / "otava.yaml").read_text())["tests"]
    assert tests.keys() == {"job.p50_s", "job.error"}
    for name, count in (("p50_s", 20), ("error", 13)):
        lines = list(csv.DictReader((home.root / tests[f"job.{name}"]["file"]).read_text().splitlines()))
        assert len(lines) == count and all(float(line[name]) > 0 for line in lines)
        assert datetime.fromisoformat(lines[0]["time"]).tzinfo is not None
    assert written(home, "job") == rows


def test_costs_in_another_unit_are_another_series(home: Home) -> None:
    """Until the tenth night there were no prices; in the last but one there is no cost."""
    for number, night in enumerate(home.nights()):
        found = night.step("trends")
        unit, cost = ("engine s", 0.2) if number < 10 else ("USD", 4e-5)
        found["measures"]["cost"] = None if number == 18 else cost
        night.keep("trends", {**found, "cost_unit": unit})
    rows = written(home, "job")
    lines = list(csv.DictReader((home.root / "otava" / "cost.csv").read_text().splitlines()))
    assert [float(line["cost"]) for line in lines] == [4e-5] * 9
    table = list(csv.DictReader((home.root / "measures.csv").read_text().splitlines()))
    assert [line["cost_unit"] for line in table[9:11]] == ["engine s", "USD"] and table[18]["cost_unit"] == ""
    before = {number: previous(rows, rows[number]["night"]) for number in (0, 5, 10, 11)}
    assert before[0] is None
    assert [before[n]["cost"] for n in (5, 10, 11)] == [0.2, None, 4e-5]  # type: ignore[index]
    assert before[10]["p50_s"] == rows[9]["p50_s"]  # type: ignore[index]


def test_errors_by_another_scorer_are_another_series(home: Home) -> None:
    """The first five nights are of before scorers were kept; since the eleventh it is another one."""
    for number, night in enumerate(home.nights()):
        found = night.step("trends")
        found["measures"]["error"] = 1.0 if number < 10 else 0.4
        night.keep("trends", found if number < 5 else {**found, "scorer": "one" if number < 10 else "other"})
    rows = written(home, "job")
    lines = list(csv.DictReader((home.root / "otava" / "error.csv").read_text().splitlines()))
    assert [float(line["error"]) for line in lines] == [1.0] * 5 + [0.4] * 10
    before = [(previous(rows, rows[n]["night"]) or {})["error"] for n in (4, 5, 6, 10, 11)]
    assert before == [1.0, 1.0, 1.0, None, 0.4]


@pytest.mark.parametrize(
    ("prices", "unit", "told"),
    [({}, "engine s", True), ({"m": PRICE}, "USD", True), ({"other": PRICE}, "USD", False)],
    ids=["no prices", "its price", "another one's"],
)
def test_a_cost_is_in_one_unit_or_it_is_not_told(
    recorded: Any, store: Path, prices: dict[str, Price], unit: str, told: bool
) -> None:
    found = measured(Store(store), Store(store).runs(), prices)
    assert (found["cost_unit"], found["measures"]["cost"] is not None) == (unit, told)
    assert found["unpriced"] == ([] if told else ["m"])


@pytest.mark.parametrize(
    ("prices", "cost", "said"),
    [
        ({"m": PRICE}, None, "- cost and tokens cannot be told: nobody told how many tokens 2 FM calls had"),
        ({"m": Price(input=0, output=0)}, 0.0, "- tokens cannot be told: nobody told how many tokens 2 FM calls had"),
    ],
    ids=["a price", "for nothing"],
)
def test_tokens_that_nobody_told_are_no_fewer_and_cost_no_less(
    uncounted: Path, prices: dict[str, Price], cost: float | None, said: str
) -> None:
    runs = Store(uncounted).runs()
    found = measured(Store(uncounted), runs, prices)
    measures = found["measures"]
    assert (measures["cost"], measures["output_tokens"], measures["prompt_tokens"]) == (cost, None, None)
    assert measures["failed"] == 0.0 and found["uncounted"] == 2
    seconds = measured(Store(uncounted), runs, {})["measures"]
    assert seconds["cost"] > 0 and seconds["output_tokens"] is None
    text = "\n".join(_trends({**found, "previous": None, "config": "old", "changes": [], "words": "none"}))
    assert said in text and "stream_usage=True" in text
    counted = [r for r in runs if r.prompt_tokens == 6]
    assert len(counted) == 2 and measured(Store(uncounted), counted, prices)["measures"]["prompt_tokens"] == 6.0


def test_a_change_point_is_told_with_its_night_and_whether_the_configuration_moved(home: Home, tmp_path: Path) -> None:
    rows = written(home, "job")
    program = otava(tmp_path, "\n".join(json.dumps(line) for line in SAID))
    found = changes(home, "job", rows, otava=program, magnitude=0.05)
    (change,) = found.changes
    assert (change.measure, change.night, change.moved) == ("p50_s", rows[12]["night"], True)
    assert change.before == pytest.approx(sum(r["p50_s"] for r in rows[:12]) / 12)
    assert change.after == pytest.approx(sum(r["p50_s"] for r in rows[12:]) / 8)
    assert "(+3" in found.words and "the configuration was changed then" in found.words


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ('{"job.p50_s": []}', 0, "no change point in 20 nights"),
        ("", 1, "failed: it said nothing"),
        ("ERROR", 0, "failed"),
        ('{"job.p50_s": [{"changes": [{"metric": "p50_s", "index": 99}]}]}', 0, "failed"),
    ],
)
def test_what_goes_wrong_is_one_line(home: Home, tmp_path: Path, text: str, code: int, said: str) -> None:
    found = changes(home, "job", written(home, "job"), otava=otava(tmp_path, text, code), magnitude=0.05)
    assert said in found.words and "\n" not in found.words and not found.changes


@pytest.mark.parametrize(("program", "said"), [("off", "switched off"), ("no-such-otava", "no program no-such-otava")])
def test_without_it_one_line_says_so(home: Home, program: str, said: str) -> None:
    found = changes(home, "job", written(home, "job"), otava=program, magnitude=0.05)
    assert said in found.words and not found.changes


def test_apache_otava_itself_finds_it(home: Home) -> None:
    program = os.environ.get("REDECODE_OTAVA") or shutil.which("otava")
    if program is None:
        pytest.skip("Apache Otava is not installed here (its numpy and scipy are other ones than ours)")
    rows = written(home, "job")
    found = changes(home, "job", rows, otava=program, magnitude=0.05)
    (change,) = found.changes
    assert (change.measure, change.night, change.moved) == ("p50_s", rows[12]["night"], True), found.words
