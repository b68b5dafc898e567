"""The clerk: the same answer whether its look-ups wait for the whole answer or not; what a recording shows of it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redecode.agents.catalogue import Agent, make_agent
from redecode.agents.clerk.fields import Fields
from redecode.agents.clerk.graph import ClerkContext
from redecode.agents.contact import FIELDS, Contact
from redecode.agents.extraction.formats import FORMATS, Format, MalformedAnswer, parse, render
from redecode.agents.fm.articles import cases as articles
from redecode.agents.pipelined import PlanRejected
from redecode.tracer import EdgeKind, SpanKind, Store

from .conftest import ChatEngine, Reply, run_graph

CONTACTS = [a.contact for a in islice(articles("heldout", 3), 6)]


@pytest.fixture(scope="module")
def clerk() -> Agent:
    return make_agent("clerk", count=8)


def fields_seen(text: str, fmt: Format, size: int) -> list[tuple[str, str]]:
    reader = Fields(fmt)
    found = [part for at in range(0, len(text), size) for part in reader.feed(text[at : at + size])]
    return [*found, *reader.end()]


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1, max_size=12), min_size=3, max_size=3), st.integers(1, 7))
def test_fields_are_found_as_the_strict_parser_finds_them(fmt: Format, values: list[str], size: int) -> None:
    contact = Contact(*values)
    text = render(contact, fmt)
    try:
        assert parse(text, fmt) == contact
    except MalformedAnswer:
        return  # the format has no way to write it
    assert fields_seen(text, fmt, size) == [(f, contact.value(f)) for f in FIELDS]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_field_is_found_before_the_next_one_begins(fmt: Format) -> None:
    for contact in CONTACTS:
        reader, text = Fields(fmt), render(contact, fmt)
        at = text.index("email" if fmt != "text" else "EMAIL")
        assert [name for ch in text[:at] for name, _ in reader.feed(ch)] == ["name"]


def run(agent: Agent, number: int, engine: ChatEngine, *, awaited: bool = True, **knobs: Any) -> dict[str, Any]:
    context = ClerkContext(base_url=engine.url, tool_wait_s=0.0, service_wait_s=0.0, **knobs)
    return run_graph(agent.graph, dict(agent.cases[number].input), context, awaited=awaited)


def answers_with(agent: Agent, fmt: Format) -> Any:
    """A model that copies each article's name, an email and the address it is said to have."""
    by_article = {case.input["article"]: case.expected for case in agent.cases}

    def model(request: dict[str, Any]) -> Reply:
        said = str(request["messages"][-1]["content"])
        expected = next(e for a, e in by_article.items() if a in said)
        return Reply(render(Contact(expected["name"], "x@y.org", "1 Old Road, Town 12345"), fmt))

    return model


@pytest.mark.parametrize("awaited", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_pipelined_it_answers_the_same(chat_engine: ChatEngine, clerk: Agent, fmt: Format, awaited: bool) -> None:
    chat_engine.model = answers_with(clerk, fmt)
    for number in range(3):
        whole = run(clerk, number, chat_engine, awaited=awaited, format=fmt)
        early = run(clerk, number, chat_engine, awaited=awaited, format=fmt, execution="pipelined")
        assert whole == early and whole["error"] is None
        assert whole["answer"]["name"] == clerk.cases[number].expected["name"]
    assert all(r["stream"] for r in chat_engine.requests)


@pytest.mark.parametrize("text", ['{"name": "A B", "email": "x"', '{"name": "A B", "email": "x", "address": 1}', "no"])
def test_an_answer_whose_end_is_bad_comes_to_nothing(chat_engine: ChatEngine, clerk: Agent, text: str) -> None:
    chat_engine.model = lambda request: Reply(text)
    whole, early = (run(clerk, 0, chat_engine, execution=how) for how in ("plan_then_run", "pipelined"))
    assert whole["answer"] is early["answer"] is None
    assert whole["error"] and early["error"]


def test_a_yaml_value_that_is_none_is_refused() -> None:
    with pytest.raises(PlanRejected):
        fields_seen('name: "A\nemail: b\naddress: c', "yaml", 4)


def test_a_recording_shows_what_the_stream_launched(recording: Any, serve: Any, clerk: Agent) -> None:
    model = answers_with(clerk, "json")
    server = serve(lambda body: model(body).text, chunk_s=0.002)
    for execution in ("pipelined", "plan_then_run"):
        context = ClerkContext(base_url=server.base_url, tool_wait_s=0.0, service_wait_s=0.0, execution=execution)
        run_graph(clerk.graph, dict(clerk.cases[0].input), context, awaited=True)
    store = Store(recording)
    later, early = (store.load(r.run_id) for r in store.runs())
    for loaded, streams in ((early, True), (later, False)):
        (decode,) = loaded.decodes
        tools = [s for s in loaded.spans if s.kind is SpanKind.TOOL]
        assert {s.name.split()[1] for s in tools} == {"find_person", "verify_address"}
        firsts = {s.span_id for s in tools if not s.step_key.endswith("#1")}
        launched = {e.dst for e in loaded.edges if e.kind is EdgeKind.STREAM and e.src == decode.span_id}
        assert launched == (firsts if streams else set())
        assert all(t.side_effect is False for t in loaded.tools)
        first = min(s.start_ns for s in tools)
        assert decode.done_ns is not None and (first < decode.done_ns) is streams
