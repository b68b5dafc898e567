"""What was kept out of a recording on purpose: every replay that would need it refuses, and says why and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.replay import Playback, ReplayMode, replay_on_engine
from redecode.replay.closed_loop.plan import plan
from redecode.replay.errors import TooLittleRecorded
from redecode.tracer import RecordedRun
from redecode.tracer.privacy.redaction import Privacy
from tests.tracer.privacy.support import MAIL, by, record

OFF = "was recorded without its content; record it again without --no-content (docs/privacy.md)"
TOUCHED = "was redacted when it was recorded (email), so what was really said is not known"
KEPT_OUT = pytest.mark.parametrize(
    ("privacy", "words"), [(Privacy(content=False), OFF), (by("email"), TOUCHED)], ids=["content off", "redacted"]
)
ENGINE = pytest.mark.parametrize("mode", [ReplayMode.FORCE, ReplayMode.RESAMPLE])


@ENGINE
@KEPT_OUT
def test_an_engine_replay_refuses(store: Path, mode: ReplayMode, privacy: Privacy, words: str) -> None:
    recorded = record(store, privacy, MAIL)
    with pytest.raises(TooLittleRecorded) as refused:
        plan(recorded, mode)
    run = recorded.run.run_id[:12]
    assert str(refused.value).startswith(f"run {run} cannot be replayed by {mode}: decode run/chat {words}")


async def test_before_any_engine_is_asked_and_anything_is_written(store: Path) -> None:
    recorded = record(store, Privacy(content=False))
    with pytest.raises(TooLittleRecorded):
        await replay_on_engine(store, [recorded], ReplayMode.FORCE, "http://127.0.0.1:9")
    assert not list((store / "spool").iterdir())


@KEPT_OUT
def test_a_playback_refuses(store: Path, privacy: Privacy, words: str) -> None:
    recorded = record(store, privacy, MAIL)
    with pytest.raises(TooLittleRecorded) as refused:
        Playback([recorded])
    assert str(refused.value).startswith(f"run {recorded.run.run_id[:12]} cannot be played back: run run {words}")


@KEPT_OUT
def test_a_simulation_needs_lengths_alone(store: Path, privacy: Privacy, words: str) -> None:
    recorded = record(store, privacy, MAIL)
    (decode,) = plan(recorded, ReplayMode.SIMULATE).decodes.values()
    assert decode.prompt_ids is None
    assert decode.input_tokens is not None
    assert decode.output_tokens


@ENGINE
def test_what_no_rule_has_touched_is_replayed(store: Path, mode: ReplayMode) -> None:
    recorded = record(store, by("email"), "nothing to hide")
    assert [d.step_key for d in plan(recorded, mode).decodes.values()] == ["run/chat"]
    Playback([recorded])


def refused_by_command(store: Path, recorded: RecordedRun, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["replay", recorded.run.run_id[:12], *arguments, "--store", str(store)])
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    return line


@ENGINE
def test_the_command_says_so_in_one_line(store: Path, mode: ReplayMode) -> None:
    recorded = record(store, Privacy(content=False))
    line = refused_by_command(store, recorded, "--mode", mode, "--engine", "http://127.0.0.1:9")
    assert line.startswith("redecode: run ")
    assert line.endswith(OFF)


def test_a_program_to_be_played_back_does_not_even_run(store: Path, tmp_path: Path) -> None:
    recorded, trace = record(store, Privacy(content=False)), tmp_path / "it ran"
    program = [sys.executable, "-c", f"open({str(trace)!r}, 'w')"]
    command = ["replay", recorded.run.run_id, "--mode", "playback", "--store", str(store), "--", *program]
    done = subprocess.run([sys.executable, "-m", "redecode.cli", *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert OFF in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not trace.exists()
