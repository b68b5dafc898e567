"""OTLP out and in again: every run is the same run afterwards, in protobuf and in JSON."""

from __future__ import annotations

import base64
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from redecode.tracer import EdgeKind, RecordedRun, SpanKind, Store
from redecode.tracer import conventions as c
from redecode.tracer.export import otlp
from redecode.tracer.export.importing import write_down
from redecode.tracer.export.spans import span_events
from redecode.tracer.foreign.otlp import OtlpSpan, read_request
from redecode.tracer.foreign.own import read_own
from tests.tracer.export.recorded_runs import Builder, keep, plain, runs, texts


def same(run: RecordedRun) -> RecordedRun:
    """In an order that does not depend on how it was stored."""
    return replace(
        run,
        edges=sorted(run.edges, key=str),
        decodes=sorted(run.decodes, key=lambda decode: decode.span_id),
        tools=sorted(run.tools, key=lambda tool: tool.span_id),
    )


@settings(max_examples=60, deadline=None)
@given(run=runs(), as_json=st.booleans())
def test_every_span_comes_back_from_the_wire(run: RecordedRun, as_json: bool) -> None:
    request = otlp.request(otlp.otlp_spans(run))
    if as_json:
        request = otlp.from_json(json.loads(json.dumps(otlp.to_json(request))))
    else:
        request = ExportTraceServiceRequest.FromString(request.SerializeToString())
    spans, rejected = read_request(request)
    assert rejected == []
    assert {s.span: asdict(e) if (e := read_own(s)) else None for s in spans} == {
        e.span: asdict(e) for e in span_events(run)
    }
    assert {s.resource["service.name"] for s in spans} == {run.run.agent}
    assert {s.scope for s in spans} == {"redecode"}


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.generate],  # shrinking would take minutes of databases
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(some=st.lists(runs(), min_size=1, max_size=5, unique_by=lambda run: run.run.run_id))
def test_a_store_gets_the_same_runs_back(some: list[RecordedRun], tmp_path: Path) -> None:
    """Recorded into one store, exported, and imported into another: equal, field by field."""
    one, two = (Path(tempfile.mkdtemp(dir=tmp_path)) for _ in range(2))
    keep(one, some)
    loaded = [Store(one).load(run.run.run_id) for run in some]
    assert [same(run) for run in loaded] == [same(_as_stored(run)) for run in some]

    spans = [span for run in loaded for span in otlp.otlp_spans(run)]
    done = write_down(two, otlp.requests(spans, max_bytes=2000))
    assert (done.runs, done.present, done.rejected) == ([run.run.run_id for run in some], [], [])
    assert [same(Store(two).load(run.run.run_id)) for run in some] == [same(run) for run in loaded]


def _as_stored(run: RecordedRun) -> RecordedRun:
    """What the store makes of a run that is open: it names what it knows of the run on the span."""
    spans = [
        replace(
            s,
            attributes={
                **s.attributes, c.AGENT_NAME: run.run.agent, c.SOURCE_RUN: None, c.REPLAY_MODE: None, c.RUN_INPUT: None,
            },
        )
        if s.kind is SpanKind.RUN and s.end_ns is None
        else s
        for s in run.spans
    ]  # fmt: skip
    return replace(run, spans=spans)


def foreign_span(values: dict[str, Any]) -> OtlpSpan:
    return OtlpSpan(
        run="ab" * 16, span="cd" * 8, parent="ef" * 8, name="s", kind=5, start_ns=5, end_ns=9, status="error",
        error="no", scope="theirs", scope_version="1", resource={"service.name": "x", "n": [1, {"y": None}]},
        attributes=values, events=[("e", 7, values)], links=[("12" * 16, "34" * 8, values)], trace_state="a=b",
        flags=0x301,
    )  # fmt: skip


@given(values=st.dictionaries(texts, plain, max_size=4))
def test_a_foreign_span_is_given_back_word_for_word(values: dict[str, Any]) -> None:
    span = foreign_span({**values, "raw": {"base64": base64.b64encode(b"\0\xff").decode()}})
    message = otlp.request([span])
    sent = message.resource_spans[0].scope_spans[0].spans[0].attributes
    assert next(a for a in sent if a.key == "raw").value.bytes_value == b"\0\xff"
    assert read_request(message) == ([span], [])


@pytest.mark.parametrize("value", ["not base64!", "QQ", 7])
def test_what_only_looks_like_bytes_stays_what_it_is(value: object) -> None:
    span = foreign_span({"looks": {"base64": value}})
    assert read_request(otlp.request([span]))[0][0].attributes == {"looks": {"base64": value}}


def test_text_that_utf8_cannot_hold_does_not_stop_an_export() -> None:
    span = foreign_span({"broken": "\ud800", "huge": 2**70})
    assert read_request(otlp.request([span]))[0][0].attributes == {"broken": "?", "huge": str(2**70)}


def example() -> RecordedRun:
    run = Builder()
    root = run.span(SpanKind.RUN, "invoke_agent agent", 0, 100)
    call = run.decode("chat m", 1, 50, root, [1, 2, 3])
    run.span(SpanKind.TOOL, "hung", 51, None, root)
    run.edge(root, call, EdgeKind.CALL)
    return run.build()


def test_json_is_as_the_specification_has_it() -> None:
    document = otlp.to_json(otlp.request(otlp.otlp_spans(example(), {"e1": {"device": "cpu"}})))
    group = document["resourceSpans"][0]
    resource = {a["key"]: a["value"]["stringValue"] for a in group["resource"]["attributes"]}
    assert resource == {"service.name": "agent", c.ENGINES: '{"e1":{"device":"cpu"}}'}
    run, decode, hung = group["scopeSpans"][0]["spans"]
    assert run["traceId"] == "ab" * 16
    assert decode["parentSpanId"] == run["spanId"] == example().spans[0].span_id
    assert decode["startTimeUnixNano"] == str(example().spans[1].start_ns)  # 64-bit integers are texts
    assert (run["kind"], decode["kind"]) == (1, 3)
    assert run["status"] == {"code": 1}
    values = {a["key"]: a["value"] for a in decode["attributes"]}
    assert values[c.KIND] == {"stringValue": "decode"}
    assert base64.b64decode(values[c.PROMPT_IDS]["stringValue"]) == c.pack([1, 2, 3], "i")
    assert values["gen_ai.usage.input_tokens"] == {"intValue": "3"}
    assert orjson.loads(values[c.EDGES]["stringValue"]) == [[run["spanId"], "call", "recorded"]]
    # An open span ends when it starts, and says so.
    assert hung["endTimeUnixNano"] == hung["startTimeUnixNano"]
    assert {"key": c.OPEN, "value": {"boolValue": True}} in hung["attributes"]
    assert "status" not in hung or not hung["status"]


def test_requests_are_bounded_and_hold_every_span_once() -> None:
    spans = [replace_id(span, number) for number in range(40) for span in otlp.otlp_spans(example())]
    made = list(otlp.requests(spans, max_bytes=4000))
    assert len(made) > 5
    assert max(request.ByteSize() for request in made) < 4200
    assert [s.span for request in made for s in read_request(request)[0]] == [s.span for s in spans]
    assert list(otlp.requests([])) == []


def replace_id(span: OtlpSpan, number: int) -> OtlpSpan:
    return replace(span, span=f"{number + 1:04x}{span.span[4:]}")


BAD_ID = {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}


@pytest.mark.parametrize("document", [{}, {"resourceSpans": 1}, {"resourceSpans": [7]}, BAD_ID], ids=str)
def test_what_is_no_otlp_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        otlp.from_json(document)
