"""Replay on a small server that speaks as vLLM does: both ways of forcing, batches, interruptions, refusals."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.chains import chain
from redecode.replay import ReplayMode, ReplayOptions, TooLittleRecorded, replay_on_engine
from redecode.replay.closed_loop.batch import UnknownBatch, load_batch
from redecode.replay.closed_loop.engine_replay import ReplayStopped, choose, make_batch, replay_batch
from redecode.replay.closed_loop.report import BatchReport
from redecode.replay.closed_loop.scaling import Scaling
from redecode.replay.engine import EngineError
from redecode.replay.engine.errors import EngineUnreachable
from redecode.replay.errors import EngineUnfit
from redecode.tracer import Fidelity, RecordedRun, Recorder, Store, TimeSource
from redecode.tracer.fm.decode_attributes import decode_attributes
from redecode.tracer.records import Choice
from tests.replay.token_engine import TokenEngine, token_engine

MS = 1_000_000
FORCE, RESAMPLE = ReplayMode.FORCE, ReplayMode.RESAMPLE


def run_of(n: int = 0, *, calls: int = 3, wait_ms: int = 0, stream: bool = False, **decode: Any) -> RecordedRun:
    """A recorded run of calls that the small server would answer so."""
    prompts = [(5 + n, 6, 7 + k) for k in range(calls)]
    outputs = [tuple((sum(p) + k * 7 + i) % 900 for i in range(4)) for k, p in enumerate(prompts)]
    made = chain(
        f"{n + 1:032x}", prompts, outputs, [wait_ms * MS] * calls, stream=stream, start_ns=10**18 + n * 20 * MS
    )
    logprobs = [tuple(-t / 1000 for t in d.sampled_ids or ()) for d in made.decodes]
    decodes = [replace(d, **{"logprobs": lp, **decode}) for d, lp in zip(made.decodes, logprobs, strict=True)]
    return replace(made, decodes=[replace(d, digest=d.content_digest()) for d in decodes])


async def replayed(
    store: Path, runs: Sequence[RecordedRun], engine: TokenEngine, mode: ReplayMode = FORCE, **options: Any
) -> BatchReport:
    chosen = choose(runs, mode)
    async with token_engine(engine) as url:
        return await replay_batch(store, make_batch(runs, mode, url, ReplayOptions(**options)), chosen.plans, url)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("native", [False, True], ids=["our plug-in", "vLLM's trace replay"])
async def test_forced_tokens_come_out_by_either_way(store: Path, native: bool, stream: bool) -> None:
    """The contract of POST /inference/v1/generate, which only a GPU has; see design: model runner V2."""
    engine = TokenEngine({"force": not native, "trace_replay": native, "step_clock": not native})
    recorded = run_of(stream=stream)
    report = await replayed(store, [recorded], engine)
    assert report.tokens_equal
    assert report.to_json()["logprob_gap_max"] == report.to_json()["logprob_gap_mean"] == 0
    path = "/inference/v1/generate" if native else "/v1/completions"
    assert [p for p, _ in engine.calls] == [path] * 3
    for (_, body), decode in zip(engine.calls, recorded.decodes, strict=True):
        assert bool(body.get("stream")) is stream
        if native:
            params = body["sampling_params"]
            assert (tuple(body["token_ids"]), tuple(params["trace_decode_token_ids"])) == (
                decode.prompt_ids,
                decode.sampled_ids,
            )
            assert params["max_tokens"] == 4  # vLLM takes 16 if none is given, whatever its documentation says
            assert params["logprobs"] == 0
            assert "seed" not in params
        else:
            assert "seed" not in body
    replay = Store(store).load(report.replays[0].replay_run_id)
    assert [d.sampled_ids for d in replay.decodes] == [d.sampled_ids for d in recorded.decodes]
    assert [d.logprobs for d in replay.decodes] == [pytest.approx(d.logprobs) for d in recorded.decodes]
    source = TimeSource.ENGINE if not native else TimeSource.CLIENT if stream else TimeSource.REQUEST
    assert {d.token_time_source for d in replay.decodes} == {source}
    assert [s.step_key for s in replay.spans] == [s.step_key for s in recorded.spans]


async def test_a_token_that_came_out_otherwise_is_found(store: Path) -> None:
    report = await replayed(store, [run_of()], TokenEngine(wrong=True))
    assert not report.tokens_equal
    for d in report.replays[0].decodes:
        assert d.divergence is not None
        assert d.divergence.index == 3
        assert d.logprob_gap == 0  # up to there


async def test_a_resampled_call_that_leaves_the_recording_names_both_tokens(store: Path) -> None:
    recorded = run_of(calls=1)
    (decode,) = recorded.decodes
    ids = (*(decode.sampled_ids or ())[:2], 800, 801)
    other = replace(decode, sampled_ids=ids, logprobs=(-0.1, -0.1, -0.25, -0.1))
    other = replace(other, digest=other.content_digest())
    report = await replayed(store, [replace(recorded, decodes=[other])], TokenEngine(), RESAMPLE)
    (found,) = report.replays[0].divergences
    was, now = (decode.sampled_ids or ())[2], 800
    assert (found.index, found.recorded_token, found.replayed_token) == (2, now, was)
    assert (found.recorded_text, found.replayed_text) == ("<800>", f"<{was}>")
    assert found.logprob_gap == pytest.approx(-0.25 + was / 1000)
    assert (await replayed(store, [run_of()], TokenEngine(), RESAMPLE)).tokens_equal


async def test_no_stream_asks_for_whole_answers(store: Path) -> None:
    engine = TokenEngine()
    report = await replayed(store, [run_of(stream=True)], engine, as_streamed=False)
    assert not any(body.get("stream") for _, body in engine.calls)
    assert {d.stream for d in Store(store).load(report.replays[0].replay_run_id).decodes} == {False}


async def test_tools_wait_as_recorded_or_scaled(store: Path) -> None:
    recorded = [run_of(wait_ms=30)]
    engine = TokenEngine()
    for options, length_s in ((ReplayOptions(), 0.09), (ReplayOptions(scaling=Scaling(3.0)), 0.03),
                              (ReplayOptions(scaling=Scaling(1.0, {"tool:1:wait": 0.0})), 0.06)):  # fmt: skip
        async with token_engine(engine) as url:
            (report,) = await replay_on_engine(store, recorded, FORCE, url, options=options)
        assert report.schedule_error is not None  # a begin that was late does not make the end late
        assert report.e2e_replayed_s >= length_s - report.schedule_error.max_s
        tools = [s for s in Store(store).load(report.replay_run_id).spans if s.kind == "tool"]
        waits = [round((s.duration_ns or 0) / MS) for s in tools]
        if options.scaling.steps:
            assert waits[1] < waits[0]


async def test_what_a_replay_was_told_and_how_late_it_was_is_with_its_run(store: Path) -> None:
    report = await replayed(store, [run_of(), run_of(1)], TokenEngine(), speed=2.0, scaling=Scaling(2.0))
    runs = [r for r in Store(store).runs() if r.replay_mode == "force"]
    assert {r.labels["replay"]["batch"] for r in runs} == {report.batch_id}
    assert sorted(r.labels["replay"]["place"] for r in runs) == [0, 1]
    for r in runs:
        told = r.labels["replay"]
        assert (told["speed"], told["tool_speed"], told["arrivals"], told["complete"]) == (2.0, 2.0, "recorded", True)
        assert told["schedule_error"]["points"] == 2 + 3 * 3  # the run's two ends; start, sending and end of each call
    assert Store(store).engine(Store(store).load(runs[0].run_id).decodes[0].engine_id) is not None
    assert report.schedule_error is not None
    assert report.schedule_error.points == 2 * 11


async def test_step_clocks_are_fetched_together_and_on_the_way_before_the_engine_forgets(store: Path) -> None:
    engine = TokenEngine({"steps_kept": {"max_steps": 48}})  # half of it is six calls
    await replayed(store, [run_of(n, calls=10) for n in range(2)], engine)
    assert 2 <= len(engine.asked_for_steps) < 20
    assert sorted(rid for rids in engine.asked_for_steps for rid in rids) == sorted(
        str(body["request_id"]) for _, body in engine.calls
    )


# -- stopped and gone on with --


async def test_a_cancelled_batch_keeps_what_is_done_marks_the_rest_and_is_gone_on_with(store: Path) -> None:
    runs = [run_of(n, calls=1 if n == 0 else 3) for n in range(3)]
    chosen = choose(runs, FORCE)
    engine = TokenEngine(delay_s=0.03)
    async with token_engine(engine) as url:
        batch = make_batch(runs, FORCE, url, ReplayOptions())
        task = asyncio.create_task(replay_batch(store, batch, chosen.plans, url))
        while len(engine.answered_ns) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        first = await task
        assert first.stopped == "interrupted"
        assert 1 <= len(first.replays) < 3
        assert first.partial
        for run_id in first.partial:
            part = Store(store).load(run_id)
            assert part.run.status == "error"
            assert "interrupted" in str(part.run.error)
            assert part.run.labels["replay"]["complete"] is False
            assert not [s for s in part.spans if s.end_ns is None]
        asked = len(engine.calls)
        second = await replay_batch(store, load_batch(store, batch.batch_id[:6]), chosen.plans, url)
        assert second.stopped is None
        assert (second.earlier, len(second.replays)) == (len(first.replays), 3)
        missing = sum(len(r.decodes) for r in runs) - sum(len(r.decodes) for r in first.replays)
        assert len(engine.calls) - asked == missing  # and nothing else
        third = await replay_batch(store, batch, chosen.plans, url)
        assert (third.earlier, third.tokens_equal, len(engine.calls)) == (3, True, asked + missing)
    kept = {r.replay_run_id: r for r in first.replays}
    for again in third.replays:
        if again.replay_run_id in kept:
            before = kept[again.replay_run_id]
            assert [d.tokens_equal for d in again.decodes] == [d.tokens_equal for d in before.decodes]
            assert again.e2e_replayed_s == pytest.approx(before.e2e_replayed_s)
            assert again.schedule_error == before.schedule_error


@pytest.mark.parametrize("wrong", [False, True], ids=["same", "other tokens"])
async def test_what_came_of_a_replay_is_known_later_though_its_tokens_are_withheld(
    store: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    monkeypatch.setenv("REDECODE_CONTENT", "off")
    recorded = run_of()
    chosen = choose([recorded], FORCE)
    async with token_engine(TokenEngine(wrong=wrong)) as url:
        batch = make_batch([recorded], FORCE, url, ReplayOptions())
        first = await replay_batch(store, batch, chosen.plans, url)
        again = await replay_batch(store, batch, chosen.plans, url)
    assert (first.tokens_equal, again.tokens_equal) == (not wrong, not wrong)
    assert again.earlier == 1
    assert {d.sampled_ids for d in Store(store).load(again.replays[0].replay_run_id).decodes} == {None}
    for now, then in zip(again.replays[0].decodes, first.replays[0].decodes, strict=True):
        assert (now.tokens_equal, now.tokens_replayed) == (then.tokens_equal, then.tokens_replayed)


async def test_an_engine_that_says_it_is_dying_stops_the_batch(store: Path) -> None:
    engine = TokenEngine(refuse=500)
    engine.healthy = False
    report = await replayed(store, [run_of(), run_of(1)], engine)
    assert "it is dying" in str(report.stopped)
    assert not report.replays


async def test_an_engine_that_fails_one_call_and_lives_does_not(store: Path) -> None:
    report = await replayed(store, [run_of()], TokenEngine(refuse=500))
    assert report.stopped is None
    assert {str(d.error) for d in report.replays[0].divergences} != {"None"}
    assert "the engine core died" in str(report.replays[0].divergences[0].error)


def record(store: Path, runs: Sequence[RecordedRun]) -> list[str]:
    """The runs as a program would have recorded them; returns their ids."""
    recorder = Recorder(store, agent="chain")
    for run in runs:
        root = recorder.start_run("chain", start_ns=run.run.started_ns)
        decodes = {d.span_id: d for d in run.decodes}
        for span in run.spans[1:]:
            live = recorder.start(span.kind, span.name, root, span.step_key.split("/")[-1], start_ns=span.start_ns)
            attributes = decode_attributes(decodes[span.span_id]) if span.span_id in decodes else {}
            recorder.end(live, attributes=attributes, end_ns=span.end_ns)
        recorder.end(root, end_ns=run.run.ended_ns)
    recorder.close()
    return [r.run_id for r in Store(store).runs()]


def redecode(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "redecode.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def served(delay_s: float) -> tuple[subprocess.Popen[str], str]:
    program = Path(__file__).parents[1] / "token_engine.py"
    engine = subprocess.Popen([sys.executable, str(program), str(delay_s)], stdout=subprocess.PIPE, text=True)
    assert engine.stdout is not None
    url = engine.stdout.readline().strip()
    assert url, "the engine did not start"
    return engine, url


def wait_for_a_replay_under_way(store: Path, process: subprocess.Popen[str]) -> None:
    """Until one run is done and another is not: both are in the journal as soon as they are."""
    while process.poll() is None:
        mine = [r for r in Store(store).runs() if r.replay_mode == "force"]
        if any(r.status == "ok" for r in mine) and any(r.status == "open" for r in mine):
            return
    raise AssertionError(f"it ended: {process.communicate()}")


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL of the engine", "SIGKILL of the replay"])
def test_a_replay_that_is_stopped_for_real_is_gone_on_with(store: Path, how: str) -> None:
    record(store, [run_of(n, calls=1 if n == 0 else 12) for n in range(3)])
    engine, url = served(0.5)
    process = redecode("replay", "--last", "3", "--engine", url, "--store", str(store), "--json")
    try:
        wait_for_a_replay_under_way(store, process)
        if how == "SIGKILL of the engine":
            engine.kill()
        else:
            process.send_signal(getattr(signal, how.split()[0]))
        out, words = process.communicate(timeout=30)
    finally:
        engine.kill()
        engine.communicate()
    assert process.returncode == {"SIGINT": 130, "SIGKILL of the engine": 2}.get(how, -9)
    if how != "SIGKILL of the replay":
        document = json.loads(out)
        assert document["replayed"] == 1
        assert len(document["partial"]) == 2
        assert f"--resume {document['batch']}" in words
        assert "1 of 3 runs are replayed and kept, 2 of the other 2 in part" in words
    before = {r.run_id: r.status for r in Store(store).runs() if r.replay_mode == "force"}
    assert sorted(before.values()) == (["ok", "open", "open"] if how.endswith("replay") else ["error", "error", "ok"])
    engine, url = served(0.0)
    try:
        again = redecode("replay", "--resume", "last", "--engine", url, "--store", str(store), "--json")
        out, words = again.communicate(timeout=30)
    finally:
        engine.kill()
        engine.communicate()
    assert again.returncode == 0, words
    document = json.loads(out)
    assert (document["replayed"], document["replayed_before"], document["decodes"]) == (3, 1, 25)
    after = {r.run_id: r.status for r in Store(store).runs() if r.replay_mode == "force"}
    assert len(after) == 5
    assert {run_id: after[run_id] for run_id in before} == before  # what was there is as it was


def test_what_is_no_batch_is_not_gone_on_with(store: Path) -> None:
    with pytest.raises(UnknownBatch, match="no batch of replays 'last'"):
        load_batch(store, "last")
    (store / "replays").mkdir(parents=True)
    (store / "replays" / "abc123.json").write_text('{"format": 1}')
    with pytest.raises(UnknownBatch, match="is no batch of replays"):
        load_batch(store, "abc")
    (store / "replays" / "abc999.json").write_text("{}")
    with pytest.raises(UnknownBatch, match="any of 2"):
        load_batch(store, "abc")


# -- what cannot be replayed, or not as it was --


@pytest.mark.parametrize(
    ("info", "decode", "words"),
    [
        ({"vocab_size": 8}, {}, r"token id \d+\), but the engine serves m with 8 token ids; start the recorded model"),
        ({"max_model_len": 6}, {}, r"7 tokens long \(3 of prompt\).*takes 6; start it with --max-model-len 7"),
        ({"force": False}, {}, r"cannot force tokens.*--logits-processors"),
    ],
    ids=["another vocabulary", "too small a context", "no plug-in"],
)
async def test_an_engine_that_cannot_take_it_is_refused_before_anything_is_sent(
    store: Path, info: dict[str, Any], decode: dict[str, Any], words: str
) -> None:
    engine = TokenEngine(info)
    with pytest.raises((EngineUnfit, EngineError), match=words):
        await replayed(store, [run_of(**decode)], engine)
    assert engine.calls == []
    assert not (store / "replays").exists()


@pytest.mark.parametrize(
    ("decode", "mode", "words"),
    [
        ({"prompt_ids": None}, FORCE, "no prompt token ids .*--mode playback"),
        ({"sampled_ids": None, "logprobs": None}, FORCE, "no sampled token ids"),
        ({"seed": None}, RESAMPLE, "no seed"),
        ({"sampled_ids": (), "logprobs": ()}, FORCE, "made no tokens"),
        ({"sampled_ids": None, "error": "boom"}, FORCE, "failed when recorded"),
    ],
)
def test_a_recording_that_holds_too_little_is_refused(decode: dict[str, Any], mode: ReplayMode, words: str) -> None:
    with pytest.raises(TooLittleRecorded, match=words):
        choose([run_of(**decode)], mode)


def test_of_many_runs_those_that_cannot_be_replayed_are_left_out_and_named() -> None:
    poor = run_of(1, prompt_ids=None, fidelity=Fidelity.TEXT)
    chosen = choose([run_of(), poor], FORCE, leave_out=True)
    assert list(chosen.plans) == [run_of().run.run_id]
    assert "no prompt token ids (fidelity text)" in chosen.left_out[poor.run.run_id]
    with pytest.raises(TooLittleRecorded, match="none of 1 runs"):
        choose([poor], FORCE, leave_out=True)


@pytest.mark.parametrize(
    ("changes", "mode", "note"),
    [
        ({"sampling": {"response_format": {"type": "json_schema"}}}, FORCE, "removed (response_format json_schema)"),
        ({"sampling": {"structured_outputs": {"regex": "a+"}}}, FORCE, "grammar removed (structured_outputs)"),
        ({"sampling": {"tool_choice": "required"}}, FORCE, "grammar removed (tool_choice)"),
        ({"sampling": {"tool_choice": {"type": "function"}, "max_tokens": 4}}, RESAMPLE, "removed (tool_choice)"),
        ({"more_choices": (Choice((1,), None),)}, FORCE, "only the first of 2 choices"),
        ({"sampling": {"max_tokens": 5000}}, RESAMPLE, "limit of 5000 tokens was cut to 509"),
    ],
)  # fmt: skip
async def test_what_is_otherwise_than_recorded_is_said_of_each_call(
    store: Path, changes: dict[str, Any], mode: ReplayMode, note: str
) -> None:
    engine = TokenEngine()
    report = await replayed(store, [run_of(calls=1, **changes)], engine, mode)
    (decode,) = report.replays[0].decodes
    assert [n for n in decode.notes if note in n]
    assert [n for n in report.to_json()["notes"] if note in n["note"] and n["step_key"] == decode.step_key]
    ((_, body),) = engine.calls
    if mode is FORCE:
        assert not {"response_format", "structured_outputs", "tool_choice"} & set(body)


async def test_a_grammar_goes_with_a_resampled_call(store: Path) -> None:
    engine = TokenEngine()
    sampling = {"response_format": {"type": "json_object"}, "max_tokens": 4, "tool_choice": "auto"}
    report = await replayed(store, [run_of(calls=1, sampling=sampling)], engine, RESAMPLE)
    assert engine.calls[0][1]["response_format"] == {"type": "json_object"}
    assert report.to_json()["notes"] == []


async def test_a_call_that_failed_when_recorded_is_waited_through_and_named(store: Path) -> None:
    recorded = run_of(calls=2)
    failed = replace(recorded.decodes[0], sampled_ids=None, logprobs=None, error="HTTP 429")
    report = await replayed(store, [replace(recorded, decodes=[failed, recorded.decodes[1]])], TokenEngine())
    assert report.replays[0].skipped == {failed.step_key: "failed when recorded, replayed as a wait"}
    assert len(report.replays[0].decodes) == 1


async def test_what_differs_between_the_engines_is_shown(store: Path) -> None:
    engine = TokenEngine({"dtype": "float32", "prefix_caching": True, "batch_invariant": False})
    first = await replayed(store, [run_of()], engine)
    recorded = Store(store).load(first.replays[0].replay_run_id)
    now = TokenEngine({"dtype": "bfloat16", "prefix_caching": False, "batch_invariant": True, "engine_version": "9"})
    async with token_engine(now) as url:
        (report,) = await replay_on_engine(store, [recorded], FORCE, url)
    assert {k: v for k, v in report.engine_differences.items() if k != "monotonic_ns"} == {
        "dtype": ("float32", "bfloat16"), "prefix_caching": (True, False), "batch_invariant": (False, True),
    }  # fmt: skip


async def test_nothing_at_the_url_is_an_error_before_anything_is_recorded(store: Path) -> None:
    with pytest.raises(EngineUnreachable):
        await replay_on_engine(store, [run_of()], FORCE, "http://127.0.0.1:9")
    assert Store(store).runs() == []


async def test_a_stopped_replay_raises_with_what_was_done(store: Path) -> None:
    engine = TokenEngine(refuse=503)
    engine.healthy = False
    async with token_engine(engine) as url:
        with pytest.raises(ReplayStopped, match="redecode replay --resume") as caught:
            await replay_on_engine(store, [run_of()], FORCE, url)
    assert caught.value.report.items == 1


def test_the_command_replays_a_selection_with_given_arrivals(store: Path, tmp_path: Path) -> None:
    record(store, [run_of(n) for n in range(2)])
    (tmp_path / "at.csv").write_text("at\n0\n0.05\n")
    engine, url = served(0.0)
    try:
        process = redecode(
            "replay", "--last", "2", "--agent", "chain", "--engine", url, "--store", str(store), "--arrivals", "given",
            "--arrivals-file", str(tmp_path / "at.csv"), "--speed", "5",
        )  # fmt: skip
        out, words = process.communicate(timeout=30)
    finally:
        engine.kill()
        engine.communicate()
    assert process.returncode == 0, words
    assert "6 of 6 decodes equal token for token (24 tokens recorded); logprob gap" in out
    assert "schedule error: p50" in out
    assert "2 of 2 runs replayed" in out
    assert len(list((store / "replays").iterdir())) == 1
