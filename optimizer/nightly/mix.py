"""What recorded runs are: which agents, models and tools, how long their inputs, prompts and answers.

One row for each conversation (or run that is of none), since runs of one conversation are not independent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redecode.optimizer.caching.calls import said
from redecode.optimizer.inputs import ROLES
from redecode.tracer import Run, Store
from redecode.tracer import conventions as c

NUMBERS = {
    "input_chars": "characters of input",
    "fm_calls": "FM calls",
    "prompt_tokens": "prompt tokens",
    "output_tokens": "output tokens",
    "tool_calls": "tool calls",
}
"""Numeric features of a row, each a mean over its runs."""
GIVEN = "input_chars"
"""The one that no configuration of the agent changes."""
_IN = 500
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation.

    Attributes:
        numbers: by the names of `NUMBERS`; what is not known is not there.
        models, tools: that were called in it.
    """

    agent: str
    numbers: Mapping[str, float]
    models: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Gathered:
    agent: str
    runs: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    tools: set[str] = field(default_factory=set)

    def add(self, name: str, value: float | None) -> None:
        if value is not None:
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.known[name] = self.known.get(name, 0) + 1


def rows_of(store: Store, runs: Sequence[Run]) -> list[Row]:
    """Of runs, in the order of their first."""
    ids = [r.run_id for r in runs]
    models = _names(store, ids, "decodes", "model")
    tools = _names(store, ids, "tool_steps", "tool")
    uncounted = _uncounted(store, ids)
    gathered: dict[str, _Gathered] = {}
    for run in runs:
        row = gathered.setdefault(run.conversation_id or run.run_id, _Gathered(run.agent))
        row.runs += 1
        row.models |= models.get(run.run_id, set())
        row.tools |= tools.get(run.run_id, set())
        row.add("input_chars", None if run.input is None else characters(run.input))
        row.add("fm_calls", run.decodes)
        row.add("tool_calls", run.tools)
        if run.decodes and run.run_id not in uncounted:
            row.add("prompt_tokens", run.prompt_tokens)
            row.add("output_tokens", run.tokens)
    return [
        Row(
            agent=g.agent,
            numbers={n: g.sums[n] / g.known[n] for n in g.sums},
            models=frozenset(g.models),
            tools=frozenset(g.tools),
        )
        for g in gathered.values()
    ]


def of_agents(rows: Sequence[Row], agents: Collection[str]) -> list[Row]:
    """Those of some agents."""
    return [r for r in rows if r.agent in agents]


def characters(given: Any) -> int:
    """Of the texts in an input, which are the same whoever recorded it: of a message its content, else the values.

    The JSON around these, names of fields, roles and ids are each tracer's own; so is a state as a text of JSON.
    """
    if isinstance(given, str):
        inner = _parsed(given)
        return len(given) if inner is None else characters(inner)
    if isinstance(given, Mapping):
        if given.get("lc") == 1 and given.get("type") == "constructor":
            return characters(given.get("kwargs"))
        if "content" not in given or given.get("role", given.get("type")) not in ROLES:
            return sum(map(characters, given.values()))
        content = given["content"]
        return len(said(content)) if isinstance(content, list) else characters(content)
    if isinstance(given, list | tuple):
        one = len(given) == 2 and isinstance(given[0], str) and given[0] in ROLES  # a message, as a pair
        return sum(map(characters, given[1:] if one else given))
    return 0 if given is None else len(json.dumps(given, default=str))


def _parsed(text: str) -> Any:
    """The object or list that a text is, if it is one."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _names(store: Store, ids: Sequence[str], table: str, column: str) -> dict[str, set[str]]:
    """Run → the different values of a column."""
    out: dict[str, set[str]] = {}
    for place in range(0, len(ids), _IN):
        listed = ", ".join(f"'{i}'" for i in ids[place : place + _IN])
        sql = f"SELECT DISTINCT run_id, {column} AS name FROM {table} WHERE run_id IN ({listed})"
        for row in store.ask(sql, limit=_MOST, timeout_s=60.0).rows():
            if row["name"] is not None:
                out.setdefault(row["run_id"], set()).add(row["name"])
    return out


def _uncounted(store: Store, ids: Sequence[str]) -> set[str]:
    """Runs with a call that was answered though nobody told its tokens: theirs are not known, which is not none."""
    out: set[str] = set()
    for place in range(0, len(ids), _IN):
        listed = ", ".join(f"'{i}'" for i in ids[place : place + _IN])
        sql = (
            f"SELECT DISTINCT run_id FROM decodes WHERE run_id IN ({listed}) "
            f"AND (error IS NULL OR error = '{c.CUT_SHORT}') AND (input_tokens IS NULL OR output_tokens IS NULL)"
        )
        out.update(row["run_id"] for row in store.ask(sql, limit=_MOST, timeout_s=60.0).rows())
    return out
