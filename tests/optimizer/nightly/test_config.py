"""`nightly.toml`: what is wrong in it is named, with what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from redecode.optimizer.nightly.config import (
    BudgetSection,
    DriftSection,
    NightlyConfig,
    ProfileSection,
    TuneSection,
    WorthSection,
    load_config,
)
from redecode.optimizer.nightly.errors import BadNight
from redecode.optimizer.study.search import SAMPLERS
from redecode.replay.prices import Price

DOCS = Path(__file__).parents[3] / "docs" / "nightly.md"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "spec is missing"),
        ("spec = 1", "spec: want text, in quotes"),
        ('spce = "a:b"', "there is no key spce; did you mean spec?"),
        ('spec = "a:b"\n[worth]\ntrain_csot = 3', r"\[worth\] there is no key train_csot; did you mean train_cost?"),
        ('spec = "a:b"\n[tune]\nknobs = "wording"', r'\[tune\] knobs: want a list: \["'),
        ('spec = "a:b"\n[tune]\nfix = "model=m"', r"\[tune\] fix: want a table"),
        ('spec = "a:b"\n[tune]\nfix = { model = [1] }', r"\[tune\] fix: model: want text in quotes, a number, true or"),
        ('spec = "a:b"\n[tune]\nseed = -1', r"\[tune\] seed: want a number from 0 to 4294967295, not -1"),
        ('spec = "a:b"\n[tune]\nseed = 4294967296', r"\[tune\] seed: want a number from 0 to 4294967295"),
        ('spec = "a:b"\n[tune]\nsampler = "bayes"', r"\[tune\] sampler: .*'gp', 'tpe'"),
        ('spec = "a:b"\ntune = 3', r"tune: want a table"),
        ('spec = "a:b"\nkill_switch = ""', "kill_switch: is empty; want a path"),
        ('spec = "a:b"\nstore = 3', "store: want a path, in quotes"),
        ('spec = "a:b"\nengine = "127.0.0.1:8000"', 'engine: want a URL like "http'),
        ('spec = "tuning"', 'want "module:name"'),
        ('spec = "a:b"\nrun = "all"', "there is no key run; did you mean runs?"),
        ('spec = "a:b"\n[tune]\ncasez = 3', r"\[tune\] there is no key casez; did you mean cases?"),
        ('spec = "a:b"\n[budget]\nwall = 3', r"\[budget\] there is no key wall; known are: time, fm_calls, cost"),
        ('spec = "a:b"\n[budget]\ntime = "soon"', r'\[budget\] time: want a time like "90s"'),
        ('spec = "a:b"\n[budget]\nfm_calls = 0', r"\[budget\] fm_calls: .*greater than 0"),
        ('spec = "a:b"\nruns = "yesterday"', 'runs: want "last-24h", "since-last"'),
        ('spec = "a:b"\n[profile]\nsource = "moon"', r"\[profile\] source: .*'store', 'engine' or 'none'"),
        ('spec = "a:b"\n[prices.m]\ninput = 1', r"\[prices.m\] output is missing"),
        ('spec = "a:b"\n[prices.m]\ninput = 1\noutput = 1\ncash = 2', "no key cash; did you mean cached?"),
        ('spec = "a:b"\nname = "../up"', "name: want letters"),
        ('spec = "a:b"\n[worth]', r"\[worth\] train_cost is missing"),
        ("spec = ", "is no TOML"),
        (
            'spec = "a:b"\n[tune]\nknobs = ["placement.replicas=1..3"]',
            r"\[tune\] knob placement.replicas: .*say load =",
        ),
        ('spec = "a:b"\n[tune]\nload = "2rps"\nknobs = ["placement.gpus=1,2"]', "there are placement.replicas"),
        ('spec = "a:b"\n[tune]\nload = "2rps"\nreplica_price = 1.2', "replica_price is the cost of placement knobs"),
        ('spec = "a:b"\n[tune]\nreplicas = 3', r"\[tune\] replicas: of a load that is simulated; say load"),
        ('spec = "a:b"\n[tune]\nfix = { top = 9223372036854775808 }', r"\[tune\] fix: .*at most 64 bits"),
        ('spec = "a:b"\n[tune]\ntrials = 9223372036854775808', r"\[tune\] trials: .*less than 9223372036854775808"),
        ('spec = "a:b"\nruns = "last-0"', 'runs: "last-0" is of no run; want "last-24h"'),
        ('spec = "a:b"\nruns = "last-00h"', 'runs: "last-00h" is of no run'),
        ('spec = "a:b"\nruns = "last-99999999999999999999d"', "runs: want at most 100000d"),
        ('spec = "a:b"\nruns = "last-99999999999999999999"', 'runs: "all" are as many as there are'),
        ('spec = "a:b"\n[drift]\nreference = "9999999d"', r"\[drift\] reference: want at most 100000d"),
        ('spec = "a:b"\n[tune]\nconcurrency = 99999999999999999999', r"\[tune\] concurrency: .*equal to 10000"),
        ('spec = "a:b"\n[tune]\nworkers = 1001', r"\[tune\] workers: .*equal to 1000"),
        ('spec = "a:b"\n[tune]\nload = "2rps"\nreplicas = 10001', r"\[tune\] replicas: .*equal to 10000"),
        ('spec = "a:b"\n[goals]\nslo = inf', r"\[goals\] slo: .*finite number"),
        ('spec = "a:b"\n[budget]\ncost = inf', r"\[budget\] cost: .*finite number"),
        ('spec = "a:b"\n[tune]\nfix = { top = nan }', r"\[tune\] fix: top: want a finite number, not nan"),
        ('spec = "tuning:spec:x"', 'spec: want "module:name" or "file.py:name", not "tuning:spec:x"'),
        ('spec = "my agent.py:spec"', 'name: want letters, .* which the spec\'s "my agent" is not; say one'),
        ('spec = "a:b"\n[tune]\nknobs = [1]', r"\[tune\] knobs: want text, in quotes"),
        ('spec = "a:b"\n[tune]\nknobs = ["=1"]', r"\[tune\] knobs: knob =1: want NAME"),
        ('spec = "a:b"\n[tune]\nload = "fast"', r"\[tune\] load: a load is"),
        ('spec = "a:b"\n[budget]\nfm_calls = true', r"\[budget\] fm_calls: does not take true"),
        ('spec = "a:b"\n[tune]\nmemo = 1.5', r"\[tune\] memo: .*valid boolean"),
        (
            'spec = "a:b"\n[tune]\nload = "2rps"\nknobs = ["placement.replicas"]\nreplica_price = { h100 = -1 }',
            r"\[tune\] replica_price: want USD an hour",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text(text)
    with pytest.raises(BadNight, match=said) as raised:
        load_config(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "key", ["tune.trials", "tune.cases", "tune.concurrency", "tune.workers", "tune.replicas", "tune.seed",
            "budget.fm_calls", "profile.runs", "drift.least", "worth.keep_tokens"],
)  # fmt: skip
def test_no_number_is_larger_than_a_file_of_a_night_keeps(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    path = tmp_path / "nightly.toml"
    more = {"worth": "train_cost = 1\n", "tune": 'load = "2rps"\n'}.get(section, "")
    path.write_text(f'spec = "a:b"\n[{section}]\n{more}{name} = {2**63}')
    with pytest.raises(BadNight, match=rf"\[{section}\] {name}: "):
        load_config(path)


def test_every_whole_number_of_the_file_has_a_bound() -> None:
    """One that has none would end a night in the middle, when it is written down."""
    for section in (BudgetSection, TuneSection, ProfileSection, DriftSection, WorthSection):
        for name, field in section.model_fields.items():
            if name != "seed" and field.annotation in (int, int | None):
                assert any(getattr(m, "lt", None) or getattr(m, "le", None) for m in field.metadata), name


def test_the_samplers_are_those_that_there_are() -> None:
    for sampler in SAMPLERS:
        assert TuneSection.model_validate({"sampler": sampler}).sampler == sampler


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadNight, match=r"gone\.toml cannot be read"):
        load_config(tmp_path / "gone.toml")


def test_paths_are_seen_from_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text('spec = "my.py:spec"\nstore = "runs"\n[tune]\nexpected = "right.jsonl"')
    found = load_config(path)
    assert (found.spec, found.store) == (f"{tmp_path}/my.py:spec", tmp_path / "runs")
    assert found.tune.expected == tmp_path / "right.jsonl" and found.name == "my"
    for said, then in (("otv/bin/otava", f"{tmp_path}/otv/bin/otava"), ("otava", "otava"), ("/o/otava", "/o/otava")):
        path.write_text(f'spec = "my.py:spec"\n[trends]\notava = "{said}"')
        assert load_config(path).trends.otava == then


def test_budgets_may_change_in_the_middle_of_a_night_and_nothing_else(tmp_path: Path) -> None:
    one = NightlyConfig.model_validate({"spec": "a:b"})
    assert NightlyConfig.model_validate({"spec": "a:b", "budget": {"time": "1h"}}).digest == one.digest
    assert NightlyConfig.model_validate({"spec": "a:b", "tune": {"cases": 41}}).digest != one.digest


def keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = re.search(r"\w+Section", str(field.annotation))
        if inner is None:
            yield name
        else:
            import redecode.optimizer.nightly.config as module

            yield from keys(getattr(module, inner[0]))


def documented() -> str:
    found = re.search(r"```toml\n# nightly\.toml, with every key.*?\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_documentation_has_every_key_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text(documented())
    found = load_config(path)
    known = {*keys(NightlyConfig), *keys(Price)}
    assert [key for key in known if not re.search(rf"^({key} *=|\[{key}\.)", documented(), re.M)] == []
    assert found.worth is not None and found.prices


def test_the_documentations_defaults_are_the_defaults(tmp_path: Path) -> None:
    """Where a key's line says "default", its value is what it is without."""
    path = tmp_path / "nightly.toml"
    path.write_text(documented())
    said, plain = load_config(path), NightlyConfig.model_validate({"spec": "a:b"})
    for name in ("budget", "goals", "tune", "profile", "drift", "trends"):
        for key in type(getattr(plain, name)).model_fields:
            line = re.search(rf"^{key} *=.*$", documented(), re.M)
            if line is not None and "default" in line[0]:
                assert getattr(getattr(said, name), key) == getattr(getattr(plain, name), key), line[0]
