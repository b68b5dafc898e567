"""A cluster in virtual time: runs begin, their calls go where a router says, and replicas come and go.

One heap of events. What happens at one time happens in the order of the classes below, and then of the numbers of
replicas and calls: the same in every process, whatever came first into the heap.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.errors import BadRoute, CallDoesNotFit, SimulationError, virtual_time
from redecode.replay.simulator.replica import FINISH, SCHEDULE, Replica
from redecode.replay.simulator.results import Simulated, new_times
from redecode.replay.simulator.rows import Counts, Extremes, Row, Sink
from redecode.replay.simulator.views import (
    Add,
    CallView,
    Hold,
    Provisioner,
    Remove,
    ReplicaView,
    Route,
    Router,
    SimulatedReplica,
    Split,
    State,
    Swap,
    seconds,
)
from redecode.replay.simulator.workload import Call, Shape, Workload

_READY, _TICK, _BEGIN, _SEND, _ARRIVE, _ASK = 1, 2, 3, 4, 5, 6
_OF_REPLICAS = (SCHEDULE, FINISH)
_TOLD = 100
_PRIVATE = 1 << 40
"""More blocks than the content of one run has."""


class _OnlyReplica(Router):
    """Everything to the first replica."""

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> int:
        return replicas[0].number


@dataclass(frozen=True, slots=True)
class Transfer:
    """How long KV takes from the replica that computed a prompt to the one that goes on, ps."""

    base_ps: int = 0
    token_ps: int = 0


@dataclass(slots=True, eq=False)
class _Member:
    """A replica of the cluster."""

    view: SimulatedReplica
    replica: Replica | None
    began: int
    stopped: int | None = None
    ready: int = 0
    version: int = 0
    held: list[Row] | None = None  # calls that came before it was ready
    swap: Engine | None = None
    counts: Counts | None = None
    extremes: Extremes = field(default_factory=Extremes)


class _InFlight:
    """A run that has begun."""

    __slots__ = ("end", "left", "ready", "waits")

    def __init__(self, shape: Shape, end: int) -> None:
        self.waits = list(shape.waits)
        self.ready = [0] * len(shape.waits)
        self.left = len(shape.calls)
        self.end = end


class Simulation(Sink):
    """One simulation; `run` it once.

    Args:
        engines: of the replicas there are at the beginning, all ready.
        router: needed for more than one replica.
        provisioner: asked every `every_s` of virtual time while there are runs.
        seed: of step times and overheads, if `noise` is wanted; without noise they are the mean.
    """

    def __init__(
        self,
        workload: Workload,
        engines: Sequence[Engine],
        *,
        router: Router | None = None,
        provisioner: Provisioner | None = None,
        transfer: Transfer | None = None,
        seed: int = 0,
        noise: bool = False,
    ) -> None:
        if not engines:
            raise SimulationError("there is no replica to begin with")
        if router is None and len(engines) > 1:
            raise SimulationError(f"{len(engines)} replicas need a router")
        self._followed = [[len(content) for content in calls] for calls in workload.followed()]
        self._workload, self._router = workload, router or _OnlyReplica()
        self._asks = router is not None
        self._provisioner, self._transfer = provisioner, transfer or Transfer()
        self._seed, self._noise = seed, noise
        self._rng = random.Random(f"{seed}/overheads")
        self._heap: list[tuple[Any, ...]] = []  # (time, class, number of a call, run or replica, and what goes with it)
        self._members: list[_Member] = []
        self._open: list[SimulatedReplica] = []
        self._views: list[SimulatedReplica] = []
        self._flying: dict[int, _InFlight] = {}
        self._split: dict[int, int] = {}  # call → the replica that goes on with it
        self._held: dict[int, tuple[int, CallView, tuple[int, ...]]] = {}  # call → its place in its run, and content
        sizes = [len(shape.calls) for shape in workload.shapes]
        self._bases = array("q", [0])
        for shape in workload.which:
            self._bases.append(self._bases[-1] + sizes[shape])
        calls, runs = self._bases[-1], len(workload.begins)
        self._sent, self._scheduled, self._first, self._last, self._done = (new_times(calls) for _ in range(5))
        self._where, self._cached, self._preempted = (new_times(calls) for _ in range(3))
        self._run_ended = new_times(runs)
        self._refused = self._over = 0
        self._on_run: Callable[[int, int], None] | None = None
        self._each = 1
        for engine in engines:
            self._start(engine, 0, 0)

    # --- the loop --------------------------------------------------------------------------

    @virtual_time()
    def run(self, on_run: Callable[[int, int], None] | None = None) -> Simulated:
        """Until all runs have ended.

        Args:
            on_run: called about a hundred times, with (runs that have ended, runs in all).

        Raises:
            CallDoesNotFit, BadRoute: where the router sent a call. TooLong: runs that last for months.
        """
        heap, members, workload = self._heap, self._members, self._workload
        self._on_run, self._each = on_run, -(-len(workload.begins) // _TOLD) or 1
        if workload.begins:
            heapq.heappush(heap, (workload.begins[0], _BEGIN, 0))
            if self._provisioner is not None:
                heapq.heappush(heap, (0, _TICK, 0))
        pop, now, events = heapq.heappop, 0, 0
        while heap:
            event = pop(heap)
            kind = event[1]
            if kind in _OF_REPLICAS:
                replica = members[event[2]].replica
                if replica is None or replica.version != event[3]:
                    continue
                now = event[0]
                if kind == FINISH:
                    replica.finish(now)
                else:
                    replica.schedule(now)
            else:
                now = event[0]
                if kind == _SEND:
                    self._send(now, event[2], event[3], event[4])
                elif kind == _BEGIN:
                    self._begin(now, event[2])
                elif kind == _ARRIVE:
                    self._arrive(now, event)
                elif kind == _READY:
                    self._ready(now, event[2])
                elif kind == _ASK:
                    self._release(now)
                else:
                    self._tick(now)
            events += 1
        if self._held:
            raise BadRoute(f"{len(self._held)} calls wait at the router for ever; nothing is left to happen")
        return Simulated(
            workload=workload,
            bases=self._bases,
            sent=self._sent,
            scheduled=self._scheduled,
            first=self._first,
            last=self._last,
            done=self._done,
            replica=self._where,
            cached=self._cached,
            preempted=self._preempted,
            run_ended=self._run_ended,
            counts=tuple(self._counts_of(m) for m in members),
            extremes=tuple(m.extremes if m.replica is None else m.extremes.join(m.replica.extremes) for m in members),
            peak_blocks=tuple(0 if m.replica is None else m.replica.kv.peak for m in members),
            alive_ps=tuple((now if m.stopped is None else m.stopped) - m.began for m in members),
            costs=tuple(m.view.engine.cost_per_s for m in members),
            end_ps=max(now, max(self._run_ended, default=0)),
            events=events,
            refused=self._refused,
        )

    def _counts_of(self, member: _Member) -> Counts:
        return member.counts or (Counts() if member.replica is None else member.replica.counts)

    # --- runs and calls --------------------------------------------------------------------

    def _begin(self, now: int, run: int) -> None:
        begins = self._workload.begins
        if run + 1 < len(begins):
            heapq.heappush(self._heap, (begins[run + 1], _BEGIN, run + 1))
        shape = self._workload.shapes[self._workload.which[run]]
        self._flying[run] = flying = _InFlight(shape, now + shape.least)
        if not flying.left:
            self._run_over(run)
            return
        for place, gap in shape.first:
            self._released(run, flying, place, now + gap)

    def _released(self, run: int, flying: _InFlight, place: int, ready: int) -> None:
        """One of the things a call waits for has happened."""
        if ready > flying.ready[place]:
            flying.ready[place] = ready
        flying.waits[place] -= 1
        if not flying.waits[place]:
            heapq.heappush(self._heap, (flying.ready[place], _SEND, self._bases[run] + place, run, place))

    def _send(self, now: int, number: int, run: int, place: int) -> None:
        if run not in self._flying:
            return  # one of its calls was refused
        shape = self._workload.which[run]
        call = self._workload.shapes[shape].calls[place]
        self._sent[number] = now
        content = self._own(call.hashes, run)
        if self._asks:
            view = self._view(call, number, run, content)
            self._routed(now, view, place, content, self._router.route(view, self._open, seconds(now)))
        elif self._open:
            self._go(now, number, run, place, content, self._open[0].number, 0)
        else:
            raise BadRoute(f"no replica is left for a call of {call.step}")

    def _routed(self, now: int, view: CallView, place: int, content: tuple[int, ...], target: Route) -> None:
        """What the router says of a call."""
        number, run = view.call, view.run
        if isinstance(target, Hold):
            self._held[number] = (place, view, content)
            if target.until_s is not None:
                heapq.heappush(self._heap, (max(now, to_ps(target.until_s)), _ASK, number))
        elif target is None:
            self._refused += 1
            del self._flying[run]
        else:
            self._go(now, number, run, place, content, target, self._router.priority(view, seconds(now)))

    def _release(self, now: int) -> None:
        """Let calls go that the router no longer keeps."""
        if not self._held:
            return
        again = True
        while again:
            again = False
            for number, target in self._router.release(self._open, seconds(now)):
                if number not in self._held:
                    raise BadRoute(f"the router let call {number} go, and it does not wait")
                place, view, content = self._held.pop(number)
                if view.run in self._flying:
                    self._routed(now, view, place, content, target)
                elif isinstance(target, int):  # another call of its run was refused: its place is free for the next
                    self._router.ended(number, target, seconds(now))
                    again = True

    def _go(
        self, now: int, number: int, run: int, place: int, content: tuple[int, ...], target: int | Split, priority: int
    ) -> None:
        shape = self._workload.which[run]
        call = self._workload.shapes[shape].calls[place]
        output = call.output_tokens
        if isinstance(target, Split):
            if output > 1:
                self._split[number] = target.decode
                self._reserve(self._check(target.decode, call).view, call.prompt_tokens)
                output = 1
            target = target.prefill
        row = Row(number, call.prompt_tokens, output, content[: self._followed[shape][place]], priority)
        row.run, row.place = run, place
        self._where[number] = target
        self._to(self._check(target, call), row, now)

    def _view(self, call: Call, number: int, run: int, content: tuple[int, ...]) -> CallView:
        workload = self._workload
        began = workload.begins[run]
        deadline = seconds(began + workload.deadlines[run]) if workload.deadlines else None
        size = self._open[0].engine.limits.block_size if self._open else 16
        agent = workload.shapes[workload.which[run]].name
        return CallView(
            number, run, call.step, call.model, call.prompt_tokens, content[: call.prompt_tokens // size],
            seconds(began), deadline, call.max_tokens, agent,
        )  # fmt: skip

    @staticmethod
    def _own(hashes: tuple[int, ...], run: int) -> tuple[int, ...]:
        """Content, with that of a run only told apart from that of other runs."""
        if hashes and min(hashes) < 0:
            private = (run + 1) * _PRIVATE
            return tuple([h if h >= 0 else h - private for h in hashes])
        return hashes

    def _check(self, number: int, call: Call) -> _Member:
        """The replica a call was sent to, if it may go there."""
        if not 0 <= number < len(self._members):
            raise BadRoute(f"the router sent a call of {call.step} to replica {number}, and there is none")
        member = self._members[number]
        engine, state = member.view.engine, member.view.state
        if state in (State.DRAINING, State.STOPPED):
            raise BadRoute(f"the router sent a call of {call.step} to replica {number}, which is {state}")
        if call.model and engine.model and call.model != engine.model:
            raise BadRoute(
                f"the router sent a call of {call.step} for {call.model} to replica {number} of {engine.model}"
            )
        why = engine.limits.refuses(call.prompt_tokens, call.output_tokens)
        if why is not None:
            raise CallDoesNotFit(f"a call of {call.step} cannot run on replica {number} ({engine.model}): {why}")
        return member

    @staticmethod
    def _reserve(view: SimulatedReplica, prompt_tokens: int) -> None:
        view.outstanding += 1
        view.outstanding_prompt_tokens += prompt_tokens

    def _to(self, member: _Member, row: Row, now: int) -> None:
        view, engine = member.view, member.view.engine
        self._reserve(view, row.prompt)
        before = engine.before_ps
        if self._noise and engine.before is not None:
            before = int(before * engine.before.at(self._rng.random()))
        before += engine.before_token_ps * row.prompt
        heapq.heappush(self._heap, (now + before, _ARRIVE, row.call, view.number, row))

    def _arrive(self, now: int, event: tuple[Any, ...]) -> None:
        member, row = self._members[event[3]], event[4]
        if member.replica is None:
            assert member.held is not None
            member.held.append(row)
        else:
            member.replica.arrive(row, now)

    # --- what replicas tell (Sink) ---------------------------------------------------------

    def scheduled(self, row: Row, at: int, cached: int) -> None:
        """Note the first time only."""
        if self._scheduled[row.call] < 0:
            self._scheduled[row.call] = at
            self._cached[row.call] = cached

    def first_token(self, row: Row, at: int) -> None:
        """Note it."""
        self._first[row.call] = at

    def content(self, row: Row) -> tuple[int, ...]:
        """Of the call, as its run has it."""
        return self._own(self._workload.shapes[self._workload.which[row.run]].calls[row.place].hashes, row.run)

    def preempted(self, row: Row, at: int) -> None:
        """Count it."""
        self._preempted[row.call] = max(self._preempted[row.call], 0) + 1

    def ended(self, row: Row, at: int) -> None:
        """Go on with its run, or with the call on another replica."""
        number, run = row.call, row.run
        goes_on = self._split.pop(number, None) if self._split else None
        here = self._where[number]
        member = self._members[here]
        view = member.view
        view.outstanding -= 1
        view.outstanding_prompt_tokens -= row.prompt
        if self._asks:
            self._router.ended(number, here, seconds(at))
        if view.state is State.DRAINING and not view.outstanding:
            self._drained(member, at)
        if goes_on is not None:
            self._hand_over(row, goes_on, at)
            return
        if self._held:
            self._release(at)
        self._last[number] = at
        self._done[number] = done = at + view.engine.after_ps
        flying = self._flying.get(run)
        if flying is None:
            return
        shape = self._workload.shapes[self._workload.which[run]]
        flying.left -= 1
        last = shape.last.get(row.place)
        if last is not None and done + last > flying.end:
            flying.end = done + last
        for place, gap in shape.after[row.place]:
            self._released(run, flying, place, done + gap)
        if not flying.left:
            self._run_over(run)

    def _hand_over(self, row: Row, target: int, at: int) -> None:
        """The prompt is computed: its KV goes to the replica that makes the rest of the tokens."""
        call = self._workload.shapes[self._workload.which[row.run]].calls[row.place]
        rest = Row(row.call, call.prompt_tokens, call.output_tokens, row.hashes, row.priority, row.prompt, made=1)
        rest.run, rest.place = row.run, row.place
        self._where[row.call] = target
        there = at + self._transfer.base_ps + self._transfer.token_ps * row.prompt
        heapq.heappush(self._heap, (there, _ARRIVE, row.call, target, rest))

    def _run_over(self, run: int) -> None:
        self._run_ended[run] = self._flying.pop(run).end
        self._over += 1
        if self._on_run is not None and self._over % self._each == 0:
            self._on_run(self._over, len(self._run_ended))

    # --- replicas --------------------------------------------------------------------------

    def _start(self, engine: Engine, now: int, ready: int) -> None:
        number = len(self._members)
        view = SimulatedReplica(number, engine, seconds(ready))
        member = _Member(view, None, now, ready=ready, held=[])
        self._members.append(member)
        self._views.append(view)
        self._open.append(view)
        if ready > now:
            heapq.heappush(self._heap, (ready, _READY, number))
        else:
            self._ready(now, number)

    def _ready(self, now: int, number: int) -> None:
        member = self._members[number]
        if member.stopped is not None or member.ready != now:
            return  # taken away, or given another model, before it was there
        engine, heap = member.view.engine, self._heap

        def push(at: int, kind: int, version: int) -> None:
            heapq.heappush(heap, (at, kind, number, version))

        noise = engine.noise(random.Random(f"{self._seed}/{number}/{now}")) if self._noise else None
        member.replica = replica = Replica(engine.costs, engine.limits, self, push, noise)
        replica.version = member.version
        if member.counts is not None:
            replica.counts, member.counts = member.counts, None
        if member.view.state is State.STARTING:
            member.view.state = State.READY
        member.view.knows(replica)
        held, member.held = member.held or [], None
        for row in held:
            replica.arrive(row, now)
        self._release(now)

    def _tick(self, now: int) -> None:
        assert self._provisioner is not None
        alive = [view for view in self._views if view.state is not State.STOPPED]
        for command in self._provisioner.plan(alive, seconds(now)):
            if isinstance(command, Add):
                self._start(command.engine, now, now + command.engine.cold_start_ps)
            else:
                self._close(command, now)
        self._release(now)
        if self._flying or now < self._workload.begins[-1]:
            heapq.heappush(self._heap, (now + to_ps(self._provisioner.every_s), _TICK, 0))

    def _close(self, command: Remove | Swap, now: int) -> None:
        if not 0 <= command.replica < len(self._members):
            raise SimulationError(f"the provisioner named replica {command.replica}, and there is none")
        member = self._members[command.replica]
        if member.view.state in (State.DRAINING, State.STOPPED):
            return
        member.view.state = State.DRAINING
        self._open.remove(member.view)
        member.swap = command.engine if isinstance(command, Swap) else None
        if not member.view.outstanding:
            self._drained(member, now)

    def _drained(self, member: _Member, now: int) -> None:
        """A replica that was to end has no calls left."""
        view, engine = member.view, member.swap
        if member.replica is not None:
            member.version = member.replica.version + 2  # its last events are void for the next
            member.extremes = member.extremes.join(member.replica.extremes)
        member.counts, member.replica = self._counts_of(member), None
        view.knows(None)
        if engine is None:
            view.state, member.stopped = State.STOPPED, now
            return
        ready = now + engine.cold_start_ps
        view.engine, view.state, view.ready_s = engine, State.STARTING, seconds(ready)
        member.ready, member.swap, member.held = ready, None, []
        self._open.append(view)
        self._open.sort(key=lambda v: v.number)
        heapq.heappush(self._heap, (ready, _READY, view.number))
