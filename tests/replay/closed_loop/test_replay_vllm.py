"""The slice on a real vLLM: record a graph, replay it by force and by resampling, tamper, compare."""

from __future__ import annotations

import asyncio
import json
import operator
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypedDict

import duckdb
import pytest

pytest.importorskip("langgraph")

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import SecretStr

from redecode.replay import ReplayMode, replay_on_engine
from redecode.tracer import Fidelity, RecordedRun, Store, TimeSource, instrument, uninstrument

pytestmark = [pytest.mark.vllm]
ARTICLE = "The contact for the book sale is Anna Novak. Write to her at anna.novak@tor.com."


class State(TypedDict):
    out: Annotated[list[str], operator.add]


@pytest.fixture(scope="module")
def recorded_store(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with two concurrent runs: eight equal prompts, a streamed call beside them, one call after."""
    path = tmp_path_factory.mktemp("slice") / "store"
    instrument(path)

    async def work() -> None:
        llm = ChatOpenAI(
            base_url=f"{engine_url}/v1", api_key=SecretStr("none"), model="redecode-fm-xs", temperature=0.9
        )

        async def ask(state: State) -> dict[str, list[str]]:
            answer = await llm.ainvoke(f"Give only the name of the contact.\nArticle: {ARTICLE}", max_tokens=24)
            return {"out": [str(answer.content)]}

        async def stream(state: State) -> dict[str, list[str]]:
            prompt = f"Extract the contact as JSON.\nArticle: {ARTICLE}"
            return {"out": ["".join([str(c.content) async for c in llm.astream(prompt, max_tokens=60)])]}

        graph = StateGraph(State)
        graph.add_node("ask", ask)
        graph.add_node("stream", stream)
        graph.add_node("last", ask)
        graph.add_conditional_edges(START, lambda s: [*(Send("ask", s) for _ in range(8)), Send("stream", s)],
                                    ["ask", "stream"])  # fmt: skip
        graph.add_edge(["ask", "stream"], "last")
        graph.add_edge("last", END)
        compiled: Any = graph.compile()
        await asyncio.gather(*(compiled.ainvoke({"out": []}) for _ in range(2)))
        await llm.root_async_client.close()
        llm.root_client.close()

    asyncio.run(work())
    uninstrument()
    yield path


def runs_of(path: Path) -> list[RecordedRun]:
    opened = Store(path)
    return [opened.load(r.run_id) for r in opened.runs() if r.source_run_id is None]


def test_everything_of_a_decode_is_recorded(recorded_store: Path) -> None:
    spans = []
    for recorded in runs_of(recorded_store):
        assert recorded.run.fidelity is Fidelity.ENGINE
        assert len(recorded.decodes) == 10
        assert len({d.step_key for d in recorded.decodes}) == 10
        for d in recorded.decodes:
            assert d.seed is not None
            assert d.seed_source == "tracer"
            assert d.prompt_ids is not None
            assert d.sampled_ids is not None
            assert d.logprobs is not None
            assert d.token_times_ns is not None
            assert len(d.prompt_ids) == d.input_tokens
            assert len(d.sampled_ids) == d.output_tokens == len(d.logprobs) == len(d.token_times_ns)
            assert d.token_time_source is TimeSource.ENGINE
            assert list(d.token_times_ns) == sorted(d.token_times_ns)
            assert d.queue_ns is not None
            assert d.prefill_ns is not None
            assert d.decode_ns is not None
            assert d.fingerprint is not None
            assert d.fingerprint.startswith("vllm-")
            assert d.e2e_ns is not None
            assert 0 < d.token_times_ns[0] <= d.token_times_ns[-1] < d.e2e_ns  # inside what the client saw
            # The span of the step clock is the engine's own decode time; now and then a busy machine comes between.
            spans.append((d.token_times_ns[-1] - d.token_times_ns[0]) / d.decode_ns)
        (streamed,) = [d for d in recorded.decodes if d.stream]
        assert streamed.chunk_tokens is not None
        assert sum(streamed.chunk_tokens) == streamed.output_tokens
    assert len(spans) == 20 and 0.9 < median(spans) < 1.1


def test_force_gives_every_token_again(recorded_store: Path, engine_url: str) -> None:
    reports = asyncio.run(replay_on_engine(recorded_store, runs_of(recorded_store), ReplayMode.FORCE, engine_url))
    assert [len(r.decodes) for r in reports] == [10, 10]
    assert all(r.tokens_equal for r in reports)
    assert sum(r.tokens_replayed for r in reports) == sum(r.tokens_recorded for r in reports) > 0
    opened = Store(recorded_store)
    for report in reports:
        source, replay = opened.load(report.run_id), opened.load(report.replay_run_id)
        assert replay.run.source_run_id == report.run_id
        assert replay.run.replay_mode == "force"
        assert replay.run.labels["replay"]["complete"] is True
        assert {d.token_time_source for d in replay.decodes} == {TimeSource.ENGINE}
        assert report.schedule_error is not None
        assert report.schedule_error.points == 2 * len(replay.spans) + len(replay.decodes)
        assert all(d.logprob_gap is not None for d in report.decodes)
        assert sorted(s.step_key for s in replay.spans) == sorted(s.step_key for s in source.spans)
        key = {s.span_id: s.step_key for s in [*source.spans, *replay.spans]}
        assert sorted((key[e.src], key[e.dst], e.kind) for e in replay.edges) == sorted(
            (key[e.src], key[e.dst], e.kind) for e in source.edges
        )
        by_key = {d.step_key: d for d in source.decodes}
        for d in replay.decodes:
            assert d.sampled_ids == by_key[d.step_key].sampled_ids
            assert d.prompt_ids == by_key[d.step_key].prompt_ids
        starts = {s.step_key: s.start_ns for s in replay.spans}
        ends = {s.step_key: s.end_ns or 0 for s in replay.spans}
        last = next(k for k in starts if k.startswith("run/last") and not k.endswith("chat"))
        assert starts[last] >= max(ends[k] for k in ends if k.startswith(("run/ask", "run/stream")))  # closed loop


def test_resample_reports_what_came(recorded_store: Path, engine_url: str) -> None:
    reports = asyncio.run(replay_on_engine(recorded_store, runs_of(recorded_store), ReplayMode.RESAMPLE, engine_url))
    for report in reports:
        assert report.tokens_replayed > 0
        for d in report.decodes:
            assert d.tokens_equal == (d.divergence is None)
            if d.divergence is not None:
                assert d.divergence.recorded_token != d.divergence.replayed_token


def redecode(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "redecode.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_tampered_tokens_make_force_exit_1_and_name_the_decode(
    recorded_store: Path, engine_url: str, tmp_path: Path
) -> None:
    recorded = runs_of(recorded_store)[0]
    run_id, victim = recorded.run.run_id, recorded.decodes[3]
    good = redecode("replay", run_id, "--store", str(recorded_store), "--engine", engine_url, "--json")
    assert good.returncode == 0, good.stderr
    document = json.loads(good.stdout)
    assert document["tokens_equal"] is True
    assert document["divergences"] == []
    with duckdb.connect(str(recorded_store / "runs.duckdb")) as db:
        changed = [(victim.sampled_ids or ())[0] ^ 1, *(victim.sampled_ids or ())[1:]]
        db.execute("UPDATE decodes SET sampled_ids = ? WHERE span_id = ?", [changed, victim.span_id])
    try:
        bad = redecode("replay", run_id[:16], "--store", str(recorded_store), "--engine", engine_url)
        assert bad.returncode == 1
        assert victim.step_key in bad.stdout
        assert "digest" in bad.stdout
        assert "9 of 10 decodes equal" in bad.stdout
    finally:
        with duckdb.connect(str(recorded_store / "runs.duckdb")) as db:
            ids = list(victim.sampled_ids or ())
            db.execute("UPDATE decodes SET sampled_ids = ? WHERE span_id = ?", [ids, victim.span_id])


def test_many_runs_with_poisson_arrivals(recorded_store: Path, engine_url: str) -> None:
    done = redecode(
        "replay", "--since", "1h", "--arrivals", "poisson", "--rate", "1", "--seed", "3", "--no-stream", "--json",
        "--store", str(recorded_store), "--engine", engine_url,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["runs"], document["replayed"], document["decodes"]) == (2, 2, 20)
    assert document["tokens_equal"] is True
    assert document["options"]["rate"] == 1
    assert document["schedule_error"]["points"] == sum(r["schedule_error"]["points"] for r in document["replays"])
    runs = [r for r in Store(recorded_store).runs() if r.labels.get("replay", {}).get("batch") == document["batch"]]
    first, second = sorted(r.started_ns for r in runs)
    assert second - first >= 150_000_000  # 0.27 s by this seed and rate, less how late the first began


def test_the_documented_json(recorded_store: Path) -> None:
    runs = json.loads(redecode("runs", "--store", str(recorded_store), "--json").stdout)
    assert {
        "run_id", "agent", "status", "started_ns", "duration_s", "fidelity", "decodes", "tools", "tokens",
        "source_run_id",
    } <= set(runs[0])  # fmt: skip
    run_id = next(r["run_id"] for r in runs if r["source_run_id"] is None)
    shown = json.loads(redecode("show", run_id, "--store", str(recorded_store), "--json").stdout)
    spans = {s["span_id"]: s for s in shown["spans"]}
    assert {"span_id", "parent_span_id", "kind", "name", "step_key", "start_ns", "end_ns"} <= set(shown["spans"][0])
    assert {"src", "dst", "kind", "provenance"} == set(shown["edges"][0])
    assert shown["critical_path"]
    assert all(span_id in spans for span_id in shown["critical_path"])
    assert not [e for e in shown["edges"] if e["provenance"] == "time"]
