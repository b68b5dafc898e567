"""Starting, stopping, and a disk that is full: nothing is acknowledged that is not kept."""

from __future__ import annotations

import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from redecode.tracer import Store, StoreError
from redecode.tracer.collector import Options, serve
from redecode.tracer.collector.server import is_local
from redecode.tracer.errors import CollectorError
from tests.tracer.collector.support import PROTOBUF, CollectorProcess, span_ids, trace_request, written

Collect = Callable[..., CollectorProcess]
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def refuses_to_start(*arguments: str) -> str:
    """The one line that is said, with exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "redecode.cli", "collect", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("redecode: ")
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_it_has_begun(collect: Collect, number: signal.Signals) -> None:
    collector = collect()
    request = trace_request(3, random.Random(1))
    body = request.SerializeToString()
    head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(collector.address.split(":")) as connection:
        connection.sendall(head.encode() + body[:50])
        while collector.health()["in_flight"] < 1:
            time.sleep(0.01)
        collector.process.send_signal(number)
        time.sleep(0.3)
        with pytest.raises(OSError):  # nobody new is let in
            socket.create_connection(collector.address.split(":"), timeout=5).close()
        connection.sendall(body[50:])
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
    _, said = collector.process.communicate(timeout=30)
    assert collector.process.returncode == 0
    assert said == "redecode: accepted 3 spans, rejected 0; see: redecode runs\n"
    assert [event["span"] for event in written(collector.store)] == span_ids(request)


def test_told_to_stop_it_finishes_a_call_that_has_begun(collect: Collect) -> None:
    collector = collect()
    request = trace_request(3, random.Random(1))
    go_on = threading.Event()

    def message() -> Iterator[bytes]:
        go_on.wait(30)
        yield request.SerializeToString()

    with grpc.insecure_channel(collector.grpc) as channel:
        call = channel.stream_unary(EXPORT).future(message(), timeout=30)
        while collector.health()["in_flight"] < 1:
            time.sleep(0.01)
        collector.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        go_on.set()
        assert call.result() == b""
    _, said = collector.process.communicate(timeout=30)
    assert (collector.process.returncode, said.split(",")[0]) == (0, "redecode: accepted 3 spans")
    assert [event["span"] for event in written(collector.store)] == span_ids(request)


def test_stopped_under_load_what_it_acknowledged_is_there(collect: Collect) -> None:
    collector = collect()
    acknowledged: list[str] = []
    sent: set[str] = set()

    def over_http(seed: int) -> None:
        rng = random.Random(seed)
        while True:
            request = trace_request(5, rng)
            sent.update(span_ids(request))
            try:
                status, _, _ = collector.post(request.SerializeToString())
            except OSError:
                return
            assert status == 200
            acknowledged.extend(span_ids(request))

    def over_grpc(seed: int) -> None:
        rng = random.Random(seed)
        with grpc.insecure_channel(collector.grpc) as channel:
            while True:
                request = trace_request(5, rng)
                sent.update(span_ids(request))
                try:
                    channel.unary_unary(EXPORT)(request.SerializeToString(), timeout=30)
                except grpc.RpcError:
                    return
                acknowledged.extend(span_ids(request))

    threads = [threading.Thread(target=over_http, args=(n,)) for n in range(3)]
    threads += [threading.Thread(target=over_grpc, args=(n,)) for n in range(10, 12)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 200:
        time.sleep(0.01)
    code, said = collector.stop()
    for thread in threads:
        thread.join()
    kept = [event["span"] for event in written(collector.store)]
    assert code == 0
    assert len(said.splitlines()) == 1
    assert len(kept) == len(set(kept))
    assert set(acknowledged) <= set(kept) <= sent


def test_a_client_that_never_finishes_does_not_hold_up_the_end(collect: Collect) -> None:
    collector = collect()
    head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 100\r\n\r\nx"
    with socket.create_connection(collector.address.split(":")) as connection:
        connection.sendall(head.encode())
        while collector.health()["in_flight"] < 1:
            time.sleep(0.01)
        code, said = collector.stop()
    assert (code, said) == (0, "redecode: accepted 0 spans, rejected 0, refused 1 request; see: redecode runs\n")


def test_a_full_disk_is_never_acknowledged_and_goes_on_when_there_is_room(collect: Collect) -> None:
    collector = collect()
    first, torn, last = (trace_request(20, random.Random(n)) for n in range(3))
    assert collector.post(first.SerializeToString())[0] == 200
    (journal,) = (collector.store / "spool").glob("*.journal")
    full = journal.stat().st_size + 2000  # in the middle of a span
    was = resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE, (full, was[1]))
    status, headers, _ = collector.post(torn.SerializeToString())
    assert (status, headers["retry-after"]) == (503, "2")
    with grpc.insecure_channel(collector.grpc) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(EXPORT)(torn.SerializeToString(), timeout=30)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    health = collector.health()
    assert (health["ok"], health["accepted"]) == (False, 20)
    resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE, was)
    assert collector.post(torn.SerializeToString())[0] == 200
    assert collector.post(last.SerializeToString())[0] == 200
    assert collector.health()["ok"]
    _, said = collector.stop()
    assert said.count("cannot write") == 1
    store = Store(collector.store)
    found = [span.span_id for run in store.runs() for span in store.load(run.run_id).spans]
    assert sorted(found) == sorted(span_ids(first) + span_ids(torn) + span_ids(last))
    assert store.health().corrupt == []


def test_a_disk_with_little_room_asks_clients_to_wait(collect: Collect) -> None:
    collector = collect("--min-free-mib", str(1 << 40))
    status, headers, _ = collector.post(trace_request(1, random.Random(1)).SerializeToString())
    assert (status, headers["retry-after"]) == (429, "2")
    assert "free on the disk" in collector.health()["why"]


def test_a_port_in_use_is_named(collect: Collect, tmp_path: Path) -> None:
    collector = collect()
    http_port, grpc_port = collector.address.rpartition(":")[2], collector.grpc.rpartition(":")[2]
    store = ("--store", str(tmp_path / "other"))
    line = refuses_to_start(*store, "--port", http_port, "--grpc-port", "0")
    assert f"127.0.0.1:{http_port} for HTTP: it is in use; name another with --port" in line
    line = refuses_to_start(*store, "--port", "0", "--grpc-port", grpc_port)
    assert f"127.0.0.1:{grpc_port} for gRPC: it is in use; name another with --grpc-port" in line


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"host": "0.0.0.0"}, "give a --token"),
        ({"host": "::"}, "give a --token"),
        ({"host": "a.name.of.some.machine"}, "give a --token"),
        ({"host": "192.0.2.1", "token": "x"}, "name another with --host or"),
        ({"token": " "}, "the token is empty"),
    ],
)
def test_what_it_cannot_listen_to_is_said_with_the_way_out(tmp_path: Path, asked: dict[str, Any], why: str) -> None:
    options = Options(store=tmp_path / "store", port=0, rpc_port=0, **asked)
    with pytest.raises(CollectorError, match=why):
        serve(options, on_ready=lambda _: pytest.fail("it listens"), on_note=lambda _: None)


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = Options(store=tmp_path / "file", port=0, rpc_port=0)
    with pytest.raises(StoreError, match="choose another"):
        serve(options, on_ready=lambda _: pytest.fail("it listens"), on_note=lambda _: None)


@pytest.mark.parametrize("missing", ["grpc", "google.rpc"])
def test_a_missing_extra_is_named(missing: str, tmp_path: Path) -> None:
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["redecode", "collect", "--store", {str(tmp_path / "store")!r}]
from redecode.cli.main import run
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"needs {missing}" in line
    assert "pip install 'redecode[collector]'" in line


def test_it_knows_which_addresses_others_reach() -> None:
    assert all(is_local(host) for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com", ""))


def test_with_a_token_others_may_reach_it(collect: Collect) -> None:
    collector = collect("--host", "0.0.0.0", environ={"REDECODE_COLLECT_TOKEN": "sesame"})
    assert (
        collector.post(trace_request(1, random.Random(1)).SerializeToString(), authorization="Bearer sesame")[0] == 200
    )
