"""The agents: reference LangGraph agents, their task and scorers, and the bundled FM they can run on.

`python -m redecode.agents --help` runs them the way any program would; they know nothing of the tracer.
From code: `build(name)` for a compiled graph, `make_agent(...)` (in `catalogue`) for a graph with cases and
scores. Importing this package is cheap: LangGraph is loaded when a graph is built, torch only to train.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redecode.agents.catalogue import Graph

__all__ = ["AGENTS", "BUNDLED_MODELS", "DEFAULT_MODEL", "UnknownModel", "build", "model_dir"]

AGENTS: dict[str, str] = {
    "single": "one call asks for name, email and address",
    "parallel": "three calls at once, one per field, and a join",
    "sequential": "name, then email, then address, each seeing the answers before",
    "debate": "two agents solve it independently, a judge decides, in a bounded loop",
    "contacts_desk": "one agent with tools: looks the person up, checks the address, answers",
    "clerk": "one streamed call whose fields are looked up while it is being written, or after",
}
BUNDLED_MODELS: tuple[str, ...] = ("redecode-fm-xs", "redecode-fm-s")
DEFAULT_MODEL = "redecode-fm-s"


class UnknownModel(ValueError):
    """There is no bundled model of that name."""


def model_dir(name: str = DEFAULT_MODEL) -> Path:
    """Return the folder of a bundled model, as vLLM's `--model` takes it."""
    if name not in BUNDLED_MODELS:
        raise UnknownModel(f"no bundled model called {name!r}; there are: {', '.join(BUNDLED_MODELS)}")
    return Path(__file__).parent / "fm" / "models" / name


def build(name: str) -> Graph:
    """Return an agent's compiled graph, without cases (the contacts desk then knows nobody)."""
    # LangGraph is an optional extra: it is imported when a graph is asked for, not before.
    graph: Graph = import_module("redecode.agents.catalogue").make_agent(name, count=0).graph
    return graph
