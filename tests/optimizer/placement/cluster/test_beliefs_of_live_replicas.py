"""What is known of a live replica: prefixes, loads, tokens of a text, and when runs began."""

from __future__ import annotations

from array import array
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.optimizer.placement.cluster.calls import Calls, TokenGauge
from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.placing import Placing, sent_prefixes
from redecode.optimizer.placement.cluster.prefixes import SentPrefixes, chained
from redecode.optimizer.placement.cluster.prometheus import Load, Metrics, read_metrics
from redecode.optimizer.placement.cluster.reading import Asked, read_call, with_priority
from redecode.optimizer.placement.simple import RoundRobin
from tests.optimizer.placement.cluster.conftest import an_engine
from tests.optimizer.placement.cluster.stream import Manual

VLLM = """# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 3.0
vllm:num_requests_waiting{engine="0",model_name="a b"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="a b"} 0.25
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",num_gpu_blocks="101",x="say \\"hi\\", {y}"} 1.0
vllm:num_requests_running_total{engine="0"} 99.0
python_info{version="3"} 1.0
"""


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_prompts_share_the_names_of_exactly_the_blocks_they_share(a: list[int], b: list[int], size: int) -> None:
    names = [chained(array("i", ids).tobytes(), 4 * size, b"ids") for ids in (a, b)]
    same = 0
    while (same + 1) * size <= min(len(a), len(b)) and a[: (same + 1) * size] == b[: (same + 1) * size]:
        same += 1
    assert [len(n) for n in names] == [len(a) // size, len(b) // size]
    assert list(names[0][:same]) == list(names[1][:same])
    assert not set(names[0][same:]) & set(names[1][same:])


def test_a_full_prefix_cache_forgets_what_was_not_used_for_longest_and_ends_of_prompts_first() -> None:
    known = SentPrefixes(4)
    known.sent([1, 2, 3])
    known.sent([7, 8])
    assert known.found([1, 2, 3]) == 2
    known.sent([1])
    known.sent([9])
    assert known.found([1, 2]) == 1
    known.sent([10])
    assert known.found([7, 8]) == 1
    assert SentPrefixes(0).found([1]) == 0


def test_an_engine_without_prefix_caching_is_believed_to_have_none() -> None:
    engine = an_engine()
    without = replace(engine, limits=replace(engine.limits, prefix_caching=False))
    for kind, found in ((engine, 1), (without, 0)):
        believed = sent_prefixes(kind)
        believed.sent([1])
        assert believed.found([1]) == found


def test_metrics_of_vllm_are_read_and_those_of_others_are_not() -> None:
    load = Load(running=3, waiting=2, kv_used=0.25)
    assert read_metrics(VLLM) == Metrics(load, block_size=16, kv_blocks=100, prefix_caching=True)
    assert read_metrics("python_info 1.0\nvllm:broken{ 3") is None


def test_what_an_engine_said_is_brought_up_to_date_by_what_was_sent_since() -> None:
    replica = LiveReplica(0, an_engine(seqs=4), "r", SentPrefixes(0), ready_s=0.0)
    replica.outstanding = 6
    assert (replica.running, replica.waiting) == (4, 2)  # nothing said yet
    replica.told(Load(running=3, waiting=2, kv_used=0.5))  # full before its limit: its KV, perhaps
    assert (replica.running, replica.waiting, replica.free_kv_blocks) == (3, 2, 128)
    replica.outstanding, replica.outstanding_prompt_tokens = 8, 33
    assert (replica.running, replica.waiting, replica.free_kv_blocks) == (3, 4, 125)
    replica.told(Load(running=4, waiting=0, kv_used=0.0), outstanding=8, prompt_tokens=33)
    replica.outstanding, replica.outstanding_prompt_tokens = 0, 0
    assert (replica.running, replica.waiting, replica.free_kv_blocks) == (0, 0, 256)


def test_tokens_of_a_text_are_learned_from_what_engines_say() -> None:
    calls, engine = Calls(Manual()), an_engine()
    asked = a_call(b'{"model": "m", "prompt": "' + b"x" * 960 + b'"}')
    assert calls.view(asked, engine).prompt_tokens == round(960 / TokenGauge.GUESS)
    for _ in range(TokenGauge.ENOUGH):
        calls.measured(asked, 480)
    view = calls.view(asked, engine)
    assert view.prompt_tokens == 480
    assert len(view.hashes) == 480 // 16  # blocks are those of the engine now


def test_runs_are_told_apart_by_header_trace_or_not_at_all_and_keep_their_deadline() -> None:
    time = Manual()
    calls, engine = Calls(time, slo_s=3.0), an_engine()
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

    def view(at_s: float, headers: dict[str, str]) -> tuple[int, float, float | None]:
        time.at_s = at_s
        seen = calls.view(a_call(b'{"model": "m"}', headers), engine)
        return seen.run, seen.run_began_s, seen.deadline_s

    assert view(1.0, trace) == (0, 1.0, 4.0)
    assert view(2.0, {"x-redecode-run": "r", **trace}) == (1, 2.0, 5.0)
    assert view(2.5, trace) == (0, 1.0, 4.0)
    assert view(2.5, {**trace, "x-redecode-slo": "10"}) == (0, 1.0, 11.0)
    assert view(2.5, {**trace, "x-redecode-deadline": "7.5"}) == (0, 1.0, 7.5)
    assert view(3.0, {}) == (2, 3.0, 6.0)
    assert view(3.0, {}) == (3, 3.0, 6.0)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"prompt": ["a", "b"]}, None),
        ({"prompt": [True, 2]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, None),
        ({"messages": "no list"}, None),
        ({"input": {"odd": 1}}, None),
        ({}, None),
    ],
)
def test_prompts_of_every_form_are_read(body: dict[str, object], tokens: int | None) -> None:
    assert a_call(orjson.dumps({"model": "m", **body})).tokens == tokens


def test_a_longer_conversation_begins_as_the_shorter_one_did() -> None:
    messages = [{"role": r, "content": f"{r} said this {n}"} for n, r in enumerate(["system", "user", "assistant"] * 9)]
    prompts = [a_call(orjson.dumps({"model": "m", "messages": messages[:n]})).prompt for n in (9, 27)]
    assert prompts[1].startswith(prompts[0])


def test_a_priority_is_put_in_and_nothing_else_is_touched() -> None:
    body = b' {"model": "m" , "seed":1.50, "x": "{"}'
    out = with_priority(body, -7)
    assert orjson.loads(out) == {**orjson.loads(body), "priority": -7}
    assert out.endswith(b'"model": "m" , "seed":1.50, "x": "{"}')


def a_call(body: bytes, headers: dict[str, str] | None = None) -> Asked:
    return read_call("/v1/completions", headers or {}, body)


def test_a_replica_that_was_lost_comes_back_with_nothing_in_its_caches() -> None:
    placing = Placing(RoundRobin(), lambda: 0.0, lambda delay_s, call: None)
    replica = placing.add(an_engine(), "r", ready=True)
    replica.prefixes.sent([1, 2])
    replica.told(Load(running=1, waiting=0, kv_used=0.5))
    assert replica.cached_blocks([1, 2]) == 2
    placing.lost(replica)
    placing.ready(replica)
    assert (replica.cached_blocks([1, 2]), replica.load) == (0, None)
