"""Nodes of one graph: supersteps, who triggered whom, and what each may have read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from operator import add
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from pydantic import BaseModel

from redecode.replay import build_run_graph
from redecode.tracer import Provenance, SpanKind
from tests.tracer.langgraph.support import Program, Seen, State, both_ways, same, says

Record = Callable[[Program], list[Seen]]
START_NODE = "run/__start__@0[pull:__start__]"


def test_one_node_after_another(record: Record) -> None:
    graph = StateGraph(State)
    for name in ("a", "b", "c"):
        graph.add_node(name, says(name))
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("b", "c")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    a, b, c = "run/a@1[pull:a]", "run/b@2[pull:b]", "run/c@3[pull:c]"
    assert one.keys == ["run", a, b, c]
    assert one.edges == {
        ("run", a, "call"),
        (a, b, "data"),
        (a, b, "barrier"),
        (b, c, "data"),
        (b, c, "barrier"),
        (c, "run", "return"),
    }
    assert one.span(b).attributes["langgraph.triggers"] == '["branch:to:b"]'
    provenance = {e.kind.value: e.provenance for e in one.recorded.edges}
    assert provenance["data"] is Provenance.RECORDED
    assert provenance["barrier"] is Provenance.SUPERSTEP


def test_branches_and_their_join(record: Record) -> None:
    graph = StateGraph(State)
    for name in ("a", "b", "join"):
        graph.add_node(name, says(name))
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    graph.add_edge(["a", "b"], "join")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    a, b = "run/a@1[pull:a]", "run/b@1[pull:b]"
    assert one.into("run/join@2[pull:join]") == {(a, "data"), (b, "data"), (a, "barrier"), (b, "barrier")}


def test_a_join_of_branches_of_unequal_length(record: Record) -> None:
    graph = StateGraph(State)
    for name in ("a", "b1", "b2", "end"):
        graph.add_node(name, says(name))
    graph.add_edge(START, "a")
    graph.add_edge(START, "b1")
    graph.add_edge("b1", "b2")
    graph.add_edge(["a", "b2"], "end")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    a, b1, b2, end = "run/a@1[pull:a]", "run/b1@1[pull:b1]", "run/b2@2[pull:b2]", "run/end@3[pull:end]"
    assert one.into(end) == {(a, "data"), (b2, "data"), (b2, "barrier")}  # a is two supersteps back
    assert one.into(b2) == {(b1, "data"), (b1, "barrier"), (a, "barrier")}
    assert (a, b2) in one.reads  # it gets what a wrote, though a did not trigger it


def test_a_join_that_is_not_complete_triggers_nothing(record: Record) -> None:
    graph = StateGraph(State)
    for name in ("a", "b1", "b2", "c", "end"):
        graph.add_node(name, says(name))
    graph.add_edge(START, "a")
    graph.add_edge(START, "b1")
    graph.add_edge("b1", "b2")
    graph.add_edge(START, "c")
    graph.add_edge("c", "end")  # by itself
    graph.add_edge(["a", "b2"], "end")  # and once both are there
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    a, b1, b2, c = "run/a@1[pull:a]", "run/b1@1[pull:b1]", "run/b2@2[pull:b2]", "run/c@1[pull:c]"
    first, second = "run/end@2[pull:end]", "run/end@3[pull:end]"
    assert one.into(first) == {(c, "data"), (a, "barrier"), (b1, "barrier"), (c, "barrier")}
    assert one.into(second) == {(a, "data"), (b2, "data"), (b2, "barrier"), (first, "barrier")}


@pytest.mark.parametrize("width", [8])
def test_a_fan_out_of_equal_sends(record: Record, width: int) -> None:
    graph = StateGraph(State)
    graph.add_node("ask", says("x"))
    graph.add_node("join", says("join"))
    graph.add_conditional_edges(START, lambda state: [Send("ask", {"out": ["same"]})] * width, ["ask"])
    graph.add_edge("ask", "join")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    branches = [f"run/ask@1[push:{n}]" for n in range(width)]
    assert sorted(one.of(SpanKind.NODE)) == sorted([START_NODE, *branches, "run/join@2[pull:join]"])
    for branch in branches:
        assert one.into(branch) == {(START_NODE, "data"), (START_NODE, "barrier")}
    assert one.into("run/join@2[pull:join]") == {(b, k) for b in branches for k in ("data", "barrier")}
    assert not {dst for _, dst in one.reads} & set(branches)  # a Send brings its own input


def test_each_send_is_triggered_by_the_one_that_sent_it(record: Record) -> None:
    graph = StateGraph(State)
    for name in ("a", "b"):
        graph.add_node(name, lambda state, n=name: Command(goto=[Send("w", n), Send("w", n)]), destinations=("w",))
    graph.add_node("w", lambda sender: {"out": [sender]})
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    senders = {f"run/w@2[push:{n}]": "run/a@1[pull:a]" if n < 2 else "run/b@1[pull:b]" for n in range(4)}
    assert {dst: src for src, dst, kind in one.edges if kind == "data"} == senders
    assert one.recorded.run.output == {"out": ["a", "a", "b", "b"]}


def test_a_condition_decides_and_a_loop_is_a_new_step_each_time(record: Record) -> None:
    graph = StateGraph(State)
    graph.add_node("a", lambda state: Command(goto="b", update={"out": ["a"]}), destinations=("b",))
    graph.add_node("b", says("b"))
    graph.add_edge(START, "a")
    graph.add_conditional_edges("b", lambda state: "a" if len(state["out"]) < 4 else END, ["a", END])
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    steps = ["run/a@1[pull:a]", "run/b@2[pull:b]", "run/a@3[pull:a]", "run/b@4[pull:b]"]
    assert one.keys == ["run", *steps]
    for before, after in pairwise(steps):  # the last write triggers, not those of rounds before
        assert one.into(after) == {(before, "data"), (before, "barrier")}


def test_a_deferred_node_waits_for_all_who_wrote_its_trigger(record: Record) -> None:
    graph = StateGraph(State)
    for name in ("a", "b1", "b2"):
        graph.add_node(name, says(name))
    graph.add_node("last", says("last"), defer=True)
    graph.add_edge(START, "a")
    graph.add_edge(START, "b1")
    graph.add_edge("b1", "b2")
    graph.add_edge("a", "last")
    graph.add_edge("b2", "last")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    a, b2 = "run/a@1[pull:a]", "run/b2@2[pull:b2]"
    assert one.into("run/last@3[pull:last]") == {(a, "data"), (b2, "data"), (b2, "barrier")}


class Two(TypedDict):
    x: int
    y: Annotated[list[int], add]


class OnlyX(BaseModel):
    x: int


def test_a_node_that_declares_its_input_reads_no_more_than_that(record: Record) -> None:
    def narrow(state: OnlyX) -> dict[str, Any]:
        return {"x": state.x + 1}

    graph = StateGraph(Two)
    graph.add_node("x", lambda state: {"x": 1})
    graph.add_node("y", lambda state: {"y": [1]})
    graph.add_node("middle", lambda state: {"y": [2]})
    graph.add_node("narrow", narrow, input_schema=OnlyX)
    graph.add_node("wide", lambda state: {})
    graph.add_edge(START, "x")
    graph.add_edge(START, "y")
    graph.add_edge(["x", "y"], "middle")
    graph.add_edge("middle", "narrow")
    graph.add_edge("narrow", "wide")
    one, two = record(both_ways(graph.compile(), {"x": 0, "y": []}))
    same(one, two)
    x, middle = "run/x@1[pull:x]", "run/middle@2[pull:middle]"
    narrow_key, wide = "run/narrow@3[pull:narrow]", "run/wide@4[pull:wide]"
    assert {src for src, dst in one.reads if dst == narrow_key} == {x}
    # y is a sum: it comes from middle, which had read what node y wrote; x was overwritten by narrow, its trigger.
    assert {src for src, dst in one.reads if dst == wide} == {middle}


def test_what_was_overwritten_is_read_from_nobody(record: Record) -> None:
    graph = StateGraph(Two)
    graph.add_node("x", lambda state: {"x": 1})
    graph.add_node("blind", lambda what: {"x": 2})  # gets no state, so it has not read what it overwrites
    graph.add_node("y", lambda state: {"y": [1]})
    graph.add_node("end", lambda state: {})
    graph.add_edge(START, "x")
    graph.add_conditional_edges("x", lambda state: [Send("blind", None)], ["blind"])
    graph.add_edge("blind", "y")
    graph.add_edge("y", "end")
    one, two = record(both_ways(graph.compile(), {"x": 0, "y": []}))
    same(one, two)
    assert {src for src, dst in one.reads if dst == "run/end@4[pull:end]"} == {"run/blind@2[push:0]"}


def test_a_run_ends_when_all_of_its_last_superstep_have(record: Record) -> None:
    graph = StateGraph(State)
    graph.add_node("a", says("a"))
    graph.add_node("b", says("b"))
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    assert one.into("run") == {("run/a@1[pull:a]", "join"), ("run/b@1[pull:b]", "join")}


def test_a_sum_is_read_from_all_who_added_to_it(record: Record) -> None:
    graph = StateGraph(State)
    graph.add_node("a", says("a"))
    graph.add_node("b", lambda state: Command(goto=Send("add", "b")), destinations=("add",))
    graph.add_node("add", lambda what: {"out": [what]})  # gets no state, so what it adds says nothing of a
    graph.add_node("end", says("end"))
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    graph.add_edge("add", "end")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    assert {src for src, dst in one.reads if dst == "run/end@3[pull:end]"} == {"run/a@1[pull:a]"}


def test_what_a_task_may_have_read_holds_nothing_up(record: Record) -> None:
    graph = StateGraph(State)
    for name in ("a", "b", "c"):
        graph.add_node(name, says(name))
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    graph.add_edge("b", "c")
    (run,) = record(lambda: graph.compile().invoke({"out": []}))
    assert ("run/a@1[pull:a]", "run/c@2[pull:c]") in run.reads
    before = build_run_graph(run.recorded).before
    declared = [e for e in run.recorded.edges if e.provenance is Provenance.DECLARED]
    assert declared
    barriers = {(e.src, e.dst) for e in run.recorded.edges if e.provenance is Provenance.SUPERSTEP}
    for point, waited in before.items():
        for edge in declared:
            if point == (edge.dst, "start") and (edge.src, edge.dst) not in barriers:
                assert (edge.src, "end") not in waited


def test_a_graph_whose_state_is_one_value(record: Record) -> None:
    one_value: Any = Annotated[list[str], add]
    graph: Any = StateGraph(one_value)
    graph.add_node("a", lambda state: ["a"])
    graph.add_node("b", lambda state: ["b"])
    graph.add_node("c", lambda state: ["c"])
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("b", "c")
    one, two = record(both_ways(graph.compile(), []))
    same(one, two)
    assert one.recorded.run.output == ["a", "b", "c"]
    assert one.reads == set()  # each has read what the one before wrote, which is what triggered it
