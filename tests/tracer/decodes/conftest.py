"""Servers of these tests, and what was recorded of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("openai")

from redecode.tracer import Decode, Span, Store, uninstrument
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
        store = Store(recording)
        found = []
        for summary in store.runs():
            run = store.load(summary.run_id)
            spans = {span.span_id: span for span in run.spans}
            found += [(decode, spans[decode.span_id]) for decode in run.decodes]
        return sorted(found, key=lambda pair: pair[0].sent_ns)

    return read
