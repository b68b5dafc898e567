"""Why a request was not taken, as each protocol says it.

Refusal              nothing of the request was kept
├── Malformed        no OTLP request, in whatever encoding it claims
├── TooLarge         beyond a limit: smaller batches would pass
├── BadMediaType     a content type or encoding that is not spoken here
├── Unauthorized     no token, or not the right one
├── TooSlow          the body did not arrive in time
├── Busy             beyond what can be held just now: come again
└── Unwritable       the disk did not take it: come again
"""

from __future__ import annotations

from http import HTTPStatus

from google.rpc import code_pb2, error_details_pb2, status_pb2


class Refusal(Exception):
    """Nothing of the request was kept.

    Attributes:
        http: the status of an HTTP answer.
        code: the status of a gRPC answer. What must not be sent again has one that exporters do not retry.
        retry_after_s: seconds after which the same request may pass; `None` says that it never will.
    """

    http = HTTPStatus.BAD_REQUEST
    code: code_pb2.Code = code_pb2.INVALID_ARGUMENT

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def status(self) -> status_pb2.Status:
        """As `google.rpc.Status`, which both protocols carry."""
        status = status_pb2.Status(code=int(self.code), message=str(self))
        if self.retry_after_s is not None:
            status.details.add().Pack(self.retry_info())
        return status

    def retry_info(self) -> error_details_pb2.RetryInfo:
        """When to come again."""
        info = error_details_pb2.RetryInfo()
        info.retry_delay.seconds = self.retry_after_s or 0
        return info


class Malformed(Refusal):
    """No OTLP request, in whatever encoding it claims."""


class TooLarge(Refusal):
    """Beyond a limit: smaller batches would pass."""

    http = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class BadMediaType(Refusal):
    """A content type or encoding that is not spoken here."""

    http = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class Unauthorized(Refusal):
    """No token, or not the right one."""

    http = HTTPStatus.UNAUTHORIZED
    code = code_pb2.UNAUTHENTICATED


class TooSlow(Refusal):
    """The body did not arrive in time."""

    http = HTTPStatus.REQUEST_TIMEOUT
    code = code_pb2.DEADLINE_EXCEEDED


class Busy(Refusal):
    """Beyond what can be held just now: come again."""

    http = HTTPStatus.TOO_MANY_REQUESTS
    code = code_pb2.RESOURCE_EXHAUSTED


class Unwritable(Refusal):
    """The disk did not take it: come again."""

    http = HTTPStatus.SERVICE_UNAVAILABLE
    code = code_pb2.UNAVAILABLE
