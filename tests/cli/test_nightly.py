"""`redecode nightly` and `redecode worth` as commands: their help, and what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.tracer import Store


@pytest.mark.parametrize(
    "words", [["nightly"], ["nightly", "run"], ["nightly", "history"], ["nightly", "rollback"], ["worth"]]
)
def test_help_has_an_example(words: list[str]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0 and "Example: redecode" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("verb", [[], ["run"], ["history"], ["rollback"]])
def test_a_file_that_is_not_there_is_named(verb: list[str], tmp_path: Path) -> None:
    Store(tmp_path / "store")
    result = CliRunner().invoke(
        app, ["nightly", *verb, str(tmp_path / "gone.toml"), "--store", str(tmp_path / "store")]
    )
    assert result.exit_code == 2 and "gone.toml cannot be read" in result.stderr


def test_a_store_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "nightly.toml").write_text('spec = "a:b"\nstore = "nowhere"')
    result = CliRunner().invoke(app, ["nightly", str(tmp_path / "nightly.toml")])
    assert result.exit_code == 2 and "nowhere" in result.stderr and not (tmp_path / "nowhere").exists()


def test_before_the_first_night_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    Store(tmp_path / "store")
    (tmp_path / "nightly.toml").write_text('spec = "a:b"\nstore = "store"')
    result = CliRunner().invoke(app, ["nightly", "rollback", str(tmp_path / "nightly.toml")])
    assert result.exit_code == 2 and "no configuration is in use yet" in result.stderr
    assert CliRunner().invoke(app, ["nightly", "history", str(tmp_path / "nightly.toml")]).exit_code == 0
