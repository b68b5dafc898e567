"""What each instrumentation writes is read in our terms: messages, seed, usage, times, tool calls, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redecode.tracer import conventions as c
from redecode.tracer.events import SpanEvent
from redecode.tracer.foreign import OtlpSpan, derive

_SCOPES = {
    "openinference": "openinference.instrumentation.langchain",
    "openllmetry": "opentelemetry.instrumentation.langchain",
}


def one(attributes: dict[str, Any], scope: str = "x", **fields: Any) -> SpanEvent:
    """What a span below an agent's becomes."""
    root = OtlpSpan(run="1" * 32, span="a" * 16, name="root", start_ns=1000, end_ns=9_000_000_000, scope="app")
    span = OtlpSpan(
        run="1" * 32,
        span="b" * 16,
        parent="a" * 16,
        start_ns=2000,
        end_ns=3_000_000_000,
        scope=_SCOPES.get(scope, scope),
        attributes=attributes,
        **{"name": "op", **fields},
    )
    [_, event] = derive([root, span])
    return event


def decoded(event: SpanEvent) -> dict[str, Any]:
    """A decode's content, parsed."""
    assert event.kind == "decode"
    names = {"input": c.INPUT_MESSAGES, "output": c.OUTPUT_MESSAGES, "tools": c.TOOL_DEFINITIONS, "with": c.SAMPLING}
    return {short: c.from_json(event.attributes.get(name)) for short, name in names.items()}


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_messages_in_parts_become_those_of_the_api() -> None:
    inputs = [
        {"role": "user", "parts": [{"type": "text", "content": "hi"}], "name": None},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "look", "arguments": {"at": "x"}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": {"seen": 1}}]},
        {"role": "user", "parts": [{"type": "text", "content": "a"}, {"type": "uri", "uri": "u"}]},
    ]
    output = {
        "role": "assistant",
        "parts": [{"type": "reasoning", "content": "so"}, {"type": "text", "content": "yes"}],
    }
    event = one(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "p",
            "gen_ai.request.model": "m",
            "gen_ai.request.seed": 7,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.stop_sequences": ["x"],
            "gen_ai.request.choice.count": 2,
            "gen_ai.request.stream": True,
            "gen_ai.response.time_to_first_chunk": 0.25,
            "gen_ai.response.finish_reasons": ["tool_call"],
            "gen_ai.response.id": "r1",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 4,
            "gen_ai.usage.cache_read.input_tokens": 2,
            "openai.response.system_fingerprint": "fp",
            "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "be brief"}]),
            "gen_ai.input.messages": json.dumps(inputs),
            "gen_ai.output.messages": json.dumps([output]),
            "gen_ai.tool.definitions": json.dumps(
                [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
            ),
        }
    )
    assert decoded(event) == {
        "input": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": '{"seen": 1}', "tool_call_id": "c1"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "uri", "uri": "u"}]},
        ],
        "output": [{"role": "assistant", "content": "yes", "reasoning": "so", "finish_reason": "tool_calls"}],
        "tools": [TOOL],
        "with": {"seed": 7, "temperature": 0.5, "stop": ["x"], "n": 2},
    }
    a = event.attributes
    assert (event.name, event.step_key) == ("chat m", "run/chat")
    assert (a[c.REQUEST_SEED], a[c.SEED_SOURCE], a[c.FIDELITY]) == (7, "caller", "seeded")
    assert (a[c.SENT_NS], a[c.FIRST_CHUNK_NS], a[c.DONE_NS]) == (2000, 250_002_000, 3_000_000_000)
    assert (a[c.INPUT_TOKENS], a[c.OUTPUT_TOKENS], a[c.CACHED_TOKENS]) == (3, 4, 2)
    assert (a[c.FINISH_REASONS], a[c.FINGERPRINT], a[c.RESPONSE_ID]) == ("tool_calls", "fp", "r1")
    assert a[c.REQUEST_STREAM] is True


def test_the_numbered_attributes_of_older_openllmetry_are_read() -> None:
    event = one(
        {
            "gen_ai.system": "OpenAI",
            "llm.request.type": "chat",
            "gen_ai.request.model": "m",
            "gen_ai.request.temperature": 0,
            "llm.is_streaming": False,
            "llm.top_k": 3,
            "gen_ai.openai.api_base": "http://here/v1",
            "gen_ai.usage.prompt_tokens": 3,
            "gen_ai.usage.completion_tokens": 4,
            "gen_ai.openai.system_fingerprint": "fp",
            "gen_ai.prompt.0.role": "system",
            "gen_ai.prompt.0.content": "be brief",
            **{f"gen_ai.prompt.{n}.content": str(n) for n in range(1, 12)},  # .10 comes after .9
            "gen_ai.prompt.1.role": "human",
            "gen_ai.prompt.11.role": "tool",
            "gen_ai.prompt.11.tool_call_id": "c0",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.finish_reason": "tool_calls",
            "gen_ai.completion.0.tool_calls.0.id": "c1",
            "gen_ai.completion.0.tool_calls.0.name": "look",
            "gen_ai.completion.0.tool_calls.0.arguments": '{"at": "x"}',
            "llm.request.functions.0.name": "look",
            "llm.request.functions.0.parameters": '{"type": "object"}',
        }
    )
    got = decoded(event)
    assert [m["content"] for m in got["input"]] == ["be brief", *map(str, range(1, 12))]
    assert got["input"][11] == {"role": "tool", "content": "11", "tool_call_id": "c0"}
    assert got["output"] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL], "finish_reason": "tool_calls"}
    ]
    assert got["tools"] == [TOOL] and got["with"] == {"temperature": 0, "top_k": 3}
    assert event.attributes[c.FIDELITY] == "seeded"  # temperature 0 needs no seed
    assert event.attributes[c.BASE_URL] == "http://here/v1" and event.attributes[c.FINGERPRINT] == "fp"
    assert event.attributes[c.REQUEST_STREAM] is False


def test_content_in_span_events_is_read() -> None:
    message = json.dumps({"role": "assistant", "content": "yes"})
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    event = one(
        chat,
        events=[
            ("gen_ai.system.message", 1, {"content": "be brief"}),
            ("gen_ai.user.message", 2, {"content": "hi"}),
            ("gen_ai.tool.message", 2, {"content": "7", "id": "c1"}),
            ("gen_ai.choice", 3, {"index": 0, "finish_reason": "stop", "message": message}),
        ],
    )
    assert decoded(event)["input"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "tool", "content": "7", "tool_call_id": "c1"},
    ]
    assert decoded(event)["output"] == [{"role": "assistant", "content": "yes", "finish_reason": "stop"}]
    assert event.attributes[c.FIDELITY] == "text"

    parts = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "hi"}]}])
    details = ("gen_ai.client.inference.operation.details", 2, {"gen_ai.input.messages": parts})
    assert decoded(one(chat, events=[details]))["input"] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("name", ["First Token Stream Event", "llm.content.completion.chunk"])
def test_the_first_token_is_timed_by_the_event_that_marks_it(name: str) -> None:
    event = one({"openinference.span.kind": "LLM", "llm.model_name": "m"}, events=[(name, 5000, {}), (name, 4000, {})])
    assert event.attributes[c.FIRST_CHUNK_NS] == 4000 and event.attributes[c.REQUEST_STREAM] is True


def test_openinference_gives_what_langchain_s_own_text_has() -> None:
    response = {"system_fingerprint": "fp", "id": "r1", "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -2}]}}
    result = {
        "generations": [
            [{"generation_info": {"finish_reason": "stop"}, "message": {
                "lc": 1, "type": "constructor", "id": ["AIMessage"], "kwargs": {"response_metadata": response}}}]
        ]
    }  # fmt: skip
    event = one(
        {
            "openinference.span.kind": "LLM",
            "llm.model_name": "m",
            "llm.invocation_parameters": '{"model": "m", "_type": "chat", "stream": true, "seed": 3, "stop": null}',
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "hi",
            "llm.input_messages.1.message.role": "assistant",
            "llm.input_messages.1.message.tool_calls.0.tool_call.id": "c1",
            "llm.input_messages.1.message.tool_calls.0.tool_call.function.name": "look",
            "llm.input_messages.1.message.tool_calls.0.tool_call.function.arguments": '{"at": "x"}',
            "llm.input_messages.2.message.role": "tool",
            "llm.input_messages.2.message.content": "7",
            "llm.input_messages.2.message.tool_call_id": "c1",
            "llm.input_messages.3.message.role": "user",
            "llm.input_messages.3.message.contents.0.message_content.type": "text",
            "llm.input_messages.3.message.contents.0.message_content.text": "a",
            "llm.input_messages.3.message.contents.1.message_content.image.image.url": "u",
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "yes",
            "llm.tools.0.tool.json_schema": json.dumps(TOOL),
            "llm.token_count.prompt": 3,
            "llm.token_count.completion": 4,
            "llm.token_count.prompt_details.cache_read": 2,
            "output.value": json.dumps(result),
            "session.id": "thread",
        },
        "openinference",
    )
    image = {"image": {"image": {"url": "u"}}}
    assert decoded(event) == {
        "input": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "7", "tool_call_id": "c1"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, image]},
        ],
        "output": [{"role": "assistant", "content": "yes", "finish_reason": "stop"}],
        "tools": [TOOL],
        "with": {"seed": 3},
    }
    a = event.attributes
    assert (a[c.FINGERPRINT], a[c.RESPONSE_ID], c.unpack(a[c.LOGPROBS], "f")) == ("fp", "r1", [-0.5, -2.0])
    assert (a[c.FINISH_REASONS], a[c.REQUEST_STREAM], a[c.CACHED_TOKENS]) == ("stop", True, 2)


def test_what_openinference_hides_is_unknown_and_not_a_text() -> None:
    event = one(
        {
            "openinference.span.kind": "LLM",
            "llm.model_name": "m",
            "input.value": "__REDACTED__",
            "output.value": "__REDACTED__",
            "llm.invocation_parameters": "__REDACTED__",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "__REDACTED__",
        }
    )
    assert decoded(event)["input"] == [{"role": "user", "content": None}]
    assert "REDACTED" not in str(event)


def test_a_tool_message_is_the_tool_s_result_with_its_call_id_and_its_failure() -> None:
    tool = {"openinference.span.kind": "TOOL", "tool.name": "look", "input.mime_type": "application/json"}
    message = {"type": "tool", "data": {"type": "tool", "content": "no", "tool_call_id": "c1", "status": "error"}}
    failed = one(
        {**tool, "input.value": '{"a": 1}', "output.value": json.dumps(message), "output.mime_type": "application/json"}
    )
    assert (failed.kind, failed.step_key, failed.status, failed.error) == ("tool", "run/tool:look", "error", "no")
    assert failed.attributes[c.TOOL_CALL_ID] == "c1"
    assert (failed.attributes[c.TOOL_ARGUMENTS], failed.attributes[c.TOOL_RESULT]) == ('{"a":1}', '"no"')

    plain = one({**tool, "output.value": "5"})  # no type said: a text
    assert plain.attributes[c.TOOL_RESULT] == '"5"' and plain.status == "ok"

    entity = {
        "input_str": "{}",
        "inputs": {"a": 1},
        "kwargs": {"tool_call_id": "c1"},
        "metadata": {"langgraph_node": "tools", "langgraph_step": 2},
    }
    openllmetry = one(
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "look",
            "traceloop.span.kind": "tool",
            "gen_ai.tool.call.arguments": json.dumps(entity),
            "gen_ai.tool.call.result": json.dumps({"output": "5", "kwargs": {}}),
        },
        "openllmetry",
    )
    assert openllmetry.attributes[c.TOOL_CALL_ID] == "c1"
    assert openllmetry.attributes[c.TOOL_ARGUMENTS] == '{"a":1}'
    assert openllmetry.attributes[c.TOOL_RESULT] == '"5"'

    genai = one({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look", "gen_ai.tool.call.result": "5"})
    assert genai.attributes[c.TOOL_RESULT] == '"5"'


def test_a_tool_is_keyed_by_its_place_among_the_calls_asked_for() -> None:
    calls = [{"type": "tool_call", "id": f"c{n}", "name": "look", "arguments": {"at": n}} for n in range(2)]
    messages = json.dumps([{"role": "assistant", "parts": calls}])
    root = OtlpSpan(run="1" * 32, span="a" * 16, name="root", start_ns=1, end_ns=99)

    def below(n: int, start: int, **attributes: Any) -> OtlpSpan:
        given = {k.replace("__", "."): v for k, v in attributes.items()}
        return OtlpSpan(
            run=root.run, span=f"{n:016x}", parent=root.span, start_ns=start, end_ns=start + 5, attributes=given
        )

    chat = below(1, 2, gen_ai__operation__name="chat", gen_ai__output__messages=messages)
    first_called = below(2, 10, openinference__span__kind="TOOL", tool__name="look", tool_call__id="c1")
    then = below(3, 20, openinference__span__kind="TOOL", tool__name="look", tool_call__id="c0")
    then.attributes["input.value"] = "0"  # OpenInference: the one argument's value, its name lost
    again = below(4, 30, openinference__span__kind="TOOL", tool__name="look", tool_call__id="c0")
    events = derive([again, then, first_called, chat, root])
    assert [e.step_key for e in events if e.kind == "tool"] == [
        "run/tool:1:look",
        "run/tool:0:look",
        "run/tool:look",  # a second attempt at a call, as in a run we record
    ]
    assert [e.attributes[c.TOOL_ARGUMENTS] for e in events if e.kind == "tool"] == ['{"at":1}', '{"at":0}', '{"at":0}']


def test_retrievals_have_their_query_and_documents() -> None:
    openinference = one(
        {
            "openinference.span.kind": "RETRIEVER",
            "input.value": "what",
            "retrieval.documents.0.document.content": "one",
            "retrieval.documents.1.document.content": "two",
        },
        name="R",
    )
    assert (openinference.kind, openinference.step_key) == ("retrieval", "run/retrieval:R")
    assert openinference.attributes[c.TOOL_ARGUMENTS] == '"what"'
    assert openinference.attributes[c.TOOL_RESULT] == '[{"content":"one"},{"content":"two"}]'
    openllmetry = one(
        {
            "gen_ai.operation.name": "vector_db_retrieve",
            "traceloop.entity.name": "R",
            "traceloop.entity.input": '{"query": "what", "kwargs": {}}',
            "traceloop.entity.output": '{"documents": [{"page_content": "one"}], "count": 1}',
        },
        "openllmetry",
    )
    assert openllmetry.step_key == "run/retrieval:R"
    assert openllmetry.attributes[c.TOOL_RESULT] == '[{"page_content":"one"}]'


def test_an_error_is_told_as_the_recorder_tells_it() -> None:
    raised = {"exception.type": "some.module.NotFound", "exception.message": "no such", "exception.stacktrace": "…"}
    event = one({}, status="error", error="NotFound('no such')Traceback (…", events=[("exception", 3, raised)])
    assert (event.status, event.error) == ("error", "NotFound: no such")
    assert event.attributes[c.ERROR_TYPE] == "NotFound"
    assert event.attributes[c.ERROR_CLASS] == "some.module:NotFound"
    assert one({"error.type": "ValueError"}, status="error", error="bad").error == "ValueError: bad"
    text = "ValueError('bad')Traceback (most recent call last):\n  File"
    assert one({}, status="error", error=text).error == "ValueError('bad')"
    assert one({}, status="error").error == "error"


def test_leaving_a_node_by_an_interrupt_is_no_error() -> None:
    raised = {"exception.type": "langgraph.errors.GraphInterrupt", "exception.message": "()"}
    event = one({}, status="error", error="…", events=[("exception", 3, raised)])
    assert (event.status, event.error, event.attributes["redecode.left_by"]) == ("ok", None, "GraphInterrupt")


def test_a_task_is_known_from_the_texts_that_openllmetry_makes_of_its_path() -> None:
    properties = {
        "langgraph_node": "ask",
        "langgraph_step": 2,
        "langgraph_path": ["__pregel_push", "3", "False"],
        "langgraph_triggers": ["__pregel_push"],
        "langgraph_checkpoint_ns": "ask:1",
    }
    attributes = {f"traceloop.association.properties.{k}": v for k, v in properties.items()}
    attributes |= {"traceloop.span.kind": "task", "traceloop.entity.name": "ask"}
    event = one(attributes, "openllmetry", name="execute_task ask")
    assert (event.kind, event.step_key, event.name) == ("node", "run/ask@2[push:3]", "ask")


def test_other_spans_stay_in_the_tree_with_their_attributes() -> None:
    event = one({"http.request.method": "GET"}, "opentelemetry.instrumentation.httpx", name="GET /v1/x", kind=3)
    assert (event.kind, event.step_key) == ("node", "run/span:GET |v1|x")
    assert event.attributes["http.request.method"] == "GET"
    assert event.attributes["otel.scope"] == "opentelemetry.instrumentation.httpx"


def test_the_run_is_named_after_its_agent_also_below_a_server_s_span() -> None:
    server = OtlpSpan(
        run="1" * 32, span="a" * 16, name="POST /ask", kind=2, start_ns=1, end_ns=99,
        attributes={"http.route": "/ask"}, resource={"service.name": "shop", "service.version": "3"},
    )  # fmt: skip
    agent = OtlpSpan(
        run="1" * 32, span="b" * 16, parent="a" * 16, start_ns=2, end_ns=90, name="guide",
        scope=_SCOPES["openinference"],
        attributes={
            "openinference.span.kind": "AGENT", "metadata": "{}", "session.id": "t1", "output.value": "done",
            "input.value": '{"q": 1}', "input.mime_type": "application/json",
        },
    )  # fmt: skip
    node = OtlpSpan(
        run="1" * 32, span="c" * 16, parent="b" * 16, start_ns=3, end_ns=80, name="n", scope=_SCOPES["openinference"],
        attributes={"openinference.span.kind": "CHAIN", "metadata": '{"langgraph_node": "n", "langgraph_step": 1}'},
    )  # fmt: skip
    run, graph, task = derive([node, server, agent])
    assert (run.kind, run.name, run.attributes["http.route"]) == ("run", "POST /ask", "/ask")
    assert run.attributes[c.AGENT_NAME] == "guide" and run.attributes[c.AGENT_VERSION] == "3"
    assert run.attributes[c.RUN_INPUT] == '{"q":1}' and run.attributes[c.RUN_OUTPUT] == '"done"'
    assert run.attributes[c.CONVERSATION] == "t1"
    assert c.from_json(run.attributes[c.LABELS]) == {
        "traced_by": "openinference.instrumentation.langchain",
        "service": "shop",
    }
    assert (graph.kind, graph.step_key) == ("graph", "run/graph:guide")
    assert (task.kind, task.step_key) == ("node", "run/graph:guide/n@1[]")
