"""Collectors in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.collector.support import CollectorProcess


@pytest.fixture
def collect(store: Path) -> Iterator[Callable[..., CollectorProcess]]:
    """Start collectors into the test's store; they end with it."""
    started: list[CollectorProcess] = []

    def start(*arguments: str, into: Path = store, **options: Any) -> CollectorProcess:
        started.append(CollectorProcess(into, *arguments, **options))
        return started[-1]

    yield start
    for collector in started:
        collector.close()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    """One collector for all tests of a module that ask it things it survives."""
    shared = CollectorProcess(tmp_path_factory.mktemp("collector") / "store")
    yield shared
    shared.close()
