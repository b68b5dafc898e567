"""What fails, is tried again, cut off or given up: the agent sees what it would have seen, and the record says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.errors import GraphRecursionError, NodeTimeoutError
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy

from redecode.tracer import SpanKind
from tests.tracer.langgraph.support import Program, Seen, State, both_ways, same, says

Record = Callable[[Program], list[Seen]]
NODE = "run/n@1[pull:n]"


def one_node(node: Any, **options: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("n", node, **options)
    graph.add_edge(START, "n")
    return graph.compile()


def test_each_attempt_of_a_node_is_a_span(record: Record) -> None:
    attempts: list[int] = []

    def flaky(state: State) -> dict[str, list[str]]:
        attempts.append(1)
        if len(attempts) % 3:
            raise ConnectionError("not yet")
        return {"out": ["ok"]}

    graph = one_node(flaky, retry_policy=RetryPolicy(initial_interval=0.001, jitter=False))
    one, two = record(both_ways(graph, {"out": []}))
    same(one, two)
    assert [(k, one.span(k).status) for k in one.keys[1:]] == [
        (NODE, "error"),
        (f"{NODE}#1", "error"),
        (f"{NODE}#2", "ok"),
    ]
    assert one.edges == {
        ("run", NODE, "call"),
        (NODE, f"{NODE}#1", "retry"),
        (f"{NODE}#1", f"{NODE}#2", "retry"),
        (f"{NODE}#2", "run", "return"),
    }


def test_a_model_asked_again_after_it_failed(record: Record) -> None:
    class Flaky(GenericFakeChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            answer = next(self.messages)
            if answer == "fail":
                raise ConnectionError("not yet")
            return super()._generate(*args, **kwargs)

    def node(state: State) -> dict[str, list[str]]:
        def messages() -> Any:
            yield "fail"
            yield "go on"
            yield AIMessage("yes")

        again = Flaky(messages=messages()).with_retry(wait_exponential_jitter=False)
        return {"out": [str(again.invoke("?").content)]}

    (found,) = record(lambda: one_node(node).invoke({"out": []}))
    assert found.of(SpanKind.DECODE) == [f"{NODE}/chat", f"{NODE}/chat#1"]
    assert found.into(f"{NODE}/chat#1") == {(f"{NODE}/chat", "retry")}
    assert found.recorded.run.output == {"out": ["yes"]}


def test_what_a_node_raises_is_raised_and_recorded(record: Record) -> None:
    graph = one_node(lambda state: [][1])

    def program() -> None:
        with pytest.raises(IndexError):
            graph.invoke({"out": []})
        with pytest.raises(IndexError):
            asyncio.run(graph.ainvoke({"out": []}))

    for found in record(program):
        assert [(s.kind.value, s.status) for s in found.recorded.spans] == [("run", "error"), ("node", "error")]
        assert found.recorded.run.error == "IndexError: list index out of range"


def test_an_error_handler_runs_after_what_failed(record: Record) -> None:
    def bad(state: State) -> dict[str, list[str]]:
        raise ValueError("bad")

    graph = StateGraph(State)
    graph.add_node("bad", bad, error_handler=says("handled"))
    graph.add_node("beside", says("beside"))
    graph.add_node("after", says("after"))
    graph.add_edge(START, "bad")
    graph.add_edge(START, "beside")
    graph.add_edge("bad", "after")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    failed = "run/bad@1[pull:bad]"
    (handler,) = [k for k in one.keys if "node_error_handler" in k]
    assert one.span(failed).status == "error"
    assert one.into(handler) == {(failed, "data")}
    assert one.recorded.run.status == "ok"
    assert sorted(one.recorded.run.output["out"]) == sorted(two.recorded.run.output["out"])


def test_a_node_that_takes_too_long(record: Record) -> None:
    async def slow(state: State) -> dict[str, list[str]]:
        await asyncio.sleep(5)
        return {"out": []}

    graph = one_node(slow, timeout=0.02)

    def program() -> None:
        with pytest.raises(NodeTimeoutError):
            asyncio.run(graph.ainvoke({"out": []}))

    (found,) = record(program)
    assert found.recorded.run.status == "error"
    assert str(found.recorded.run.error).startswith("NodeTimeoutError")
    assert found.span(NODE).status == "error"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_superstep_that_takes_too_long(record: Record, asynchronous: bool) -> None:
    go_on = threading.Event()

    def slow(state: State) -> dict[str, list[str]]:
        go_on.wait(5)
        return {"out": []}

    async def slow_async(state: State) -> dict[str, list[str]]:
        await asyncio.sleep(5)
        return {"out": []}

    graph = StateGraph(State)
    graph.add_node("quick", says("quick"))
    graph.add_node("slow", slow_async if asynchronous else slow)
    graph.add_edge(START, "quick")
    graph.add_edge(START, "slow")
    compiled: Any = graph.compile()
    compiled.step_timeout = 0.1

    def program() -> None:
        with pytest.raises(TimeoutError):
            if asynchronous:
                asyncio.run(compiled.ainvoke({"out": []}))
            else:
                threading.Timer(0.3, go_on.set).start()  # a thread cannot be stopped: LangGraph waits for it
                compiled.invoke({"out": []})

    (found,) = record(program)
    assert (found.recorded.run.status, str(found.recorded.run.error).split(":")[0]) == ("error", "TimeoutError")
    statuses = {s.name: s.status for s in found.recorded.spans if s.kind is SpanKind.NODE}
    assert statuses == {"quick": "ok", "slow": "error" if asynchronous else "ok"}


def test_a_graph_cut_off_from_outside(record: Record) -> None:
    async def slow(state: State) -> dict[str, list[str]]:
        await asyncio.sleep(5)
        return {"out": []}

    graph = one_node(slow)

    async def program() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(graph.ainvoke({"out": []}), 0.02)

    (found,) = record(lambda: asyncio.run(program()))
    assert [s.status for s in found.recorded.spans] == ["error", "error"]
    assert str(found.recorded.run.error).startswith("CancelledError")


class Stop(BaseException):
    """As `KeyboardInterrupt`: no `Exception`."""


def test_what_is_no_exception_passes_through_too(record: Record) -> None:
    def stop(state: State) -> dict[str, list[str]]:
        raise Stop("now")

    graph = one_node(stop)

    def program() -> None:
        with pytest.raises(Stop):
            graph.invoke({"out": []})

    (found,) = record(program)
    assert {s.step_key: s.error for s in found.recorded.spans} == {"run": "Stop: now", NODE: "Stop: now"}


def test_a_branch_cancelled_because_another_failed(record: Record) -> None:
    async def bad(state: State) -> dict[str, list[str]]:
        await asyncio.sleep(0.01)
        raise ValueError("bad")

    async def slow(state: State) -> dict[str, list[str]]:
        await asyncio.sleep(5)
        return {"out": []}

    graph = StateGraph(State)
    graph.add_node("bad", bad)
    graph.add_node("slow", slow)
    graph.add_edge(START, "bad")
    graph.add_edge(START, "slow")

    def program() -> None:
        with pytest.raises(ValueError, match="bad"):
            asyncio.run(graph.compile().ainvoke({"out": []}))

    (found,) = record(program)
    errors = {s.name: s.error for s in found.recorded.spans if s.kind is SpanKind.NODE}
    assert errors["bad"] == "ValueError: bad"
    assert str(errors["slow"]).startswith("CancelledError")


def test_a_loop_without_end_is_ended_by_langgraph(record: Record) -> None:
    graph = StateGraph(State)
    graph.add_node("a", says("a"))
    graph.add_edge(START, "a")
    graph.add_edge("a", "a")

    def program() -> None:
        with pytest.raises(GraphRecursionError):
            graph.compile().invoke({"out": []}, {"recursion_limit": 5})

    (found,) = record(program)
    assert len(found.of(SpanKind.NODE)) == 5
    assert found.recorded.run.status == "error"


def test_a_chain_that_fails_inside_a_node_that_goes_on(record: Record) -> None:
    chain: Any = RunnableLambda(lambda x: 1 / x).with_fallbacks([RunnableLambda(lambda x: 0.0)])
    (found,) = record(lambda: one_node(lambda state: {"out": [str(chain.invoke(0))]}).invoke({"out": []}))
    assert found.keys == ["run", NODE]
    assert found.recorded.run.output == {"out": ["0.0"]}


class Shy:
    """An object of the user's that raises at whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("do not look")

    def __repr__(self) -> str:
        raise RuntimeError("do not look")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("do not look")


def test_objects_that_cannot_be_looked_at_cost_themselves_and_no_more(record: Record) -> None:
    @tool
    def give(thing: int) -> Any:
        """Give something."""
        return {"shy": Shy(), "open": thing}

    def node(state: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(give.invoke({"thing": 1})["shy"], Shy)
        with pytest.raises(Unspeakable):
            RunnableLambda(fails).invoke(1)
        return {"thing": Shy()}

    def fails(value: Any) -> Any:
        raise Unspeakable

    class Kept(TypedDict):
        thing: Any

    graph: Any = StateGraph(Kept)
    graph.add_node("n", node)
    graph.add_node("bad", fails)
    graph.add_edge(START, "n")
    graph.add_conditional_edges("n", lambda state: "bad" if state.get("bad") else END, ["bad", END])
    compiled: Any = graph.compile()

    def program() -> None:
        assert isinstance(compiled.invoke({"thing": Shy()})["thing"], Shy)
        assert isinstance(asyncio.run(compiled.ainvoke({"thing": Shy()}))["thing"], Shy)
        with pytest.raises(Unspeakable):
            one_node(fails).invoke({"out": []})

    one, two, failed = record(program)
    same(one, two)
    hidden = "<Shy that cannot be shown>"
    assert (one.recorded.run.input, one.recorded.run.output) == ({"thing": hidden}, {"thing": hidden})
    (given,) = one.recorded.tools
    assert given.result == {"shy": hidden, "open": 1}
    assert (failed.recorded.run.status, failed.recorded.run.error) == ("error", "Unspeakable")
