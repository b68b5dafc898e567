"""A recorded run becomes calls with waits between them, and no end of a call or of the run moves by that."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.support.chains import chain as recorded_chain
from redecode.replay.closed_loop.loop import Kind, Program
from redecode.replay.closed_loop.options import ReplayMode
from redecode.replay.closed_loop.plan import plan
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import StepCosts
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.workload import Contents, Workload, contract, shape_of
from redecode.tracer import Decode, Fidelity


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Places that wait for any of those before them; some send a call, whose end is the next place."""
    spans, kinds, before, gaps = ["root"], [Kind.START], [set[int]()], [draw(st.integers(0, 50))]
    for n in range(draw(st.integers(1, 12))):
        waits = draw(st.sets(st.integers(0, len(spans) - 1), min_size=0, max_size=3))
        sends = draw(st.booleans())
        spans.append(f"s{n}")
        kinds.append(Kind.SEND if sends else Kind.START)
        before.append(waits)
        gaps.append(draw(st.integers(0, 50)))
        if sends:
            spans.append(f"s{n}")
            kinds.append(Kind.END)
            before.append({len(spans) - 2})
            gaps.append(draw(st.integers(0, 50)))
    after: list[list[int]] = [[] for _ in spans]
    for place, waited in enumerate(before):
        for earlier in waited:
            after[earlier].append(place)
    return Program(tuple(spans), tuple(kinds), tuple(map(tuple, after)), tuple(map(len, before)), tuple(gaps))


def decode_of(span: str, output: int) -> Decode:
    return Decode(
        run_id="r", span_id=span, step_key=span, model="", fidelity=Fidelity.TOKENS, sent_ns=0, first_chunk_ns=None,
        done_ns=None, prompt_ids=(1,), sampled_ids=(1,) * output,
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(program=programs(), data=st.data())
def test_calls_are_sent_and_the_run_ends_when_all_places_say_so(program: Program, data: st.DataObject) -> None:
    calls = [s for s, kind in zip(program.spans, program.kinds, strict=True) if kind is Kind.SEND]
    decodes = {span: decode_of(span, data.draw(st.integers(1, 90))) for span in calls}
    shape = contract(program, decodes, Contents(16), "agent")
    takes = {span: len(d.sampled_ids or ()) for span, d in decodes.items()}  # in place of an engine

    def over(place: int) -> int:
        return happened[place] + (takes[program.spans[place]] if program.kinds[place] is Kind.SEND else 0)

    happened: list[int] = []
    before: list[list[int]] = [[] for _ in program.spans]
    for place, later in enumerate(program.after):
        for waiting in later:
            before[waiting].append(place)
    for place, gap in enumerate(program.gaps_ns):
        happened.append(max(map(over, before[place]), default=0) + gap)
    sent = {program.spans[p]: happened[p] for p, kind in enumerate(program.kinds) if kind is Kind.SEND}
    # The same by the calls alone.
    ready_at = [0] * len(shape.calls)
    for call, gap in shape.first:
        ready_at[call] = max(ready_at[call], gap // 1000)
    for call, spec in enumerate(shape.calls):
        for later_call, gap in shape.after[call]:
            ready_at[later_call] = max(ready_at[later_call], ready_at[call] + spec.output_tokens + gap // 1000)
    assert {spec.step: at for spec, at in zip(shape.calls, ready_at, strict=True)} == sent
    ends = [shape.least // 1000]
    for call, gap in shape.last.items():
        ends.append(ready_at[call] + shape.calls[call].output_tokens + gap // 1000)
    assert max(ends) == max(over(place) for place in range(len(program.spans)))
    limits = Limits(max_num_seqs=50, token_budget=1000, kv_blocks=1000, prefix_caching=False)
    lonely = Engine(costs=StepCosts(), limits=limits)
    found = Simulation(Workload.of([shape], [5]), [lonely]).run()  # it can be run, and all calls are
    assert all(done >= 0 for done in found.done)


def test_a_recorded_run_keeps_its_lengths_waits_and_shared_prefixes() -> None:
    first = tuple(range(40))
    prompts = [first, first + tuple(range(900, 908)) + tuple(range(500, 520))]
    run = recorded_chain("ab" * 16, prompts, [tuple(range(900, 908)), (7, 8, 9)], [0, 3_000_000], stream=False)
    contents = Contents(16)
    shape = shape_of(plan(run, ReplayMode.FORCE), contents)
    assert [(c.prompt_tokens, c.output_tokens) for c in shape.calls] == [(40, 8), (68, 3)]
    assert shape.calls[0].hashes == shape.calls[1].hashes[:3]
    assert shape.after[0] == ((1, 3_000_000_000),)
    assert shape_of(plan(run, ReplayMode.FORCE), contents) == shape
    other = recorded_chain("cd" * 16, [tuple(range(1, 41))], [(1,)], [0], stream=False)
    assert not set(shape_of(plan(other, ReplayMode.FORCE), contents).calls[0].hashes) & set(shape.calls[1].hashes)
