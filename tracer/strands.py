"""Strands: which calls of one step ran one after another, and which side by side.

A strand is a thread or asyncio task that calls FMs or tools on behalf of one parent span. Within a strand
the order of calls is a fact (the code went on when a call returned); between strands only a wait orders
them. Timestamps alone cannot tell the two apart, so the strand is followed by a context variable: whoever
starts work (a task, a thread given a copy of the context) hands its own strand down as lineage.

Each strand has a frontier: the ended calls its next call depends on. A call replaces it by itself; a strand
that ends is added to the frontier of the strand that started it when that one next calls anything.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field

from redecode.tracer.records import EdgeKind

Frontier = list[tuple[str, EdgeKind]]


@dataclass(eq=False, slots=True)
class Strand:
    """One thread or task at work for one parent span.

    Attributes:
        lineage: the strand that started this one, `None` for the parent's own body.
        label: "" or, when the hand-over was seen, its place among the hand-overs; part of the step key.
        open: calls now running in it.
        frontier: ended calls that its next call depends on.
        last: its own last ended call; `awaited` once another strand has waited for it.
        collected: whether whoever handed it over has asked for its result (or joined its thread).
    """

    lineage: Strand | None
    label: str = ""
    open: int = 0
    frontier: Frontier = field(default_factory=list)
    last: str | None = None
    awaited: bool = False
    collected: bool = False


@dataclass(frozen=True, slots=True)
class _Here:
    """What the context variable carries: whose strand, which, and the thread and task that run it."""

    owner: Strands
    strand: Strand
    runner: tuple[int, int]


_here: ContextVar[_Here | None] = ContextVar("redecode_strand", default=None)
_HANDED_OVER = (-1, -1)


def _runner() -> tuple[int, int]:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), 0 if task is None else id(task)


class Strands:
    """All strands of one parent span."""

    def __init__(self) -> None:
        self._body = Strand(None)
        self._strands = [self._body]
        self._by_runner: dict[tuple[int, int], Strand] = {}
        self._handed_over = 0
        self._lock = threading.Lock()

    def enter_body(self) -> None:
        """Mark this context as the parent's own body, before it calls anything."""
        _here.set(_Here(self, self._body, _runner()))

    def enter(self) -> tuple[Strand, Frontier]:
        """A call begins here and now: its strand, and the calls that had to end before it."""
        runner, here = _runner(), _here.get()
        mine = here if here is not None and here.owner is self else None
        lineage = mine.strand if mine is not None else self._body
        with self._lock:
            known = self._by_runner.get(runner)
            if mine is not None and mine.runner in (runner, _HANDED_OVER):
                strand = mine.strand
            elif known is not None and known.lineage is lineage and not known.open:
                strand = known
            else:
                # A task first seen at its first call starts from what its starter had seen ended by now,
                # siblings included: LangGraph runs an async node body in a task of its own, and a call of
                # that body after a `gather` did wait. The price: a sibling held back by a semaphore is
                # taken to wait for those that ended before it (through the semaphore, it did).
                strand = self._new(lineage)
                strand.frontier = self._frontier(lineage)
            before = strand.frontier = self._frontier(strand)
            waited_for = {span_id for span_id, _ in before}
            for other in self._strands:
                other.awaited = other.awaited or other.last in waited_for
            self._by_runner[runner] = strand
            strand.open += 1
        _here.set(_Here(self, strand, runner))
        return strand, list(before)

    def leave(self, strand: Strand, span_id: str) -> None:
        """The call has ended."""
        with self._lock:
            strand.open -= 1
            strand.last, strand.awaited = span_id, False
            strand.frontier = [(span_id, EdgeKind.RETURN)]

    def rest(self) -> Frontier:
        """Calls that ended and that no other call has waited for: the parent's end does."""
        with self._lock:
            ended = [s.last for s in self._strands if s.last is not None and not s.awaited]
        kind = EdgeKind.JOIN if len(ended) > 1 else EdgeKind.RETURN
        return [(last, kind) for last in ended]

    def hand_over(self, parent: Strand) -> Strand | None:
        """A strand that `parent` starts now, to run wherever it will."""
        with self._lock:
            if parent.open:  # inside a call: the client's own helpers (name resolution), not the user's work
                return None
            strand = self._new(parent)
            strand.label = f"~{self._handed_over}"
            self._handed_over += 1
            # Handing over is no waiting: a sibling that happens to have ended is waited for only if its
            # result was asked for in between.
            strand.frontier = self._frontier(parent, only_collected=True)
        return strand

    def _new(self, lineage: Strand) -> Strand:
        strand = Strand(lineage)
        self._strands.append(strand)
        return strand

    def _frontier(self, strand: Strand, *, only_collected: bool = False) -> Frontier:
        """What the strand's next call depends on: its own last, and the idle strands it must have waited for."""
        started = (
            s
            for s in self._strands
            if s.lineage is strand and not s.open and not s.awaited and (s.collected or not only_collected)
        )
        return strand.frontier + [(s.last, EdgeKind.JOIN) for s in started if s.last is not None]


@dataclass(frozen=True, slots=True)
class HandOver:
    """Work given to another thread: to be told there that it begins, and here that it was waited for."""

    _owner: Strands
    _strand: Strand

    def begin(self) -> None:
        """Called first in the other thread, in the context the work runs in."""
        _here.set(_Here(self._owner, self._strand, _HANDED_OVER))

    def collect(self) -> None:
        """Called when the result has been asked for and is there."""
        self._strand.collected = True


def hand_over() -> HandOver | None:
    """Called where work is given to another thread; `None` when nothing is being recorded here.

    The strand is made here, in the order of the calls to `submit`, so that its label (and so the step key)
    does not depend on which thread happens to start first.
    """
    here = _here.get()
    strand = here.owner.hand_over(here.strand) if here is not None else None
    return HandOver(here.owner, strand) if here is not None and strand is not None else None
