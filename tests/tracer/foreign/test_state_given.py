"""Which field of a state a lone text was, where OpenInference leaves the field's name out: told by what nodes wrote."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from redecode.tracer import conventions as c
from redecode.tracer.foreign import OtlpSpan, derive

RUN = "cd" * 16


def chain(n: int, parent: int | None, given: str, came: Any, node: str | None = None) -> OtlpSpan:
    """A chain as OpenInference sends it: a text is a text, anything else is JSON."""
    attributes: dict[str, Any] = {"openinference.span.kind": "CHAIN", "input.value": given}
    attributes["output.value"] = came if isinstance(came, str) else json.dumps(came)
    if not isinstance(came, str):
        attributes["output.mime_type"] = "application/json"
    if node is not None:
        task = {"langgraph_node": node, "langgraph_step": n, "langgraph_path": ["__pregel_pull", node]}
        attributes["metadata"] = json.dumps({**task, "langgraph_checkpoint_ns": f"{node}:{n}"})
    return OtlpSpan(
        run=RUN,
        span=f"{n:016x}",
        parent=None if parent is None else f"{parent:016x}",
        start_ns=1000 + n,
        end_ns=9000 - n,
        name=node or "agent",
        scope="openinference.instrumentation.langchain",
        flags=0x100,
        attributes=attributes,
    )


GIVEN: dict[str, tuple[Any, list[Any], Any]] = {
    # out of the graph, what its nodes did, the input that is told
    "a node wrote the other field": ({"q": "why", "a": "so"}, ["so"], {"q": "why"}),
    "two at once": ({"q": "why", "a": "so", "b": 1}, [{"a": "so", "b": 1}], {"q": "why"}),
    "one after the other": ({"q": "why", "a": "so", "b": "x"}, [{"a": "no", "b": "x"}, "so"], {"q": "why"}),
    "by a command": (
        {"q": "why", "n": 3},
        [{"graph": None, "update": {"n": 3}, "resume": None, "goto": "c"}],
        {"q": "why"},
    ),
    "a list that nobody filled": ({"q": "why", "a": "so", "all": []}, ["so"], {"q": "why"}),
    "the field was written anew": ({"q": "WHY", "a": "so"}, [{"q": "WHY", "a": "so"}], "why"),
    "kept in another field": ({"q": "why not", "asked": "why"}, [{"q": "why not", "asked": "why"}], "why"),
    "kept in another field by a node of its own": ({"q": "why not", "asked": "why"}, ["why", "why not"], "why"),
    "an echo": ({"q": "why", "a": "why"}, ["why"], "why"),
    "a node that we do not have": ({"q": "why", "a": "so"}, [], "why"),
    "no state came out": ("so", ["so"], "why"),
    "nothing came out": (None, ["so"], "why"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_lone_text_is_the_field_that_no_node_wrote(name: str) -> None:
    came, made, told = GIVEN[name]
    nodes = [chain(n, 1, "why", update, f"n{n}") for n, update in enumerate(made or ["x"], 2)]
    spans = [chain(1, None, "why", came), *nodes]
    random.Random(name).shuffle(spans)
    run = next(event for event in derive(spans) if event.kind == "run")
    assert c.from_json(run.attributes[c.RUN_INPUT]) == told
