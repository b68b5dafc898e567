"""`redecode tune` from end to end, on a foreign agent that was recorded."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.optimizer.cases import MODE
from redecode.replay.simulator import catalogue
from redecode.tracer import Store
from tests.optimizer.conftest import record, tuning_of_docs
from tests.replay.simulator.made import made_profile


def tune(*options: str) -> Any:
    command = ["tune", "tuning:spec", "--runs", "all", "--workers", "0", *options]
    return CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.fixture
def tunable(folder: Path, recorded: Any, store: Path) -> Path:
    (folder / "tuning.py").write_text(tuning_of_docs())
    return folder


def test_a_foreign_agent_is_tuned_in_the_ten_lines_of_the_documentation(
    tunable: Path, agent: Any, recorded: Any, store: Path
) -> None:
    assert len(tuning_of_docs().strip().splitlines()) <= 12
    record(agent, store, 40)
    recorded.requests.clear()
    # A test machine's times say little, and without prices they are the cost.
    wide = ("--margin", "latency=999", "--margin", "cost=9", "--price", "m=1,1", "--percentile", "80")
    result = tune("--store", str(store), "--json", "--held-out", "0.5", "--budget", "5m", "--max-cost", "1e9", *wide)
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"][:7]) == (0, "promote"), result.output
    assert found["chosen"]["wording"] == "Please name the capital of"
    assert found["incumbent"]["wording"] == "Capital of"
    # Ten candidates: two wordings, five temperatures; whatever is asked twice was paid once.
    assert len(found["trials"]) == 10 and found["runs"]["held_out"] >= 18
    assert found["fm_calls"]["made"] <= 10 * found["runs"]["search"] + 2  # the first run of each wording in the process
    lanes = found["lanes"]
    assert lanes["observed"]["error"] == lanes["incumbent"]["error"] == 1.0
    assert lanes["observed"]["cost"] is None and lanes["observed"]["live"] is None  # nobody knows, and it says so
    assert lanes[found["decision"]["chosen"]]["error"] == 0.0
    report, page, data, config = (Path(p) for p in found["files"])
    assert "promote" in report.read_text() and "<table>" in page.read_text()
    kept = json.loads(data.read_text())
    assert kept == {name: value for name, value in found.items() if name != "files"}
    context = agent.Context(**tomllib.loads(config.read_text())["context"])
    assert context.wording == "Please name the capital of"
    runs = [r for r in Store(store).runs() if MODE in r.labels]
    assert {r.labels[MODE].get("lane") for r in runs} >= {"incumbent", found["decision"]["chosen"], None}


def test_begun_again_it_goes_on_where_it_was(tunable: Path, recorded: Any, store: Path) -> None:
    first = json.loads(tune("--store", str(store), "--json", "--trials", "3").stdout)
    asked = len(recorded.requests)
    again = json.loads(tune("--store", str(store), "--json", "--trials", "3").stdout)
    assert again["study"] == first["study"] and again["resumed"] == 3
    assert again["trials"] == first["trials"]
    # Only the held-out runs are made again: a decision is always on fresh ones.
    held = again["runs"]["held_out"] * (1 + len(again["finalists"])) if again["finalists"] else 0
    wordings = {config["wording"] for config in (*again["finalists"].values(), again["incumbent"])}
    # A process begins with a run that does not count, and so does each further wording in it.
    assert len(recorded.requests) - asked == held + (len(wordings) if held else 0)


def test_a_study_that_is_decided_again_on_the_same_runs_says_so(
    tunable: Path, agent: Any, store: Path, recorded: Any
) -> None:
    record(agent, store, 40)
    options = ("--store", str(store), "--json", "--percentile", "80", "--margin", "latency=999", "--margin", "cost=99")
    first = json.loads(tune(*options).stdout)
    assert first["finalists"] and not any("decided before" in note for note in first["notes"])
    told = f"this study was decided before, on these {first['runs']['held_out']} held-out runs"
    for how in (("--resume", "last"), ()):
        again = json.loads(tune(*options, *how).stdout)
        assert again["study"] == first["study"] and sum(told in note for note in again["notes"]) == 1, again["notes"]
    (report,) = store.glob("tuned/*/report.md")
    assert told in report.read_text()


def test_an_fm_with_two_profiles_is_refused_before_it_is_called(tunable: Path, recorded: Any, store: Path) -> None:
    for hardware in ("slow", "fast"):
        catalogue.keep(store, made_profile("m", hardware=hardware))
    refused = tune("--store", str(store), "--load", "3rps")
    assert refused.exit_code == 2 and "2 engine profiles of m, say which by --profile" in refused.output
    assert not recorded.requests


def test_the_same_seed_proposes_the_same_candidates(tunable: Path, recorded: Any, store: Path, tmp_path: Path) -> None:
    options = ("--store", str(store), "--json", "--trials", "6", "--seed", "3", "--held-out", "0")
    one = json.loads(tune(*options).stdout)
    other = json.loads(tune(*options, "--studies", str(tmp_path / "elsewhere.journal")).stdout)
    assert [t["candidate"] for t in one["trials"]] == [t["candidate"] for t in other["trials"]]
    assert other["fm_calls"]["made"] < one["fm_calls"]["made"] / 4  # the memo is the store, whatever the study
    assert one["trials"][0]["candidate"] == one["incumbent"]


def test_killed_in_the_middle_it_goes_on(tunable: Path, recorded: Any, store: Path) -> None:
    """A real kill -9 of driver and all, when the third candidate is under way."""
    body = tuning_of_docs().replace(
        "def right(output, case):\n",
        "import os, pathlib\n\ndef right(output, case):\n"
        "    with pathlib.Path('scored').open('a') as file:\n        file.write('x')\n"
        "    if pathlib.Path('scored').stat().st_size == 21 and not pathlib.Path('again').exists():\n"
        "        os.kill(os.getpid(), 9)\n",
    )
    (tunable / "tuning.py").write_text(body)
    options = ["tune", "tuning:spec", "--runs", "all", "--workers", "0", "--store", str(store), "--held-out", "0"]
    killed = subprocess.run([sys.executable, "-m", "redecode.cli", *options], capture_output=True, check=False)
    assert killed.returncode == -9
    asked = len(recorded.requests)
    (tunable / "again").touch()
    found = json.loads(
        tune("--store", str(store), "--held-out", "0", "--json", "--resume", "last", "--trials", "4").stdout
    )
    assert [t["number"] for t in found["trials"]][:1] == [0] and len(found["trials"]) == 4
    assert found["resumed"] == 1
    assert "scorer" not in " ".join(found["notes"])
    # 12 cases: candidate 2 was half through, and what it had paid is not paid again.
    assert len(recorded.requests) - asked < 3 * 12


def test_studies_are_kept_in_a_database_as_well(tunable: Path, recorded: Any, store: Path, tmp_path: Path) -> None:
    options = ("--store", str(store), "--json", "--held-out", "0", "--slo", "30", "--studies")
    place = f"sqlite:///{tmp_path / 'studies.db'}"
    in_use = tmp_path / "in-use.toml"
    in_use.write_text('[context]\nwording = "Capital of"\n\n[placement]\nreplicas = 2\n')
    first = json.loads(tune(*options, place, "--trials", "2", "--incumbent", str(in_use)).stdout)
    again = json.loads(tune(*options, place, "--trials", "4", "--resume", "last").stdout)
    assert again["study"] == first["study"] and again["resumed"] == 2
    found = tomllib.loads(next(store.glob("tuned/*/tuned.toml")).read_text())
    assert found["placement"] == {"replicas": 2}  # it was not searched, and stays
    assert [t["candidate"] for t in again["trials"]][:2] == [t["candidate"] for t in first["trials"]]
    assert len(again["trials"]) == 4 and all(t["feasible"] for t in again["trials"])
    assert not (store / "studies").exists()


def test_plain_optuna_reads_the_study(tunable: Path, recorded: Any, store: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    tune("--store", str(store), "--trials", "2", "--json")
    storage = JournalStorage(JournalFileBackend(str(store / "studies" / "studies.journal")))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE"]
    assert study.metric_names == ["error", "cost", "latency_s"]
    assert study.user_attrs["redecode"]["sampler"] == "gp"
    assert study.trials[0].params == {"temperature": 0.0, "wording": "Capital of"}
