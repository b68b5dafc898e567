"""One engine: vLLM's scheduler on a model of its step time, going from event to event.

The rules are those of vLLM 0.32's `v1/core/sched/scheduler.py` (V1): calls that run come first, each with its next
token or what the token budget leaves of its prompt; then calls that wait, while there is budget, a row, and KV blocks
for all of their tokens. Out of blocks, the last call that was let in (by priority: the least urgent) gives up its own
and starts again. Not modelled: speculative decoding, `long_prefill_token_threshold`, asynchronous scheduling (a GPU's
default: a new call gets in one step later), several KV groups.

While the same calls decode, so many steps are one jump: the context grows by one token per call and step, so their time
is an arithmetic series. A jump ends where something can change: a call ends, blocks run out, somebody comes who can be
let in. Per call that is a handful of events, however many tokens it makes. Rejected: stepping (a thousand times the
work), and mean rates between events, which blur the tails that an SLO is about.

A call that decodes has `offset + clock` tokens, where `clock` counts the steps of the replica: none has to be touched
when all of them get a token.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from math import isqrt

from redecode.replay.simulator.blocks import KvBlocks
from redecode.replay.simulator.costs import StepCosts, prefill_pairs
from redecode.replay.simulator.engine import Noise
from redecode.replay.simulator.rows import Counts, Extremes, Limits, Row, Sink

FINISH, SCHEDULE = 0, 9
"""Classes of a replica's events: of all that happens at one time tokens come first, and schedules last."""

Push = Callable[[int, int, int], None]


class Replica:
    """The engine of one replica.

    Attributes:
        version: of its next event; an event with another one is void.

    Args:
        push: takes (time, class, version) of its next event, which is to be answered with `finish` or `schedule`.
        noise: `None` for the mean.
    """

    __slots__ = (
        "_begun", "_costs", "_decodes", "_each", "_ends", "_growing", "_grows", "_idle", "_lettings", "_limits",
        "_noise", "_partial", "_phases", "_prefills", "_push", "_scale", "_sink", "_steps", "_takes", "_waiting",
        "clock", "context", "counts", "extremes", "kv", "running", "version",
    )  # fmt: skip

    def __init__(self, costs: StepCosts, limits: Limits, sink: Sink, push: Push, noise: Noise | None = None) -> None:
        self._costs, self._limits, self._sink, self._push, self._noise = costs, limits, sink, push, noise
        self.kv = KvBlocks(limits.kv_blocks)
        self.counts, self.extremes = Counts(), Extremes()
        self.clock = self.context = self.version = 0
        self.running: dict[Row, None] = {}  # in the order they were let in
        self._waiting: deque[Row] | list[tuple[tuple[int, int, int], Row]] = [] if limits.by_priority else deque()
        self._ends: list[tuple[int, int, Row]] = []  # (clock, order, row); what was preempted stays in it
        self._phases = [0] * limits.block_size  # how many calls decode, by offset within a block
        self._growing: dict[Row, None] = {}  # whose output has content that others may ask for
        self._partial: Row | None = None  # its prompt was cut; it is the last that was let in
        self._idle = True
        self._lettings = 0
        # The jump under way: no steps when its end has been dealt with.
        self._steps = self._begun = self._takes = self._decodes = 0
        self._each = self._grows = 0  # time of its first step, and how much longer each is than the one before
        self._prefills: list[tuple[Row, int]] = []
        self._scale = 1.0

    @property
    def waiting(self) -> int:
        """Calls that are there and do not run."""
        return len(self._waiting)

    # --- events ----------------------------------------------------------------------------

    def arrive(self, row: Row, now: int) -> None:
        """A call comes in."""
        row.arrived = now
        waiting = self._waiting
        if isinstance(waiting, deque):
            first = not waiting
            waiting.append(row)
        else:
            heapq.heappush(waiting, (row.key(), row))
            first = waiting[0][1] is row
        if self._idle:
            self._idle = False
            self._next(now, SCHEDULE)
        elif self._steps > 1 and first and len(self.running) < self._limits.max_num_seqs:
            self._cut(now)

    def finish(self, now: int) -> None:
        """The jump under way has its last tokens, and some calls all of theirs."""
        end = self._begun + self._takes
        self._settle()
        if self._growing:
            self._keep_grown(0)
        ends, clock = self._ends, self.clock
        while ends and ends[0][0] <= clock:
            ending, _, row = heapq.heappop(ends)
            if row.ends == ending:
                self._leave(row, 0)
                self.counts.ended += 1
                self._sink.ended(row, now)
        self._next(end, SCHEDULE)

    def schedule(self, now: int) -> None:
        """Lay out the next step, and all that are like it."""
        self._settle()
        costs, limits, kv, clock, prefills = self._costs, self._limits, self.kv, self.clock, self._prefills
        decodes = len(self.running) - (self._partial is not None)
        grown = self._phases[(1 - clock) % limits.block_size] if decodes else 0
        budget = limits.token_budget - decodes
        context, calm, blocked = self.context, True, False
        if grown + self._cut_needs(budget) > kv.free:
            decodes, context = self._squeeze(now)
            calm = False
        else:
            if grown:
                kv.take(grown)
            if self._partial is not None:
                self._go_on(self._partial, budget)
        if prefills:
            budget -= prefills[0][1]
        if calm and self._waiting:
            blocked = self._let_in(now, budget)
        if not decodes and not prefills:
            if calm:
                assert not self._waiting, "a call that can never run was let wait"
                self._idle = True
            else:
                self._next(now, SCHEDULE)
            return
        tokens = pairs = 0
        for row, new in prefills:
            tokens += new
            pairs += prefill_pairs(row.computed, new)
        self._begun, self._steps, self._decodes = now, 1, decodes
        extremes, rows = self.extremes, len(prefills) + decodes
        if rows > extremes.rows:
            extremes.rows = rows
        if pairs > extremes.prefill_pairs:
            extremes.prefill_pairs = pairs
        if tokens > extremes.prefill_tokens:
            extremes.prefill_tokens = tokens
        work, pause = costs.work(tokens, pairs, len(prefills), decodes, context), costs.pause(rows)
        self._each, self._grows = work + pause, costs.context_token * decodes
        if prefills or not calm:
            ending = self._first_end() == clock + 1
        else:
            left = self._first_end() - clock
            self._steps = steps = min(left, self._blocks_last(left, decodes))
            if blocked and self._growing:
                self._steps = steps = min(steps, self._until_content())
            ending = steps == left
        if self._noise is not None:
            self._scale = self._noise(self._steps, bool(prefills), now, self._length(self._steps))
        for row, new in prefills:
            if row.computed + new == row.tokens:
                if not row.made:
                    self._sink.first_token(row, now + self._scaled(work))
                ending = ending or row.made + 1 == row.output
        self._takes = takes = self._after(self._steps)
        if ending:
            self._next(now + takes - self._scaled(pause), FINISH)
        else:
            self._next(now + takes, SCHEDULE)

    # --- time ------------------------------------------------------------------------------

    def _next(self, at: int, kind: int) -> None:
        self.version += 1
        self._push(at, kind, self.version)

    def _scaled(self, time: int) -> int:
        return time if self._noise is None else int(time * self._scale)

    def _after(self, steps: int) -> int:
        """Time of the first so many steps of the jump, pauses included; only decode steps can be several."""
        time = self._length(steps)
        return time if self._noise is None else int(time * self._scale)

    def _length(self, steps: int) -> int:
        """The same without noise."""
        return steps * self._each + self._grows * (steps * (steps - 1) // 2)

    def _cut(self, now: int) -> None:
        """Somebody came: the jump ends with the step under way."""
        passed, each, grows = now - self._begun, self._each, self._grows
        elapsed = passed if self._noise is None else int(passed / self._scale)
        if grows:  # about the positive root of grows·n²/2 + (each - grows/2)·n = elapsed
            linear = 2 * each - grows
            steps = (isqrt(linear * linear + 8 * grows * elapsed) - linear) // (2 * grows)
        else:
            steps = elapsed // each if each else 1
        steps = min(max(1, steps), self._steps)
        takes = self._after(steps)
        while takes < passed and steps < self._steps:
            steps += 1
            takes = self._after(steps)
        while steps > 1 and (before := self._after(steps - 1)) >= passed:
            steps, takes = steps - 1, before
        if steps < self._steps:
            self._steps, self._takes = steps, takes
            self._next(self._begun + takes, SCHEDULE)

    def _first_end(self) -> int:
        """The clock when the next of those that decode ends; -1 if none does."""
        ends = self._ends
        while ends and ends[0][2].ends != ends[0][0]:
            heapq.heappop(ends)
        return ends[0][0] if ends else -1

    # --- what a step changes ---------------------------------------------------------------

    def _settle(self) -> None:
        """The jump is over: its tokens are there."""
        steps = self._steps
        if not steps:
            return
        counts, decodes = self.counts, self._decodes
        counts.steps += steps
        counts.busy_ps += self._takes
        if decodes:
            if steps > 1:
                more = self._grown(self.clock + 1, steps - 1, decodes)
                if more:
                    self.kv.take(more)
            self.context += decodes * steps
            if self.context > self.extremes.context_tokens:
                self.extremes.context_tokens = self.context
            counts.decoded += decodes * steps
        self.clock += steps
        self._steps = 0
        for row, new in self._prefills:
            counts.prefilled += new
            row.computed += new
            if row.computed == row.tokens:
                row.made += 1
                row.tokens += 1
                if row is self._partial:
                    self._partial = None
                self._decode(row)
        self._prefills.clear()

    def _decode(self, row: Row) -> None:
        """Its prompt is done."""
        size = self._limits.block_size
        row.offset = row.tokens - self.clock
        row.ends = self.clock + row.output - row.made
        self._phases[row.offset % size] += 1
        self.context += row.tokens
        heapq.heappush(self._ends, (row.ends, row.order, row))
        if row.kept < len(row.hashes) and self._limits.prefix_caching:
            self._growing[row] = None

    def _leave(self, row: Row, granted: int) -> None:
        """It runs no more, and its blocks are let go; `granted` tokens of it were to be in the next step."""
        size = self._limits.block_size
        del self.running[row]
        if row.ends >= 0:
            row.tokens = row.offset + self.clock
            row.made = row.tokens - row.prompt
            computed = row.tokens - 1 + granted
            row.held = -(-computed // size)
            self._phases[row.offset % size] -= 1
            self.context -= row.tokens
            self._growing.pop(row, None)
            row.ends = -1
        else:
            computed = row.computed + granted
            self._partial = None
        if self._limits.prefix_caching:
            self._keep(row, computed // size)
            self.kv.drop(row.held, computed // size, row.hashes, row.kept, row.copies)
        else:
            self.kv.drop_blank(row.held)

    def _preempt(self, row: Row, granted: int, now: int) -> None:
        if self._limits.prefix_caching:
            row.hashes = self._sink.content(row)  # it will ask for its own again
        self._leave(row, granted)
        row.computed = row.held = row.kept = 0
        row.copies = None
        self.counts.preempted += 1
        self._sink.preempted(row, now)
        if isinstance(self._waiting, deque):
            self._waiting.appendleft(row)
        else:
            heapq.heappush(self._waiting, (row.key(), row))

    # --- content of blocks -----------------------------------------------------------------

    def _keep(self, row: Row, full: int) -> None:
        """Its first `full` blocks have their content now."""
        hashes, kv = row.hashes, self.kv
        full = min(full, len(hashes))
        if full <= row.kept:
            return
        if not kv.keep_all(hashes[row.kept : full]):
            for place in range(row.kept, full):
                if not kv.keep(hashes[place]):
                    if row.copies is None:
                        row.copies = set()
                    row.copies.add(place)
        row.kept = full

    def _keep_grown(self, ahead: int) -> None:
        """The same for all that decode, in the order their blocks filled; `ahead` counts the step to come as done."""
        size, until = self._limits.block_size, self.clock + ahead - 1
        grown = [
            (row, min(last, len(row.hashes)))
            for row in self._growing
            if (last := (row.offset + until) // size) > row.kept
        ]
        if not grown:
            return
        if self.kv.keep_all([block for row, last in grown for block in row.hashes[row.kept : last]]):
            for row, last in grown:
                row.kept = last
        else:  # who fills a block of some content first keeps it, the others have copies
            places = [(row, place) for row, last in grown for place in range(row.kept, last)]
            places.sort(key=lambda p: ((p[1] + 1) * size - p[0].offset, p[0].order))
            for row, _ in places:
                self._keep(row, row.kept + 1)
        for row, _ in grown:
            if row.kept == len(row.hashes):
                del self._growing[row]

    def _until_content(self) -> int:
        """Steps until a call that decodes has filled a block which the one held back might ask for."""
        size = self._limits.block_size
        return max(1, min((row.kept + 1) * size - row.offset - self.clock for row in self._growing))

    # --- blocks ----------------------------------------------------------------------------

    def _grown(self, clock: int, steps: int, decodes: int) -> int:
        """Blocks that calls take by decoding so many steps from `clock` on."""
        phases, size = self._phases, self._limits.block_size
        whole, rest = divmod(steps, size)
        grown = whole * decodes
        if rest:
            first = (2 - clock - rest) % size
            grown += sum(phases[first : first + rest])
            if first + rest > size:
                grown += sum(phases[: first + rest - size])
        return grown

    def _blocks_last(self, steps: int, decodes: int) -> int:
        """For how many steps, at most so many, there are blocks; the first has its own."""
        free, size = self.kv.free, self._limits.block_size
        if decodes * ((steps - 1) // size + 1) <= free:
            return steps
        whole, left = divmod(free, decodes)
        last = 1 + whole * size
        while last < steps:
            left -= self._phases[(1 - self.clock - last) % size]
            if left < 0:
                break
            last += 1
        return min(steps, last)

    # --- who is in a step ------------------------------------------------------------------

    def _cut_needs(self, budget: int) -> int:
        """Blocks for the next part of the prompt that was cut."""
        row = self._partial
        if row is None:
            return 0
        return -(-min(row.tokens, row.computed + budget) // self._limits.block_size) - row.held

    def _go_on(self, row: Row, budget: int) -> None:
        """The next part of the prompt that was cut."""
        new = min(row.tokens - row.computed, budget)
        if new <= 0:
            return
        more = self._cut_needs(budget)
        self.kv.take(more)
        row.held += more
        if self._limits.prefix_caching and row.hashes:
            if self._growing:
                self._keep_grown(1)
            self._keep(row, (row.computed + new) // self._limits.block_size)
        self._prefills.append((row, new))

    def _let_in(self, now: int, budget: int) -> bool:
        """Let calls run that wait; returns whether the next is held back by blocks or budget."""
        waiting, limits, kv = self._waiting, self._limits, self.kv
        size, caching = limits.block_size, limits.prefix_caching
        while waiting and len(self.running) < limits.max_num_seqs:
            if budget <= 0:
                return True
            row = waiting[0] if isinstance(waiting, deque) else waiting[0][1]
            hit = 0
            if caching and row.hashes:
                if self._growing:
                    self._keep_grown(1)
                hit = kv.found(row.hashes, (row.tokens - 1) // size)
            computed = max(hit * size, row.brought)
            new = row.tokens - computed
            if new > budget:
                if not limits.chunked_prefill:
                    return True
                new = budget
            if -(-row.tokens // size) - hit + (kv.idle(row.hashes, hit) if hit else 0) > kv.free:
                return True
            if isinstance(waiting, deque):
                waiting.popleft()
            else:
                heapq.heappop(waiting)
            if hit:
                kv.hold(row.hashes, hit)
            row.held = -(-(computed + new) // size)
            kv.take(row.held - hit)
            row.computed, row.kept, row.brought = computed, hit, 0
            if caching and row.hashes:
                self._keep(row, (computed + new) // size)
            self._lettings += 1
            row.order = self._lettings
            self.running[row] = None
            self.counts.cached += hit * size
            self._sink.scheduled(row, now, computed)
            self._prefills.append((row, new))
            budget -= new
            if computed + new < row.tokens:
                self._partial = row
        return False

    def _squeeze(self, now: int) -> tuple[int, int]:
        """A step for which blocks are short, laid out call by call; returns how many decode, and their context."""
        limits, kv, size, clock = self._limits, self.kv, self._limits.block_size, self.clock
        if self._growing:
            self._keep_grown(0)
        budget, granted, enough = limits.token_budget, dict[Row, int](), True
        for row in list(self.running):
            if row not in self.running:
                continue  # preempted for one before it
            if not enough or budget <= 0:
                break
            if row.ends >= 0:
                done, held, new = row.offset + clock - 1, -(-(row.offset + clock - 1) // size), 1
            else:
                done, held, new = row.computed, row.held, min(row.tokens - row.computed, budget)
            more = -(-(done + new) // size) - held
            while more > kv.free and enough:
                victim = self._victim()
                back = granted.pop(victim, 0)
                budget += back
                self._preempt(victim, back, now)
                enough = victim is not row
            if enough:
                kv.take(more)
                granted[row] = new
                budget -= new
                if row.ends < 0:
                    row.held += more
                if limits.prefix_caching:
                    self._keep(row, (done + new) // size)
                    if row.kept == len(row.hashes):
                        self._growing.pop(row, None)
        decodes = context = 0
        for row in list(self.running):
            if row.ends < 0:
                if row in granted:
                    self._prefills.append((row, granted[row]))
            elif row in granted:
                decodes += 1
                context += row.offset + clock
            elif granted:  # else there is no step, and the clock stands
                self._hold_back(row)
        return decodes, context

    def _victim(self) -> Row:
        if self._limits.by_priority:
            return max(self.running, key=lambda row: (row.priority, row.arrived))
        return next(reversed(self.running))

    def _hold_back(self, row: Row) -> None:
        """It decodes and is not in this step: the clock goes on without it."""
        size = self._limits.block_size
        self._phases[row.offset % size] -= 1
        row.offset -= 1
        row.ends += 1
        self._phases[row.offset % size] += 1
        heapq.heappush(self._ends, (row.ends, row.order, row))
