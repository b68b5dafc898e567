"""Sending to any OTLP/HTTP backend: protobuf, gzip, retries as the OTLP specification has them."""

from __future__ import annotations

import gzip
import os
import random
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Self

from redecode.tracer.errors import BackendUnreachable, ExportError, ExportRejected

if TYPE_CHECKING:
    import httpx2
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_PATH = "/v1/traces"
_RETRYABLE = frozenset({429, 502, 503, 504})
_SHORTEST_WAIT_S, _FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 0.5, 30.0
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to send.

    Attributes:
        url: the whole URL, `/v1/traces` included.
        headers: sent with every request (an API key, say).
        timeout_s: of one request.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it."""
        parts = urllib.parse.urlsplit(self.url)
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @classmethod
    def parse(cls, url: str, headers: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ) -> Self:
        """A target from what a user says.

        Args:
            url: an OTLP/HTTP endpoint, with `/v1/traces` or without; or `env`: what `OTEL_EXPORTER_OTLP_ENDPOINT`
                (or `…_TRACES_ENDPOINT`) says, with the headers of `OTEL_EXPORTER_OTLP_HEADERS`. Those headers go
                to no other URL: they may be credentials.
            headers: more headers.
            environ: the environment.

        Raises:
            ExportError: it is no URL.
        """
        given, exact = dict(headers or {}), None
        if url == "env":
            exact = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            url = exact or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
            if not url:
                raise ExportError("`env` means the URL in $OTEL_EXPORTER_OTLP_ENDPOINT, which is not set")
            for name in ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"):
                given = {**_headers(environ.get(name, "")), **given}
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ExportError(f"'{url}' is no URL of an OTLP/HTTP backend; for example http://localhost:4318")
        path = parts.path.rstrip("/")
        if exact is None and not path.endswith(_PATH):
            url = urllib.parse.urlunsplit(parts._replace(path=path + _PATH))
        return cls(url=url, headers=given)


def _headers(text: str) -> dict[str, str]:
    """`k=v,k2=v2`, values percent-encoded, as OTEL_EXPORTER_OTLP_HEADERS has them."""
    pairs = (item.partition("=") for item in text.split(",") if "=" in item)
    return {name.strip(): urllib.parse.unquote(value.strip()) for name, _, value in pairs}


class Sender:
    """Sends export requests one after another over one connection.

    Args:
        target: where to.
        patience_s: how long one request is tried while the backend is busy or away.
        sleep, monotonic: time.
        rng: of the jitter between tries.
    """

    def __init__(
        self,
        target: Target,
        *,
        patience_s: float = 60.0,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.target, self._patience_s, self._sleep, self._monotonic = target, patience_s, sleep, monotonic
        self._rng = rng or random.Random()
        self._client: httpx2.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def send(self, request: ExportTraceServiceRequest) -> None:
        """Send one request; returns when the backend has all of it.

        Raises:
            ExportRejected: the backend refused it, or some of its spans.
            BackendUnreachable: no answer, or "busy", for `patience_s`.
        """
        body = gzip.compress(request.SerializeToString(), compresslevel=5, mtime=0)
        until, tries = self._monotonic() + self._patience_s, 0
        while True:
            asked_s, reason = self._try(body)
            if reason is None:
                return
            backoff = min(_FIRST_WAIT_S * 2**tries, _LONGEST_WAIT_S) * self._rng.uniform(0.8, 1.2)
            wait_s = backoff if asked_s is None else max(asked_s, _SHORTEST_WAIT_S)
            tries += 1
            if self._monotonic() + wait_s > until:
                tried = "" if tries == 1 else f"; gave up after {tries} tries"
                raise BackendUnreachable(f"{self.target.shown} {reason}{tried}", retry_after_s=asked_s)
            self._sleep(wait_s)

    def _try(self, body: bytes) -> tuple[float | None, str | None]:
        """One try: how long the backend wants us to wait, if it says, and why it did not take it (`None`: it did)."""
        import httpx2

        if self._client is None:
            self._client = httpx2.Client(timeout=self.target.timeout_s)
        ours = {"content-type": "application/x-protobuf", "content-encoding": "gzip", "user-agent": "redecode"}
        try:
            answer = self._client.post(self.target.url, content=body, headers={**self.target.headers, **ours})
        except httpx2.TransportError as error:
            return None, f"cannot be reached: {str(error) or type(error).__name__}"
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise ExportRejected(f"{self.target.shown} cannot be sent to: {error}") from error
        if answer.status_code in _RETRYABLE:
            return _retry_after(answer.headers.get("retry-after")), f"answers {answer.status_code} (busy)"
        if not answer.is_success:
            raise ExportRejected(f"{self.target.shown} answers {answer.status_code}{_said(answer)}")
        rejected, message = _partial(answer)
        if rejected:
            why = message or "it does not say why"
            raise ExportRejected(f"{self.target.shown} rejected {rejected} spans: {why}", spans=rejected)
        return None, None


def _retry_after(text: str | None) -> float | None:
    """Seconds from a Retry-After header, which has seconds or a date."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _partial(answer: httpx2.Response) -> tuple[int, str]:
    """Spans that a 200 says were rejected after all, and why."""
    from google.protobuf.json_format import Parse, ParseError
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    response = ExportTraceServiceResponse()
    try:
        if answer.headers.get("content-type", "").startswith("application/json"):
            Parse(answer.content or b"{}", response, ignore_unknown_fields=True)
        else:
            response.ParseFromString(answer.content)
    except (DecodeError, ParseError):
        return 0, ""  # a success whose body is somebody's "ok"
    return response.partial_success.rejected_spans, response.partial_success.error_message


def _said(answer: httpx2.Response) -> str:
    """What an error answer says, in one line: OTLP errors are a `google.rpc.Status`, whose message is field 2."""
    text = answer.content
    if answer.headers.get("content-type", "").startswith("application/x-protobuf"):
        text = _status_message(text)
    line = " ".join(text.decode("utf-8", "replace").split())
    return f": {line[:_SHOWN]}" if line else ""


def _status_message(data: bytes) -> bytes:
    """Field 2 of a protobuf message of small fields, without needing the schema of `google.rpc.Status`."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTracePartialSuccess

    # ExportTracePartialSuccess has the same shape: an integer in field 1, a text in field 2.
    try:
        message: str = ExportTracePartialSuccess.FromString(data).error_message
        return message.encode()
    except DecodeError:
        return b""
