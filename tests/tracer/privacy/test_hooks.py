"""Functions of the user's: they see every text, and whatever they do, the run goes on and nothing leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redecode.tracer import Recorder, Store
from redecode.tracer import conventions as c
from redecode.tracer.privacy.rules import Rule
from tests.tracer.privacy.support import MAIL, by, bytes_of, record


def test_a_function_of_the_users_sees_every_text_with_its_name(store: Path) -> None:
    seen: list[tuple[str, str]] = []

    def shout(name: str, text: str) -> str:
        seen.append((name, text))
        return text.upper() if name == c.INPUT_MESSAGES else text

    (decode,) = record(store, by(shout, ("ticket", r"T-\d+", "T-?")), "about T-123").decodes
    assert decode.messages == [{"role": "USER", "content": "ABOUT T-?"}]
    assert decode.redacted == ("shout", "ticket")
    assert {name for name, _ in seen} >= {
        c.INPUT_MESSAGES,
        c.OUTPUT_MESSAGES,
        c.TOOL_ARGUMENTS,
        c.RUN_INPUT,
        "error",
        "mine",
    }
    assert ("error", "ValueError: about T-?") in seen


@pytest.mark.parametrize("wrong", ["raises", "gives no text", "is not there", "cannot be imported"])
def test_a_function_that_fails_costs_the_content_and_never_the_run(
    store: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(name: str, text: str) -> Any:
        if wrong == "raises":
            raise ValueError(f"cannot deal with {text}")

    targets: dict[str, Rule] = {"is not there": "json:no_such_function", "cannot be imported": "no_such_module:f"}
    recorded = record(store, by("patterns", targets.get(wrong, fails)), "a very private remark")
    assert recorded.decodes[0].messages is None
    assert (recorded.decodes[0].redacted, recorded.run.status) == (("content",), "ok")
    assert b"private remark" not in bytes_of(store)
    assert recorded.run.lost > 0
    ((_, _, why),) = Store(store).health().dropped
    assert why.startswith("redaction by ")
    assert "private" not in why


def test_a_value_too_deep_to_be_looked_through_is_left_out(store: Path) -> None:
    deep = "[" * 900 + f'"{MAIL}"' + "]" * 900
    recorder = Recorder(store, privacy=by("email"))
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: deep})
    recorder.end(run)
    recorder.close()
    assert MAIL.encode() not in bytes_of(store)
    assert Store(store).load(run.run_id).run.status == "ok"
