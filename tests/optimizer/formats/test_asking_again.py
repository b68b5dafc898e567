"""Asking again is the last resort, and bounded; a frame that is ours cannot be malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import BaseModel

from redecode.optimizer.formats import FORMATS, CannotExpress, MalformedAnswer, Slot, fill
from redecode.optimizer.formats.reask import Answer, conversation, drive
from tests.optimizer.formats.records import Contact, Flat, Pair, Rows, records

ASKED = [{"role": "user", "content": "Who?"}]
GOOD = '{"name":"A","email":"b","address":"c"}'


def said(*answers: Answer) -> tuple[Any, list[list[dict[str, Any]]]]:
    left, seen = list(answers), []

    def answer(messages: list[dict[str, Any]]) -> Answer:
        seen.append(messages)
        return left.pop(0)

    return answer, seen


def test_a_good_answer_is_not_asked_for_again() -> None:
    answer, seen = said(Answer(GOOD))
    reading = drive(conversation(ASKED, FORMATS["json"], Contact), answer)
    assert reading.record.name == "A" and reading.repairs == () and seen == [ASKED]


def test_a_bad_answer_is_shown_to_the_model_with_what_was_wrong() -> None:
    answer, seen = said(Answer('{"name":"A","email":"b"}'), Answer(f"```\n{GOOD}\n```"))
    reading = drive(conversation(ASKED, FORMATS["json"], Contact), answer)
    assert reading.repairs == ("asked again 1 time", "code fence taken off")
    question, shown, again = seen[1]
    assert question == ASKED[0] and shown == {"role": "assistant", "content": '{"name":"A","email":"b"}'}
    assert "no 'address'" in again["content"] and '{"name":"<name>"' in again["content"]


def test_a_cut_answer_is_asked_for_again() -> None:
    answer, seen = said(Answer("name: A\nemail: b\naddress: c", "length"), Answer("name: A\nemail: b\naddress: cd"))
    assert drive(conversation(ASKED, FORMATS["yaml"], Contact), answer).record.address == "cd"
    assert "cut off" in seen[1][-1]["content"]


@pytest.mark.parametrize("times", [0, 1, 3])
def test_it_gives_up_after_so_many_times(times: int) -> None:
    answer, seen = said(*[Answer("?")] * 9)
    with pytest.raises(MalformedAnswer):
        drive(conversation(ASKED, FORMATS["json"], Contact, asks_again=times), answer)
    assert len(seen) == times + 1
    assert all(len(messages) <= len(ASKED) + 2 for messages in seen)  # it does not grow with every try


@given(record=records)
@settings(max_examples=60, deadline=None)
def test_a_filled_frame_is_the_record_whatever_its_values_say(record: BaseModel) -> None:
    model = type(record)
    if model not in (Contact, Flat, Pair):
        return
    plain = json.loads(record.model_dump_json(by_alias=True))

    def engine(slot: Slot) -> str:
        """Goes on with the record's own JSON, until a stop."""
        whole = json.dumps(plain, separators=(",", ":"), ensure_ascii=False)
        assert whole.startswith(slot.prefix)
        rest = whole[len(slot.prefix) :]
        if slot.stop == ('"',):
            return rest[: rest.index('"')]
        text = rest.startswith('"')
        end = json.JSONDecoder().raw_decode(rest)[1] if text else min(rest.find(s) for s in slot.stop if s in rest)
        return rest[:end]

    assert drive(fill(model), engine).record == record


def test_line_breaks_that_a_model_writes_into_a_frame_are_kept() -> None:
    found = drive(fill(Contact), lambda slot: f"{slot.path[0]}\nsecond line\twith a tab")
    assert found.record.name == "name\nsecond line\twith a tab"
    with pytest.raises(MalformedAnswer):
        drive(fill(Contact), lambda slot: "a \\q that means nothing")


def test_a_frame_needs_a_fixed_number_of_values() -> None:
    with pytest.raises(CannotExpress, match="fixed number"):
        next(fill(Rows))
