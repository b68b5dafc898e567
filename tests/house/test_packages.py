"""The rooms on disk are the packages that are installed, and each says what it is."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOT_INSTALLED = {"tests", "benchmarks", "docs", "deploy", "house", "build"}
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]


def folder(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


def test_the_package_list_equals_the_folders() -> None:
    inits = (path.parent.relative_to(ROOT).parts for path in ROOT.rglob("__init__.py"))
    rooms = [parts for parts in inits if parts[0] not in NOT_INSTALLED and not parts[0].startswith(".")]
    assert sorted(PACKAGES) == sorted(".".join(("redecode", *parts)) for parts in rooms)


def test_no_folder_shadows_the_installed_package() -> None:
    assert not (ROOT / "redecode").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed_and_says_what_lives_in_it(package: str) -> None:
    assert (folder(package) / "py.typed").exists()
    source = (folder(package) / "__init__.py").read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), f"{package} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_every_name_it_exports(package: str) -> None:
    module = importlib.import_module(package)
    exported: list[str] = getattr(module, "__all__", [])
    assert [name for name in exported if not hasattr(module, name)] == []
    assert len(exported) == len(set(exported))


def test_package_data_exists() -> None:
    patterns: dict[str, list[str]] = PYPROJECT["tool"]["setuptools"]["package-data"]
    rooms = {package: [folder(package)] for package in PACKAGES} | {"*": [folder(package) for package in PACKAGES]}
    missing = [
        f"{package}: {pattern}"
        for package, globs in patterns.items()
        for pattern in globs
        if not any(any(room.glob(pattern)) for room in rooms[package])
    ]
    assert missing == []
