"""What a divergence says: only what differs, in the words a reader needs, and where in the user's code."""

from __future__ import annotations

from typing import Any

import pytest

from redecode.replay.comparison.changes import decode_differences, what_changed
from redecode.replay.comparison.divergence import MISSING, FieldDifference, differences, diverged, same
from redecode.tracer import Decode, Fidelity, FmRequest

SYSTEM = "You are a clerk.\nRead the article.\nAnswer in JSON.\nBe brief."


def recorded(*messages: tuple[str, str], **given: Any) -> Decode:
    return Decode(
        run_id="r",
        span_id="s",
        step_key="run/chat",
        model="m",
        fidelity=Fidelity.TEXT,
        sent_ns=0,
        first_chunk_ns=None,
        done_ns=1,
        base_url="http://x",
        messages=[{"role": role, "content": content} for role, content in messages],
        **given,
    )


def asked(*messages: tuple[str, str], **given: Any) -> FmRequest:
    said = [{"role": role, "content": content} for role, content in messages]
    options: dict[str, Any] = {"model": "m", "tools": None, "sampling": {}, **given}
    return FmRequest(path="/chat/completions", messages=said, stream=False, **options)


def told(then: Decode, now: FmRequest) -> tuple[str, list[str]]:
    found = decode_differences(then, now)
    return what_changed(then, found), [str(one) for one in found]


def test_a_changed_prompt_of_several_lines_shows_the_lines_that_differ() -> None:
    changed = SYSTEM.replace("JSON", "XML")
    what, (difference,) = told(
        recorded(("system", SYSTEM), ("user", "article")), asked(("system", changed), ("user", "article"))
    )
    assert what.endswith("its prompt has changed (the system message)")
    assert difference.splitlines() == [
        "messages[0].content:",
        "      Read the article.",
        "    - Answer in JSON.",
        "    + Answer in XML.",
    ]


def test_a_change_in_a_long_line_shows_it_with_a_little_around_it() -> None:
    before, after = "x" * 200 + " the old end of it " + "y" * 200, "x" * 200 + " the new end of it " + "y" * 200
    what, (difference,) = told(recorded(("user", before)), asked(("user", after)))
    assert "its prompt, or what fills it, has changed" in what
    assert "the old end" in difference
    assert "the new end" in difference
    assert len(difference) < 300


def test_a_message_put_in_shifts_nothing() -> None:
    then = recorded(("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"))
    now = asked(("system", "a"), ("user", "b"), ("user", "and also"), ("assistant", "c"), ("user", "d"))
    what, (difference,) = told(then, now)
    assert what.endswith("it has a message more")
    assert difference == 'messages[2]: only asked: “{"content":"and also","role":"user"}”'


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (asked(("system", "a"), ("tool", "c")), "a tool's result in it is another one"),
        (asked(("system", "a")), "it has a message less"),
        (asked(("system", "a"), ("tool", "b"), model="n"), "it asks another model"),
        (asked(("system", "a"), ("tool", "b"), tools=[{"name": "f"}]), "it is offered other tools"),
        (asked(("system", "a"), ("tool", "b"), sampling={"top_k": 3}), "its sampling parameters are others"),
        (
            asked(("system", "z"), ("tool", "b"), model="n"),
            "it asks another model, its prompt has changed (the system message)",
        ),
    ],
    ids=["tool result", "less", "model", "tools", "sampling", "two kinds"],
)
def test_the_kind_of_a_change_is_named(now: FmRequest, words: str) -> None:
    what, _ = told(recorded(("system", "a"), ("tool", "b")), now)
    assert what == f"the FM call asks something else than was recorded: {words}"


def test_a_list_of_many_changes_is_cut() -> None:
    then, now = ("\n".join(f"{word} {n}" for n in range(50)) for word in ("old", "new"))
    text = str(FieldDifference("content", then, now))
    assert "more lines" in text
    assert len(text.splitlines()) < 20


def test_where_an_object_is_in_memory_is_no_difference() -> None:
    assert same({"a": "<Thing object at 0x7f01>"}, {"a": "<Thing object at 0x7f99>"})
    assert not same({"a": "<Thing object at 0x7f01>"}, {"a": "<Other object at 0x7f01>"})
    assert differences({"a": 1}, {"b": 1}) == [FieldDifference("a", 1, MISSING), FieldDifference("b", MISSING, 1)]


def test_the_line_of_code_is_shown() -> None:
    divergence = diverged("it is another one", run_id="abc", step_key="run/chat")
    assert f"{__file__}:" in str(divergence)
    assert 'in test_the_line_of_code_is_shown: divergence = diverged("it is another one"' in str(divergence)
