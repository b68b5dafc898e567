"""Sending to a backend: what is sent, what is tried again, and what is said when it will not have it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from redecode.tracer.errors import BackendUnreachable, ExportError, ExportRejected
from redecode.tracer.export import otlp
from redecode.tracer.export.send import Sender, Target
from tests.tracer.export.conftest import Answer, Backend
from tests.tracer.export.test_otlp import example

Answers = Callable[..., Answer]


def request() -> ExportTraceServiceRequest:
    return otlp.request(otlp.otlp_spans(example()))


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def monotonic(self) -> float:
        return sum(self.slept)


def sender(backend: Backend, time: Time, patience_s: float = 60.0) -> Sender:
    target = Target.parse(backend.url, {"x-api-key": "k"})
    return Sender(target, patience_s=patience_s, sleep=time.sleep, monotonic=time.monotonic)


def test_a_request_arrives_whole(backend: Backend) -> None:
    with sender(backend, Time()) as sending:
        sending.send(request())
    path, headers = backend.requests[0]
    assert path == "/v1/traces"
    assert (headers["content-type"], headers["content-encoding"]) == ("application/x-protobuf", "gzip")
    assert headers["x-api-key"] == "k"
    assert backend.spans == otlp.otlp_spans(example())


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_backend_is_tried_again_with_growing_pauses(backend: Backend, answer: Answers, status: int) -> None:
    backend.answers = [answer(status)] * 3
    time = Time()
    with sender(backend, time) as sending:
        sending.send(request())
    assert len(backend.requests) == 4
    assert 0.4 <= time.slept[0] <= 0.6 < 0.8 <= time.slept[1] <= 1.2 < 1.6 <= time.slept[2] <= 2.4
    assert len(backend.spans) == 3


def test_retry_after_is_obeyed(backend: Backend, answer: Answers) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    backend.answers = [
        answer(429, {"retry-after": "7"}),
        answer(503, {"retry-after": date}),
        answer(429, {"retry-after": "soon"}),
    ]
    time = Time()
    with sender(backend, time) as sending:
        sending.send(request())
    assert time.slept[0] == 7.0
    assert 15 < time.slept[1] <= 20
    assert time.slept[2] < 3


def test_patience_ends(backend: Backend, answer: Answers) -> None:
    backend.answers = [answer(429, {"retry-after": "25"})] * 10
    time = Time()
    with (
        sender(backend, time) as sending,
        pytest.raises(BackendUnreachable, match=r"429 \(busy\); gave up after 3 tries") as caught,
    ):
        sending.send(request())
    assert time.slept == [25.0, 25.0]
    assert caught.value.retry_after_s == 25.0


def test_a_backend_that_is_not_there(backend: Backend) -> None:
    sending = sender(backend, Time(), patience_s=0.0)
    backend.close()
    with sending, pytest.raises(BackendUnreachable, match="cannot be reached"):
        sending.send(request())


def test_a_refusal_is_final_and_says_why(backend: Backend, answer: Answers) -> None:
    # google.rpc.Status: code 3, message.
    backend.answers = [answer(400, body=b"\x08\x03\x12\x08no spans")]
    with sender(backend, Time()) as sending, pytest.raises(ExportRejected, match="answers 400: no spans"):
        sending.send(request())
    backend.answers = [answer(401, {"content-type": "text/html"}, b"<p>who\nare you</p>")]
    with sender(backend, Time()) as sending, pytest.raises(ExportRejected, match="answers 401: <p>who are you</p>"):
        sending.send(request())
    assert len(backend.requests) == 2


@pytest.mark.parametrize("as_json", [False, True], ids=["protobuf", "json"])
def test_partial_success_is_a_refusal(backend: Backend, answer: Answers, as_json: bool) -> None:
    said = ExportTraceServiceResponse(partial_success={"rejected_spans": 2, "error_message": "too old"})  # type: ignore[arg-type]
    body = b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}' if as_json else said.SerializeToString()
    headers = {"content-type": "application/json" if as_json else "application/x-protobuf"}
    backend.answers = [answer(200, headers, body)]
    with sender(backend, Time()) as sending, pytest.raises(ExportRejected, match="rejected 2 spans: too old") as caught:
        sending.send(request())
    assert caught.value.spans == 2


def test_a_success_may_say_anything(backend: Backend, answer: Answers) -> None:
    backend.answers = [answer(200, {"content-type": "text/plain"}, b"\xff ok"), answer(200, body=b"")]
    with sender(backend, Time()) as sending:
        sending.send(request())
        sending.send(request())


ENVIRON = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "https://all.example/otlp/",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20key, x=1",
}


@pytest.mark.parametrize(
    ("url", "environ", "sent_to"),
    [
        ("http://h:4318", {}, "http://h:4318/v1/traces"),
        ("http://h:4318/", {}, "http://h:4318/v1/traces"),
        ("https://h/api/otel?a=b", {}, "https://h/api/otel/v1/traces?a=b"),
        ("https://h/v1/traces", {}, "https://h/v1/traces"),
        ("env", ENVIRON, "https://all.example/otlp/v1/traces"),
        ("env", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://exact/here"}, "https://exact/here"),
    ],
)
def test_where_a_user_means(url: str, environ: dict[str, str], sent_to: str) -> None:
    assert Target.parse(url, None, environ).url == sent_to


def test_headers_of_the_environment_go_to_its_own_endpoint_only() -> None:
    assert Target.parse("env", {"x": "2"}, ENVIRON).headers == {"authorization": "Bearer key", "x": "2"}
    assert Target.parse("http://elsewhere", {"y": "1"}, ENVIRON).headers == {"y": "1"}


@pytest.mark.parametrize(("url", "words"), [("h:4318", "is no URL"), ("ftp://h", "is no URL"), ("env", "is not set")])
def test_what_is_no_url(url: str, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        Target.parse(url, None, {})


def test_secrets_are_not_shown() -> None:
    target = Target.parse("https://user:pw@h:1/otlp?key=s", {"k": "v"}, {})
    assert target.shown == "https://h:1/otlp/v1/traces"
    assert "'v'" not in repr(target)
