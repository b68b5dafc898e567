"""Load traces: the fields other replayers require, right lengths, right sharing, waits from edges, no content."""

from __future__ import annotations

import json
import math
from array import array
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.tracer import EdgeKind, Fidelity, SpanKind
from redecode.tracer.blocks import split
from redecode.tracer.export.mooncake import BlockIds, Rows, load_trace
from tests.tracer.export.recorded_runs import Builder, runs

prompts = st.lists(st.integers(0, 2), max_size=14)


@given(first=prompts, second=prompts, block=st.integers(1, 5))
def test_leading_ids_are_shared_exactly_as_far_as_leading_blocks(
    first: list[int], second: list[int], block: int
) -> None:
    ids = BlockIds(block)
    shared_ids = sum(1 for _ in takewhile(lambda p: p[0] == p[1], zip(ids.of(first), ids.of(second), strict=False)))
    blocks = [[p[i : i + block] for i in range(0, len(p), block)] for p in (first, second)]
    shared_blocks = sum(1 for _ in takewhile(lambda p: p[0] == p[1], zip(*blocks, strict=False)))
    assert shared_ids == shared_blocks


@given(prompts=st.lists(prompts, max_size=6), block=st.integers(1, 5))
def test_an_id_is_a_whole_prefix_whatever_else_is_in_the_file(prompts: list[list[int]], block: int) -> None:
    ids = BlockIds(block)
    seen: dict[int, list[int]] = {}
    for prompt in prompts:
        for place, number in enumerate(ids.of(prompt)):
            prefix = prompt[: (place + 1) * block]
            assert seen.setdefault(number, prefix) == prefix
    assert sorted(seen) == list(range(len(seen)))


@settings(max_examples=60, deadline=None)
@given(
    many=st.lists(
        st.lists(st.sampled_from([0, 1]), max_size=4).map(lambda blocks: [b for b in blocks for _ in range(16)])
        | st.integers(0, 70).map(lambda n: [0] * n),
        min_size=2,
        max_size=4,
    ),
    block=st.sampled_from([16, 32, 64]),
)
def test_hashes_tell_of_sharing_what_the_tokens_do_but_for_a_last_part(many: list[list[int]], block: int) -> None:
    known, withheld = BlockIds(block), BlockIds(block)
    pairs = []
    for prompt in many:
        hashes = [digest for digest, _ in split(array("i", prompt).tobytes(), b"key")[0]]
        pairs.append((prompt, known.of(prompt), withheld.of_hashes(hashes, len(prompt))))
    for one, ids, other_ids in pairs:
        assert len(other_ids) == len(ids) == math.ceil(len(one) / block)
        for two, ids2, other_ids2 in pairs:
            if one is not two:
                for place, same in enumerate(a == b for a, b in zip(ids, ids2, strict=False)):
                    whole = all(len(p) % 16 == 0 or place < len(p) // block for p in (one, two))
                    assert (other_ids[place] == other_ids2[place]) == (same and whole)


def test_a_run_without_its_content_still_makes_rows() -> None:
    run = Builder()
    root = run.span(SpanKind.RUN, "agent", 0, 100)
    hashes = tuple(digest for digest, _ in split(array("i", [1] * 40).tobytes(), b"key")[0])
    run.decode("x", 0, 10, root, None, prompt_hashes=hashes, input_tokens=40)
    run.decode("y", 10, 20, root, None, prompt_hashes=hashes, input_tokens=None)
    trace = load_trace([run.build()], block_tokens=32)
    assert [(r["input_length"], r["hash_ids"]) for r in trace.rows] == [(40, [0, 1])]
    assert trace.left_out == [("run/y", "its prompt was withheld, and its length is not known")]
    assert "no multiple" in load_trace([run.build()], block_tokens=20).left_out[0][1]


def test_a_block_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        BlockIds(0)


def react(run_id: str = "ab" * 16) -> Builder:
    """model → two tools at once → model."""
    run = Builder(run_id=run_id)
    root = run.span(SpanKind.RUN, "agent", 0, 100)
    ask = run.span(SpanKind.NODE, "ask@1", 1, 30, root)
    first = run.decode("chat", 2, 22, ask, [1] * 40, engine_id="e1")
    act = run.span(SpanKind.NODE, "act@2", 31, 62, root)
    slow = run.tool("slow", 32, 52, act)
    quick = run.tool("quick", 42, 60, act, error="KeyError: 'secret'")
    again = run.span(SpanKind.NODE, "ask@3", 63, 99, root)
    second = run.decode("chat2", 70, 98, again, [1] * 40 + [2] * 30)
    run.edge(root, ask, EdgeKind.CALL)
    run.edge(ask, first, EdgeKind.CALL)
    run.edge(first, ask)
    run.edge(ask, act, EdgeKind.BARRIER)
    run.edge(act, slow, EdgeKind.CALL)
    run.edge(act, quick, EdgeKind.CALL)
    run.edge(slow, act, EdgeKind.JOIN)
    run.edge(quick, act, EdgeKind.JOIN)
    run.edge(act, again, EdgeKind.DATA)
    run.edge(again, second, EdgeKind.CALL)
    return run


def test_a_loop_waits_for_its_call_and_its_tools() -> None:
    first, second = load_trace([react().build()], block_tokens=16).rows
    assert (first["timestamp"], first["input_length"], first["output_length"]) == (0.0, 40, 3)
    assert "wait_for" not in first
    assert first["hash_ids"] == [0, 1, 2]
    assert second["hash_ids"] == [0, 1, 3, 4, 5]  # the third block was a part, and is another one now it is full
    assert second["wait_for"] == [first["request_id"]]
    assert second["session_id"] == first["session_id"]
    assert (first["prefix_reset"], second["prefix_reset"]) == (True, False)
    # From 22 to 70 ms: tools ran from 32 to 60 (20 + 18 ms, 10 of them together).
    assert second["tool_wait_ms"] == 28.0
    assert second["delay"] == 20.0
    assert [(e["tool_class"], e["status"], e["duration_ms"]) for e in second["tool_events"]] == [
        ("slow", "succeeded", 20.0),
        ("quick", "error", 18.0),
    ]
    assert second["tool_events"][1]["error_type"] == "KeyError"


def test_branches_are_sessions_of_their_own_and_a_join_waits_for_all() -> None:
    run = Builder()
    root = run.span(SpanKind.RUN, "agent", 0, 100)
    start = run.decode("plan", 0, 10, root, [1] * 5)
    branches = [run.decode(f"branch{i}", 11 + i, 40 + 10 * i, root, [1] * 5 + [i]) for i in range(3)]
    end = run.decode("join", 70, 90, root, [9])
    for branch in branches:
        run.edge(start, branch, EdgeKind.DATA)
        run.edge(branch, end, EdgeKind.JOIN)
    rows = {row["request_id"]: row for row in load_trace([run.build()]).rows}
    assert [rows[b]["wait_for"] for b in branches] == [[start]] * 3
    assert rows[end]["wait_for"] == branches
    assert rows[end]["delay"] == 10.0
    assert len({rows[b]["session_id"] for b in branches}) == 3
    assert rows[branches[0]]["session_id"] == rows[start]["session_id"] == rows[end]["session_id"]
    assert rows[start]["branches"] == branches[1:]


def test_a_call_that_cannot_be_a_row_is_named_and_waited_through() -> None:
    run = Builder()
    root = run.span(SpanKind.RUN, "agent", 0, 100)
    one = run.decode("one", 0, 10, root, [1])
    text = run.decode("text", 10, 20, root, None, fidelity=Fidelity.TEXT)
    failed = run.decode("failed", 20, 30, root, [1], 0, error="APIError: no")
    last = run.decode("last", 35, 40, root, [1])
    for src, dst in ((one, text), (text, failed), (failed, last)):
        run.edge(src, dst)
    trace = load_trace([run.build()])
    assert trace.left_out == [
        ("run/text", "its prompt's token ids were not recorded (fidelity text)"),
        ("run/failed", "it failed"),
    ]
    assert [row["request_id"] for row in trace.rows] == [one, last]
    assert trace.rows[1]["wait_for"] == [one]
    assert trace.rows[1]["delay"] == 25.0


def test_plain_rows_of_several_runs_share_ids_and_time() -> None:
    one, two = Builder("a", "aa" * 16), Builder("b", "bb" * 16)
    root = one.span(SpanKind.RUN, "agent", 5, 100)
    one.decode("x", 5, 10, root, [1] * 1000)
    other = two.span(SpanKind.RUN, "agent", 7.5, 100)
    two.decode("y", 7.5, 12, other, [1] * 600)
    rows = load_trace([two.build(), one.build()], Rows.PLAIN).rows
    assert rows == [
        {"timestamp": 0.0, "input_length": 1000, "output_length": 3, "hash_ids": [0, 1]},
        {"timestamp": 2.5, "input_length": 600, "output_length": 3, "hash_ids": [0, 2]},
    ]


@settings(max_examples=40, deadline=None)
@given(run=runs(), block=st.integers(1, 20), rows=st.sampled_from(Rows))
def test_rows_are_what_the_readers_demand(run: object, block: int, rows: Rows) -> None:
    """The checks of the readers named in the module: AIPerf's model, GuideLLM's row check, Dynamo's agentic loader."""
    trace = load_trace([run], rows, block)  # type: ignore[list-item]
    names = {row.get("request_id") for row in trace.rows}
    done: set[str] = set()
    for row in trace.rows:
        assert row["timestamp"] >= 0
        assert row["input_length"] > 0
        assert row["output_length"] > 0
        assert all(0 <= number < 2**31 for number in row["hash_ids"])
        assert math.ceil(row["input_length"] / block) == len(row["hash_ids"])
        if rows is Rows.AGENTIC:
            assert set(row.get("wait_for", ())) <= names - {row["request_id"]}
            assert row.get("delay", 0.0) >= 0
            assert row.get("tool_wait_ms", 0.0) >= 0
            assert row["request_id"] not in done
            done.add(row["request_id"])
        else:
            assert set(row) == {"timestamp", "input_length", "output_length", "hash_ids"}
    assert [r["timestamp"] for r in trace.rows] == sorted(r["timestamp"] for r in trace.rows)


def test_no_content_leaves() -> None:
    run = react()
    text = json.dumps(load_trace([run.build()]).rows)
    assert "secret" not in text
    assert "call-slow" in text
