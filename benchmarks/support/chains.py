"""Recorded runs made up for a benchmark: sessions of FM calls, one after the other, with waits between them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from redecode.tracer import Decode, Edge, EdgeKind, Fidelity, Provenance, RecordedRun, Run, Span, SpanKind

_CALL_NS = 1_000_000


def chain(
    run_id: str,
    prompts: Sequence[tuple[int, ...]],
    outputs: Sequence[tuple[int, ...]],
    waits_ns: Sequence[int],
    *,
    stream: bool,
    start_ns: int = 1_000_000_000,
) -> RecordedRun:
    """A run of one call per prompt; before each, a tool that takes `waits_ns` (0: there is none)."""
    root = f"{run_id[:12]}root"
    spans: list[Span] = []
    edges: list[Edge] = []
    decodes: list[Decode] = []
    now, before = start_ns, root

    def add(kind: SpanKind, name: str, key: str, end_ns: int) -> str:
        nonlocal before, now
        span_id = f"{run_id[:8]}{len(spans):08d}"
        spans.append(
            Span(
                run_id=run_id, span_id=span_id, parent_span_id=root, kind=kind, name=name, step_key=f"run/{key}",
                start_ns=now, end_ns=end_ns, status="ok",
            )
        )  # fmt: skip
        how = EdgeKind.CALL if before == root else EdgeKind.RETURN
        edges.append(Edge(before, span_id, how, Provenance.RECORDED))
        before, now = span_id, end_ns
        return span_id

    for n, (prompt, output, wait_ns) in enumerate(zip(prompts, outputs, waits_ns, strict=True)):
        if wait_ns:
            add(SpanKind.TOOL, "execute_tool wait", f"tool:{n}:wait", now + wait_ns)
        sent_ns = now
        span_id = add(SpanKind.DECODE, "chat", f"chat#{n}", now + _CALL_NS)
        decode = Decode(
            run_id=run_id, span_id=span_id, step_key=f"run/chat#{n}", model="m", fidelity=Fidelity.TOKENS,
            sent_ns=sent_ns, first_chunk_ns=None, done_ns=now, prompt_ids=prompt, sampled_ids=output, stream=stream,
            seed=n, sampling={"temperature": 1.0, "max_tokens": len(output), "ignore_eos": True},
        )  # fmt: skip
        decodes.append(decode)
    edges.append(Edge(before, root, EdgeKind.RETURN, Provenance.RECORDED))
    top = Span(
        run_id=run_id, span_id=root, parent_span_id=None, kind=SpanKind.RUN, name="chain", step_key="run",
        start_ns=start_ns, end_ns=now, status="ok",
    )  # fmt: skip
    run = Run(
        run_id=run_id, agent="chain", status="ok", started_ns=start_ns, ended_ns=now, fidelity=Fidelity.TOKENS,
        decodes=len(decodes), tools=0, tokens=sum(map(len, outputs)), prompt_tokens=sum(map(len, prompts)),
    )  # fmt: skip
    return RecordedRun(run, [top, *spans], edges, decodes, [])


def chains(
    sessions: int, calls: int, *, prompt_tokens: int, output_tokens: int, wait_s: tuple[float, float] = (0.0, 0.0),
    spread_s: float = 0.0, stream: bool = True, seed: int = 0,
) -> list[RecordedRun]:  # fmt: skip
    """Sessions on random tokens, all different; their waits uniform in `wait_s`, their beginnings in `spread_s`."""
    rng = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 250) for _ in range(count))

    return [
        chain(
            f"{seed:08x}{n:024x}",
            [ids(prompt_tokens) for _ in range(calls)],
            [ids(output_tokens) for _ in range(calls)],
            [round(rng.uniform(*wait_s) * 1e9) for _ in range(calls)],
            stream=stream,
            start_ns=1_000_000_000 + round(rng.uniform(0, spread_s) * 1e9),
        )
        for n in range(sessions)
    ]
