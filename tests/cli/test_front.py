"""`redecode front`: a process of its own before real servers, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.optimizer.placement.cluster.http_front import listen
from redecode.optimizer.placement.cluster.paced_answers import paced_server
from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.profile import EngineLimits, EngineProfile, Overheads, Range, Seconds
from redecode.replay.simulator.rows import Limits


class Servers:
    """Applications, each at a URL, in a loop of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runners: list[web.AppRunner] = []

    def serve(self, model: str = "m", step_s: float = 0.001) -> str:
        async def begin() -> str:
            limits = Limits(max_num_seqs=4, token_budget=512, kv_blocks=256)
            engine = Engine(costs=StepCosts(step=to_ps(step_s)), limits=limits, model=model)
            self._runners.append(await listen(paced_server(engine), "127.0.0.1", 0))
            return f"http://127.0.0.1:{self._runners[-1].addresses[0][1]}"

        return asyncio.run_coroutine_threadsafe(begin(), self._loop).result()

    def close(self) -> None:
        async def end() -> None:
            for runner in self._runners:
                await runner.cleanup()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers()
    yield made
    made.close()


def a_profile(path: Path, model: str = "m") -> Path:
    """An engine that takes a millisecond for a step."""
    seconds = dict.fromkeys(Seconds.model_fields, 0.0) | {"step": 0.001}
    EngineProfile(
        model=model, hardware="a machine", engine={}, made="2026-01-01T00:00:00+00:00", source="sweep", steps=1,
        left_out={}, seconds=Seconds(**seconds), overheads=Overheads(),
        limits=EngineLimits(
            max_num_seqs=4, token_budget=512, kv_blocks=256, block_size=16, chunked_prefill=True, prefix_caching=True
        ),
        range=Range(rows=4, prefill_tokens=512, prefill_pairs=10**6, context_tokens=10**4), residuals=(),
        step_spread=(), prefill_spread=(),
    ).save(path)  # fmt: skip
    return path


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


async def test_calls_are_placed_until_it_is_interrupted_and_decisions_are_written(
    servers: Servers, tmp_path: Path
) -> None:
    urls, log = [servers.serve() for _ in range(2)], tmp_path / "decisions.jsonl"
    profile = a_profile(tmp_path / "m.json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "redecode.cli", "front", "--policy", "deadline", "--slo", "5s", "--port", "0", "--json",
        *(part for url in urls for part in ("--replica", f"{url}/v1={profile}")), "--decisions", str(log),
        "--store", str(tmp_path / "none"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    told = b""
    while True:  # one document, over several lines
        line = await process.stdout.readline()
        assert line, (await process.communicate())[1]
        told += line
        try:
            begun = json.loads(told)
            break
        except ValueError:
            continue
    assert [r["url"] for r in begun["replicas"]] == urls
    answer = await asyncio.to_thread(post, begun["url"], {"model": "m", "prompt": [1, 2, 3], "max_tokens": 4})
    assert answer["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip
    (line_of_log,) = log.read_text().splitlines()
    decision = json.loads(line_of_log)
    assert decision["call"]["deadline_s"] == pytest.approx(decision["call"]["run_began_s"] + 5)
    assert decision["decision"]["reason"]
    assert len(decision["decision"]["candidates"]) == 2
    process.send_signal(signal.SIGINT)
    rest, errors = await process.communicate()
    assert (process.returncode, rest) == (0, b"")
    assert b"no recorded runs" in errors


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--replica", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9"),
        (["--replica", "localhost"], "is no http:// or https:// URL of a replica"),
        (["--replica", "{other}"], "does not say that it is a vLLM"),
        (["--replica", "{paced}", "--replica", "{paced}"], "is a replica already"),
        (["--replica", "{paced}", "--policy", "deadline"], "must know how fast"),
        (["--replica", "{paced}={profile}"], "the profile given for it is of another"),
        (["--replica", "{paced}=nothing"], "no engine profile 'nothing'"),
        (["--replica", "{paced}", "--slo", "soon"], "an SLO is a time"),
    ],
)
def test_what_cannot_be_a_cluster_is_refused_in_one_line(
    servers: Servers, serve: Any, tmp_path: Path, options: list[str], says: str
) -> None:
    names = {
        "paced": servers.serve() if "{paced}" in "".join(options) else "",
        "other": serve().base_url,
        "profile": str(a_profile(tmp_path / "p.json", "another")),
    }
    given = [option.format(**names) for option in options]
    result = CliRunner().invoke(app, ["front", *given, "--port", "0", "--store", str(tmp_path / "store")])
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.strip().count("\n") == 0
