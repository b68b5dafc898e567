"""Strands: which calls of one step ran one after another, and which side by side.

A strand is a thread or asyncio task that calls FMs or tools on behalf of one parent span. Within a strand
the order of calls is a fact (the code went on when a call returned); between strands only a wait orders
them. Timestamps alone cannot tell the two apart, so the strand is followed by a context variable: whoever
starts work (a task, a thread) hands a strand of its own down, made where the work is started, so that its
label does not depend on who happens to run first.

A process forked inside a step goes on with a strand of its own, too.

Each strand has a frontier: the ended calls its next call depends on. A call replaces what it depended on; a strand
that ends is added to the frontier of the strand that started it when that one next calls anything.

A call that begins while a streamed one of its own strand is still open was started on a part of its output.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar
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
        base: what it started from.
        frontier: ended calls that its next call depends on.
        tips: its own ended calls that none of its own has followed.
        children: strands it started that have called something and that it has not been seen to wait for.
        attached: whether it is among the children of its lineage.
        handed: how many strands of each name it has started.
        collected: whether whoever handed it over has asked for its result (or joined its thread).
        awaited: asks whether somebody waits for it now; of asyncio tasks, whose results nobody can watch.
    """

    lineage: Strand | None
    label: str = ""
    open: list[Call] = field(default_factory=list)
    base: Frontier = field(default_factory=list)
    frontier: Frontier = field(default_factory=list)
    tips: list[str] = field(default_factory=list)
    children: list[Strand] = field(default_factory=list)
    attached: bool = False
    handed: dict[str, int] = field(default_factory=dict)
    collected: bool = False
    awaited: Callable[[], bool] | None = None


@dataclass(eq=False, slots=True)
class Call:
    """One call of a strand, from its start to its end.

    Attributes:
        before: what it depended on.
        span_id: its span's, once there is one.
        flowing: whether a part of its output has reached the caller.
    """

    strand: Strand
    before: Frontier
    span_id: str = ""
    flowing: bool = False

    @property
    def label(self) -> str:
        """Of its strand."""
        return self.strand.label


@dataclass(frozen=True, slots=True)
class _Here:
    """What the context variable carries: whose strand, which, and the thread and task that run it.

    Attributes:
        outer: the same for the parent's parent.
    """

    owner: Strands
    strand: Strand
    runner: tuple[int, int]
    outer: _Here | None = None


_here: ContextVar[_Here | None] = ContextVar("redecode_strand", default=None)
_in_thread = threading.local()  # `.handed`: what this thread of a pool was given to do, whatever the context says
_lock = threading.RLock()  # as in the recorder


_ANYONE = (-1, -1)  # a runner: whoever comes first in this context is the strand
_PASSING = (-2, -2)  # likewise, and starting threads and tasks until then is the framework's doing


def _runner() -> tuple[int, int]:
    # Outside a loop `asyncio.current_task` raises, which costs more than all the rest.
    loop = asyncio._get_running_loop()
    task = asyncio.current_task(loop) if loop is not None else None
    return threading.get_ident(), 0 if task is None else id(task)


class Strands:
    """All strands of one parent span.

    Attributes:
        run_id: the run it is part of.
        scheduled: what runs below is scheduled by a framework that knows the order; strands started here mean nothing.
    """

    __slots__ = ("_body", "_by_runner", "_waited", "run_id", "scheduled")

    def __init__(self, run_id: str | None = None) -> None:
        self.run_id = run_id
        self.scheduled = False
        self._body: Strand | None = None  # most spans call nothing
        self._by_runner: dict[tuple[int, int], Strand] = {}
        self._waited: set[str] = set()

    def enter_body(self, above: Strands | None = None) -> None:
        """Mark this context as the parent's own body, before it calls anything.

        Args:
            above: the strands of the parent's parent, to be found again when the body has ended.
        """
        outer = _here.get() if above is not None else None
        while outer is not None and outer.owner is not above:
            outer = outer.outer
        _here.set(_Here(self, self._of_body(), _runner(), outer))

    def enter(self) -> Call:
        """A call begins here and now."""
        runner, here = _runner(), _here.get()
        while here is not None and here.owner is not self:
            here = here.outer
        with _lock:
            strand = self._now(here, runner)
            before = strand.frontier = _frontier(strand)
            flowing = [call for call in strand.open if call.flowing]
            if flowing:
                known = {src for call in strand.open for src, _ in call.before}
                before = [(call.span_id, EdgeKind.STREAM) for call in flowing]
                before += [(src, kind) for src, kind in strand.frontier if src not in known]
            self._waited.update(src for src, kind in before if kind is not EdgeKind.STREAM)
            call = Call(strand, list(before))
            strand.open.append(call)
            _attach(strand)
        _here.set(_Here(self, strand, runner, here.outer if here is not None else None))
        return call

    def leave(self, call: Call, span_id: str) -> None:
        """The call has ended."""
        strand, done = call.strand, set(call.before)
        waited = {src for src, kind in done if kind is not EdgeKind.STREAM}
        with _lock:
            if call in strand.open:
                strand.open.remove(call)
            strand.frontier = [edge for edge in strand.frontier if edge not in done]
            strand.frontier.append((span_id, EdgeKind.RETURN))
            strand.tips = [src for src in strand.tips if src not in waited]
            strand.tips.append(span_id)
            _attach(strand)  # it may have been waited for, and gone on nevertheless
        here = _here.get()
        inner, runner = here, _runner()
        while inner is not None and inner.owner is not self:
            inner = inner.outer
        if inner is not here and inner is not None and inner.runner == runner:
            _here.set(inner)  # back from the body of what was called

    @staticmethod
    def failed(call: Call, span_id: str) -> None:
        """A call that has ended was an attempt which is now repeated: what its strand does next is the retry."""
        with _lock:
            frontier = call.strand.frontier
            call.strand.frontier = [(src, EdgeKind.RETRY if src == span_id else kind) for src, kind in frontier]

    def rest(self) -> Frontier:
        """Calls that ended and that no other call has waited for: the parent's end does."""
        if self._body is None:
            return []
        with _lock:
            ended = [src for src in dict.fromkeys(_all(self._body)) if src not in self._waited]
        kind = EdgeKind.JOIN if len(ended) > 1 else EdgeKind.RETURN
        return [(src, kind) for src in ended]

    def _of_body(self) -> Strand:
        if self._body is None:
            self._body = Strand(None)
        return self._body

    def _now(self, here: _Here | None, runner: tuple[int, int]) -> Strand:
        """The strand that runs here and now."""
        if here is not None and (strand := _continued(here, runner)) is not None:
            return strand
        handed: _Here | None = getattr(_in_thread, "handed", None)
        if handed is not None and handed.owner is self:
            return handed.strand
        lineage = here.strand if here is not None else self._of_body()
        known = self._by_runner.get(runner)
        if known is not None and known.lineage is lineage and not known.open:
            return known
        # Nobody saw it being started (a loop or a pool that is not Python's own): it starts from what its starter
        # had seen ended by now.
        lineage.frontier = _frontier(lineage)
        strand = self._by_runner[runner] = _strand(lineage, lineage.label, lineage.frontier)
        return strand


def _strand(lineage: Strand, label: str, base: Frontier) -> Strand:
    return Strand(lineage, label, base=base, frontier=list(base))


def _continued(here: _Here, runner: tuple[int, int]) -> Strand | None:
    """The strand that goes on here, as far as the context tells; it lags behind in a pool that copied it too early."""
    if here.runner == runner:
        return here.strand
    handed: _Here | None = getattr(_in_thread, "handed", None)
    if handed is not None and handed.strand.lineage is here.strand:
        return handed.strand
    return here.strand if here.runner in (_ANYONE, _PASSING) else None


def _attach(strand: Strand) -> None:
    """Make those who started it, and who started those, wait for it from now on."""
    lineage = strand.lineage
    while lineage is not None:
        if strand.awaited is not None:
            strand.collected = strand.awaited()
        if not strand.attached:
            lineage.children.append(strand)
            strand.attached = True
        strand, lineage = lineage, lineage.lineage


def _frontier(strand: Strand, *, only_collected: bool = False) -> Frontier:
    """What the strand's next call depends on: its own last, and the strands it must have waited for."""
    frontier = list(strand.frontier)
    for child in list(strand.children):
        if not child.open and (child.collected or not only_collected) and (tips := _take_tips(child)):
            if child.base:  # what it started from had ended before it did
                frontier = [edge for edge in frontier if edge not in child.base]
            frontier += [(src, EdgeKind.JOIN) for src in tips]
            strand.children.remove(child)
            child.attached = False
    return frontier


def _take_tips(strand: Strand) -> list[str]:
    """The last calls of a strand that was waited for and of those below it, from now on its starter's to wait for."""
    tips, strand.tips = strand.tips, []
    for child in strand.children:
        if not child.open:
            tips += _take_tips(child)
    return tips


def _all(strand: Strand) -> list[str]:
    """Every ended call that nothing in its own strand has followed, here and below."""
    ended = [src for src, kind in strand.frontier if kind is not EdgeKind.STREAM] + strand.tips
    return ended + [src for child in strand.children for src in _all(child)]


@dataclass(frozen=True, slots=True)
class HandOver:
    """Work given to another thread or task: to be told there that it begins, and here that it was waited for."""

    _here: _Here

    def begin(self) -> None:
        """Called first in a thread, in the context the work runs in."""
        _here.set(self._here)

    def in_thread(self) -> None:
        """Called in a thread of a pool before the work begins; `end_in_thread` after it."""
        _in_thread.handed = self._here

    def start(self, work: Callable[[], object]) -> object:
        """Start the work (a task, which copies the context)."""
        token = _here.set(self._here)
        try:
            return work()
        finally:
            _here.reset(token)

    def awaited(self, by: Callable[[], bool]) -> None:
        """How to ask whether somebody waits for it."""
        self._here.strand.awaited = by

    def collect(self) -> None:
        """Called when the result has been asked for and is there."""
        self._here.strand.collected = True


def end_in_thread() -> None:
    """The thread of a pool has done its work."""
    _in_thread.handed = None


def hand_over(name: str = "", *, passing: bool = False) -> HandOver | None:
    """Called where work is given to another thread or task; `None` when nothing is being recorded here.

    The strand is made here, in the order in which work is started, so that its label (and so the step key) does not
    depend on which thread happens to run first.

    Args:
        name: of what is to be run; strands are counted by name, so that threads and tasks that libraries start now
            and then (to look a host up, to open a connection) do not shift the labels of the user's own.
        passing: the work goes through threads and tasks of a framework before it begins.
    """
    here = _here.get()
    if here is None or here.owner.scheduled or here.runner == _PASSING:
        return None
    parent, owner = _continued(here, _runner()) or here.strand, here.owner
    with _lock:
        if parent.open and not any(call.flowing for call in parent.open):
            return None  # inside a call: the client's own helpers, not the user's work
        place = parent.handed.get(name, 0)
        parent.handed[name] = place + 1
        # Handing over is no waiting: a sibling that happens to have ended is waited for only if its result was asked
        # for in between.
        parent.frontier = _frontier(parent, only_collected=True)
        started = [(call.span_id, EdgeKind.STREAM) for call in parent.open if call.flowing]
        known = {src for call in parent.open for src, _ in call.before} if started else set()
        frontier = started + [(src, kind) for src, kind in parent.frontier if src not in known]
        label = f"{parent.label}~{name}.{place}" if name else f"{parent.label}~{place}"
        strand = _strand(parent, label, frontier)
    return HandOver(_Here(owner, strand, _PASSING if passing else _ANYONE, here.outer))


def recording_here() -> bool:
    """Whether work started here could belong to a recorded step."""
    here = _here.get()
    return here is not None and not here.owner.scheduled


def run_here() -> str | None:
    """The run that this is part of, if it is recorded."""
    here = _here.get()
    return here.owner.run_id if here is not None else None


def go_on() -> HandOver | None:
    """The strand itself, to go on in a task that it waits for."""
    here = _here.get()
    return HandOver(_Here(here.owner, here.strand, _ANYONE, here.outer)) if here is not None else None


def move_to(context: Context) -> None:
    """Called where the strand itself goes on in another thread or task, in that context, and waits for it."""
    here = _here.get()
    if here is None or here.owner.scheduled or here.runner in (_ANYONE, _PASSING) or context.get(_here) is not here:
        return
    with suppress(RuntimeError):  # the context is in use
        context.run(_here.set, _Here(here.owner, here.strand, _ANYONE, here.outer))


def _before_fork() -> None:
    _in_thread.forking = None
    with suppress(Exception):
        _in_thread.forking = hand_over("fork")


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it
    work: HandOver | None = getattr(_in_thread, "forking", None)
    if work is not None:
        work.begin()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
