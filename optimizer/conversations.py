"""Conversations that a graph's checkpointer keeps: what the graph knew before a recorded run, and runs of which that is
unknown.

A candidate's run of a later turn begins with what the recorded run before it left, whatever that candidate would have
said there: each turn is a case of its own. What was left is the output of a recorded run. Which one, the run itself
says (by the digest of the state that it found), so a thread that was forked, or edited in between, is no other's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from redecode.optimizer.besides import checkpointer_of
from redecode.optimizer.inputs import as_came
from redecode.tracer import Run
from redecode.tracer import conventions as c

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
        told = {run.run_id: said for run in runs if (said := (run.besides or {}).get(_HISTORY))}
        self._told, wanted = told, set(told.values())
        self._left = {}
        if wanted - {True}:
            outputs = (run.output for run in runs if run.status == "ok" and isinstance(run.output, Mapping))
            self._left = {digest: left for left in outputs if (digest := c.digest(left)) in wanted}
        # Of a store of before it was recorded: all but the first of each, if this graph has a checkpointer. Without one
        # an input says all that there is to know.
        self._later = set[str]()
        if checkpointer_of(graph) is not None:
            self._later = {run.run_id for thread in _threads(runs) for run in thread[1:]}
        self._graph, self._fit = graph, dict[str, bool]()

    def of(self, run: Run) -> Mapping[str, Any] | None:
        """The state that its thread was in, as it was recorded; `None` of a first turn, and where it is unknown."""
        return self._left.get(self._told.get(run.run_id, ""))

    def refused(self, run: Run) -> str | None:
        """Why a candidate cannot be given what this run's graph knew."""
        said = self._told.get(run.run_id)
        if said is None:
            return UNTOLD if run.run_id in self._later else None
        if said not in self._left:
            return UNTOLD
        if said not in self._fit:
            self._fit[said] = _fits(self._graph, self._left[said])
        return None if self._fit[said] else UNFIT


def before(graph: Any, left: Mapping[str, Any]) -> dict[str, Any]:
    """What a graph's channels have after a run that left this, with the objects that it has plain.

    A value is what the hints of the schema say, or what the channel's reducer makes of it (so messages are messages).
    Fields that the graph has not are left out, as of a conversation that another version of a program began.
    """
    out = {}
    for name, value in as_came(graph, left).items():
        if hasattr(kind := _channels(graph).get(name), "from_checkpoint"):
            made = [value] if value is not left[name] else [*_reduced(kind, value), value]
            out[name] = next((one for one in made if _comes_back(kind, one, left[name])), value)
    return out


def _fits(graph: Any, left: Mapping[str, Any]) -> bool:
    """Whether all of it is what this graph then has."""
    given = before(graph, left)
    again = (_comes_back(_channels(graph)[name], value, left[name]) for name, value in given.items())
    return given.keys() == left.keys() and all(again) and not any(True for _ in _remembering(graph))


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


def _remembering(graph: Any) -> Iterator[Any]:
    """Graphs within a graph that keep conversations of their own, of which its state says nothing."""
    with suppress(Exception):  # one that runs elsewhere cannot tell
        for _, inner in graph.get_subgraphs(recurse=True):
            if inner.checkpointer is True:
                yield inner


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
