"""A simulator that goes step by step and block by block, written to be obviously right and not to be fast.

It shares nothing with the simulator under test but the classes that hold its input, and that of two things at one time
the tokens of a step come first, then calls that are sent, calls that arrive, and schedules.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from redecode.replay.simulator.costs import StepCosts
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.workload import Workload

TOKENS, BEGIN, SEND, ARRIVE, SCHEDULE = 0, 1, 2, 3, 4


@dataclass(eq=False)
class Block:
    content: Any = None
    holders: int = 0


@dataclass(eq=False)
class Request:
    number: int
    prompt: int
    output: int
    hashes: tuple[int, ...]
    priority: int
    arrived: int = 0
    made: int = 0
    computed: int = 0
    prefilled: bool = False
    blocks: list[Block] = field(default_factory=list)
    log: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.prompt + self.made


class StepByStep:
    """One engine."""

    def __init__(self, engine: Engine) -> None:
        self.costs, self.limits = engine.costs, engine.limits
        self.free = [Block() for _ in range(self.limits.kv_blocks)]
        self.cached: dict[Any, Block] = {}
        self.names = count()
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.step: dict[Request, int] = {}
        self.idle = True
        self.most_held = 0
        self.counts = dict.fromkeys(("steps", "busy_ps", "prefilled", "decoded", "cached", "preempted", "ended"), 0)

    def next_waiting(self) -> Request:
        if self.limits.by_priority:
            return min(self.waiting, key=lambda r: (r.priority, r.arrived, r.number))
        return self.waiting[0]

    def allocate(self, request: Request, computed: int) -> None:
        size = self.limits.block_size
        while len(request.blocks) * size < computed:
            block = self.free.pop(0)
            if block.content is not None:
                del self.cached[block.content]
                block.content = None
            block.holders = 1
            request.blocks.append(block)
        self.most_held = max(self.most_held, self.limits.kv_blocks - len(self.free))
        if self.limits.prefix_caching:
            for place, block in enumerate(request.blocks[: computed // size]):
                if block.content is None:
                    named = place < len(request.hashes)
                    content = request.hashes[place] if named else ("nobody asks", next(self.names))
                    if content not in self.cached:
                        block.content = content
                        self.cached[content] = block

    def missing(self, request: Request, computed: int) -> int:
        return -(-computed // self.limits.block_size) - len(request.blocks)

    def let_go(self, request: Request) -> None:
        first: list[Block] = []
        last: list[Block] = []
        for block in reversed(request.blocks):
            block.holders -= 1
            if not block.holders:
                (first if block.content is None else last).append(block)
        self.free = first + self.free + last
        request.blocks = []
        self.running.remove(request)

    def hits(self, request: Request) -> list[Block]:
        found: list[Block] = []
        if self.limits.prefix_caching:
            for content in request.hashes[: (request.tokens - 1) // self.limits.block_size]:
                if content not in self.cached:
                    break
                found.append(self.cached[content])
        return found

    def preempt(self, now: int) -> Request:
        victim = self.running[-1]
        if self.limits.by_priority:
            victim = max(self.running, key=lambda r: (r.priority, r.arrived))
        self.let_go(victim)
        victim.computed, victim.prefilled = 0, False
        victim.log["preempted"] = victim.log.get("preempted", 0) + 1
        self.counts["preempted"] += 1
        self.waiting.insert(0, victim)
        return victim

    def schedule(self, now: int) -> tuple[int, int] | None:
        """Lay out one step; returns when its tokens are there and when the next begins."""
        limits, costs = self.limits, self.costs
        budget, preempted = limits.token_budget, False
        self.step = {}
        for request in list(self.running):
            if request not in self.running or budget <= 0:
                continue
            new = min(request.tokens - request.computed, budget)
            lost = None
            while self.missing(request, request.computed + new) > len(self.free):
                preempted = True
                lost = self.preempt(now)
                budget += self.step.pop(lost, 0)
                if lost is request:
                    break
            if lost is request:
                break
            self.allocate(request, request.computed + new)
            self.step[request] = new
            budget -= new
        decoding = {r for r in self.step if r.prefilled}
        while not preempted and budget > 0 and self.waiting and len(self.running) < limits.max_num_seqs:
            request = self.next_waiting()
            hits = self.hits(request)
            computed = len(hits) * limits.block_size
            new = request.tokens - computed
            if new > budget and not limits.chunked_prefill:
                break
            new = min(new, budget)
            taken_from_free = sum(not b.holders for b in hits)
            if -(-request.tokens // limits.block_size) - len(hits) + taken_from_free > len(self.free):
                break
            self.waiting.remove(request)
            for block in hits:
                if not block.holders:
                    self.free.remove(block)
                block.holders += 1
            request.blocks, request.computed = list(hits), computed
            self.allocate(request, computed + new)
            self.running.append(request)
            self.counts["cached"] += computed
            if "scheduled" not in request.log:
                request.log |= {"scheduled": now, "cached": computed}
            self.step[request] = new
            budget -= new
        if not self.step:
            self.idle = not preempted
            return None if self.idle else (now, now)
        prefills = {r: n for r, n in self.step.items() if r not in decoding}
        work = _work(costs, prefills, decoding)
        pause = costs.gap + costs.gap_row * len(self.step)
        self.counts["steps"] += 1
        self.counts["busy_ps"] += work + pause
        self.counts["prefilled"] += sum(prefills.values())
        self.counts["decoded"] += len(decoding)
        return now + work, now + work + pause

    def tokens(self, now: int) -> list[Request]:
        """The step is done; returns those that have their last token."""
        ended = []
        for request, new in self.step.items():
            request.computed += new
            if request.computed == request.tokens:
                request.made += 1
                request.prefilled = True
                if request.made == 1:
                    request.log["first"] = now
                if request.made == request.output:
                    request.log["last"] = now
                    self.counts["ended"] += 1
                    ended.append(request)
        for request in ended:
            self.let_go(request)
        self.step = {}
        return ended


def _work(costs: StepCosts, prefills: dict[Request, int], decoding: set[Request]) -> int:
    """Query by query and key by key."""
    time = costs.step
    for request, new in prefills.items():
        time += costs.prefill_call
        for position in range(request.computed, request.computed + new):
            time += costs.prefill_token + costs.prefill_pair * (position + 1)
    for request in decoding:
        time += costs.decode + costs.context_token * request.tokens
    return time


def step_by_step(
    workload: Workload, engines: list[Engine], where: dict[int, int], priorities: dict[int, int]
) -> tuple[dict[int, dict[str, int]], list[StepByStep]]:
    """What happens to each call, by its number, and the engines afterwards.

    Args:
        where, priorities: the replica and the priority of each call.
    """
    replicas = [StepByStep(e) for e in engines]
    heap: list[tuple[Any, ...]] = []
    requests: dict[int, Request] = {}
    owner: dict[int, tuple[int, int]] = {}
    numbers: dict[tuple[int, int], int] = {}
    for run, which in enumerate(workload.which):
        for place in range(len(workload.shapes[which].calls)):
            numbers[run, place] = len(owner)
            owner[len(owner)] = (run, place)
    waits = {n: workload.shapes[workload.which[run]].waits[place] for n, (run, place) in owner.items()}
    ready = dict.fromkeys(owner, 0)
    for run, begin in enumerate(workload.begins):
        heapq.heappush(heap, (begin, BEGIN, run))

    def released(number: int, at: int) -> None:
        ready[number] = max(ready[number], at)
        waits[number] -= 1
        if not waits[number]:
            heapq.heappush(heap, (ready[number], SEND, number))

    while heap:
        now, kind, number = heapq.heappop(heap)
        if kind == BEGIN:
            for place, gap in workload.shapes[workload.which[number]].first:
                released(numbers[number, place], now + gap)
        elif kind == SEND:
            run, place = owner[number]
            call = workload.shapes[workload.which[run]].calls[place]
            request = Request(number, call.prompt_tokens, call.output_tokens, call.hashes, priorities.get(number, 0))
            requests[number] = request
            request.log["sent"] = now
            engine = engines[where[number]]
            heapq.heappush(heap, (now + engine.before_ps + engine.before_token_ps * call.prompt_tokens, ARRIVE, number))
        elif kind == ARRIVE:
            replica = replicas[where[number]]
            requests[number].arrived = now
            replica.waiting.append(requests[number])
            if replica.idle:
                replica.idle = False
                heapq.heappush(heap, (now, SCHEDULE, where[number]))
        elif kind == SCHEDULE:
            times = replicas[number].schedule(now)
            if times is not None:
                heapq.heappush(heap, (times[0], TOKENS, number))
                heapq.heappush(heap, (times[1], SCHEDULE, number))
        else:
            for request in replicas[number].tokens(now):
                run, place = owner[request.number]
                done = now + engines[number].after_ps
                request.log["done"] = done
                for later, gap in workload.shapes[workload.which[run]].after[place]:
                    released(numbers[run, later], done + gap)
    return {n: r.log for n, r in requests.items()}, replicas
