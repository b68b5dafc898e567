"""What is to be simulated: runs that begin at given times, each a graph of FM calls with waits between them.

This is the truth: the lengths that calls will have. What a router may know of it is in `views`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redecode.replay.closed_loop.loop import Kind, Program, compile_run
from redecode.replay.closed_loop.plan import Plan
from redecode.replay.simulator.errors import SimulationError
from redecode.tracer import Decode

_PS_IN_NS = 1000
_HASHED = 16  # tokens, of `Decode.prompt_hashes`


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One FM call of a shape.

    Attributes:
        step: what a router may know it by (a step key, or a node of the graph).
        hashes: content of its blocks of prompt and output, in order, as far as another call may ask for it. A number
            below 0 is content of this run only, one from 0 on is the same in all runs.
        max_tokens: the limit its caller set, if any.
    """

    step: str
    prompt_tokens: int
    output_tokens: int
    model: str = ""
    hashes: tuple[int, ...] = ()
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A run as its calls and what passes between them; times in ps.

    Attributes:
        after: of each call the calls that wait for its end, and what passes after it.
        first: calls that wait for the beginning of the run, and what passes after it.
        waits: for how many ends each waits; the beginning counts as one.
        last: what passes between the end of each call and the end of the run; a call is left out if others follow.
        least: the run takes no less (what goes on beside its calls).
    """

    calls: tuple[Call, ...]
    first: tuple[tuple[int, int], ...]
    after: tuple[tuple[tuple[int, int], ...], ...]
    waits: tuple[int, ...]
    last: Mapping[int, int]
    least: int = 0
    name: str = ""


def single(call: Call) -> Shape:
    """A run of one call and nothing else."""
    return Shape(calls=(call,), first=((0, 0),), after=((),), waits=(1,), last={0: 0}, name=call.step)


def chain(calls: Sequence[Call], gaps_ps: Sequence[int]) -> Shape:
    """Calls one after the other; `gaps_ps[i]` passes before call i."""
    count = len(calls)
    return Shape(
        calls=tuple(calls),
        first=((0, gaps_ps[0]),),
        after=tuple(((i + 1, gaps_ps[i + 1]),) if i + 1 < count else () for i in range(count)),
        waits=(1,) * count,
        last={count - 1: 0},
    )


@dataclass(frozen=True, slots=True)
class Workload:
    """Runs in the order they begin.

    Attributes:
        begins: when, ps from 0 on, ascending.
        which: the shape of each.
        deadlines: ps after the beginning within which each must end; empty if there are none.
    """

    shapes: tuple[Shape, ...]
    begins: array[int]
    which: array[int]
    deadlines: array[int] = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        if len(self.begins) != len(self.which):
            raise SimulationError(f"{len(self.begins)} runs begin, and {len(self.which)} have a shape")
        if self.deadlines and len(self.deadlines) != len(self.begins):
            raise SimulationError(f"{len(self.deadlines)} deadlines for {len(self.begins)} runs; give one for each")
        if any(b < a for a, b in zip(self.begins, self.begins[1:], strict=False)) or any(
            b < 0 for b in self.begins[:1]
        ):
            raise SimulationError("runs begin in order, from 0 on")
        if self.which and not (min(self.which) >= 0 and max(self.which) < len(self.shapes)):
            raise SimulationError(f"there are {len(self.shapes)} shapes; a run has number {max(self.which)}")

    @classmethod
    def of(cls, shapes: Sequence[Shape], begins: Sequence[int], which: Sequence[int] | None = None) -> Workload:
        """Runs of these shapes, in turns if not said otherwise."""
        chosen = array("l", which if which is not None else [i % len(shapes) for i in range(len(begins))])
        return cls(tuple(shapes), array("q", begins), chosen)

    def followed(self) -> list[list[tuple[int, ...]]]:
        """Of each call of each shape the content that a second call has, too: the rest nobody can ask for again."""
        runs = Counter(self.which)
        common: Counter[int] = Counter()
        for place, shape in enumerate(self.shapes):
            for call in shape.calls:
                for block in call.hashes:
                    if block >= 0:
                        common[block] += runs[place]
        kept = []
        for shape in self.shapes:
            own = Counter(block for call in shape.calls for block in call.hashes if block < 0)
            kept.append([call.hashes[: _shared(call.hashes, common, own)] for call in shape.calls])
        return kept

    def calls(self) -> int:
        """FM calls of all runs."""
        sizes = [len(shape.calls) for shape in self.shapes]
        return sum(sizes[shape] for shape in self.which)


def _shared(hashes: Sequence[int], common: Mapping[int, int], own: Mapping[int, int]) -> int:
    for place in range(len(hashes) - 1, -1, -1):
        block = hashes[place]
        if (common if block >= 0 else own)[block] > 1:
            return place + 1
    return 0


@dataclass(slots=True)
class Contents:
    """Names for the content of KV blocks: equal names, equal tokens from the beginning on.

    Names are given in the order contents are met, so that they are the same in every process.
    """

    block_size: int
    _names: dict[tuple[int, tuple[int, ...]] | bytes, int] = field(default_factory=dict)

    def of(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """One name for each full block."""
        names, before = [], -1
        for start in range(0, len(tokens) - self.block_size + 1, self.block_size):
            key = (before, tuple(tokens[start : start + self.block_size]))
            before = self._names.setdefault(key, len(self._names))
            names.append(before)
        return tuple(names)

    def of_hashes(self, hashes: Sequence[bytes]) -> tuple[int, ...]:
        """The same of a prompt whose tokens were withheld, from its chained hashes of 16 tokens each."""
        each, rest = divmod(self.block_size, _HASHED)
        if rest or not each:
            return ()
        return tuple(self._names.setdefault(h, len(self._names)) for h in hashes[each - 1 :: each])


Naming = Contents | Mapping[str, Contents]
"""Names of KV blocks: for all FMs, or by FM ("" is any other), whose engines may have blocks of other sizes."""


def shape_of(plan: Plan, contents: Naming, factors: Mapping[str, float] | None = None) -> Shape:
    """A recorded run that may be replayed, with its own lengths and waits, as `force` replays it.

    Args:
        contents: shared by all runs of a workload.
        factors: as for `closed_loop.compile_run`.
    """
    program = compile_run(plan.graph, plan.decodes, factors or {})
    return contract(program, plan.decodes, contents, plan.recorded.run.agent)


def contract(program: Program, decodes: Mapping[str, Decode], contents: Naming, name: str) -> Shape:
    """Only the calls of a program, in its order, with the longest waits between them.

    Each place is a maximum over ends of calls plus what has passed since; so is what waits for it.
    """
    since: list[dict[int, int]] = [{} for _ in program.spans]  # place → call (-1: the beginning) → ps since its end
    calls: list[Call] = []
    sent: dict[str, int] = {}
    before: list[dict[int, int]] = []
    final: dict[int, int] = {}
    for place, (span, kind) in enumerate(zip(program.spans, program.kinds, strict=True)):
        gap = program.gaps_ns[place] * _PS_IN_NS
        passed = {call: time + gap for call, time in since[place].items()} if program.waits[place] else {-1: gap}
        if kind is Kind.SEND:
            sent[span] = len(calls)
            calls.append(_call(decodes[span], contents))
            before.append(passed)
            passed = {sent[span]: 0}
        for later in program.after[place]:
            into = since[later]
            for call, time in passed.items():
                into[call] = max(into.get(call, 0), time)
        if not program.after[place]:
            for call, time in passed.items():
                final[call] = max(final.get(call, 0), time)
    # A place past a call's end is reached over that end; what is older on the same way is not later than it.
    after: list[list[tuple[int, int]]] = [[] for _ in calls]
    first: list[tuple[int, int]] = []
    waits = []
    for call, waited in enumerate(before):
        waits.append(len(waited))
        for earlier, time in waited.items():
            if earlier >= 0:
                after[earlier].append((call, time))
            else:
                first.append((call, time))
    return Shape(
        calls=tuple(calls),
        first=tuple(first),
        after=tuple(map(tuple, after)),
        waits=tuple(waits),
        last={call: time for call, time in final.items() if call >= 0},
        least=final.get(-1, 0),
        name=name,
    )


def _call(decode: Decode, contents: Naming) -> Call:
    """A call of so many tokens; their content, as far as it was recorded."""
    prompt, output = decode.prompt_ids, decode.sampled_ids
    if not isinstance(contents, Contents):
        contents = contents.get(decode.model) or contents[""]
    if prompt is not None:
        hashes = contents.of((*prompt, *(output or ())))
    else:
        hashes = contents.of_hashes(decode.prompt_hashes or ())
    limit = decode.sampling.get("max_completion_tokens") or decode.sampling.get("max_tokens")
    return Call(
        step=decode.step_key,
        prompt_tokens=len(prompt) if prompt is not None else decode.input_tokens or 0,
        output_tokens=len(output) if output is not None else decode.output_tokens or 0,
        model=decode.model,
        hashes=hashes,
        max_tokens=limit if isinstance(limit, int) else None,
    )
