"""A foreign agent, as docs/tune.md shows it, recorded on a server whose answers depend on what is asked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from redecode import tracer
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.spec import Case
from redecode.tracer import conventions as c

DOCS = Path(__file__).parents[2] / "docs" / "tune.md"


def agent_of_docs() -> str:
    """The program in docs/tune.md that is tuned there."""
    return _program("capitals.py")


def tuning_of_docs() -> str:
    """The lines that make it tunable."""
    return _program("tuning.py")


def evaluated(store: Path, cases: Sequence[Case], **values: Any) -> list[Outcome]:
    """What a candidate of `tuning:spec` does on cases, in a process's first block."""
    here = InProcess(Settings(spec="tuning:spec", store=store, source=store))
    try:
        return here.evaluate(Block(values=values, cases=cases))
    finally:
        here.close()


def _program(name: str) -> str:
    found = re.search(rf"```python\n# {re.escape(name)}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def capitals(body: dict[str, Any]) -> str:
    """Knows capitals when it is asked politely, and is verbose when it is hot."""
    said = str(body["messages"][-1]["content"])
    country = said.rpartition(" ")[2].strip("?.")
    right = {"France": "Paris", "Peru": "Lima", "Chad": "N'Djamena"}.get(country, f"{country} City")
    polite = "please" in said.lower()
    return right if polite else "no"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the agent in it, which is the current one; its modules are forgotten at the end."""
    (tmp_path / "capitals.py").write_text(agent_of_docs())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("capitals", "tuning"):
        sys.modules.pop(name, None)


@pytest.fixture
def agent(folder: Path) -> Any:
    """The agent's module."""
    import capitals as module  # type: ignore[import-not-found]

    return module


@pytest.fixture
def recorded(agent: Any, store: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Record some runs of the agent; returns its server."""
    server = serve(capitals)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    record(agent, store, 12)
    server.requests.clear()
    return server


def record(agent: Any, store: Path, runs: int) -> None:
    """So many runs, each about another country."""
    tracer.instrument(store)
    try:
        for number in range(runs):
            country = ("France", "Peru", "Chad")[number] if number < 3 else f"Country{number}"
            right = {"France": "Paris", "Peru": "Lima", "Chad": "N'Djamena"}.get(country, f"{country} City")
            config = {"metadata": {c.GIVEN_LABELS: {"expected": right}}}
            agent.graph.invoke({"country": country}, config, context=agent.Context())
    finally:
        tracer.uninstrument()
