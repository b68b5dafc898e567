"""Spans of any trace become one run: the same in any order, whatever is missing, doubled or absurd."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.replay.analysis.model import RunAnalysis
from redecode.replay.analysis.runs import analyze_recorded
from redecode.tracer import Edge, EdgeKind, Provenance, RecordedRun, Run, Span, SpanKind, Store
from redecode.tracer.events import SpanEvent
from redecode.tracer.foreign import MISSING_PARENT, OtlpSpan, derive
from redecode.tracer.spool import JournalWriter

RUN = "ab" * 16


def span(n: int, parent: int | None = None, start: int = 0, end: int | None = 100, **fields: Any) -> OtlpSpan:
    return OtlpSpan(
        run=RUN,
        span=f"{n:016x}",
        parent=None if parent is None else f"{parent:016x}",
        start_ns=1000 + start,
        end_ns=None if end is None else 1000 + end,
        **{"name": f"s{n}", "scope": "test", "flags": 0x100, **fields},
    )


def chain(n: int, node: str, step: int, parent: int, start: int, end: int, **more: Any) -> OtlpSpan:
    """A LangGraph node as OpenInference sends it."""
    metadata = {
        "langgraph_node": node,
        "langgraph_step": step,
        "langgraph_path": ["__pregel_pull", node],
        "langgraph_triggers": [f"branch:to:{node}"],
        "langgraph_checkpoint_ns": f"{node}:{n}",
        **more,
    }
    attributes = {"openinference.span.kind": "CHAIN", "metadata": repr(metadata).replace("'", '"')}
    return span(n, parent, start, end, name=node, attributes=attributes)


def llm(n: int, parent: int | None, start: int, end: int, **attributes: Any) -> OtlpSpan:
    given = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", **attributes}
    return span(n, parent, start, end, name="chat m", kind=3, attributes=given)


def agent(n: int, parent: int | None = None, start: int = 0, end: int = 100, **fields: Any) -> OtlpSpan:
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"}
    return span(n, parent, start, end, name="invoke_agent helper", attributes=attributes, **fields)


def keys(events: list[SpanEvent]) -> dict[str, str]:
    """Step key by the number of its span."""
    return {event.span.lstrip("0"): event.step_key for event in events}


def edges(events: list[SpanEvent]) -> set[tuple[str, str, str, str]]:
    short = {event.span: event.step_key.rsplit("/", 1)[-1] for event in events}
    return {(short[src], short[e.span], kind, how) for e in events for src, kind, how in e.edges}


def recorded(events: list[SpanEvent]) -> RecordedRun:
    """The run as a store gives it."""
    spans = [
        Span(
            run_id=e.run, span_id=e.span, parent_span_id=e.parent, kind=SpanKind(e.kind), name=e.name,
            step_key=e.step_key, start_ns=e.start_ns, end_ns=e.end_ns, status=e.status,
        )
        for e in events
    ]  # fmt: skip
    found = [Edge(src, e.span, EdgeKind(kind), Provenance(how)) for e in events for src, kind, how in e.edges]
    run = Run(
        run_id=RUN, agent="a", status="ok", started_ns=0, ended_ns=None, fidelity=None, decodes=0, tools=0, tokens=0,
        prompt_tokens=0,
    )  # fmt: skip
    return RecordedRun(run, spans, found, [], [])


def analyzed(events: list[SpanEvent]) -> RunAnalysis:
    """Where its time went: all of it is somewhere."""
    out = analyze_recorded(recorded(events))
    assert out.split.total_ns == out.makespan_ns
    return out


# -- what is missing, doubled or at odds --


def test_no_spans_are_no_run() -> None:
    assert derive([]) == []


def test_spans_of_two_traces_are_refused() -> None:
    other = span(2)
    other.run = "cd" * 16
    with pytest.raises(ValueError, match="several traces"):
        derive([span(1), other])


def test_while_the_root_has_not_come_the_run_is_open_and_keeps_its_id_when_it_comes() -> None:
    child, grandchild = agent(2, parent=1, start=10, end=50), llm(3, 2, 20, 40)
    early = derive([grandchild, child])
    assert [(e.kind, e.parent, e.end_ns, e.status) for e in early[:1]] == [("run", None, None, "open")]
    assert early[0].start_ns == 1010 and early[0].attributes["gen_ai.agent.name"] == "helper"
    assert early[1].attributes[MISSING_PARENT] == early[0].span == f"{1:016x}"
    assert early[1].edges == [(early[0].span, "call", "time"), (f"{3:016x}", "return", "time")]

    late = derive([span(1, name="main"), grandchild, child])
    assert [(e.kind, e.span, e.status) for e in late[:1]] == [("run", early[0].span, "ok")]
    assert MISSING_PARENT not in late[1].attributes
    assert late[1].edges[0] == (late[0].span, "call", "recorded")
    assert keys(late)["3"] == "run/graph:helper/chat"


def test_a_parent_that_never_comes_leaves_its_children_below_the_run() -> None:
    events = derive([agent(1), llm(3, 77, 10, 20)])
    assert [(e.step_key, e.parent) for e in events] == [("run", None), ("run/chat", f"{1:016x}")]
    assert events[1].attributes[MISSING_PARENT] == f"{77:016x}"
    assert ("run", "chat", "call", "time") in edges(events)


@pytest.mark.parametrize("how", [{"flags": 0x301}, {"kind": 2}, {"kind": 5}])
def test_a_root_whose_parent_is_in_another_process_is_the_run(how: dict[str, Any]) -> None:
    events = derive([agent(1, parent=99, **how), llm(2, 1, 10, 20)])
    assert [(e.kind, e.parent, e.status) for e in events] == [("run", None, "ok"), ("decode", f"{1:016x}", "ok")]
    assert MISSING_PARENT not in events[0].attributes


def test_two_roots_are_two_graphs_of_one_run_that_spans_both() -> None:
    events = derive([agent(1, start=0, end=40), agent(2, start=50, end=90, status="error", error="late")])
    run, one, two = events
    assert (run.kind, run.start_ns, run.end_ns, run.status, run.error) == ("run", 1000, 1090, "error", "late")
    assert [(e.kind, e.step_key, e.parent) for e in (one, two)] == [
        ("graph", "run/graph:helper", run.span),
        ("graph", "run/graph:helper#1", run.span),
    ]
    assert (one.span, "return", "time") in two.edges and (two.span, "return", "time") in run.edges


def test_a_call_outside_any_agent_gets_a_run_of_its_own() -> None:
    run, decode = derive([llm(1, None, 10, 30)])
    assert (run.kind, run.name, run.start_ns, run.end_ns) == ("run", "invoke_agent m", 1010, 1030)
    assert (decode.kind, decode.step_key, decode.parent) == ("decode", "run/chat", run.span)


def test_times_are_never_moved_however_the_clocks_differ() -> None:
    events = derive([agent(1, start=100, end=200), llm(2, 1, 0, 50), llm(3, 1, 250, 400)])
    assert [(e.start_ns, e.end_ns) for e in events] == [(1100, 1200), (1000, 1050), (1250, 1400)]
    found = analyzed(events)
    assert found.makespan_ns == 100
    assert found.edges_by_time > 0
    assert any("before" in words for words in found.warnings)


def test_the_other_side_of_a_call_returns_even_if_its_clock_is_ahead() -> None:
    events = derive([agent(1), span(2, 1, 10, 50, kind=3), span(3, 2, 1000, 1020, kind=2)])
    assert ("span:s3", "span:s2", "return", "time") in edges(events)


def test_parents_that_go_in_circles_are_cut_once() -> None:
    events = derive([span(1, 2, 5), span(2, 1, 3), span(3, 3, 8), agent(4)])
    assert [e.kind for e in events].count("run") == 1
    assert {e.span for e in events} == {f"{n:016x}" for n in (1, 2, 3, 4)}
    analyzed(events)


def test_of_one_span_sent_twice_the_later_knowledge_counts() -> None:
    early = span(1, start=0, end=None, name="x")
    whole = span(1, start=0, end=90, name="x", attributes={"a": 1})
    for order in ([early, whole], [whole, early, early]):
        [event] = derive(order)
        assert (event.end_ns, event.status, event.attributes["a"]) == (1090, "ok", 1)


def test_very_deep_and_very_wide_traces_are_read() -> None:
    deep = [span(n, n - 1 if n > 1 else None, n, 20_000 - n) for n in range(1, 5001)]
    events = derive(deep)
    assert len(events) == 5000 and max(len(e.step_key) for e in events) < 2300
    # 3,000 side by side, then 3,000 more: all pairs would be nine million edges
    wide = [agent(1, end=1000), *(span(n, 1, 1, 500) for n in range(2, 3002))]
    wide += [span(n, 1, 600, 700) for n in range(3002, 6002)]
    events = derive(wide)
    assert len(events) == 6001 and sum(len(e.edges) for e in events) < 300_000


# -- what LangGraph's metadata give --


def test_supersteps_give_barriers_and_what_only_one_task_can_have_written() -> None:
    spans = [
        agent(1),
        chain(2, "plan", 1, 1, 5, 10),
        chain(3, "a", 2, 1, 12, 20),
        chain(4, "b", 2, 1, 12, 30),
        chain(5, "end", 3, 1, 31, 40, langgraph_triggers=["join:a+plan:end"]),
    ]
    events = derive(spans)
    assert list(keys(events).values()) == [
        "run",
        "run/plan@1[pull:plan]",
        "run/a@2[pull:a]",
        "run/b@2[pull:b]",
        "run/end@3[pull:end]",
    ]
    plan, a, b, end = "plan@1[pull:plan]", "a@2[pull:a]", "b@2[pull:b]", "end@3[pull:end]"
    assert edges(events) == {
        ("run", plan, "call", "recorded"),
        (plan, a, "data", "superstep"),
        (plan, a, "barrier", "superstep"),
        (plan, b, "data", "superstep"),
        (plan, b, "barrier", "superstep"),
        (a, end, "data", "superstep"),
        (plan, end, "data", "superstep"),
        (a, end, "barrier", "superstep"),
        (b, end, "barrier", "superstep"),
        (end, "run", "return", "superstep"),
    }


def test_who_of_several_wrote_a_trigger_is_not_made_up() -> None:
    spans = [agent(1), chain(2, "a", 1, 1, 0, 10), chain(3, "b", 1, 1, 0, 10), chain(4, "c", 2, 1, 20, 30)]
    assert not [e for e in edges(derive(spans)) if e[2] == "data"]
    gap = [agent(1), chain(2, "a", 1, 1, 0, 10), chain(4, "c", 3, 1, 20, 30)]  # superstep 2 has not come
    assert not [e for e in edges(derive(gap)) if e[2] == "data"]


def test_a_second_attempt_at_a_task_is_a_retry() -> None:
    spans = [
        agent(1),
        chain(2, "a", 1, 1, 0, 10, langgraph_checkpoint_ns="a:x"),
        chain(3, "a", 1, 1, 20, 30, langgraph_checkpoint_ns="a:x"),
        chain(4, "b", 2, 1, 40, 50),
    ]
    found = edges(derive(spans))
    assert ("a@1[pull:a]", "a@1[pull:a]#1", "retry", "superstep") in found
    assert ("a@1[pull:a]#1", "b@2[pull:b]", "barrier", "superstep") in found
    assert ("a@1[pull:a]", "b@2[pull:b]", "barrier", "superstep") not in found


def test_calls_in_one_body_are_ordered_by_time_and_say_so() -> None:
    spans = [agent(1), llm(2, 1, 0, 10), llm(3, 1, 20, 40), llm(4, 1, 20, 30), llm(5, 1, 50, 60)]
    assert edges(derive(spans)) == {
        ("run", "chat", "call", "recorded"),
        ("chat", "chat#1", "return", "time"),
        ("chat", "chat#2", "return", "time"),
        ("chat#1", "chat#3", "join", "time"),
        ("chat#2", "chat#3", "join", "time"),
        ("chat#3", "run", "return", "time"),
    }


# -- one call told twice --


def test_the_client_library_s_account_of_an_fm_call_fills_the_framework_s() -> None:
    inner = llm(4, 3, 12, 18, **{"gen_ai.request.seed": 5, "gen_ai.openai.api_base": "http://e/v1"})
    failed = llm(5, 3, 11, 12, **{"gen_ai.request.seed": 4})
    events = derive([agent(1), llm(2, 1, 10, 20), span(3, 2, 11, 19, name="POST", kind=3), inner, failed])
    assert [(e.kind, e.step_key) for e in events] == [
        ("run", "run"),
        ("decode", "run/chat"),
        ("node", "run/chat/span:POST"),
    ]
    decode = events[1].attributes
    assert decode["gen_ai.request.seed"] == 5 and decode["redecode.fidelity"] == "seeded"
    assert decode["redecode.base_url"] == "http://e/v1" and decode["redecode.retries"] == 1


def test_the_engine_s_account_of_an_fm_call_gives_it_the_engine_s_times() -> None:
    latency = {"time_in_queue": 0.25, "time_in_model_prefill": 0.5, "time_in_model_decode": float("nan")}
    attributes = {f"gen_ai.latency.{name}": value for name, value in latency.items()}
    engine = span(3, 2, 12, 18, kind=2, flags=0x301, name="llm_request", scope="vllm.tracing.otel")
    engine.attributes = {**attributes, "gen_ai.usage.prompt_tokens": 7}
    [run, decode] = derive([engine, agent(1), llm(2, 1, 10, 20)])
    assert decode.attributes["redecode.engine.queue_ns"] == 250_000_000
    assert decode.attributes["redecode.engine.prefill_ns"] == 500_000_000
    assert "redecode.engine.decode_ns" not in decode.attributes
    assert decode.attributes["gen_ai.usage.input_tokens"] == 7
    assert run.attributes["gen_ai.agent.name"] == "helper"

    loading = span(9, None, 0, 5, name="Overall Loading", resource={"vllm.instrumenting_module_name": "vllm.llm"})
    assert derive([engine]) == [] and derive([loading, engine]) == []


# -- any trace at all --

_NAMES = ["chat", "invoke_agent", "execute_tool", "retrieval", "execute_task", "zz"]
_KEYS = [
    "gen_ai.operation.name", "gen_ai.request.model", "gen_ai.request.seed", "gen_ai.request.temperature",
    "gen_ai.request.stream", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.input.messages",
    "gen_ai.output.messages", "gen_ai.tool.definitions", "gen_ai.system_instructions", "gen_ai.conversation.id",
    "gen_ai.response.time_to_first_chunk", "gen_ai.response.finish_reasons", "gen_ai.response.id",
    "gen_ai.tool.name", "gen_ai.tool.call.id", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result",
    "gen_ai.agent.name", "gen_ai.agent.version", "gen_ai.retrieval.documents", "gen_ai.prompt.0.content",
    "gen_ai.prompt.0", "gen_ai.completion.0.tool_calls.0.name", "gen_ai.latency.time_in_queue",
    "gen_ai.latency.time_in_model_prefill", "gen_ai.openai.api_base", "openai.response.system_fingerprint",
    "openinference.span.kind", "metadata", "session.id", "input.value", "output.value", "output.mime_type",
    "llm.invocation_parameters", "llm.input_messages.0.message.content", "llm.output_messages.0.message",
    "llm.output_messages.0.message.tool_calls.0.tool_call.id", "llm.tools.0.tool", "llm.token_count.prompt",
    "retrieval.documents.0.document", "tool.parameters", "traceloop.span.kind", "traceloop.entity.name",
    "traceloop.entity.input", "traceloop.entity.output", "traceloop.workflow.name",
    "traceloop.association.properties.langgraph_node", "traceloop.association.properties.langgraph_step",
    "traceloop.association.properties.langgraph_path", "error.type", "redecode.kind", "redecode.step_key",
    "redecode.edges", "redecode.sampled_ids", "redecode.sent_ns", "redecode.fidelity", "redecode.open",
    "redecode.run.slo_s", "redecode.run.labels",
]  # fmt: skip
_JSON = [
    '{"langgraph_node": "s1", "langgraph_step": 1, "langgraph_path": ["__pregel_pull", "s1"]}',
    '{"langgraph_node": "s2", "langgraph_step": 2, "langgraph_triggers": ["join:s1:s2"]}',
    '[{"role": "user", "parts": [{"type": "text", "content": "x"}, {"type": "tool_call"}, 3]}]',
    '{"generations": [[{"message": {"response_metadata": {"logprobs": {"content": [{"logprob": -1e99}]}}}}]]}',
    '{"inputs": {}, "metadata": {"langgraph_node": "s3", "langgraph_step": 0}}',
    '[["x", "call", "recorded"]]', "[[]]", "null", "7", "AAAA", "AAA=", "text", "run", "decode", "CHAIN", "LLM", "TOOL",
    "RETRIEVER", "application/json", "workflow", "__REDACTED__", "s1", "s2", "(" * 50, "('a', " * 90, "",
]  # fmt: skip


def value(rng: random.Random) -> Any:
    return rng.choice(
        [
            rng.choice(_NAMES),
            rng.choice(_JSON),
            rng.choice(_JSON),
            rng.choice([0, 1, 7, -1, 2**63 - 1, -(2**63)]),
            rng.choice([0.5, -1.0, 1e300, 9.1e9, "NaN"]),
            rng.choice([True, False, None]),
            rng.choices(["stop", 1, True, None, {"base64": "AA=="}], k=rng.randrange(3)),
            {"langgraph_node": rng.randrange(3), "a": "b"},
        ]
    )


def some(rng: random.Random, names: list[str], most: int) -> dict[str, Any]:
    return {name: value(rng) for name in rng.sample(names, rng.randrange(most))}


def trace(rng: random.Random) -> list[OtlpSpan]:
    """Any spans at all: parents missing or in circles, times crossing, attributes of every wrong type."""
    count = rng.randrange(1, 13)
    langchain = ["opentelemetry.instrumentation.langchain", "openinference.instrumentation.langchain"]
    return [
        span(
            n,
            rng.choice([None, *range(1, count + 3)]),
            start := rng.randrange(30),
            rng.choice([None, *[start + rng.randrange(20)] * 5]),
            name=rng.choice(["s1", "s2", "chain", "a/b", "a#1", "XOutputParser"]),
            kind=rng.randrange(7),
            status=rng.choice(["ok", "error", "unset"]),
            flags=rng.choice([0, 0x100, 0x300]),
            scope=rng.choice([*langchain, "x"]),
            attributes=some(rng, _KEYS, 9),
            events=[
                (
                    rng.choice(["exception", "gen_ai.choice", "gen_ai.user.message", "First Token Stream Event"]),
                    rng.choice([0, 1020, 2**63 - 1]),
                    some(rng, ["exception.type", "exception.message", "message", "content", "finish_reason"], 4),
                )
                for _ in range(rng.randrange(3))
            ],
        )
        for n in range(1, count + 1)
    ]


def check(spans: list[OtlpSpan]) -> list[SpanEvent]:
    """What holds of whatever is derived."""
    events = derive(spans)
    if not events:
        return events
    ids = [e.span for e in events]
    assert len(set(ids)) == len(ids)
    assert [e.kind for e in events].count("run") == 1 and events[0].kind == "run" and events[0].parent is None
    seen: set[str | None] = set()
    for event in events:
        assert event.parent in seen or event is events[0]
        seen.add(event.span)
        assert (event.end_ns is None) == (event.status == "open")
    given = {s.span: s for s in spans}
    assert set(ids[1:]) <= given.keys()
    ours = {s.span for s in spans if "redecode.kind" in s.attributes}
    for event in events:
        if event.span in given and event.span not in ours and Counter(s.span for s in spans)[event.span] == 1:
            assert (event.start_ns, event.end_ns) == (given[event.span].start_ns, given[event.span].end_ns)
        if event.span not in ours:
            assert all(src in seen and src != event.span for src, _, _ in event.edges)
            assert all(kind == "call" or how != "recorded" for _, kind, how in event.edges)
    if not ours:
        assert max(Counter(e.step_key for e in events).values()) == 1
        analyzed(events)  # raises if the edges went in circles
    return events


@settings(deadline=None, max_examples=500)
@given(seed=st.integers(0, 2**64))
def test_any_trace_is_one_tree_whatever_the_order_and_the_doubles(seed: int) -> None:
    rng = random.Random(seed)
    spans = trace(rng)
    events = check(spans)
    again = [*spans, *rng.sample(spans, rng.randrange(len(spans) + 1))]
    rng.shuffle(again)
    assert [asdict(e) for e in derive(again)] == [asdict(e) for e in events]
    for upto in range(1, len(spans)):  # what has come so far is a tree too
        check(again[:upto])


def test_whatever_is_derived_fits_the_store(store: Path) -> None:
    journal = JournalWriter(store / "spool", "collector", lambda: {"t": "test"})
    expected: dict[str, list[SpanEvent]] = {}
    for seed in range(100):
        spans = trace(random.Random(seed))
        for one in spans:
            one.run = f"{seed:032x}"
            journal.append(one.payload())
        if events := check(spans):
            expected[spans[0].run] = events
    journal.close()
    opened = Store(store)
    runs = {run.run_id: run for run in opened.runs(limit=1000)}
    assert runs.keys() == expected.keys()
    assert opened.health().corrupt == []
    assert sum(run.decodes for run in runs.values()) > 20
    for run_id in sorted(expected)[:10]:
        loaded = opened.load(run_id)
        assert {(s.span_id, s.kind, s.step_key, s.status) for s in loaded.spans} == {
            (e.span, e.kind, e.step_key, e.status) for e in expected[run_id]
        }


def test_a_span_of_another_host_says_so_and_times_that_cannot_be_are_reported() -> None:
    home, away = {"host.name": "app"}, {"host.name": "gpu-1"}
    events = derive([agent(1, resource=home), llm(2, 1, 10, 50), span(3, 2, 5, 40, resource=away)])
    assert [e.attributes.get("host.name") for e in events] == [None, None, "gpu-1"]
