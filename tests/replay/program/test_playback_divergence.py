"""Playbacks that leave their recording: what is said, what is never done, and when it goes on."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import openai
import pytest

from redecode.replay import ReplayDivergence, playback
from redecode.tracer import CHANGED, Store, instrument, run, step, uninstrument

Serve = Callable[..., Any]


def ask(client: openai.OpenAI, text: str, **given: Any) -> str:
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **given)
    return str(answer.choices[0].message.content)


@pytest.fixture
def client(serve: Serve) -> Any:
    numbers = count()
    server = serve(lambda _: f"answer {next(numbers)}")
    with openai.OpenAI(base_url=server.base_url, api_key="x", max_retries=0) as made:
        made.server = server  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def recorded(client: Any, tmp_path: Path) -> Path:
    """A run of two steps: one asks "first", the other "second" and "third"."""
    store = tmp_path / "recorded"
    instrument(store)
    with run("agent"):
        with step("one"):
            ask(client, "first")
        with step("two"):
            ask(client, "second", temperature=0.5)
            ask(client, "third")
    uninstrument()
    client.server.close()
    return store


def run_id(store: Path) -> str:
    return Store(store).runs()[-1].run_id


def test_a_run_id_is_enough(recorded: Path, client: Any, tmp_path: Path) -> None:
    with playback(run_id(recorded)[:8], store=recorded, into=tmp_path / "p", pace=0) as player, run("agent"):
        with step("one"):
            assert ask(client, "first") == "answer 0"
        with step("two"):
            assert ask(client, "second", temperature=0.5) == "answer 1"
    assert player.unasked() == [(run_id(recorded), "run/two/chat#1")]


def test_a_renamed_step_is_told_by_what_was_asked_there(recorded: Path, client: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(ReplayDivergence, match="is not in the recording") as caught,
        playback(run_id(recorded), store=recorded, into=tmp_path / "p"),
        run("agent"),
        step("another"),
    ):
        ask(client, "third")
    assert caught.value.step_key == "run/another/chat"
    assert caught.value.nearest[0] == "run/two/chat#1 (asked the same)"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"temperature": 0.5, "max_tokens": 5}, "max_tokens"),
        ({}, "temperature"),
        ({"temperature": 0.5, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
    ids=["another value", "one more", "one less", "a tool"],
)
def test_a_changed_parameter_is_a_change(
    recorded: Path, client: Any, tmp_path: Path, given: dict[str, Any], path: str
) -> None:
    with (
        pytest.raises(ReplayDivergence) as caught,
        playback(run_id(recorded), store=recorded, into=tmp_path / "p"),
        run("agent"),
        step("two"),
    ):
        ask(client, "second", **given)
    assert [d.path.split("[")[0] for d in caught.value.differences] == [path]


def test_a_changed_prompt_can_be_answered_as_recorded(recorded: Path, client: Any, tmp_path: Path) -> None:
    into = tmp_path / "p"
    playing = playback(run_id(recorded), store=recorded, into=into, changed="answer", pace=0)
    with playing as player, run("agent"), step("one"):
        assert ask(client, "first of all") == "answer 0"
    assert list(player.changes) == ["run/one/chat"]
    (span,) = [s for s in Store(into).load(run_id(into)).spans if CHANGED in s.attributes]
    assert span.attributes[CHANGED] == ["messages[0].content: recorded “first”, asked “first of all”"]


def test_a_program_that_goes_on_after_a_divergence_is_told_at_the_end(
    recorded: Path, client: Any, tmp_path: Path
) -> None:
    with (
        pytest.raises(ReplayDivergence, match="asked “something else”"),
        playback(run_id(recorded), store=recorded, into=tmp_path / "p"),
        run("agent"),
        step("one"),
        contextlib.suppress(Exception),
    ):  # as a program with a fallback would
        ask(client, "something else")


def test_what_was_never_recorded_never_goes_live(recorded: Path, client: Any, tmp_path: Path) -> None:
    asked = len(client.server.requests)
    calls: list[Callable[[], Any]] = [
        client.models.list,
        lambda: client.embeddings.create(model="m", input="text"),
        lambda: client.images.generate(prompt="a picture"),
    ]
    for call in calls:
        with (
            pytest.raises(ReplayDivergence),
            playback(run_id(recorded), store=recorded, into=tmp_path / "p"),
            run("agent"),
            step("one"),
        ):
            call()
    assert len(client.server.requests) == asked


def test_random_numbers_uuids_and_the_clock_are_those_of_the_run(recorded: Path, client: Any, tmp_path: Path) -> None:
    started_s = Store(recorded).runs()[0].started_ns / 1e9

    def once(n: int) -> list[Any]:
        with playback(run_id(recorded), store=recorded, into=tmp_path / f"p{n}", pace=0, pin=["all"]), run("agent"):
            with step("one"):
                ask(client, "first")
                drawn = [random.random(), random.choice("abcdef"), uuid.uuid4(), time.time()]  # noqa: TID251
            with step("two"):
                ask(client, "second", temperature=0.5)
                drawn += [random.gauss(0, 1), uuid.uuid4(), datetime.now(UTC)]
                time.sleep(0.01)
                return [*drawn, time.time()]  # noqa: TID251

    first = once(0)
    assert once(1) == first
    assert len({str(value) for value in first}) == len(first)
    assert started_s < first[3] < first[6].timestamp() < first[7] < started_s + 60
    assert random.random.__name__ == "random"  # noqa: TID251 - put back
    assert time.sleep.__module__ == "time"


def test_on_the_command_line(recorded: Path, tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        "import openai\n"
        "from redecode.tracer import run, step\n"
        "client = openai.OpenAI(base_url='http://127.0.0.1:9/v1', api_key='x', max_retries=0)\n"
        "with run('agent'), step('one'):\n"
        "    try:\n"
        "        messages = [{'role': 'user', 'content': 'First'}]\n"
        "        print(client.chat.completions.create(model='m', messages=messages).choices[0].message.content)\n"
        "    except Exception:\n"
        "        print('fallback')\n"
    )

    def redecode(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "redecode.cli", "replay", "--mode", "playback", "--store", str(recorded)]
        command += [*options, run_id(recorded), "--", sys.executable, str(program)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = redecode()
    assert (refused.returncode, refused.stdout) == (1, "fallback\n")
    assert f"asked from {program}:7, in <module>" in refused.stderr
    answered = redecode("--changed", "answer", "--speed", "0")
    assert (answered.returncode, answered.stdout) == (0, "answer 0\n")
    assert "answered as recorded although run/one/chat asks something else: messages[0].content" in answered.stderr
    wrong = redecode("--pin", "moon")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "moon cannot be pinned" in wrong.stderr
