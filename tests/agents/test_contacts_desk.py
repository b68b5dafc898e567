"""The tool-calling agent: tools, the retry, the bound, sync and async, against a real HTTP engine."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest

from redecode.agents.contacts_desk import prompts
from redecode.agents.contacts_desk.directory import Directory
from redecode.agents.contacts_desk.graph import Graph, build
from redecode.agents.contacts_desk.policy import DeskCase, desk_cases, expected_answer, expected_turns
from redecode.agents.contacts_desk.scorer import score
from redecode.agents.contacts_desk.service import AddressService, Entry, TemporaryError, Verdict
from redecode.agents.contacts_desk.state import DeskContext

from .conftest import ChatEngine, Reply, run_graph

SEED = 4
CASES = list(islice(desk_cases("heldout", SEED), 60))


def case_with(*, tool_results: int) -> DeskCase:
    return next(c for c in CASES if sum(t["role"] == "tool" for t in expected_turns(c)) == tool_results)


def desk() -> Graph:
    return build(Directory.of_cases(CASES), AddressService(SEED))


def follows(case: DeskCase) -> Any:
    """A model that does what the policy says, given how far the conversation has come."""
    mine = [t for t in expected_turns(case) if t["role"] == "assistant"]

    def model(request: dict[str, Any]) -> Reply:
        done = sum(m["role"] == "assistant" for m in request["messages"])
        return as_reply(mine[done])

    return model


def as_reply(turn: dict[str, Any]) -> Reply:
    calls = tuple((c["function"]["name"], json.loads(c["function"]["arguments"])) for c in turn.get("tool_calls", ()))
    return Reply(turn["content"], calls)


def run(graph: Graph, case: DeskCase, context: DeskContext, *, awaited: bool) -> dict[str, Any]:
    state = {"article": case.article.text, "request": case.request}
    return run_graph(graph, state, context, awaited=awaited)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("tool_results", [1, 2, 3], ids=["look up", "and check", "and retry"])
def test_the_desk_does_its_job(chat_engine: ChatEngine, tool_results: int, awaited: bool, stream: bool) -> None:
    case = case_with(tool_results=tool_results)
    chat_engine.model = follows(case)
    context = DeskContext(base_url=chat_engine.url, tool_wait_s=0.0, stream=stream)
    output = run(desk(), case, context, awaited=awaited)
    assert score(output, case).exact
    told = [m.content for m in output["messages"] if m.type == "tool"]
    assert told == [t["content"] for t in expected_turns(case) if t["role"] == "tool"]
    assert len(chat_engine.requests) == tool_results + 1
    assert all(r["tools"] == list(prompts.TOOLS) for r in chat_engine.requests)


def test_a_retry_follows_a_temporary_error_marked_as_such(chat_engine: ChatEngine) -> None:
    case = case_with(tool_results=3)
    chat_engine.model = follows(case)
    output = run(desk(), case, DeskContext(base_url=chat_engine.url, tool_wait_s=0.0), awaited=False)
    tools = [m for m in output["messages"] if m.type == "tool"]
    assert [m.status for m in tools][1] == "error"
    assert tools[1].content == prompts.address_result(None)


def test_the_number_of_turns_is_bounded(chat_engine: ChatEngine) -> None:
    chat_engine.model = lambda request: Reply(None, ((prompts.FIND_PERSON, {"name": "Nobody"}),))
    context = DeskContext(base_url=chat_engine.url, max_turns=3)
    output = run(desk(), CASES[0], context, awaited=False)
    assert len(chat_engine.requests) == 3
    assert output["answer"] is None
    assert "3 turns" in output["error"]
    assert score(output, CASES[0]).share == 0


def test_a_tool_that_does_not_exist_is_told_and_not_fatal(chat_engine: ChatEngine) -> None:
    replies = [Reply(None, (("call_mother", {}),)), Reply("done")]
    chat_engine.model = lambda request: replies.pop(0)
    output = run(desk(), CASES[0], DeskContext(base_url=chat_engine.url), awaited=False)
    assert "call_mother" in output["messages"][1].content
    assert "not json" in output["error"]


def test_extra_fields_are_not_right(chat_engine: ChatEngine) -> None:
    case = next(c for c in CASES if c.request == "mail")
    right = expected_answer(case)
    more = prompts.DeskAnswer(right.name, right.email, right.known, "1 C", checked=True)
    chat_engine.model = lambda request: Reply(prompts.render_answer(more))
    output = run(desk(), case, DeskContext(base_url=chat_engine.url), awaited=False)
    assert not score(output, case).exact


def test_the_directory_finds_whom_it_knows() -> None:
    directory = Directory([("Ada Low", Entry("ada@low.org", "7 Hill Road")), ("O'Neil", Entry("o@n.ie", "1"))])
    assert directory.find("Ada Low") == Entry("ada@low.org", "7 Hill Road")
    assert directory.find("O'Neil") == Entry("o@n.ie", "1")
    assert directory.find("ada low") is None


def test_the_address_service_is_busy_for_some_and_then_answers() -> None:
    service = AddressService(1)
    busy, corrected = 0, 0
    for number in range(400):
        address = f"{number} Hill Road, Bern 30001"
        try:
            verdict = service.verify(address, 0)
        except TemporaryError:
            busy += 1
            verdict = service.verify(address, 2)
        assert verdict == service.verify(address, 2)
        corrected += verdict != Verdict()
    assert 60 < busy < 180
    assert 80 < corrected < 200
