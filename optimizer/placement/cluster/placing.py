"""Where calls go in a live cluster, whatever it is made of: asks a policy, counts what was sent, keeps the reasons.

The policy is a `Router` of the simulator. It sees what it sees there, in the same order: replicas by number, counters
that change when a call is sent and when it has ended, and calls that wait at the router asked after when one has ended
or a replica has come or gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from redecode.optimizer.placement.cluster.errors import (
    BadChoice,
    BadRequest,
    CallError,
    NoReplica,
    NoSuchModel,
    Refused,
)
from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.prefixes import Prefixes, SentPrefixes
from redecode.optimizer.placement.decisions import Decision
from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.errors import SimulationError
from redecode.replay.simulator.views import CallView, Hold, Route, Router, Split, State

_log = logging.getLogger("redecode")
_OPEN = (State.STARTING, State.READY)


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of a call at the router.

    Attributes:
        at_s: seconds since the cluster began.
        replica: its number; `None` if the call was refused.
        outstanding: calls that were at each of the replicas to choose from, by their numbers.
        decision: the policy's own account of it: l_x, l_q, l_r of each, the reason in words; `None` if it gives none.
    """

    at_s: float
    call: CallView
    replica: int | None
    priority: int
    outstanding: tuple[tuple[int, int], ...]
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A call that goes to a replica."""

    call: CallView
    replica: LiveReplica
    priority: int


class LastDecision:
    """A policy's `DecisionLog` for `Placing`: keeps the last one."""

    def __init__(self) -> None:
        self._last: Decision | None = None

    def note(self, decision: Decision) -> None:
        """Keep it."""
        self._last = decision

    def of(self, call: int) -> Decision | None:
        """The last decision, if it was about this call."""
        return self._last if self._last is not None and self._last.call == call else None


Told = Callable[[Placed | CallError], None]
"""Called once, with where a call goes, or why it goes nowhere."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    call: CallView
    told: Told
    without: Collection[int]


def sent_prefixes(engine: Engine) -> Prefixes:
    """What is believed of the prefix cache of an engine that does not tell."""
    return SentPrefixes(engine.limits.kv_blocks if engine.limits.prefix_caching else 0)


class Placing:
    """Asks `router` where each call goes. Not for several threads.

    Args:
        now_s: seconds since the cluster began.
        later: calls back when so many seconds have passed; for calls that wait at the router.
        why: what `router` was given as its log, if it keeps one.
        prefixes: what is believed of the prefix cache of a new replica.
        keep: how many choices are remembered.
        on_choice: told each of them.
    """

    def __init__(
        self,
        router: Router,
        now_s: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        *,
        why: LastDecision | None = None,
        prefixes: Callable[[Engine], Prefixes] = sent_prefixes,
        keep: int = 10_000,
        on_choice: Callable[[Choice], None] | None = None,
    ) -> None:
        self._router, self._now_s, self._later, self._why, self._prefixes = router, now_s, later, why, prefixes
        self._replicas: dict[int, LiveReplica] = {}
        self._held: dict[int, _Waiting] = {}
        self._next = 0
        self._on_choice = on_choice
        self.choices: deque[Choice] = deque(maxlen=keep)

    # --- replicas --------------------------------------------------------------------------

    @property
    def replicas(self) -> Sequence[LiveReplica]:
        """All that have not been taken away, by number."""
        return list(self._replicas.values())

    @property
    def held(self) -> int:
        """Calls that wait at the router."""
        return len(self._held)

    def add(self, engine: Engine, name: str, *, ready: bool = False) -> LiveReplica:
        """One more, which gets the next number."""
        now_s = self._now_s()
        ready_s = now_s if ready else now_s + engine.cold_start_ps / PS
        replica = LiveReplica(self._next, engine, name, self._prefixes(engine), ready_s=ready_s)
        if ready:
            replica.state = State.READY
        self._replicas[self._next] = replica
        self._next += 1
        self.release()
        return replica

    def ready(self, replica: LiveReplica) -> None:
        """It takes calls."""
        if replica.state is not State.READY:
            replica.state, replica.ready_s = State.READY, self._now_s()
            self.release()

    def lost(self, replica: LiveReplica) -> None:
        """It cannot be reached; it may come back, with nothing in its caches."""
        replica.state = State.STOPPED
        replica.told(None)
        replica.prefixes = self._prefixes(replica.engine)

    def drain(self, replica: LiveReplica) -> None:
        """It gets no more calls, and is gone when it has none."""
        replica.state = State.DRAINING
        if not replica.outstanding:
            self.gone(replica)

    def gone(self, replica: LiveReplica) -> None:
        """It is there no more."""
        replica.state = State.STOPPED
        self._replicas.pop(replica.number, None)

    def serving(self, model: str) -> LiveReplica:
        """Any replica of a model; what all of them have in common can be read from it.

        Raises:
            NoSuchModel: there is none.
        """
        for replica in self._replicas.values():
            if replica.engine.model == model:
                return replica
        known = sorted({replica.engine.model for replica in self._replicas.values()})
        raise NoSuchModel(f"the model {model!r} is not served here; there is {', '.join(known) or 'none yet'}")

    # --- calls -----------------------------------------------------------------------------

    def submit(self, call: CallView, told: Told, *, without: Collection[int] = ()) -> None:
        """Ask the router where a call goes, and count it as sent there.

        Args:
            told: called at once, or later if the router lets it wait.
            without: replicas that were tried and could not be reached.
        """
        try:
            open_, now_s = self._to_choose_from(call, without), self._now_s()
            try:
                chosen = self._router.route(call, open_, now_s)
            except SimulationError as error:  # it fits nowhere
                raise BadRequest(str(error)) from error
            self._routed(_Waiting(call, told, without), chosen, now_s)
        except CallError as error:
            told(error)
        except Exception as error:  # a policy may be anybody's: what is wrong with it must not leave a call hanging
            _log.exception("redecode: the router failed")
            told(BadChoice(f"the router failed: {type(error).__name__}: {error}"))

    async def place(self, call: CallView, *, without: Collection[int] = ()) -> Placed:
        """`submit`, awaited; a caller that is cancelled has taken its call back.

        Raises:
            CallError: it goes nowhere.
        """
        told: asyncio.Future[Placed | CallError] = asyncio.get_running_loop().create_future()

        def take(answer: Placed | CallError) -> None:
            if not told.done():
                told.set_result(answer)
            elif isinstance(answer, Placed):
                self.ended(answer)

        self.submit(call, take, without=without)
        try:
            answer = await told
        except asyncio.CancelledError:
            self.withdraw(call)
            if told.done() and not told.cancelled() and isinstance(placed := told.result(), Placed):
                self.ended(placed)
            raise
        if isinstance(answer, CallError):
            raise answer
        return answer

    def withdraw(self, call: CallView) -> None:
        """Its caller does not wait any more."""
        self._held.pop(call.call, None)

    def ended(self, placed: Placed) -> None:
        """It has ended there, well or not."""
        replica = placed.replica
        replica.outstanding -= 1
        replica.outstanding_prompt_tokens -= placed.call.prompt_tokens
        self._router.ended(placed.call.call, replica.number, self._now_s())
        if replica.state is State.DRAINING and not replica.outstanding:
            self.gone(replica)
        self.release()

    def release(self) -> None:
        """Let calls go that the router no longer keeps."""
        again = bool(self._held)
        while again:
            again, now_s = False, self._now_s()
            open_ = [r for r in self._replicas.values() if r.state in _OPEN]
            for number, chosen in self._router.release(open_, now_s):
                waiting = self._held.pop(number, None)
                if waiting is None:  # its caller has gone: its place is free for the next
                    if isinstance(chosen, int):
                        self._router.ended(number, chosen, now_s)
                        again = True
                    elif isinstance(chosen, Hold) and chosen.until_s is not None:
                        self._ask_at(chosen.until_s)
                    continue
                try:
                    self._routed(waiting, chosen, now_s)
                except CallError as error:
                    waiting.told(error)

    def _ask_at(self, until_s: float) -> None:
        """Release then, and not a moment before: a router asked too early says nothing, and is not asked again."""

        def ask() -> None:
            if self._now_s() < until_s:
                self._ask_at(until_s)
            else:
                self.release()

        self._later(max(0.0, until_s - self._now_s()), ask)

    def _to_choose_from(self, call: CallView, without: Collection[int]) -> list[LiveReplica]:
        open_ = [
            r
            for r in self._replicas.values()
            if r.state in _OPEN and r.engine.model == call.model and r.number not in without
        ]
        if not open_:
            self.serving(call.model)
            raise NoReplica(f"no replica of {call.model} can be reached now")
        return open_

    def _routed(self, waiting: _Waiting, chosen: Route, now_s: float) -> None:
        call = waiting.call
        if isinstance(chosen, Hold):
            self._held[call.call] = waiting
            if chosen.until_s is not None:
                self._ask_at(chosen.until_s)
            return
        if isinstance(chosen, Split):
            raise BadChoice("the router splits calls between replicas; that is for simulations only")
        open_ = self._to_choose_from(call, waiting.without)
        if chosen is None:
            choice = self._note(call, open_, None, 0, now_s)
            why = choice.decision.reason if choice.decision else "it would not end in time, or only at others' cost"
            raise Refused(f"this call is refused: {why}")
        replica = next((r for r in open_ if r.number == chosen), None)
        if replica is None:
            raise BadChoice(f"the router chose replica {chosen}; to choose from were {[r.number for r in open_]}")
        priority = self._router.priority(call, now_s)
        self._note(call, open_, chosen, priority, now_s)
        replica.outstanding += 1
        replica.outstanding_prompt_tokens += call.prompt_tokens
        replica.prefixes.sent(call.hashes)
        waiting.told(Placed(call, replica, priority))

    def _note(
        self, call: CallView, open_: Sequence[LiveReplica], chosen: int | None, priority: int, now_s: float
    ) -> Choice:
        outstanding = tuple((r.number, r.outstanding) for r in open_)
        decision = None if self._why is None else self._why.of(call.call)
        choice = Choice(now_s, call, chosen, priority, outstanding, decision)
        self.choices.append(choice)
        if self._on_choice is not None:
            self._on_choice(choice)
        return choice
