"""What may be tuned of the extraction, as plain data that `redecode tune redecode.agents.extraction:spec` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from redecode.agents.contact import FIELDS, Contact
from redecode.agents.context import close_clients
from redecode.agents.extraction.graphs import Architecture, Graph, build
from redecode.agents.extraction.scorer import score as graded
from redecode.agents.extraction.state import ExtractionContext

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


def spec() -> dict[str, Any]:
    """Return the four architectures and the knobs of their context; the truth is the run's label `expected`.

    Decomposition is the architecture: one call for three fields, three for one each, side by side or each going on with
    the one before. Examples in the prompt are none or one (wording `few_shot`), as the bundled FM has learnt it.
    Models stand on the command line, since an engine need not have two: `--knob model=a,b`, `--knob judge_model=a,b`.
    """
    # Of use from the second round on.
    again = {"architecture": ["debate"], "max_rounds": [2, 3]}
    return {
        "name": "extraction",
        "build": _built,
        "context": ExtractionContext,
        "knobs": {
            "architecture": list(ARCHITECTURES),
            # Where single fields are asked for there is no format; the graph ignores it.
            "format": {"choices": ["json", "yaml", "xml", "text"], "when": {"architecture": ["single", "debate"]}},
            # A copying loop runs into the limit: a low one ends it early, and cuts long answers off.
            "max_tokens": [96, 192],
            # Copying gains nothing from sampling; to search it all the same: --knob temperature=0..1:0.1.
            "temperature": None,
            "max_rounds": {"low": 1, "high": 3, "when": {"architecture": ["debate"]}},
            "debate_temperature": {"low": 0.0, "high": 1.0, "step": 0.1, "when": again},
            "stream": None,
        },
        "fixed": {"seed": 0},
        "incumbent": {"architecture": "single"},
        "agents": list(ARCHITECTURES),
        "score": score,
        "needs_expected": True,
        "close": close_clients,
    }


def score(output: Mapping[str, Any], case: Any) -> float:
    """Return the share of fields that are right, 0 to 1."""
    truth = Contact(**{f: case.expected[f] for f in FIELDS})
    return graded(output, truth).share


def _built(values: Mapping[str, Any]) -> Graph:
    return build(values["architecture"])
