"""Recording real LangGraph graphs: spans, step keys and edges, sync and async."""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy, Send
from pydantic import SecretStr

from redecode.tracer import EdgeKind, Fidelity, Provenance, RecordedRun, SpanKind, Store, run, step, uninstrument

Serve = Callable[..., Any]


class State(TypedDict):
    out: Annotated[list[str], operator.add]


def chat(url: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=url, api_key=SecretStr("none"), model="m")


def only_run(store: Path) -> RecordedRun:
    uninstrument()
    opened = Store(store)
    (found,) = opened.runs()
    return opened.load(found.run_id)


def edges(recorded: RecordedRun) -> set[tuple[str, str, str]]:
    key = {s.span_id: s.step_key for s in recorded.spans}
    return {(key[e.src], key[e.dst], e.kind.value) for e in recorded.edges}


def invoke(graph: Any, llm: ChatOpenAI | None = None, *, asynchronous: bool = False, times: int = 1) -> Any:
    """Run a graph `times` times and close the model's connections; returns the last result."""
    start: Any = {"out": []}

    async def all_times() -> Any:
        results = [await graph.ainvoke(start) for _ in range(times)]
        if llm is not None:
            await llm.root_async_client.close()
        return results[-1]

    try:
        return asyncio.run(all_times()) if asynchronous else [graph.invoke(start) for _ in range(times)][-1]
    finally:
        if llm is not None:
            llm.root_client.close()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_eight_way_fan_out_with_equal_prompts(recording: Path, serve: Serve, *, asynchronous: bool) -> None:
    llm = chat(serve(delay_s=0.01).base_url)

    def ask(state: State) -> dict[str, list[str]]:
        return {"out": [str(llm.invoke("the same").content)]}

    async def ask_async(state: State) -> dict[str, list[str]]:
        return {"out": [str((await llm.ainvoke("the same")).content)]}

    graph = StateGraph(State)
    graph.add_node("ask", ask_async if asynchronous else ask)
    graph.add_node("join", lambda state: {"out": ["joined"]})
    graph.add_conditional_edges(START, lambda state: [Send("ask", state) for _ in range(8)], ["ask"])
    graph.add_edge("ask", "join")
    graph.add_edge("join", END)
    invoke(graph.compile(), llm, asynchronous=asynchronous)

    recorded = only_run(recording)
    decodes = [s for s in recorded.spans if s.kind is SpanKind.DECODE]
    assert sorted(s.step_key for s in decodes) == [f"run/ask@1[push:{n}]/chat" for n in range(8)]
    assert len({s.step_key for s in recorded.spans}) == len(recorded.spans)
    found = edges(recorded)
    for n in range(8):
        branch = f"run/ask@1[push:{n}]"
        assert {
            ("run/__start__@0[pull:__start__]", branch, "data"),
            (branch, f"{branch}/chat", "call"),
            (f"{branch}/chat", branch, "return"),
            (branch, "run/join@2[pull:join]", "barrier"),
            (branch, "run/join@2[pull:join]", "data"),
        } <= found
    assert not [e for e in recorded.edges if e.provenance is Provenance.TIME]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_step_keys_of_the_same_path_are_the_same_on_every_run(
    recording: Path, serve: Serve, *, asynchronous: bool
) -> None:
    llm = chat(serve(delay_s=0.002).base_url)

    def pool(state: State) -> dict[str, list[str]]:
        with ThreadPoolExecutor(3) as executor:
            answers = list(executor.map(lambda n: str(llm.invoke(f"{n}").content), range(6)))
        return {"out": [*answers, str(llm.invoke("after").content)]}

    async def gather(state: State) -> dict[str, list[str]]:
        answers = await asyncio.gather(*(llm.ainvoke(f"{n}") for n in range(6)))
        return {"out": [str(a.content) for a in answers] + [str((await llm.ainvoke("after")).content)]}

    graph = StateGraph(State)
    graph.add_node("work", gather if asynchronous else pool)
    graph.add_edge(START, "work")
    invoke(graph.compile(), llm, asynchronous=asynchronous, times=3)
    uninstrument()
    opened = Store(recording)
    runs = [opened.load(r.run_id) for r in opened.runs()]
    keys = [sorted(s.step_key for s in r.spans) for r in runs]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys[0])) == len(keys[0]) == 2 + 7
    for recorded in runs:
        after = max((s for s in recorded.spans if s.kind is SpanKind.DECODE), key=lambda s: s.start_ns)
        joined = [e for e in recorded.edges if e.dst == after.span_id and e.kind is EdgeKind.JOIN]
        assert len(joined) == 6  # the call after the pool waited for all of it


def test_calls_one_after_another_and_a_branch_beside_them(recording: Path, serve: Serve) -> None:
    llm = chat(serve().base_url)

    def two(state: State) -> dict[str, list[str]]:
        return {"out": [str(llm.invoke("1").content), str(llm.invoke("2").content)]}

    def stream(state: State) -> dict[str, list[str]]:
        return {"out": ["".join(str(c.content) for c in llm.stream("s"))]}

    graph = StateGraph(State)
    graph.add_node("two", two)
    graph.add_node("stream", stream)
    graph.add_node("end", lambda state: {"out": []})
    graph.add_edge(START, "two")
    graph.add_edge(START, "stream")
    graph.add_edge(["two", "stream"], "end")
    assert invoke(graph.compile(), llm)["out"] == ["hello", "hello", "hello"]
    found = edges(only_run(recording))
    assert ("run/two@1[pull:two]/chat", "run/two@1[pull:two]/chat#1", "return") in found
    assert ("run/two@1[pull:two]", "run/end@2[pull:end]", "data") in found
    assert ("run/stream@1[pull:stream]", "run/end@2[pull:end]", "data") in found


def test_a_retried_node_is_a_span_for_each_attempt(recording: Path, serve: Serve) -> None:
    attempts = []

    def flaky(state: State) -> dict[str, list[str]]:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("first time")
        return {"out": ["ok"]}

    graph = StateGraph(State)
    graph.add_node("flaky", flaky, retry_policy=RetryPolicy(initial_interval=0.01, jitter=False))
    graph.add_edge(START, "flaky")
    invoke(graph.compile())
    recorded = only_run(recording)
    assert [(s.step_key, s.status) for s in recorded.spans if s.kind is SpanKind.NODE] == [
        ("run/flaky@1[pull:flaky]", "error"),
        ("run/flaky@1[pull:flaky]#1", "ok"),
    ]
    assert ("run/flaky@1[pull:flaky]", "run/flaky@1[pull:flaky]#1", "retry") in edges(recorded)


def test_a_subgraph_has_supersteps_of_its_own(recording: Path, serve: Serve) -> None:
    llm = chat(serve().base_url)
    inner = StateGraph(State)
    inner.add_node("ask", lambda state: {"out": [str(llm.invoke("x").content)]})
    inner.add_edge(START, "ask")
    outer = StateGraph(State)
    outer.add_node("sub", inner.compile())
    outer.add_node("before", lambda state: {"out": []})
    outer.add_edge(START, "before")
    outer.add_edge("before", "sub")
    invoke(outer.compile(), llm)
    recorded = only_run(recording)
    (decode,) = [s for s in recorded.spans if s.kind is SpanKind.DECODE]
    assert decode.step_key.startswith("run/sub@2[pull:sub]")
    assert decode.step_key.endswith("/ask@1[pull:ask]/chat")


def test_tasks_of_the_functional_api(recording: Path, serve: Serve) -> None:
    llm = chat(serve().base_url)

    @task
    def ask(text: str) -> str:
        return str(llm.invoke(text).content)

    @entrypoint()
    def work(texts: list[str]) -> list[str]:
        return [future.result() for future in [ask(text) for text in texts]]

    assert work.invoke(["a", "b"]) == ["hello", "hello"]
    llm.root_client.close()
    recorded = only_run(recording)
    work_key = "run/work@0[pull:work]"
    assert sorted(s.step_key for s in recorded.spans if s.kind is SpanKind.DECODE) == [
        f"{work_key}/ask@0[push:(pull:work):{n}]/chat" for n in range(2)
    ]
    joined = {src for src, dst, kind in edges(recorded) if dst == work_key and kind in ("join", "return")}
    assert joined == {f"{work_key}/ask@0[push:(pull:work):{n}]" for n in range(2)}


def test_tools_with_arguments_results_and_errors(recording: Path, serve: Serve) -> None:
    @tool
    def look(name: str) -> str:
        """Look somebody up."""
        if name == "nobody":
            raise ValueError("not here")
        return f"found {name}"

    def work(state: State) -> dict[str, list[str]]:
        found = look.invoke({"name": "Ann"})
        with pytest.raises(ValueError, match="not here"):
            look.invoke({"name": "nobody"})
        return {"out": [found]}

    graph = StateGraph(State)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    invoke(graph.compile())
    good, bad = only_run(recording).tools
    by_error = sorted((good, bad), key=lambda t: t.error or "")
    assert (by_error[0].arguments, by_error[0].result) == ({"name": "Ann"}, "found Ann")
    assert by_error[1].error == "ValueError: not here"


def test_the_client_used_directly_is_recorded_with_or_without_a_run_around_it(recording: Path, serve: Serve) -> None:
    import openai

    with openai.OpenAI(base_url=serve(vllm=True).base_url, api_key="none") as client:
        ask: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        client.chat.completions.create(**ask)
        with run("by hand"), step("first"):
            client.chat.completions.create(**ask)
    uninstrument()
    opened = Store(recording)
    keys = {r.agent: [s.step_key for s in opened.load(r.run_id).spans] for r in opened.runs()}
    assert keys == {"chat m": ["run", "run/chat"], "by hand": ["run", "run/first", "run/first/chat"]}
    (decode,) = opened.load(opened.runs()[0].run_id).decodes
    assert decode.sampled_ids == tuple(b"hello")
    assert decode.prompt_ids == (1, 2, 3)
    assert decode.fidelity is Fidelity.TOKENS
    assert decode.digest == decode.content_digest() is not None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("asked", [{}, {"logprobs": True}, {"extra_body": {"return_token_ids": True}}],
                         ids=["plain", "with logprobs", "with ids"])  # fmt: skip
def test_the_caller_gets_the_object_it_would_have_got(
    store: Path, serve: Serve, asked: dict[str, Any], *, stream: bool
) -> None:
    import openai

    from redecode.tracer import instrument

    def call() -> list[Any]:
        ask: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **asked}
        with openai.OpenAI(base_url=server.base_url, api_key="none") as client:
            answer = client.chat.completions.create(**ask)
            return [(c.model_dump(), c.model_fields_set, c.model_extra) for c in (answer if stream else [answer])]

    server = serve(vllm=True)
    plain = call()
    instrument(store)
    recorded = call()
    uninstrument()
    assert recorded == plain
    assert server.requests[1]["return_token_ids"] is True
    (found,) = Store(store).runs()
    assert Store(store).load(found.run_id).decodes[0].sampled_ids == tuple(b"hello")


def test_a_stream_given_up_keeps_what_had_come(recording: Path, serve: Serve) -> None:
    import openai

    server = serve(lambda _: "a long answer", vllm=True, chunk_s=0.1)
    with openai.OpenAI(base_url=server.base_url, api_key="none") as client:
        ask: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        with client.chat.completions.create(**ask) as stream:
            next(iter(stream))
    recorded = only_run(recording)
    (decode,) = recorded.decodes
    assert decode.error == "stream closed before its end"
    assert decode.sampled_ids == (ord("a"),)


def test_an_error_of_the_engine_is_recorded_and_raised_as_it_is(recording: Path, serve: Serve) -> None:
    import openai

    client = openai.OpenAI(base_url=serve().base_url, api_key="none", max_retries=0)
    with client, pytest.raises(openai.NotFoundError, match="no such model"):
        client.chat.completions.create(model="missing", messages=[])
    recorded = only_run(recording)
    assert recorded.run.status == "error"
    assert "NotFoundError" in str(recorded.decodes[0].error)


def test_kill_9_loses_no_finished_span_and_shows_the_open_ones(store: Path, serve: Serve) -> None:
    server = serve(lambda body: "ok", delay_s=0.0)
    program = textwrap.dedent(f"""
        import time
        from redecode.tracer import instrument, run, step
        instrument({str(store)!r})
        import openai
        client = openai.OpenAI(base_url={server.base_url!r}, api_key="none")
        with run("doomed"):
            for n in range(5):
                with step(f"done{{n}}"):
                    client.chat.completions.create(model="m", messages=[])
            with step("hanging"):
                print("ready", flush=True)
                time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    opened = Store(store)
    (found,) = opened.runs()
    assert (found.status, found.agent, found.decodes) == ("open", "doomed", 5)
    recorded = opened.load(found.run_id)
    status = {s.step_key: s.status for s in recorded.spans}
    assert {k: v for k, v in status.items() if v == "open"} == {"run": "open", "run/hanging": "open"}
    assert [status[f"run/done{n}/chat"] for n in range(5)] == ["ok"] * 5


def test_a_program_is_recorded_unchanged_and_its_output_is_its_own(store: Path, serve: Serve, tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        textwrap.dedent(f"""
        import sys
        import openai
        client = openai.OpenAI(base_url={serve().base_url!r}, api_key="none")
        print(client.chat.completions.create(model="m", messages=[]).choices[0].message.content)
        print("its own words", file=sys.stderr)
        sys.exit(7)
    """)
    )
    command = [
        sys.executable,
        "-m",
        "redecode.cli",
        "record",
        "--store",
        str(store),
        "--",
        sys.executable,
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stdout == "hello\n"
    assert done.stderr.splitlines()[0] == "its own words"
    assert "recorded 1 run" in done.stderr
    assert [r.decodes for r in Store(store).runs()] == [1]
