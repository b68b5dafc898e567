"""`redecode collect` with --forward, --no-content and --redact: what goes on to the backend, and what goes nowhere."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from redecode.tracer import Store
from redecode.tracer.collector import Options, serve
from redecode.tracer.errors import CollectorError
from redecode.tracer.export.send import Target
from tests.tracer.collector.support import JSON, CollectorProcess, as_json, span_ids, trace_request, written

Collect = Callable[..., CollectorProcess]
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SECRET = "a very private remark to ada.lovelace@example.org"


@pytest.fixture
def backend(collect: Collect, tmp_path: Path) -> CollectorProcess:
    """The one that gets what another forwards: any OTLP backend would do."""
    return collect(into=tmp_path / "backend")


def send_each_way(collector: CollectorProcess, **how: Any) -> list[str]:
    """Three requests: as protobuf, as JSON, over gRPC; returns the ids of their spans."""
    whole, plain, called = (trace_request(4, random.Random(n), **how) for n in range(3))
    assert collector.post(whole.SerializeToString())[0] == 200
    assert collector.post(json.dumps(as_json(plain)).encode(), JSON)[0] == 200
    with grpc.insecure_channel(collector.grpc) as channel:
        channel.unary_unary(EXPORT)(called.SerializeToString(), timeout=30)
    return [span for request in (whole, plain, called) for span in span_ids(request)]


def events(collector: CollectorProcess) -> dict[str, dict[str, Any]]:
    return {event["span"]: event for event in written(collector.store)}


def doctor(store: Path) -> tuple[int, dict[str, Any]]:
    """What `redecode doctor` says of forwarding."""
    command = [sys.executable, "-m", "redecode.cli", "doctor", "--store", str(store), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    checks = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "forward"]
    return done.returncode, checks[0] if checks else {}


def bytes_of(store: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file())


def test_what_is_collected_is_forwarded_word_for_word_and_kept(collect: Collect, backend: CollectorProcess) -> None:
    collector = collect("--forward", backend.where["http"])
    sent = send_each_way(collector)
    assert collector.stop()[0] == 0  # which waits for what is on its way
    assert sorted(events(collector)) == sorted(sent)
    assert events(backend) == events(collector)
    assert doctor(collector.store)[1] == {}


def test_the_backend_gets_its_headers(collect: Collect, tmp_path: Path) -> None:
    backend = collect("--token", "sesame", into=tmp_path / "backend")
    header = ("--forward-header", "authorization=Bearer sesame")
    collector = collect("--forward", backend.traces, *header)
    sent = send_each_way(collector)
    assert collector.stop()[0] == 0
    assert sorted(events(backend)) == sorted(sent)
    assert b"sesame" not in bytes_of(collector.store)


def test_a_backend_that_is_away_delays_no_answer_and_what_it_missed_is_told(
    collect: Collect, backend: CollectorProcess
) -> None:
    backend.process.send_signal(signal.SIGSTOP)  # it takes connections and says nothing
    collector = collect("--forward", backend.where["http"])
    begin = time.monotonic()
    sent = send_each_way(collector)
    assert time.monotonic() - begin < 8  # a try alone would take ten
    assert sorted(events(collector)) == sorted(sent)
    deadline = time.monotonic() + 30
    while not (said := doctor(collector.store)[1]["detail"]).endswith("0 spans delivered, 12 on the way"):
        assert time.monotonic() < deadline, said  # it is written down once a second
    backend.close()
    assert collector.stop()[0] == 0
    code, check = doctor(collector.store)
    assert (code, check["ok"]) == (1, False)
    assert ": 0 spans delivered, 12 not (" in check["detail"]


def test_a_backend_that_comes_back_gets_all_of_it_once(collect: Collect, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    collector = collect("--forward", f"http://127.0.0.1:{port}")
    sent = send_each_way(collector)
    backend = collect("--port", str(port), into=tmp_path / "backend")
    deadline = time.monotonic() + 60
    while len(events(backend)) < len(sent) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [event["span"] for event in written(backend.store)] == list(events(backend))
    assert events(backend) == events(collector)
    assert collector.stop()[0] == 0
    assert doctor(collector.store)[1] == {}


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://localhost:{port}/v1/traces"])
def test_it_does_not_forward_to_itself(tmp_path: Path, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    target = Target.parse(url.format(port=port))
    options = Options(store=tmp_path / "store", port=port, rpc_port=0, forward=target)
    with pytest.raises(CollectorError, match="is this collector itself"):
        serve(options, on_ready=lambda _: pytest.fail("it listens"), on_note=lambda _: None)


@pytest.mark.parametrize("asked", [["--no-content"], {"REDECODE_CONTENT": "off"}], ids=["option", "environment"])
def test_without_content_no_word_reaches_the_disk_or_the_backend(
    collect: Collect, backend: CollectorProcess, asked: list[str] | dict[str, str]
) -> None:
    arguments, environ = (asked, {}) if isinstance(asked, list) else ([], asked)
    collector = collect("--forward", backend.where["http"], *arguments, environ=environ)
    sent = send_each_way(collector, text=SECRET)
    assert collector.stop()[0] == 0
    for one in (collector, backend):
        assert sorted(events(one)) == sorted(sent)
        on_disk = bytes_of(one.store)
        assert b"span 1" in on_disk  # the name of a span is structure
        assert b"private remark" not in on_disk
        assert b"lovelace" not in on_disk
        assert {event["start_ns"] % 10 for event in events(one).values()} == {0, 1, 2, 3}  # and so are times
    run = Store(collector.store).load(next(iter(events(collector).values()))["run"])
    assert run.spans[0].attributes["redecode.redacted"] == ["content"]


def test_what_is_to_be_redacted_reaches_neither_and_the_rest_does(collect: Collect, backend: CollectorProcess) -> None:
    collector = collect("--forward", backend.where["http"], "--redact", "patterns")
    sent = send_each_way(collector, text=SECRET)
    assert collector.stop()[0] == 0
    for one in (collector, backend):
        assert sorted(events(one)) == sorted(sent)
        assert bytes_of(one.store).count(b"a very private remark to [email]") == len(sent)
        assert b"lovelace" not in bytes_of(one.store)


def test_a_rule_that_is_none_is_named_before_anything_listens(tmp_path: Path) -> None:
    arguments = ("--redact", "nonsense", "--store", str(tmp_path / "store"), "--port", "0", "--grpc-port", "0")
    command = [sys.executable, "-m", "redecode.cli", "collect", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "nonsense" in line


def test_a_request_that_is_refused_is_not_forwarded(collect: Collect, backend: CollectorProcess) -> None:
    collector = collect("--forward", backend.where["http"], "--max-spans", "3")
    refused, taken = trace_request(4, random.Random(1)), trace_request(3, random.Random(2))
    unusable = ExportTraceServiceRequest()
    unusable.CopyFrom(trace_request(2, random.Random(3)))
    unusable.resource_spans[0].scope_spans[0].spans[1].span_id = b"short"
    assert collector.post(refused.SerializeToString())[0] == 413
    assert collector.post(taken.SerializeToString())[0] == 200
    assert collector.post(unusable.SerializeToString())[0] == 200
    assert collector.stop()[0] == 0
    assert sorted(events(backend)) == sorted([*span_ids(taken), span_ids(unusable)[0]])
