"""Forks: recorded up to a step, live after it; what is before the step and what after it, and what may go live."""

from __future__ import annotations

import asyncio
import operator
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import openai
import pytest

pytest.importorskip("langgraph")

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel, SecretStr

from redecode.replay import Fork, ReplayDivergence, fork
from redecode.replay.errors import ReplayError
from redecode.tracer import RecordedRun, RedecodeError, Store, instrument, run, uninstrument

Serve = Callable[..., Any]
ANSWERED_BY, OVERRIDDEN, OPTIONS = "redecode.answered_by", "redecode.overridden", "redecode.run.replay_options"


class State(TypedDict):
    out: Annotated[list[str], operator.add]
    n: int


def chat(server: Any, **options: Any) -> ChatOpenAI:
    """A client with an HTTP pool of its own: LangChain shares one among clients that are made alike."""
    return ChatOpenAI(
        base_url=server.base_url, api_key=SecretStr("none"), model="m", timeout=openai.Timeout(30), **options
    )


class Knobs(BaseModel):
    """The context."""

    wording: str = "plain"


class Agent:
    """Eight branches that ask, one that joins and asks, then a tool; every answer of the server is another one."""

    def __init__(self, serve: Serve, *, how: str = "sync") -> None:
        self.count, self.how, self.tool_runs = 0, how, 0
        self.server = serve(self.answer)

    def answer(self, body: dict[str, Any]) -> str:
        self.count += 1
        return f"{body['messages'][-1]['content']}={self.count}"

    def run(self, **config: Any) -> list[str]:
        llm = chat(self.server, temperature=0.5)

        @tool
        def look(text: str) -> str:
            """Look something up."""
            self.tool_runs += 1
            return f"looked {text}"

        async def said(prompt: str) -> str:
            if self.how == "sync":
                return str(llm.invoke(prompt).content)
            if self.how == "async":
                return str((await llm.ainvoke(prompt)).content)
            return "".join([str(part.content) async for part in llm.astream(prompt)])

        async def branch(state: State, runtime: Runtime[Knobs]) -> Any:
            first = await said(f"{runtime.context.wording} {state['n']}")
            return {"out": [first, await said(f"more {state['n']}")]}

        async def join(state: State, runtime: Runtime[Knobs]) -> Any:
            answer = await said(f"{runtime.context.wording} sum {len(state['out'])}")
            return {"out": [answer]}

        def use(state: State) -> Any:
            return {"out": [look.invoke({"text": "always"}), look.invoke({"text": state["out"][-1]})]}

        def blocking(node: Any) -> Any:
            def sync(state: State, runtime: Runtime[Knobs]) -> Any:
                return asyncio.run(node(state, runtime))

            return sync if self.how == "sync" else node

        graph = StateGraph(State, context_schema=Knobs)
        graph.add_node("branch", blocking(branch))
        graph.add_node("join", blocking(join))
        graph.add_node("use", use)
        graph.add_conditional_edges(
            START, lambda s: [Send("branch", {"out": [], "n": n}) for n in range(8)], ["branch"]
        )
        graph.add_edge("branch", "join")
        graph.add_edge("join", "use")
        graph.add_edge("use", END)
        compiled: Any = graph.compile(name="agent")
        start = {"out": [], "n": 0}

        async def once() -> Any:
            try:
                return await compiled.ainvoke(start, context=Knobs(**config))
            finally:
                await llm.root_async_client.close()

        out = compiled.invoke(start, context=Knobs(**config)) if self.how == "sync" else asyncio.run(once())
        llm.root_client.close()
        return list(out["out"])


def recorded(agent: Agent, store: Path, **config: Any) -> tuple[list[str], RecordedRun]:
    instrument(store)
    out = agent.run(**config)
    uninstrument()
    opened = Store(store)
    return out, opened.load(opened.runs()[0].run_id)


def the_fork(store: Path) -> RecordedRun:
    opened = Store(store)
    (summary,) = opened.runs()
    return opened.load(summary.run_id)


def answered(run: RecordedRun) -> dict[str, str]:
    return {s.step_key: s.attributes[ANSWERED_BY] for s in run.spans if ANSWERED_BY in s.attributes}


BRANCH = "run/branch@1[push:3]/chat"
LOOKS = ["look"]


@pytest.mark.parametrize("how", ["sync", "async", "streamed"])
def test_what_does_not_depend_on_the_step_stays_recorded(tmp_path: Path, serve: Serve, how: str) -> None:
    agent = Agent(serve, how=how)
    first, source = recorded(agent, tmp_path / "a")
    calls, runs = agent.count, agent.tool_runs
    with fork(source, until=BRANCH, into=tmp_path / "f", pace=0, live_tools=LOOKS) as player:
        again = agent.run()
    assert player.until == BRANCH
    assert (agent.count, agent.tool_runs) == (calls + 3, runs + 2)
    forked = the_fork(tmp_path / "f")
    live = {key for key, by in answered(forked).items() if by == "live"}
    join = next(s.step_key for s in source.spans if "/join@" in s.step_key and s.kind == "decode")
    tools = {t.step_key for t in source.tools}
    assert live == {BRANCH, f"{BRANCH}#1", join} | tools
    assert set(answered(forked).values()) == {"live", "recording"}
    changed = [n for n, (then, now) in enumerate(zip(first, again, strict=True)) if then != now]
    assert changed == [6, 7, 16, 18]  # the branch's two answers, the sum, and what was looked up of it
    assert {s.step_key for s in forked.spans} == {s.step_key for s in source.spans}
    assert (forked.run.source_run_id, forked.run.replay_mode) == (source.run.run_id, "fork")
    (root,) = [s for s in forked.spans if s.parent_span_id is None]
    assert '"until": "' + BRANCH in root.attributes[OPTIONS]


def test_the_second_call_of_a_step(tmp_path: Path, serve: Serve) -> None:
    agent = Agent(serve)
    first, source = recorded(agent, tmp_path / "a")
    calls = agent.count
    with fork(source, until=f"{BRANCH}#1", into=tmp_path / "f", pace=0, live_tools=LOOKS):
        again = agent.run()
    assert agent.count == calls + 2
    assert [n for n, (then, now) in enumerate(zip(first, again, strict=True)) if then != now] == [7, 16, 18]


def test_a_whole_step_by_the_end_of_its_name(tmp_path: Path, serve: Serve) -> None:
    agent = Agent(serve)
    _, source = recorded(agent, tmp_path / "a")
    calls = agent.count
    with fork(source, until="branch@1[push:3]", into=tmp_path / "f", pace=0, live_tools=LOOKS) as player:
        agent.run()
    assert (player.until, agent.count) == (BRANCH.removesuffix("/chat"), calls + 3)


def test_a_tool_answers_as_recorded_or_not_at_all(tmp_path: Path, serve: Serve) -> None:
    agent = Agent(serve)
    _, source = recorded(agent, tmp_path / "a")
    runs = agent.tool_runs
    with (
        pytest.raises(
            ReplayDivergence, match=r"(?s)call of tool look with these arguments.*--live-tool look"
        ) as caught,
        fork(source, until=BRANCH, into=tmp_path / "f", pace=0),
    ):
        agent.run()
    assert agent.tool_runs == runs
    assert caught.value.step_key.endswith("look#1")  # the first one asks what was recorded
    (use,) = {t.step_key for t in source.tools if t.arguments == {"text": "always"}}
    assert answered(the_fork(tmp_path / "f"))[use] == "recording"


def test_what_is_sent_can_be_changed(tmp_path: Path, serve: Serve) -> None:
    agent = Agent(serve)
    _, source = recorded(agent, tmp_path / "a")
    asked = len(agent.server.requests)
    with fork(
        source,
        until=BRANCH,
        into=tmp_path / "f",
        pace=0,
        live_tools=LOOKS,
        model="better",
        prompt="Be brief.",
        messages={-1: "something else"},
        temperature=0.1,
        sampling={"max_tokens": 7},
    ):
        agent.run()
    first, second, third = agent.server.requests[asked:]
    assert [m["content"] for m in first["messages"]] == ["Be brief.", "something else"]
    assert [m["content"] for m in second["messages"]] == ["Be brief.", "more 3"]
    assert {(r["model"], r["temperature"], r["max_tokens"]) for r in (first, second, third)} == {("better", 0.1, 7)}
    forked = the_fork(tmp_path / "f")
    (there,) = [d for d in forked.decodes if d.step_key == BRANCH]
    assert (there.model, there.sampling["temperature"]) == ("better", 0.1)
    (span,) = [s for s in forked.spans if s.step_key == BRANCH]
    assert '"path": "temperature", "asked": 0.5, "sent": 0.1' in span.attributes[OVERRIDDEN]


def test_another_engine(tmp_path: Path, serve: Serve) -> None:
    agent = Agent(serve)
    _, source = recorded(agent, tmp_path / "a")
    other, asked = serve(lambda _: "from elsewhere"), agent.count
    with fork(source, until=BRANCH, into=tmp_path / "f", pace=0, live_tools=LOOKS, base_url=other.base_url):
        again = agent.run()
    assert (agent.count, len(other.requests)) == (asked, 3)
    assert again[6] == "from elsewhere"
    urls = {d.base_url for d in the_fork(tmp_path / "f").decodes if d.step_key == BRANCH}
    assert urls == {other.base_url.removesuffix("/v1")}


def test_context_is_changed_from_the_step_on(tmp_path: Path, serve: Serve) -> None:
    agent = Agent(serve)
    _, source = recorded(agent, tmp_path / "a")
    asked = len(agent.server.requests)
    with fork(source, until=BRANCH, into=tmp_path / "f", pace=0, live_tools=LOOKS, context={"wording": "kind"}):
        agent.run()
    prompts = [r["messages"][-1]["content"] for r in agent.server.requests[asked:]]
    assert prompts == ["kind 3", "more 3", "kind sum 16"]


@pytest.mark.parametrize(
    ("context", "words"),
    [({"tone": "kind"}, "the context has no field tone; it has wording"), ({"wording": 3}, "context wording: ")],
    ids=["no such field", "not that value"],
)
def test_a_context_that_cannot_be(tmp_path: Path, serve: Serve, context: dict[str, Any], words: str) -> None:
    agent = Agent(serve)
    _, source = recorded(agent, tmp_path / "a")
    with (
        pytest.raises(ReplayError, match=words),
        fork(source, until=BRANCH, into=tmp_path / "f", context=context, pace=0),
    ):
        agent.run()


def test_before_the_step_nothing_changes(tmp_path: Path, serve: Serve) -> None:
    agent = Agent(serve)
    _, source = recorded(agent, tmp_path / "a")
    calls = agent.count
    with (
        pytest.raises(ReplayDivergence, match=r"recorded “plain [0-7]”, asked “new [0-7]”"),
        fork(source, until="join@2[pull:join]", into=tmp_path / "f", pace=0),
    ):
        agent.run(wording="new")
    assert agent.count == calls


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ("run/brunch@1[push:3]/chat", r"has no step .*; nearest: run/branch@1\[push:3\]/chat"),
        ("chat", "could be 9 steps"),
    ],
    ids=["unknown", "ambiguous"],
)
def test_a_step_that_is_not_there(tmp_path: Path, serve: Serve, until: str, words: str) -> None:
    _, source = recorded(Agent(serve), tmp_path / "a")
    with pytest.raises(ReplayError, match=words), fork(source, until=until, into=tmp_path / "f"):
        pass
    assert not (tmp_path / "f").exists()


def test_a_program_that_never_comes_to_the_step(tmp_path: Path, serve: Serve) -> None:
    _, source = recorded(Agent(serve), tmp_path / "a")
    with (
        pytest.raises(ReplayError, match="the program ended without coming to run/branch"),
        fork(source, until=BRANCH, into=tmp_path / "f"),
    ):
        pass


@dataclass
class Chains:
    """Two chains side by side; the second node of each sees only what a `Send` or its own input gives it."""

    server: Any

    def run(self) -> dict[str, Any]:
        llm = chat(self.server)

        class Two(TypedDict, total=False):
            a: str
            b: str

        class OnlyB(TypedDict):
            b: str

        def ask(what: str, key: str) -> Any:
            return lambda state: {key: str(llm.invoke(f"{what} {state.get(key, '')}").content)}

        def second_b(state: Any) -> Any:
            return {"b": str(llm.invoke(f"b2 {state['b']}").content)}

        graph = StateGraph(Two)
        for name, node in (("a1", ask("a1", "a")), ("b1", ask("b1", "b")), ("a2", ask("a2", "a"))):
            graph.add_node(name, node)
        graph.add_node("b2", second_b, input_schema=OnlyB)
        for first, second in ((START, "a1"), (START, "b1"), ("a1", "a2"), ("b1", "b2"), ("a2", END), ("b2", END)):
            graph.add_edge(first, second)
        out: dict[str, Any] = graph.compile(name="chains").invoke({})
        llm.root_client.close()
        return out


def test_a_step_that_only_waited_for_the_barrier_stays_recorded(tmp_path: Path, serve: Serve) -> None:
    answers = iter(range(100))
    chains = Chains(serve(lambda body: f"{body['messages'][-1]['content']}={next(answers)}"))
    instrument(tmp_path / "a")
    first = chains.run()
    uninstrument()
    opened = Store(tmp_path / "a")
    with fork(opened.load(opened.runs()[0].run_id), until="a1@1[pull:a1]/chat", into=tmp_path / "f", pace=0):
        again = chains.run()
    assert again["b"] == first["b"]
    assert again["a"] != first["a"]
    live = {key for key, by in answered(the_fork(tmp_path / "f")).items() if by == "live"}
    assert live == {"run/a1@1[pull:a1]/chat", "run/a2@2[pull:a2]/chat"}


def test_a_conversation_goes_on_live_after_its_fork(tmp_path: Path, serve: Serve) -> None:
    answers = iter(range(100))
    server = serve(lambda _: f"answer {next(answers)}")

    def program() -> list[Any]:
        llm = chat(server)

        def ask(state: State) -> Any:
            first = llm.invoke("first").content
            return {"out": [str(first), str(interrupt("go on?")), str(llm.invoke("second").content)]}

        graph = StateGraph(State)
        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        made: Any = graph.compile(checkpointer=InMemorySaver(), name="talk")
        config: Any = {"configurable": {"thread_id": "t"}}
        made.invoke({"out": [], "n": 0}, config)
        out = made.invoke(Command(resume="yes"), config)["out"]
        llm.root_client.close()
        return list(out)

    instrument(tmp_path / "a")
    program()
    uninstrument()
    opened = Store(tmp_path / "a")
    second, first = [opened.load(r.run_id) for r in opened.runs()]
    with fork(first, until="chat", into=tmp_path / "f", pace=0):
        assert program() == ["answer 4", "yes", "answer 5"]  # 3 was the fork's own, 0 to 2 the recording
    forked = Store(tmp_path / "f")
    assert [r.source_run_id for r in forked.runs()] == [first.run.run_id] * 2
    with fork(second, first, until="chat#1", into=tmp_path / "g", pace=0):
        assert program() == ["answer 1", "yes", "answer 6"]


def subagent(server: Any, ran: list[str]) -> Any:
    llm = chat(server)

    @tool
    def research(topic: str) -> str:
        """An agent as a tool."""
        ran.append(topic)
        return f"{llm.invoke(topic).content}; {llm.invoke('sum up').content}"

    graph = StateGraph(State)
    graph.add_node("use", lambda _: {"out": [research.invoke({"topic": "ships"})]})
    graph.add_edge(START, "use")
    return graph.compile(name="lead"), llm


def test_a_step_inside_a_tool(tmp_path: Path, serve: Serve) -> None:
    answers, ran = iter(range(100)), list[str]()
    graph, llm = subagent(serve(lambda _: f"answer {next(answers)}"), ran)
    instrument(tmp_path / "a")
    graph.invoke({"out": [], "n": 0})
    uninstrument()
    opened = Store(tmp_path / "a")
    source = opened.load(opened.runs()[0].run_id)
    inside = next(d.step_key for d in source.decodes if d.step_key.endswith("#1"))
    with pytest.raises(ReplayError, match="is inside tool research, which runs only if it is named"):
        Fork([source], inside)
    with fork(source, until=inside, into=tmp_path / "f", pace=0, live_tools=["research"]):
        assert graph.invoke({"out": [], "n": 0})["out"] == ["answer 0; answer 2"]
    assert ran == ["ships"] * 2
    llm.root_client.close()


class Own(BaseChatModel):
    """A model that calls no OpenAI client."""

    @property
    def _llm_type(self) -> str:
        return "own"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        ASKED.append([m.content for m in messages])
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"answer {len(ASKED)}"))])


ASKED: list[Any] = []


def test_a_model_that_calls_no_openai_client(tmp_path: Path) -> None:
    ASKED.clear()

    def program() -> list[Any]:
        with run("own"):
            return [Own().invoke(text).content for text in ("one", "two", "three")]

    instrument(tmp_path / "a")
    first = program()
    uninstrument()
    opened = Store(tmp_path / "a")
    source = opened.load(opened.runs()[0].run_id)
    with fork(source, until="run/chat#1", into=tmp_path / "f", pace=0, prompt="Be brief.", messages={-1: "zwei"}):
        assert program() == [first[0], "answer 4", "answer 5"]
    assert ASKED[3:] == [["Be brief.", "zwei"], ["Be brief.", "three"]]
    with (
        pytest.raises(RedecodeError, match="model cannot be changed in a call of Own, which is not made by the OpenAI"),
        fork(source, until="run/chat#1", into=tmp_path / "g", pace=0, model="better"),
    ):
        program()


def test_on_the_command_line(tmp_path: Path, serve: Serve) -> None:
    answers = iter(range(100))
    server = serve(lambda _: f"answer {next(answers)}")
    program = tmp_path / "app.py"
    program.write_text(
        "import openai\n"
        "from redecode.tracer import run, step\n"
        f"client = openai.OpenAI(base_url={server.base_url!r}, api_key='x', max_retries=0)\n"
        "with run('agent'):\n"
        "    for name in ('one', 'two', 'three'):\n"
        "        with step(name):\n"
        "            messages = [{'role': 'user', 'content': name}]\n"
        "            print(client.chat.completions.create(model='m', messages=messages).choices[0].message.content)\n"
    )
    store, own = str(tmp_path / "store"), [sys.executable, str(program)]
    subprocess.run([sys.executable, "-m", "redecode.cli", "record", "--store", store, "--", *own], check=True)
    (summary,) = Store(Path(store)).runs()

    def redecode(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "redecode.cli", "replay", summary.run_id, "--store", store, *options]
        return subprocess.run([*command, "--", *own], capture_output=True, text=True, check=False)

    (tmp_path / "prompt.txt").write_text("Be brief.")
    asked = len(server.requests)
    changes = ["--model", "better", "--prompt", f"@{tmp_path}/prompt.txt", "--set", "max_tokens=7", "--set", "user=me"]
    done = redecode("--mode", "fork", "--until", "two/chat", "--speed", "0", "--message", "0=zwei", *changes)
    assert (done.returncode, done.stdout) == (0, "answer 0\nanswer 3\nanswer 4\n")
    assert "1 calls from the recording, 2 live" in done.stderr
    second, third = server.requests[asked:]
    assert second["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "zwei"}]
    assert (third["model"], third["max_tokens"], third["user"]) == ("better", 7, "me")
    wrong = redecode("--mode", "fork", "--until", "to/chat")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "has no step to/chat; nearest: run/two/chat" in wrong.stderr
    for options in (["--mode", "fork"], ["--mode", "playback", "--until", "x"], ["--mode", "playback", "--model", "m"]):
        assert redecode(*options).returncode == 2
    forked = Store(Path(store)).load(Store(Path(store)).runs()[0].run_id)
    show = [sys.executable, "-m", "redecode.cli", "show", forked.run.run_id, "--store", store]
    shown = subprocess.run(show, capture_output=True, text=True, check=True)
    assert "live from run/two/chat on: model better, prompt Be brief." in " ".join(shown.stdout.split())
    assert sorted(answered(forked).values()) == ["live", "live", "recording"]
