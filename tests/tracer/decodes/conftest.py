"""Servers of these tests, and what was recorded of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("openai")

from redecode.tracer import Decode, Span, uninstrument
from tests.tracer.decodes.calls import decodes_of
from tests.tracer.decodes.server import Reply, Request, Server

Serving = Callable[..., Server]
Recorded = Callable[[], list[tuple[Decode, Span]]]


@pytest.fixture
def server() -> Iterator[Serving]:
    """Make servers that end with the test."""
    made: list[Server] = []

    def make(answer: Callable[[Request], Reply], *, owner: str = "someone", compress: bool = False) -> Server:
        made.append(Server(answer, owner=owner, compress=compress))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def recorded(recording: Path) -> Recorded:
    """Ends the recording and returns its decodes, oldest first, each with its span."""

    def read() -> list[tuple[Decode, Span]]:
        uninstrument()
        return decodes_of(recording)

    return read
