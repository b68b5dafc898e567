"""Forwarding beside the store: all of it arrives, and whatever the backend does, the host never notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from redecode.tracer import Recorder, SpanKind
from redecode.tracer.events import SpanEvent
from redecode.tracer.export.forward import Forwarder, reports
from redecode.tracer.export.send import Target
from redecode.tracer.foreign.own import read_own
from tests.tracer.export.conftest import Answer, Backend
from tests.tracer.export.test_otlp import foreign_span

Answers = Callable[..., Answer]


def until(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def forward(backend: Backend, store: Path) -> Iterator[Callable[..., Forwarder]]:
    """Make forwarders that end with the test."""
    made: list[Forwarder] = []

    def make(**options: object) -> Forwarder:
        made.append(Forwarder(Target.parse(backend.url), store, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for forwarder in made:
        forwarder.close()


def span(number: int, text: str = "") -> SpanEvent:
    return SpanEvent(
        run="ab" * 16, span=f"{number + 1:016x}", parent=None, kind="node", name="n", step_key="run/n", start_ns=1,
        end_ns=2, status="ok", attributes={"text": text},
    )  # fmt: skip


def test_what_a_recorder_writes_arrives(backend: Backend, store: Path, forward: Callable[..., Forwarder]) -> None:
    recorder = Recorder(store, agent="a")
    forwarder = forward(service="svc")
    recorder.listeners.append(forwarder)
    run = recorder.start_run("agent")
    step = recorder.start(SpanKind.NODE, "step", run, "step")
    recorder.end(step, error="ValueError: no")
    recorder.end(run)
    step.set({"too": "late"})
    recorder.close()
    forwarder.close()
    assert [s.name for s in backend.spans] == ["step", "invoke_agent a"]
    assert {s.resource["service.name"] for s in backend.spans} == {"svc"}
    back = read_own(backend.spans[1])
    assert back is not None
    assert asdict(back) == asdict(run.event)
    assert "too" not in backend.spans[0].attributes
    assert (forwarder.delivered, forwarder.lost) == (2, 0)
    assert reports(store) == []


def test_spans_of_others_are_forwarded_word_for_word(backend: Backend, forward: Callable[..., Forwarder]) -> None:
    spans = [foreign_span({"a": [1, None]})]
    forwarder = forward()
    forwarder.offer(spans)
    forwarder.close()
    assert backend.spans == spans


def test_a_burst_arrives_whole(backend: Backend, forward: Callable[..., Forwarder]) -> None:
    forwarder = forward(linger_s=60.0)

    def some(base: int) -> None:
        for number in range(500):
            forwarder(span(base + number))

    threads = [threading.Thread(target=some, args=(base,)) for base in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    forwarder.close()
    assert len({s.span for s in backend.spans}) == len(backend.spans) == 4000 == forwarder.delivered


def test_a_backend_that_hangs_does_not_hold_up_the_host(
    backend: Backend, store: Path, forward: Callable[..., Forwarder]
) -> None:
    backend.open.clear()
    forwarder = forward(hold_bytes=100_000, linger_s=0.2)
    began = time.monotonic()
    for number in range(300):
        forwarder(span(number, "x" * 1000))
    assert time.monotonic() - began < 5
    assert 180 < forwarder.lost < 300
    forwarder.close()
    assert forwarder.lost == 300
    (report,) = reports(store)
    assert (report.url, report.lost, report.waiting) == (f"{backend.url}/v1/traces", 300, 0)


def test_a_busy_backend_gets_it_later(backend: Backend, answer: Answers, forward: Callable[..., Forwarder]) -> None:
    backend.answers = [answer(429, {"retry-after": "0.2"}), answer(503)]
    forwarder = forward()
    forwarder(span(1))
    until(lambda: forwarder.delivered == 1)
    assert len(backend.requests) == 3
    assert [s.span for s in backend.spans] == [span(1).span]


def test_a_refusal_is_counted_and_said(
    backend: Backend, answer: Answers, store: Path, forward: Callable[..., Forwarder], caplog: pytest.LogCaptureFixture
) -> None:
    backend.answers = [answer(403, {"content-type": "text/plain"}, b"no key")]
    forwarder = forward()
    forwarder(span(1))
    until(lambda: forwarder.lost == 1)
    forwarder(span(2))
    until(lambda: forwarder.delivered == 1)
    forwarder.close()
    assert "answers 403: no key; the store has all of it" in caplog.text
    (report,) = reports(store)
    assert (report.delivered, report.lost, report.waiting) == (1, 1, 0)
    assert report.error is not None
    assert "403" in report.error


def test_what_comes_after_the_end_is_counted(forward: Callable[..., Forwarder], store: Path) -> None:
    forwarder = forward()
    forwarder.close()
    forwarder(span(1))
    assert forwarder.lost == 1


def test_a_store_that_cannot_be_written_does_not_stop_forwarding(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    forwarder = Forwarder(Target.parse(backend.url), tmp_path / "file")
    forwarder(span(1))
    forwarder.close()
    assert len(backend.spans) == 1


CHILD = """
import os, sys, time
from pathlib import Path
from redecode.tracer import Recorder
from redecode.tracer.export.forward import Forwarder
from redecode.tracer.export.send import Target
recorder = Recorder(Path(sys.argv[1]))
forwarder = Forwarder(Target.parse(sys.argv[2]), Path(sys.argv[1]), linger_s=10)
recorder.listeners.append(forwarder)
def one(name): recorder.end(recorder.start_run(name))
one("parent")
if sys.argv[3] == "fork":
    if os.fork() == 0:
        one("child"); forwarder.close(); os._exit(0)
    os.wait(); forwarder.close()
else:
    time.sleep(2.5); os.kill(os.getpid(), 9)
"""


def child(*arguments: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", CHILD, *arguments], check=False, timeout=60)


def test_a_forked_child_forwards_its_own(backend: Backend, store: Path) -> None:
    child(str(store), backend.url, "fork")
    assert sorted(s.name for s in backend.spans) == ["invoke_agent child", "invoke_agent parent"]
    assert reports(store) == []


def test_what_a_killed_process_still_held_is_told(backend: Backend, store: Path) -> None:
    url = backend.url
    backend.close()
    child(str(store), url, "kill")
    (report,) = reports(store)
    assert (report.delivered, report.lost, report.waiting) == (0, 1, 0)
    assert "cannot be reached" in str(report.error)
    assert json.loads(report.path.read_text())["waiting"] == 1
    assert report.path.stat().st_mode & 0o777 == 0o600
    assert os.access(report.path, os.W_OK)
