"""Spans of others in a store that also records: the engine's account joins our decodes, and no run is there twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count, permutations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from redecode.tracer import Decode, Fidelity, RecordedRun, Recorder, SpanKind, Store, TimeSource, decode_attributes
from redecode.tracer import conventions as c
from redecode.tracer.export.importing import write_down
from redecode.tracer.export.otlp import otlp_spans, requests
from redecode.tracer.foreign import OtlpSpan
from redecode.tracer.recorder import LiveSpan
from redecode.tracer.spool import JournalWriter, unique_name
from redecode.tracer.store.parquet import write_parquet

_clock = count(1)


class Agent:
    """Records one run with one decode, step by step."""

    def __init__(self, store: Path) -> None:
        self.recorder = Recorder(store)
        self.run = self.recorder.start_run("agent")
        self.call = self.recorder.start(SpanKind.DECODE, "chat m", self.run, "chat")

    def answered(self, **known: Any) -> None:
        given: dict[str, Any] = {
            "run_id": self.run.run_id,
            "span_id": self.call.span_id,
            "step_key": self.call.step_key,
        }
        given |= {"sent_ns": self.call.start_ns, "first_chunk_ns": None, "done_ns": None, "model": "m"}
        decode = Decode(**given, fidelity=Fidelity.TEXT, **known)
        self.recorder.end(self.call, attributes=decode_attributes(decode))

    def end(self) -> None:
        self.recorder.end(self.run)
        self.recorder.close()


@pytest.fixture
def agent(store: Path) -> Iterator[Agent]:
    made = Agent(store)
    yield made
    made.recorder.close()


def collect(store: Path, *spans: OtlpSpan) -> None:
    """Write spans down as the collector does."""
    journal = JournalWriter(store / "spool", unique_name(next(_clock)), lambda: {"t": "process", "argv": []})
    journal.commit([span.payload() for span in spans])
    journal.close()


def llm_request(below: LiveSpan, n: int = 1, queue_s: float = 0.25) -> OtlpSpan:
    """An engine's span of a request that came with this traceparent, as vLLM sends it."""
    return OtlpSpan(
        run=below.run_id,
        span=f"{n:016x}",
        parent=below.span_id,
        name="llm_request",
        kind=2,
        flags=0x300,
        start_ns=below.start_ns + n,
        end_ns=below.start_ns + n + 10,
        scope="vllm.tracing.otel",
        attributes={
            "gen_ai.latency.time_in_queue": queue_s,
            "gen_ai.latency.time_in_model_prefill": 0.5,
            "gen_ai.latency.time_in_model_decode": 2.0,
        },
    )


def gateway(below: LiveSpan, *, remote: bool) -> OtlpSpan:
    """A span of a proxy between us and the engine, which may say that its parent is elsewhere."""
    return OtlpSpan(
        run=below.run_id, span="a" * 16, parent=below.span_id, name="POST /v1", kind=2 if remote else 1,
        start_ns=below.start_ns + 1, end_ns=below.start_ns + 9, scope="proxy",
    )  # fmt: skip


def split(run: RecordedRun) -> tuple[int | None, ...]:
    [decode] = run.decodes
    return decode.queue_ns, decode.prefill_ns, decode.decode_ns


@pytest.mark.parametrize("order", [["engine", "decode"], ["decode", "engine"], ["both"]], ids="-".join)
def test_the_engine_s_split_joins_our_decode_whichever_is_read_first(
    store: Path, agent: Agent, order: list[str]
) -> None:
    opened = Store(store)
    for what in order:
        if what in {"engine", "both"}:
            collect(store, llm_request(agent.call))
        if what in {"decode", "both"}:
            agent.answered()
        opened.drain()
    agent.end()
    run = opened.load(agent.run.run_id)
    assert split(run) == (250_000_000, 500_000_000, 2_000_000_000)
    assert run.decodes[0].token_time_source is TimeSource.REQUEST
    assert len(opened.runs()) == 1
    assert [span.span_id for span in run.spans] == [agent.run.span_id, agent.call.span_id]


@pytest.mark.parametrize("known", [{}, {"prefill_ns": 7}])
def test_it_is_in_parquet_too(store: Path, agent: Agent, tmp_path: Path, known: dict[str, int]) -> None:
    collect(store, llm_request(agent.call))
    agent.answered(**known)
    agent.end()
    write_parquet(Store(store), [agent.run.run_id], tmp_path / "out")
    [row] = pq.read_table(tmp_path / "out" / "decodes.parquet").to_pylist()
    split = {"queue_ns": 250_000_000, "prefill_ns": 500_000_000, "decode_ns": 2_000_000_000, **known}
    assert {name: row[name] for name in split} == split
    assert row["token_time_source"] == "request"


def test_what_the_answer_itself_said_counts_more(store: Path, agent: Agent) -> None:
    agent.answered(queue_ns=0, prefill_ns=5)
    collect(store, llm_request(agent.call))
    agent.end()
    assert split(Store(store).load(agent.run.run_id)) == (0, 5, 2_000_000_000)


def test_of_several_attempts_the_one_that_ended_last_counts_and_a_batch_sent_twice_is_one(
    store: Path, agent: Agent
) -> None:
    agent.answered()
    spans = [llm_request(agent.call, n, queue_s=n / 8) for n in (1, 3, 2)]
    opened = Store(store)
    for sent in (spans, spans[:1], spans):
        collect(store, *sent)
        opened.drain()
    agent.end()
    run = opened.load(agent.run.run_id)
    assert split(run)[0] == 375_000_000


@pytest.mark.parametrize("remote", [True, False], ids=["remote", "silent"])
@pytest.mark.parametrize("order", list(permutations(["start", "gateway", "end"])), ids="-".join)
def test_a_gateway_s_spans_never_make_a_second_run_of_ours(
    store: Path, tmp_path: Path, order: tuple[str, ...], remote: bool
) -> None:
    """The drain reads journal by journal: it may see what our call caused before it sees the call."""
    elsewhere = tmp_path / "elsewhere"
    agent = Agent(elsewhere)
    start = (elsewhere / "spool").glob("*.journal").__next__()
    begun = start.read_bytes()
    agent.answered(output=[{"role": "assistant", "content": "hi"}])
    agent.end()
    whole = start.read_bytes()
    alone = Store(elsewhere).load(agent.run.run_id)

    opened = Store(store)
    journal = store / "spool" / start.name
    for what in order:
        opened.drain()
        match what:
            case "start":
                if not journal.exists():
                    journal.write_bytes(begun)
            case "gateway":
                collect(store, gateway(agent.call, remote=remote))
            case "end":
                journal.write_bytes(whole)
    opened.drain()
    [run] = opened.runs()
    assert asdict(run) == asdict(alone.run)
    loaded = opened.load(agent.run.run_id)
    assert [asdict(span) for span in loaded.spans] == [asdict(span) for span in alone.spans]
    assert sorted(map(repr, loaded.edges)) == sorted(map(repr, alone.edges))
    assert loaded.decodes == alone.decodes


def test_what_an_exported_run_had_lost_is_counted_once_however_often_it_is_sent(store: Path, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "elsewhere")
    agent.answered()
    agent.end()
    sent = otlp_spans(Store(tmp_path / "elsewhere").load(agent.run.run_id))
    opened = Store(store)
    for lost in (3, 5, 5, 4):
        for span in sent:
            span.resource = {**span.resource, c.LOST: lost}
        write_down(store, requests(sent))  # each time a sender, or a collector, that knows nothing of the one before
        opened.drain()
    [run] = opened.runs()
    assert run.lost == 5


@pytest.mark.parametrize("lost", [True, "many", -1, 2**63 - 1, 0.5, None])
def test_a_loss_that_nobody_can_have_had_does_not_keep_a_store_from_being_read(store: Path, lost: Any) -> None:
    spans = [gateway_of(n, lost) for n in (1, 2)]
    write_down(store, requests(spans))
    assert [run.lost for run in Store(store).runs()] == [0, 0]


def gateway_of(run: int, lost: Any) -> OtlpSpan:
    return OtlpSpan(
        run=f"{run:032x}", span="b" * 16, name="x", start_ns=10, end_ns=20, scope="s", resource={c.LOST: lost}
    )


def test_a_run_of_others_is_as_whole_after_a_second_reading(store: Path) -> None:
    """Deriving again replaces what was derived, rows of every table."""
    run = OtlpSpan(run="c" * 32, span="1" * 16, name="agent", start_ns=10, end_ns=100, scope="s", attributes={
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper",
    })  # fmt: skip
    calls = [
        replace(run, span=f"{n:016x}", parent=run.span, name="chat m", start_ns=10 + n, end_ns=20 + n, attributes={
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.output_tokens": n,
        })
        for n in (2, 3)
    ]  # fmt: skip
    opened = Store(store)
    collect(store, calls[0])
    assert [r.status for r in opened.runs()] == ["open"]
    collect(store, run, *calls)
    first = opened.load(run.run)
    collect(store, *calls)
    again = opened.load(run.run)
    assert (first.run.status, len(first.decodes), first.run.tokens) == ("ok", 2, 5)
    assert asdict(again) == asdict(first)
    assert len(first.edges) == len(set(first.edges)) > 2
