"""An answer is whole if its provider says so, in whatever words, and under whatever name LangChain hands them on."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_openai import ChatOpenAI

from redecode.optimizer.formats import FORMATS, Answers, MalformedAnswer, Slot, fill
from redecode.optimizer.formats.answers import answer_of
from redecode.optimizer.formats.reask import Answer, drive
from tests.optimizer.formats.records import Contact

WHOLE = "name: Ann Lee\nemail: ann@x.org\naddress: 12 Mill Lane"
CUT = WHOLE[:-2]
BLIND = [name for name, form in FORMATS.items() if not form.shows_its_end]


class Reason(Enum):
    STOP = 1
    MAX_TOKENS = 2


CUT_OFF: dict[str, dict[str, Any]] = {
    "OpenAI": {"finish_reason": "length"},
    "OpenAI, filtered": {"finish_reason": "content_filter"},
    "OpenAI, responses": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    "OpenAI, responses, without a word": {"status": "incomplete"},
    "Anthropic": {"stop_reason": "max_tokens", "stop_sequence": None},
    "Anthropic, refused half-way": {"stop_reason": "refusal"},
    "Gemini": {"finish_reason": "MAX_TOKENS"},
    "Gemini, in two pieces": {"finish_reason": "STOPMAX_TOKENS"},
    "Vertex, broken off": {"finish_reason": "FINISH_REASON_UNSPECIFIED" * 3},
    "Ollama": {"done_reason": "length", "done": True},
    "Bedrock": {"stopReason": "max_tokens"},
    "Bedrock, guarded": {"stopReason": "guardrail_intervened"},
    "Titan": {"completionReason": "LENGTH"},
    "Mistral": {"finish_reason": "model_length"},
    "DeepSeek": {"finish_reason": "insufficient_system_resource"},
    "watsonx": {"finish_reason": "time_limit"},
    "an enum": {"finish_reason": Reason.MAX_TOKENS},
    "one of tomorrow": {"finish_reason": "ran_out_of_patience"},
    "a stream that broke off": {"finish_reason": None},
}

ENDED: dict[str, dict[str, Any]] = {
    "OpenAI": {"finish_reason": "stop"},
    "OpenAI, with tools": {"finish_reason": "tool_calls"},
    "OpenAI, responses": {"status": "completed", "object": "response"},
    "OpenAI, responses, with all fields": {"status": "completed", "incomplete_details": None},
    "Anthropic": {"stop_reason": "end_turn", "stop_sequence": None},
    "Anthropic, at a stop": {"stop_reason": "stop_sequence", "stop_sequence": "END"},
    "Gemini": {"finish_reason": "STOP"},
    "Gemini, in two pieces": {"finish_reason": "STOPSTOP"},
    "Vertex, in pieces": {"finish_reason": "FINISH_REASON_UNSPECIFIED" * 2 + "STOP"},
    "Ollama": {"done_reason": "stop", "done": True},
    "Bedrock": {"stopReason": "end_turn"},
    "Bedrock, streamed, untold": {"stop_reason": ""},
    "Titan": {"stop_reason": None, "completionReason": "FINISHED"},
    "Cohere": {"finish_reason": "COMPLETE"},
    "Hugging Face": {"finish_reason": "eos_token"},
    "Together": {"finish_reason": "eos"},
    "ERNIE": {"finish_reason": "normal"},
    "vLLM, with what it stopped at": {"finish_reason": "stop", "stop_reason": "\n\n"},
    "vLLM, with the token it stopped at": {"finish_reason": "stop", "stop_reason": 128009},
    "an enum": {"finish_reason": Reason.STOP},
    "a model of one's own": {"status": 200},
    "one that tells nothing": {},
}


def said(text: str, told: dict[str, Any]) -> Any:
    return lambda messages: AIMessage(text, response_metadata=told)


@pytest.mark.parametrize("told", CUT_OFF.values(), ids=CUT_OFF)
@pytest.mark.parametrize("repair", ["none", "repair", "reask"])
def test_half_an_answer_is_no_record_whoever_gave_it(told: dict[str, Any], repair: Any) -> None:
    for form in ("text", "yaml"):
        with pytest.raises(MalformedAnswer, match="cut off"):
            Answers(Contact, form, repair=repair, asks_again=0).ask(said(CUT, told), "Who?")


@pytest.mark.parametrize("told", ENDED.values(), ids=ENDED)
@pytest.mark.parametrize("repair", ["none", "repair", "reask"])
def test_a_whole_answer_is_one_whoever_gave_it(told: dict[str, Any], repair: Any) -> None:
    for form in ("text", "yaml"):
        reading = Answers(Contact, form, repair=repair).ask(said(WHOLE, told), "Who?")
        assert reading.record.address == "12 Mill Lane" and reading.repairs == ()


def test_half_an_answer_is_asked_for_again() -> None:
    left = [AIMessage(CUT, response_metadata={"stop_reason": "max_tokens"}), AIMessage(WHOLE)]
    reading = Answers(Contact, "text", repair="reask").ask(lambda messages: left.pop(0), "Who?")
    assert reading.record.address == "12 Mill Lane" and reading.repairs == ("asked again 1 time",)


@pytest.mark.parametrize("name", BLIND)
@pytest.mark.parametrize("reason", ["content_filter", "MAX_TOKENS", "incomplete", "error", "cancelled"])
def test_every_format_without_an_end_refuses_what_is_no_good_end(name: str, reason: str) -> None:
    form = FORMATS[name]
    text = form.render(Contact(name="Ann", email="a@x.org", address="Rome"))
    assert form.read(text, Contact).repairs == form.read(text, Contact, finish_reason="").repairs == ()
    with pytest.raises(MalformedAnswer, match=f"cut off \\('{reason}'\\)"):
        form.read(text, Contact, finish_reason=reason)


def test_the_merged_pieces_of_a_stream_are_as_whole_as_its_last() -> None:
    """LangChain writes the words of pieces one behind the other; some providers say one with each."""

    def merged(*reasons: str) -> Answer:
        first, *rest = [AIMessageChunk(content="x", response_metadata={"finish_reason": r}) for r in reasons]
        for piece in rest:
            first = first + piece
        return answer_of(first)

    model = Answers(Contact, "text", repair="none")
    for reasons in (("stop",), ("stop", "stop"), ("", "", "STOP"), ("null", "null", "stop"), ("tool_calls", "stop")):
        told = merged(*reasons).finish_reason
        assert model.ask(lambda messages, told=told: Answer(WHOLE, told), "Who?").record.name == "Ann Lee", told
    for reasons in (("stop", "length"), ("length", "stop"), ("null", "null"), ("stop", "null")):
        told = merged(*reasons).finish_reason
        with pytest.raises(MalformedAnswer, match="cut off"):
            model.ask(lambda messages, told=told: Answer(WHOLE, told), "Who?")


def test_an_incomplete_response_of_a_real_client_is_refused() -> None:
    """OpenAI's responses have no finish reason: their status says it."""
    part = {"type": "output_text", "text": CUT, "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "incomplete", "role": "assistant", "content": [part]}
    body = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [message], "tools": [],
        "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "parallel_tool_calls": True,
        "tool_choice": "auto",
    }  # fmt: skip
    answers = httpx.MockTransport(lambda request: httpx.Response(200, json=body))
    fm = ChatOpenAI(
        model="m", base_url="http://engine/v1", api_key="x", use_responses_api=True,
        http_client=httpx.Client(transport=answers), http_async_client=httpx.AsyncClient(transport=answers),
    )  # fmt: skip
    asked = Answers(Contact, "text", repair="repair")
    with pytest.raises(MalformedAnswer, match="cut off \\('max_output_tokens'\\)"):
        asked.ask(fm, "Who?")
    with pytest.raises(MalformedAnswer, match="cut off"):
        asyncio.run(asked.aask(fm, "Who?"))


def test_half_a_value_is_not_filled_into_a_frame() -> None:
    def engine(slot: Slot) -> Answer:
        return Answer("12 Mill La", "length") if slot.path == ("address",) else Answer("Ann", "stop")

    with pytest.raises(MalformedAnswer, match="cut off"):
        drive(fill(Contact), engine)
    assert drive(fill(Contact), lambda slot: Answer("Ann")).record == Contact(name="Ann", email="Ann", address="Ann")
