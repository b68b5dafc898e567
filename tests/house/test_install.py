"""The installer, run in a checkout of its own: what it says when it cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "house", tmp_path / "house", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def run(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command where pip reaches no index, and no outer make is heard."""
    foreign = ("PIP_", "REDECODE_", "MAKE", "MFLAGS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False, timeout=120)


def install(checkout: Path) -> subprocess.CompletedProcess[str]:
    return run(checkout, sys.executable, "house/install.py")


def test_without_an_index_it_says_so_in_one_line_and_goes_on_later(checkout: Path) -> None:
    first = install(checkout)
    assert first.returncode == 1
    assert first.stderr == ""
    failed = [line for line in first.stdout.splitlines() if "FAILED" in line]
    assert len(failed) == 1
    assert "No matching distribution found" in failed[0]
    assert "pip config list" in failed[0]
    assert ".venv/setup.log" in failed[0]
    second = install(checkout)
    assert second.returncode == 1
    assert "making .venv" in first.stdout
    assert "making .venv" not in second.stdout


def test_a_moved_checkout_gets_a_new_environment(checkout: Path) -> None:
    environment = checkout / ".venv"
    environment.mkdir()
    (environment / "of-the-old-place").touch()
    (environment / "redecode-setup.json").write_text('{"environment": {"key": "Python 3.11.7 in /elsewhere/.venv"}}')
    assert "making .venv" in install(checkout).stdout
    assert not (environment / "of-the-old-place").exists()


def test_an_old_python_is_named_with_the_way_out(checkout: Path) -> None:
    old = checkout / "python2"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    done = run(checkout, "make", "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


def test_make_alone_lists_the_verbs(checkout: Path) -> None:
    done = run(checkout, "make")
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["setup", "demo", "test", "lint", "bench"]
