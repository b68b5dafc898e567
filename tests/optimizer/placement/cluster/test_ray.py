"""A real Ray Serve: replicas of two kinds, our policy as its router, our provisioner as its autoscaling policy."""

from __future__ import annotations

import json
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from redecode.optimizer.placement.cluster.errors import ClusterError
from redecode.optimizer.placement.cluster.ray_cluster import RayCluster
from redecode.optimizer.placement.cluster.ray_spec import RayReplica, load_ray
from redecode.replay.simulator.views import Add, CallView, Command, Hold, ReplicaView, Route, Router
from tests.optimizer.placement.cluster.conftest import an_engine

pytestmark = [pytest.mark.ray, pytest.mark.long]

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


class ByStep(Router):
    """Steps `to N` go to replica N, `no` is refused, `wait` waits until replica 1 is idle; longer is more urgent."""

    def __init__(self) -> None:
        self._kept: list[int] = []

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        if call.step == "no":
            return None
        if call.step == "wait" and any(r.outstanding for r in replicas if r.number == 1):
            self._kept.append(call.call)
            return Hold()
        return int(call.step.rpartition(" ")[2]) if call.step.startswith("to") else 1

    def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
        if any(r.outstanding for r in replicas if r.number == 1):
            return ()
        go, self._kept = self._kept[:1], self._kept[1:]
        return [(call, 1) for call in go]

    def priority(self, call: CallView, now_s: float) -> int:
        return -(call.max_tokens or 0)


class OneMoreWhenBusy:
    """One more replica, once, when there is something to do."""

    every_s = 0.2

    def __init__(self) -> None:
        self._asked = False

    def plan(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        if self._asked or not any(r.outstanding for r in replicas):
            return ()
        self._asked = True
        return (Add(replicas[0].engine),)


@pytest.fixture(scope="module")
def cluster(ray_installed: None, unused_port_of_module: int) -> Iterator[RayCluster]:
    """Two replicas, the second of one call at a time and slow; a third may come."""
    ray, _ = load_ray()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # tests are no package that Ray's processes know
    slow = an_engine(0.05, seqs=1, by_priority=True)
    kinds = [RayReplica(engine=an_engine()), RayReplica(engine=slow)]
    with RayCluster(
        kinds, ByStep(), provisioner=OneMoreWhenBusy(), port=unused_port_of_module, cpus=0.01, most=3
    ) as running:
        yield running
    assert not ray.is_initialized()


def post(cluster: RayCluster, body: dict[str, Any], **headers: str) -> tuple[int, bytes, dict[str, str]]:
    named = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(f"{cluster.url}/v1/chat/completions", json.dumps(body).encode(), named)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def get(cluster: RayCluster, path: str) -> Any:
    with urllib.request.urlopen(cluster.url + path, timeout=30) as answer:
        return json.loads(answer.read())


def last(cluster: RayCluster, count: int) -> list[dict[str, Any]]:
    found = get(cluster, f"/redecode/decisions?last={count}")["decisions"]
    assert len(found) == count
    return list(found)


def test_a_port_on_which_another_serve_listens_is_refused_before_ray_is_started(ray_installed: None) -> None:
    """Before the others: their cluster is of this process, too."""
    with socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Serve does: two would share the calls
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        port = theirs.getsockname()[1]
        with (
            pytest.raises(ClusterError, match=f"cannot listen on 127.0.0.1:{port}"),
            RayCluster([RayReplica(engine=an_engine())], None, port=port, cpus=0.01),
        ):
            pass
    assert not load_ray()[0].is_initialized()


def test_calls_go_where_the_policy_says_with_run_step_and_deadline(cluster: RayCluster) -> None:
    for number in (1, 0):
        status, body, _ = post(
            cluster,
            ASK,
            x_redecode_step=f"to%20{number}",
            x_redecode_slo="60",
            x_redecode_run="r",
            x_redecode_agent="a",
        )
        assert status == 200
        assert json.loads(body)["usage"]["completion_tokens"] == 3
        (decision,) = last(cluster, 1)
        call = decision["call"]
        assert (decision["replica"], call["step"], call["agent"]) == (number, f"to {number}", "a")
        assert call["deadline_s"] == pytest.approx(call["run_began_s"] + 60)
    first, second = get(cluster, "/redecode/replicas")["replicas"][:2]
    assert (first["by_priority"], second["by_priority"]) == (False, True)  # by rank


def test_a_stream_comes_as_events(cluster: RayCluster) -> None:
    status, body, headers = post(cluster, {**ASK, "stream": True})
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    events = [event.removeprefix("data: ") for event in body.decode().split("\n\n")[:-1]]
    assert events[-1] == "[DONE]"
    text = "".join(choice["delta"]["content"] for e in events[:-1] for choice in json.loads(e)["choices"])
    assert text == " token" * 3


def test_a_call_that_is_refused_or_makes_no_sense_is_told_so(cluster: RayCluster) -> None:
    status, body, headers = post(cluster, ASK, x_redecode_step="no")
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_exceeded")
    assert headers["retry-after"] == "1"
    assert post(cluster, {**ASK, "model": "other"})[0] == 404
    assert post(cluster, {**ASK, "max_tokens": 10**6})[0] == 400  # the replica says that
    assert post(cluster, ASK)[0] == 200


def test_calls_wait_at_the_policy_and_then_in_the_engine_by_priority(cluster: RayCluster) -> None:
    ended: list[str] = []

    def call(name: str, tokens: int, step: str) -> None:
        assert post(cluster, {**ASK, "max_tokens": tokens}, x_redecode_step=step)[0] == 200
        ended.append(name)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(call, "first", 120, "to 1")  # 6 s: the others come in time on a busy machine, too
        until(lambda: get(cluster, "/redecode/replicas")["replicas"][1]["outstanding"] == 1)
        waits = pool.submit(call, "waits", 1, "wait")
        short = pool.submit(call, "short", 2, "to 1")
        until(lambda: get(cluster, "/redecode/replicas")["replicas"][1]["outstanding"] == 2)
        urgent = pool.submit(call, "urgent", 4, "to 1")
        for future in (first, waits, short, urgent):
            future.result()
    assert ended == ["first", "urgent", "short", "waits"]


def test_the_provisioner_starts_a_replica(cluster: RayCluster) -> None:
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            post(cluster, {**ASK, "max_tokens": 10}, x_redecode_step="to 1")

    busy = threading.Thread(target=load)
    busy.start()
    try:
        until(lambda: len(get(cluster, "/redecode/replicas")["replicas"]) == 3, 40)
    finally:
        stop.set()
        busy.join()
    assert post(cluster, ASK, x_redecode_step="to%202")[0] == 200
    assert last(cluster, 1)[0]["replica"] == 2
    assert len(get(cluster, "/redecode/replicas")["replicas"]) == 3


def test_what_would_take_the_place_of_a_cluster_on_the_same_ray_is_refused_and_that_serves_on(
    cluster: RayCluster,
) -> None:
    one, port = [RayReplica(engine=an_engine())], int(cluster.url.rpartition(":")[2])
    for name, at, says in (
        ("redecode", port, "an application redecode is on this Ray already"),
        ("other", port + 1, f"listens on 127.0.0.1:{port} already"),
        ("other", port, 'used by application "redecode"'),
    ):
        with pytest.raises(ClusterError, match=says), RayCluster(one, None, name=name, port=at, cpus=0.01):
            pass
    assert post(cluster, ASK, x_redecode_step="to%200")[0] == 200


def until(true: Any, timeout_s: float = 20) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if true():
            return
        pause.wait(0.02)
    raise AssertionError("that did not happen")
