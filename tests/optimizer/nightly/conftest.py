"""A job: the recorded agent of docs/tune.md, and a `nightly.toml` beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode import tracer
from redecode.cli.main import app
from redecode.optimizer.nightly.home import Home
from tests.optimizer.conftest import record, tuning_of_docs

CONFIG = """
spec = "tuning:spec"
runs = "all"

[budget]
time = "10m"

[goals]
percentile = 80
margin_cost = 50
margin_latency = 50

[tune]
held_out = 0.6
trials = 3
workers = 0

[profile]
source = "none"

[trends]
otava = "off"
"""
"""Margins and percentile are wide: a test machine's times say little."""


class Job:
    """`redecode nightly` on one configuration."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.file, self.store = folder / "nightly.toml", store
        self.home = Home(store / "nightly" / "tuning")
        self.configure()

    def configure(self, *changes: tuple[str, str]) -> None:
        text = CONFIG
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text)

    def __call__(self, *words: str) -> Any:
        return CliRunner().invoke(app, ["nightly", *words, "--store", str(self.store)], catch_exceptions=False)

    def run(self, *options: str) -> Any:
        return self("run", str(self.file), *options)

    def json(self, *options: str) -> Any:
        result = self.run("--json", *options)
        assert result.stdout, result.output
        return json.loads(result.stdout)


@pytest.fixture
def job(folder: Path, recorded: Any, store: Path) -> Job:
    """Twelve runs are recorded; the incumbent asks impolitely and gets no right answer."""
    (folder / "tuning.py").write_text(tuning_of_docs())
    return Job(folder, store)


@pytest.fixture
def more(agent: Any, recorded: Any, store: Path) -> Callable[[int], None]:
    """Record further runs."""

    def go(count: int) -> None:
        record(agent, store, count)
        recorded.requests.clear()

    return go


@pytest.fixture
def uncounted(store: Path, serve: Callable[..., Any]) -> Path:
    """Four runs of two FM calls each, of which one is a stream without a count of tokens in every other run."""
    openai = pytest.importorskip("openai")
    tracer.instrument(store)
    try:
        with openai.OpenAI(base_url=serve(lambda _: "yes", vllm=False).base_url, api_key="none") as client:
            for number in range(4):
                with tracer.run("asker"):
                    for stream in (False, number % 2 == 0):
                        said = [{"role": "user", "content": f"is {number} even"}]
                        answer = client.chat.completions.create(model="m", messages=said, stream=stream)
                        _ = list(answer) if stream else answer
    finally:
        tracer.uninstrument()
    return store
