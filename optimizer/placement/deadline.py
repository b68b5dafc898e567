"""Our router: a call goes where its run is most likely to meet its deadline, while and as long as that makes sense.

For each replica that can run a call the chance is believed that its run is in time if the call goes there: of the
recorded lengths of this step and of what came after it, how many would be done in time at the pace it would meet
there, and at the pace that calls to come will meet. A chance has its cost: the call's own time, and what it takes from
each call that is there (an engine's batch gets slower by every call in it). What that counts against the chance grows
with how much is asked of the cluster; of what is as good, the least costly wins.

A call is refused when its run can hardly be in time any more, and a run is not begun if it would probably be late: what
those begun will still ask for counts (`committed`). An engine that lets in by priority is told who has the least time.
If wanted, a call whose chance is low everywhere waits at the router while there is time for that.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redecode.optimizer.placement.beliefs import Belief
from redecode.optimizer.placement.committed import Committed
from redecode.optimizer.placement.decisions import Decision, DecisionLog, Estimate
from redecode.optimizer.placement.estimates import Estimator, tail_s
from redecode.optimizer.placement.simple import the_pool
from redecode.optimizer.placement.work import Speed
from redecode.replay.simulator.views import CallView, Hold, ReplicaView, Route, Router

_LOOKED_AT = 8
"""Calls that wait are looked at in their order until so many in a row have to wait on."""
_LEAST_S = 1e-3
_RUNS = 1 << 17
"""Runs that are remembered: nobody says when one is over."""
_NEW = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the policy is made of, each of which can be taken out; and its numbers.

    Attributes:
        chance: where the run is most likely in time; without it where the call is done soonest.
        order: who has the least time goes first, here and in the engine; without it who came first.
        hold: calls may wait here (it gains little where engines batch, and costs more than all else to decide).
        shed: calls may be refused.
        prefix: what is in prefix caches counts.
        burden: the time that it takes from the calls of a replica counts, not its own alone.
        committed: what runs that have begun will ask for counts.
        same: worths that differ by less are the same.
        price: of time, in chances: of as much as calls cost on average, when all that the cluster can do is asked for;
            the less is asked, the cheaper.
        hopeless: below this chance a run is given up.
        hopeless_first, picky: below this chance a run is not begun while up to `room` of the cluster is asked for, and
            below this part of what it would have on idle replicas when all of it is.
        held_below: a call waits if its chance is less than this part of what it would be on an idle replica.
    """

    chance: bool = True
    order: bool = True
    hold: bool = False
    shed: bool = True
    prefix: bool = True
    committed: bool = True
    burden: bool = True
    same: float = 0.03
    price: float = 2.0
    hopeless: float = 0.03
    hopeless_first: float = 0.1
    picky: float = 0.9
    room: float = 0.6
    held_below: float = 0.5


@dataclass(frozen=True, slots=True)
class _Ask:
    """A call for which a replica is sought now.

    Attributes:
        later: how fast the calls after it will be, by model.
        key: its place in the order of those that wait.
    """

    call: CallView
    belief: Belief
    later: dict[str, Speed]
    key: int
    now_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class _Offer:
    """One replica for one call.

    Attributes:
        chance: that its run is in time; 1 if it has no deadline.
        cost_s: of time, its own and what it takes from the calls that are there.
    """

    replica: ReplicaView
    estimate: Estimate
    chance: float
    cost_s: float


@dataclass(slots=True)
class _Held:
    """A call that waits."""

    call: CallView
    belief: Belief
    key: int
    until_s: float


class _Recent:
    """The numbers that were noted last, `most` of them."""

    def __init__(self, most: int) -> None:
        self._most, self._noted = most, dict[int, None]()

    def __contains__(self, number: int) -> bool:
        return number in self._noted

    def add(self, number: int) -> None:
        self._noted.pop(number, None)
        self._noted[number] = None
        if len(self._noted) > self._most:
            del self._noted[next(iter(self._noted))]


class DeadlineRouter(Router):
    """By deadline.

    Args:
        began: told of the first call of every run, served or not (a provisioner's `began`).
    """

    name = "deadline"

    def __init__(
        self, estimator: Estimator, *, parts: Parts | None = None, log: DecisionLog | None = None,
        began: Callable[[CallView, float], None] | None = None,
    ) -> None:  # fmt: skip
        self._estimator, self._parts, self._log, self._began = estimator, parts or Parts(), log, began
        self.committed = Committed(estimator)
        self._held: dict[int, _Held] = {}
        self._queue: list[tuple[int, int]] = []
        self._begun, self._given_up = _Recent(_RUNS), _Recent(_RUNS)
        self._keys: dict[int, int] = {}
        self._share = 0.0
        self._cost_s = 0.0  # of calls that were sent, the mean, fading

    @property
    def queued(self) -> int:
        """Calls that wait here."""
        return len(self._held)

    # --- as the cluster asks ----------------------------------------------------------------

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        """Send, hold or refuse."""
        if self._began is not None and call.run not in self._begun and call.run not in self._given_up:
            self._began(call, now_s)
        belief = self._estimator.beliefs.of(call)
        later = self._estimator.later(replicas)
        key = self._latest_begin(call, belief, later) if self._parts.order else call.call
        return self._decide(self._ask(call, belief, later, key, now_s, replicas), replicas, {})

    def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
        """Those that wait, the most urgent first, as far as there is room for them now."""
        out: list[tuple[int, Route]] = []
        kept: list[tuple[int, int]] = []
        extra: dict[int, int] = {}
        missed = 0
        later = self._estimator.later(replicas)
        due = [n for n, held in self._held.items() if held.until_s <= now_s] if self._held else []
        order = iter(due)
        while True:
            if missed < _LOOKED_AT and self._queue:
                entry = heapq.heappop(self._queue)
                number = entry[1]
                if number not in self._held:
                    continue
                kept.append(entry)
            else:
                number = next(order, -1)
                if number < 0:
                    break
                if number not in self._held:
                    continue
            held = self._held[number]
            if held.call.run in self._given_up:
                del self._held[number]
                out.append((number, None))
                continue
            ask = self._ask(held.call, held.belief, later, held.key, now_s, replicas)
            route = self._decide(ask, replicas, extra)
            if isinstance(route, Hold):
                missed += 1
                if number in due:
                    out.append((number, route))
            else:
                out.append((number, route))
                missed = 0
                if isinstance(route, int):
                    extra[route] = extra.get(route, 0) + 1
        for entry in kept:
            if entry[1] in self._held:
                heapq.heappush(self._queue, entry)
        return out

    def priority(self, call: CallView, now_s: float) -> int:
        """The latest beginning that is in time, ms."""
        return self._keys.pop(call.call, 0)

    def ended(self, call: int, replica: int, now_s: float) -> None:
        """Its time is learnt from, and its run needs it no more."""
        self._estimator.ended(call, now_s)
        self.committed.ended(call, now_s)

    # --- one decision -----------------------------------------------------------------------

    def _decide(self, ask: _Ask, replicas: Sequence[ReplicaView], extra: dict[int, int]) -> Route:
        """Args: extra: calls that are on their way to replicas and not in their views yet."""
        parts, call = self._parts, ask.call
        pool = the_pool(call, replicas)
        offers = [self._offer(ask, r, extra.get(r.number, 0)) for r in pool]
        if call.deadline_s is None:
            return self._send(ask, _cheapest(offers), offers, "it has no deadline; the least costly")
        price = parts.price * min(1.0, self._share) / max(1e-9, self._cost_s or min(o.cost_s for o in offers))
        most = max(o.chance - price * o.cost_s for o in offers) - parts.same
        good = [o for o in offers if o.chance - price * o.cost_s >= most] if parts.chance else offers
        best = _cheapest(good)
        if parts.hold:
            could, spare_s = self._at_best(ask, pool)
            if best.chance < parts.held_below * could and spare_s > _LEAST_S:
                return self._hold(ask, offers, spare_s, could)
        if parts.shed:
            begun = call.run in self._begun
            if best.chance < (parts.hopeless if begun else self._least_chance(ask, pool)):
                return self._refuse(ask, offers, f"its run would be in time with a chance of {best.chance:.2f} at most")
        why = ""
        if self._log is not None:
            why = f"in time with a chance of {best.chance:.2f}"
            if len(offers) > 1:
                why += f", the least costly of {len(good)} as good" if len(good) > 1 else ", the best for its cost"
        return self._send(ask, best, offers, why)

    def _ask(
        self, call: CallView, belief: Belief, now: dict[str, Speed], key: int, now_s: float,
        replicas: Sequence[ReplicaView],
    ) -> _Ask:  # fmt: skip
        later = self.committed.later(call, belief, replicas, now_s, now) if self._parts.committed else now
        full = self.committed.shares(replicas, now_s, full=True) if self._parts.committed else {}
        self._share = full.get(call.model, 0.0)
        return _Ask(call, belief, later, key, now_s, float("inf") if call.deadline_s is None else call.deadline_s)

    def _offer(self, ask: _Ask, replica: ReplicaView, extra: int) -> _Offer:
        parts, estimator, call = self._parts, self._estimator, ask.call
        engine = replica.engine
        model, ratio = estimator.model(engine), estimator.ratio(engine)
        there = replica.outstanding + extra
        prompt_s, cached = estimator.prompt_s(call, replica, model, prefix=parts.prefix)
        pace = model.pace_s(min(there + 1, model.most)) * ratio
        l_q = estimator.queue_s(replica, model, there, ask.now_s)
        l_r = max(0.0, replica.ready_s - ask.now_s)
        attains = None
        if call.deadline_s is not None:
            left_s = ask.deadline_s - ask.now_s - l_q - l_r - prompt_s
            attains = estimator.chance(ask.belief, pace, ask.later, left_s)
        l_x = prompt_s + ask.belief.output_tokens * pace
        estimate = Estimate(replica.number, l_x, l_q, l_r, cached, there + 1, attains)
        burden_s = model.row_s * ask.belief.output_tokens + prompt_s - model.flat_s
        cost_s = estimate.l_est + (burden_s * min(there, model.most) if parts.burden else 0.0)
        return _Offer(replica, estimate, 1.0 if attains is None else attains, cost_s)

    def _least_chance(self, ask: _Ask, pool: Sequence[ReplicaView]) -> float:
        """Below it a run is not begun: low while there is room, high when it takes the place of another."""
        parts = self._parts
        loaded = (self._share - parts.room) / max(1e-9, 1.0 - parts.room)
        if loaded <= 0.0:
            return parts.hopeless_first
        most = parts.picky * self._at_best(ask, pool)[0]
        return parts.hopeless_first + max(0.0, most - parts.hopeless_first) * min(1.0, loaded)

    def _at_best(self, ask: _Ask, pool: Sequence[ReplicaView]) -> tuple[float, float]:
        """The chance on the best of these replicas if it were idle, and for how long the call can wait for that."""
        estimator = self._estimator
        best, spare_s = 0.0, -1.0
        later = estimator.idle(pool) if self._parts.committed else ask.later
        for engine in {id(r.engine): r.engine for r in pool}.values():
            model = estimator.model(engine)
            left = ask.deadline_s - ask.now_s - model.prompt_s
            best = max(best, estimator.chance(ask.belief, model.pace_s(1), later, left))
            times = estimator.times(ask.belief, model.pace_s(1), later)
            spare_s = max(spare_s, left - times[len(times) // 2])
        return best, spare_s

    def _latest_begin(self, call: CallView, belief: Belief, later: dict[str, Speed]) -> int:
        """When the call has to begin to be in time, in ms."""
        if call.deadline_s is None:
            return 1 << 40
        speed = later.get(call.model) or next(iter(later.values()))
        times = self._estimator.times(belief, speed.output_s, later)
        return round(1e3 * (call.deadline_s - times[len(times) // 2]))

    # --- what is done -----------------------------------------------------------------------

    def _send(self, ask: _Ask, offer: _Offer, offers: Sequence[_Offer], why: str) -> Route:
        call, number = ask.call, offer.replica.number
        self._cost_s += (offer.cost_s - self._cost_s) * (_NEW if self._cost_s else 1.0)
        self._held.pop(call.call, None)
        self._begun.add(call.run)
        self._keys[call.call] = ask.key if self._parts.order else 0
        self._estimator.sent(call, offer.replica, ask.now_s, offer.estimate)
        self.committed.sent(call, ask.belief, offer.estimate, [o.replica for o in offers], ask.now_s)
        self._tell(ask, offers, "send", number, why)
        return number

    def _hold(self, ask: _Ask, offers: Sequence[_Offer], spare_s: float, could: float) -> Route:
        call, until_s = ask.call, ask.now_s + max(_LEAST_S, spare_s / 2)
        held = self._held.get(call.call)
        if held is None:
            self._held[call.call] = _Held(call, ask.belief, ask.key, until_s)
            heapq.heappush(self._queue, (ask.key, call.call))
            now = max(o.chance for o in offers)
            why = f"a chance of {now:.2f} now, {could:.2f} on an idle replica, for which it can wait {spare_s:.3g} s"
            self._tell(ask, offers, "hold", None, why)
        elif held.until_s <= ask.now_s:
            held.until_s = until_s
        return Hold(until_s)

    def _refuse(self, ask: _Ask, offers: Sequence[_Offer], why: str) -> Route:
        self._held.pop(ask.call.call, None)
        self._given_up.add(ask.call.run)
        self.committed.gone(ask.call.run)
        self._tell(ask, offers, "refuse", None, why)
        return None

    def _tell(self, ask: _Ask, offers: Sequence[_Offer], action: str, replica: int | None, why: str) -> None:
        if self._log is None:
            return
        call, belief = ask.call, ask.belief
        tail = sorted(tail_s(s.waits_s, s.later, ask.later) for s in belief.samples)
        median = tail[len(tail) // 2]
        spare = None if call.deadline_s is None else call.deadline_s - ask.now_s - median
        if spare is not None:
            spare -= min(o.estimate.l_est for o in offers)
        self._log.note(
            Decision(
                ask.now_s, call.call, call.run, call.agent, call.step, call.model, self.name, action, replica, why,
                belief.source, belief.output_tokens, median, spare, ask.key, tuple(o.estimate for o in offers),
            )
        )  # fmt: skip


def _cheapest(offers: Sequence[_Offer]) -> _Offer:
    return min(offers, key=lambda o: (o.cost_s, o.estimate.replica))
