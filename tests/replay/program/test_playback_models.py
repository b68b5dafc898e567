"""Playback of LangChain models that do not call the OpenAI client, of retrievers, and of what tools return."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pytest

pytest.importorskip("langgraph")

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import LLM, BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, GenerationChunk
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.tools import ToolException, tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command, interrupt
from pydantic import BaseModel, SecretStr
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.replay import ReplayDivergence, playback
from redecode.tracer import Store, instrument, run, uninstrument
from redecode.tracer.fm.played_chunks import chunks_of
from redecode.tracer.player import ERROR_EVENT, Played

Serve = Callable[..., Any]
LIVE: list[str] = []  # what went live
QUESTION = [HumanMessage("who?")]


class Contact(BaseModel):
    """Who it is."""

    name: str


class Own(BaseChatModel):
    """A model of somebody's own, which answers something else every time."""

    temperature: float = 0.3

    @property
    def _llm_type(self) -> str:
        return "own"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[{"type": "function", "function": {"name": t.__name__}} for t in tools])

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        LIVE.append("generate")
        calls: Any = [{"name": "Contact", "args": {"name": f"Ann {len(LIVE)}"}, "id": f"c{len(LIVE)}"}]
        message = AIMessage(
            f"answer {len(LIVE)}",
            tool_calls=calls,
            usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
            response_metadata={"finish_reason": "tool_calls", "headers": {"x": 1}},
            additional_kwargs={"mood": "calm"},
        )
        return ChatResult(generations=[ChatGeneration(message=message, generation_info={"score": len(LIVE)})])


class Streaming(Own):
    """And one that streams."""

    fails: bool = False

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[Any]:
        LIVE.append("stream")
        for word in ("one ", "two ", f"{len(LIVE)}"):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        if self.fails:
            raise ConnectionError("the line is dead")
        usage: Any = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        yield ChatGenerationChunk(
            message=AIMessageChunk(content="", usage_metadata=usage, response_metadata={"end": "stop"})
        )

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> AsyncIterator[Any]:
        for chunk in self._stream(messages):
            await asyncio.sleep(0)
            yield chunk


class Text(LLM):
    """A text model of somebody's own."""

    @property
    def _llm_type(self) -> str:
        return "text"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **_: Any) -> str:
        LIVE.append("call")
        return f"{prompt} {len(LIVE)}"


class StreamingText(Text):
    """And one that streams."""

    def _stream(self, prompt: str, stop: Any = None, run_manager: Any = None, **_: Any) -> Iterator[GenerationChunk]:
        LIVE.append("stream")
        for word in ("one ", "two ", f"{len(LIVE)}"):
            if run_manager is not None:
                run_manager.on_llm_new_token(word)
            yield GenerationChunk(text=word)


def facts(value: Any) -> Any:
    """What can be seen of an answer; of a stream, all its parts as one."""
    if isinstance(value, BaseMessage):
        return {k: v for k, v in value.model_dump().items() if k != "type"}
    if isinstance(value, list) and value and isinstance(value[0], AIMessageChunk):
        whole = value[0]
        for chunk in value[1:]:
            whole += chunk
        return facts(whole)
    if isinstance(value, list):
        return [facts(one) for one in value]
    return value


def recorded_then_played(path: Path, program: Callable[[], Any], **options: Any) -> tuple[Any, Any]:
    """What a program returns when it is recorded, and when it is played back, with nothing of it live."""
    instrument(path / "store")
    try:
        with run("program"):
            first = program()
    finally:
        uninstrument()
    opened, live = Store(path / "store"), len(LIVE)
    recorded = opened.load(opened.runs()[-1].run_id)
    with playback(recorded, into=path / "played", pace=0.0, **options) as player, run("program"):
        again = program()
    assert len(LIVE) == live
    assert player.unasked() == []
    played = Store(path / "played")
    (summary,) = played.runs()
    steps = [(s.step_key, s.kind, s.status) for s in recorded.spans]
    assert sorted((s.step_key, s.kind, s.status) for s in played.load(summary.run_id).spans) == sorted(steps)
    return first, again


async def gathered(model: Any) -> list[Any]:
    return list(await asyncio.gather(*(model.ainvoke(QUESTION) for _ in range(3))))


async def astreamed(model: Any) -> list[Any]:
    return [chunk async for chunk in model.astream(QUESTION)]


def events(model: Any) -> Any:
    return model.stream_events(QUESTION, version="v3").output


def joined(parts: list[Any]) -> Any:
    return "".join(parts) if isinstance(parts[0], str) else parts


CALLS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda m: m.invoke(QUESTION),
    "ainvoke": lambda m: asyncio.run(m.ainvoke(QUESTION)),
    "stream": lambda m: joined(list(m.stream(QUESTION))),
    "astream": lambda m: joined(asyncio.run(astreamed(m))),
    "batch": lambda m: m.batch([QUESTION] * 3),
    "gather": lambda m: asyncio.run(gathered(m)),
    "generate": lambda m: [
        g[0].text for g in m.generate_prompt([m._convert_input("a"), m._convert_input("b")]).generations
    ],
    "with retry": lambda m: m.with_retry().invoke(QUESTION),
}


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("model", [Own, Streaming, Text, StreamingText], ids=lambda model: model.__name__)
def test_the_answer_is_the_recorded_one(tmp_path: Path, how: str, model: Any) -> None:
    first, again = recorded_then_played(tmp_path, lambda: facts(CALLS[how](model())))
    assert again == first


@pytest.mark.filterwarnings("ignore:.*beta")
def test_protocol_events_are_of_the_recorded_answer(tmp_path: Path) -> None:
    first, again = recorded_then_played(tmp_path, lambda: events(Streaming()).text)
    assert again == first
    assert first


def test_bound_tools_and_structured_output(tmp_path: Path) -> None:
    def program() -> list[Any]:
        model = Own()
        return [facts(model.bind_tools([Contact]).invoke(QUESTION)), model.with_structured_output(Contact).invoke("?")]

    first, again = recorded_then_played(tmp_path, program)
    assert again == first
    assert isinstance(again[1], Contact)


def test_a_stream_that_failed_fails_where_it_did(tmp_path: Path) -> None:
    def program() -> list[Any]:
        words: list[Any] = []
        with pytest.raises(ConnectionError, match="the line is dead"):
            for chunk in Streaming(fails=True).stream(QUESTION):
                words.append(chunk.content)
        return ["".join(words)]

    first, again = recorded_then_played(tmp_path, program)
    assert again == first
    assert first[0].startswith("one two ")


def test_langchains_cache_is_not_asked(tmp_path: Path) -> None:
    set_llm_cache(InMemoryCache())

    def program() -> list[Any]:
        return [facts(Own().invoke(QUESTION)), facts(Own().invoke(QUESTION))]

    try:
        first, again = recorded_then_played(tmp_path, program)
        assert first[0]["content"] == first[1]["content"]  # a hit
        set_llm_cache(None)
        assert again == first
    finally:
        set_llm_cache(None)


def test_a_hit_of_langchains_cache_above_the_openai_client(tmp_path: Path, serve: Serve) -> None:
    server = serve(lambda _: "cached")
    set_llm_cache(InMemoryCache())

    def program() -> list[str]:
        model = ChatOpenAI(base_url=server.base_url, api_key=SecretStr("none"), model="m")
        found = [str(model.invoke(QUESTION).content) for _ in range(2)]
        model.root_client.close()
        return found

    try:
        assert recorded_then_played(tmp_path, program) == (["cached"] * 2, ["cached"] * 2)
    finally:
        set_llm_cache(None)
    assert len(server.requests) == 1


def test_another_model_in_place_of_the_openai_client_does_not_go_live(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    model = ChatOpenAI(base_url=server.base_url, api_key=SecretStr("none"), model="m")
    models: list[Any] = [model, Own()]
    with pytest.raises(ReplayDivergence, match="Own answered without the OpenAI client"):
        recorded_then_played(tmp_path, lambda: models.pop(0).invoke(QUESTION))
    model.root_client.close()


def test_a_changed_question_is_a_divergence(tmp_path: Path) -> None:
    questions = ["who?", "what?"]
    live = len(LIVE)
    with pytest.raises(ReplayDivergence, match=r"messages\[0\].content"):
        recorded_then_played(tmp_path, lambda: Own().invoke(questions.pop(0)))
    assert len(LIVE) == live + 1


def test_a_model_that_was_not_called_then(tmp_path: Path) -> None:
    turns = [1, 2]
    live = len(LIVE)
    with pytest.raises(ReplayDivergence, match="this FM call own is not in the recording"):
        recorded_then_played(tmp_path, lambda: [Own().invoke(QUESTION) for _ in range(turns.pop(0))])
    assert len(LIVE) == live + 1


class Shelf(BaseRetriever):
    """Documents, others every time."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        LIVE.append("retrieve")
        return [Document(f"{query} {len(LIVE)}", metadata={"page": 3}, id="d1")]


@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
def test_a_retriever(tmp_path: Path, *, awaits: bool) -> None:
    shelf = Shelf()
    first, again = recorded_then_played(
        tmp_path, lambda: asyncio.run(shelf.ainvoke("ships")) if awaits else shelf.invoke("ships")
    )
    assert again == first
    assert isinstance(again[0], Document)


def test_a_retriever_that_is_asked_something_else(tmp_path: Path) -> None:
    queries = ["ships", "boats"]
    with pytest.raises(ReplayDivergence, match="query: recorded “ships”, asked “boats”"):
        recorded_then_played(tmp_path, lambda: Shelf().invoke(queries.pop(0)))


@dataclasses.dataclass
class Size:
    """Of something."""

    height: int
    made: date


@tool
def measured(name: str) -> Any:
    """An object."""
    LIVE.append("tool")
    return {"sizes": (Size(len(LIVE), date(2026, 1, 2)),), "who": Contact(name=name)}


@tool(response_format="content_and_artifact")
def with_artifact(name: str) -> Any:
    """Text and an object."""
    LIVE.append("tool")
    return f"{name} {len(LIVE)}", Size(len(LIVE), date(2026, 1, 2))


@tool
def unmakeable(name: str) -> Any:
    """What no file can hold."""
    LIVE.append("tool")
    return iter([name])


def test_what_tools_return_is_made_again(tmp_path: Path) -> None:
    call: Any = {"name": "with_artifact", "args": {"name": "a"}, "id": "c1", "type": "tool_call"}
    first, again = recorded_then_played(
        tmp_path, lambda: [measured.invoke({"name": "Ann"}), with_artifact.invoke(call), with_artifact.invoke("b")]
    )
    assert again == first
    assert isinstance(again[0]["who"], Contact)
    assert isinstance(again[1].artifact, Size)


def test_what_cannot_be_made_again_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReplayDivergence, match="an object of class builtins:list_iterator, which cannot be made again"):
        recorded_then_played(tmp_path, lambda: unmakeable.invoke("x"))


class Desk(MessagesState):
    """Of the graph below."""

    place: str


def desk(*calls: tuple[str, dict[str, Any]], saver: Any = None) -> Any:
    """A graph whose only tools are called as given."""

    @tool
    def move(to: str, tool_call_id: str = "m") -> Command[Any]:
        """Move by a command."""
        LIVE.append("move")
        return Command(update={"place": f"{to} {len(LIVE)}", "messages": [ToolMessage("moved", tool_call_id="c0")]})

    @tool
    def break_down(why: str) -> str:
        """Fail in a way the tool answers itself."""
        LIVE.append("break")
        raise ToolException(f"{why} {len(LIVE)}")

    break_down.handle_tool_error = True

    @tool
    def where(state: Annotated[dict[str, Any], InjectedState], near: str) -> str:
        """Read the state."""
        LIVE.append("where")
        return f"{near} {state['messages'][-1].content} {len(LIVE)}"

    @tool
    def approve(what: str) -> str:
        """Ask a person."""
        answer = interrupt({"approve": what})
        LIVE.append("approve")
        return f"{answer} {len(LIVE)}"

    graph = StateGraph(Desk)
    made = [{"name": name, "args": args, "id": f"c{n}"} for n, (name, args) in enumerate(calls)]
    graph.add_node("ask", lambda _: {"messages": [AIMessage("", tool_calls=made)]})
    graph.add_node("tools", ToolNode([move, break_down, where, approve]))
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "tools")
    graph.add_edge("tools", END)
    return graph.compile(checkpointer=saver)


def test_tools_of_a_graph(tmp_path: Path) -> None:
    calls = [("move", {"to": "here"}), ("break_down", {"why": "rust"}), ("where", {"near": "by"})]

    def program() -> Any:
        out = desk(*calls).invoke({"messages": []})
        return out["place"], [(m.content, getattr(m, "status", None)) for m in out["messages"]]

    first, again = recorded_then_played(tmp_path, program)
    assert again == first
    assert first[1][2][1] == "error"


def test_a_tool_that_interrupts_interrupts_again(tmp_path: Path) -> None:
    config: Any = {"configurable": {"thread_id": "t"}}

    def program() -> Any:
        graph = desk(("approve", {"what": "a trip"}), saver=InMemorySaver())
        stopped = graph.invoke({"messages": []}, config)["__interrupt__"][0].value
        return stopped, graph.invoke(Command(resume="yes"), config)["messages"][-1].content

    first, again = recorded_then_played(tmp_path, program)
    assert again == first
    assert first[0] == {"approve": "a trip"}


def test_a_retrieval_of_an_exported_run_is_played_back(tmp_path: Path) -> None:
    def program() -> Any:
        with run("program"):
            return Shelf().invoke("ships")

    instrument(tmp_path / "store")
    first = program()
    uninstrument()
    (summary,) = Store(tmp_path / "store").runs()
    file, other = str(tmp_path / "run.json"), str(tmp_path / "other")
    here = ["--store", str(tmp_path / "store")]
    export = ["export", summary.run_id, "--format", "otlp", "--output", file, *here]
    for command in (export, ["import", file, "--store", other]):
        assert CliRunner().invoke(app, command).exit_code == 0
    with playback(summary.run_id, store=other, into=tmp_path / "played", pace=0.0):
        assert program() == first


def test_a_stream_that_failed_before_it_said_anything_fails_then() -> None:
    error = {"error": {"message": "overloaded"}}
    played = Played(value={"id": "c", "choices": [], ERROR_EVENT: error}, chunks_s=(0.1,))
    assert list(chunks_of("/v1/chat/completions", played)) == [(0, error)]
