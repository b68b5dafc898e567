"""Conversations that a graph's checkpointer keeps: what the graph knew before a recorded run, and runs of which that is
unknown.

A candidate's run of a later turn begins with what the recorded run before it left, whatever that candidate would have
said there: each turn is a case of its own. What was left is the output of a recorded run. Which one, the run itself
says (by the digest of the state that it found), so a thread that was forked, or edited in between, is no other's.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

from redecode.optimizer.besides import checkpointer_of
from redecode.optimizer.inputs import as_came, value_of
from redecode.optimizer.spec import Case
from redecode.tracer import Run
from redecode.tracer import conventions as c
from redecode.tracer.langgraph.besides import kind_of

UNTOLD = "later turns of a conversation, before which no recorded run says what the graph knew (docs/tune.md)"
UNFIT = "later turns of a conversation whose history this graph cannot be given (docs/tune.md)"
"""Why a run is no case."""
_HISTORY = "history"


class Histories:
    """What an agent's graph knew before each run.

    Args:
        runs: all recorded ones of the agent, with what they were given besides their input.
        graph: in use; `None` where none can be built.
    """

    def __init__(self, runs: Sequence[Run], graph: Any) -> None:
        self._told = {run.run_id: said for run in runs if (said := (run.besides or {}).get(_HISTORY))}
        self._remembering = {run.run_id for run in runs if (run.besides or {}).get("remembering")}
        wanted = {said["digest"] for said in self._told.values() if isinstance(said, Mapping)}
        outputs = (run.output for run in runs if run.status == "ok" and isinstance(run.output, Mapping) and wanted)
        self._left = {digest: left for left in outputs if (digest := c.digest(left)) in wanted}
        # Of a store of before it was recorded: all but the first of each, if this graph has a checkpointer. Without one
        # an input says all that there is to know.
        self._later = set[str]()
        if checkpointer_of(graph) is not None:
            self._later = {run.run_id for thread in _threads(runs) for run in thread[1:]}
        self._graph = graph

    def given(self, case: Case) -> Case:
        """The case of a run, with its history; without one of a first turn, and where it is unknown."""
        told = self._told.get(case.id)
        if not isinstance(told, Mapping) or (left := self._left.get(told["digest"])) is None:
            return case
        return replace(case, history={**left, **told.get("rest", {})}, objects=told.get("objects", {}))

    def refused(self, run: Run, case: Case) -> str | None:
        """Why a candidate cannot be given what this run's graph knew."""
        if run.run_id in self._remembering:
            return UNFIT
        if run.run_id not in self._told:
            return UNTOLD if run.run_id in self._later else None
        if case.history is None:
            return UNTOLD
        return None if _fits(self._graph, case) else UNFIT


def before(graph: Any, case: Case) -> dict[str, Any]:
    """What a graph's channels have before a later turn, with the objects that its history has plain.

    A value is what the hints of the schema say, or what the channel's reducer makes of it (so messages are messages),
    or of the class that it was. Fields that the graph has not are left out, as of a conversation that another version
    of a program began.
    """
    out, known = {}, case.history or {}
    for name, value in as_came(graph, known).items():
        if hasattr(kind := _channels(graph).get(name), "from_checkpoint"):
            told = known[name]
            was = case.objects.get(name)
            made = (value, *_reduced(kind, told), *_of_class(was, told))
            out[name] = next((one for one in made if _is_of(one, was) and _comes_back(kind, one, told)), value)
    return out


def _fits(graph: Any, case: Case) -> bool:
    """Whether all of a history is what this graph then has."""
    given, known = before(graph, case), case.history or {}
    return given.keys() == known.keys() and all(
        _comes_back(_channels(graph)[name], value, known[name]) and _is_of(value, case.objects.get(name))
        for name, value in given.items()
    )


def _is_of(value: Any, kinds: str | None) -> bool:
    """Whether a value is of the kind that was recorded; a script's own classes are in a module now."""
    now = kind_of(value)
    if now is None or kinds is None or "__main__:" not in kinds:
        return now == kinds
    return {k.partition(":")[2] or k for k in now.split(", ")} == {k.partition(":")[2] or k for k in kinds.split(", ")}


def _of_class(name: str | None, told: Any) -> Iterator[Any]:
    """What was of a class that this program has, too."""
    module, _, qualname = ("langchain_core.messages:BaseMessage" if name == "message" else name or "").partition(":")
    kind: Any = sys.modules.get(module)
    for part in qualname.split("."):
        kind = getattr(kind, part, None)
    if isinstance(kind, type):
        of: Any = types.GenericAlias(list, (kind,)) if isinstance(told, list) else kind
        yield value_of(of, told)


def _channels(graph: Any) -> Mapping[str, Any]:
    found = getattr(graph, "channels", None)
    return found if isinstance(found, Mapping) else {}


def _reduced(kind: Any, value: Any) -> Iterator[Any]:
    """What a channel makes of a value that is written to it."""
    with suppress(Exception):  # whatever somebody's reducer does
        channel = kind.from_checkpoint(kind.checkpoint())
        channel.update([value])
        yield channel.get()


def _comes_back(kind: Any, value: Any, told: Any) -> bool:
    """Whether a channel that a checkpoint has this of has what was told."""
    try:
        return bool(c.plain(kind.from_checkpoint(value).get()) == told)
    except Exception:  # a channel that is kept in no checkpoint, or in another form
        return False


def waited(runs: Sequence[Run]) -> frozenset[str]:
    """Runs that another one went on with, which says that they ended in an interrupt, whatever was recorded of it."""
    pairs = [pair for thread in _threads(runs) for pair in pairwise(thread)]
    return frozenset(run.run_id for run, after in pairs if run.status == "ok" and goes_on(after.input))


def interrupted(run: Run) -> bool:
    """Whether a run says that it ended to be gone on with."""
    said = isinstance(run.output, Mapping) and "__interrupt__" in run.output
    return said or bool((run.besides or {}).get("interrupted"))


def resumes(given: Any) -> bool:
    """Whether a run's input is LangGraph's `Command`, to a graph that has begun."""
    return isinstance(given, Mapping) and given.keys() == {"graph", "update", "resume", "goto"}


def goes_on(given: Any) -> bool:
    """Whether a run's input is nothing but that a graph go on."""
    return given is None or resumes(given)  # None is what a graph is given that stopped before or after a node


def _threads(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """What conversations were, each in its order."""
    threads: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda r: (r.started_ns, r.run_id)):
        if run.conversation_id is not None:
            threads.setdefault((run.agent, run.conversation_id), []).append(run)
    yield from threads.values()
