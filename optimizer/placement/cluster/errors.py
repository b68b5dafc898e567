"""What can go wrong with a live cluster, for those who run it and for those who call it."""

from __future__ import annotations

from redecode.tracer.errors import RedecodeError


class ClusterError(RedecodeError):
    """A cluster cannot be had as asked for; says why, and the way out."""


class BadReplica(ClusterError):
    """What was named as a replica is none."""


class CallError(ClusterError):
    """A call that gets an answer of ours in place of an engine's.

    Attributes:
        status: of HTTP.
        kind: OpenAI's `error.type`.
        retry_after_s: when it may be worth another try; `None` if it is not.
    """

    status = 500
    kind = "internal_error"
    retry_after_s: float | None = None

    def document(self) -> dict[str, dict[str, str | int | None]]:
        """As the OpenAI API has it, with vLLM's numeric code."""
        return {"error": {"message": str(self), "type": self.kind, "param": None, "code": self.status}}

    def headers(self) -> dict[str, str]:
        """What goes with it."""
        return {} if self.retry_after_s is None else {"retry-after": str(max(1, round(self.retry_after_s)))}


class BadRequest(CallError):
    """It cannot be read."""

    status, kind = 400, "invalid_request_error"


class NoSuchModel(CallError):
    """No replica has its model."""

    status, kind = 404, "not_found_error"


class Refused(CallError):
    """The router lets it go: it could not be served in time, or only at the cost of others."""

    status, kind, retry_after_s = 429, "rate_limit_exceeded", 1.0


class NoReplica(CallError):
    """Its model has replicas, and none can be reached."""

    status, kind, retry_after_s = 503, "service_unavailable", 5.0


class ReplicaLost(CallError):
    """The replica went away in the middle of it."""

    status, kind = 502, "upstream_error"


class BadChoice(CallError):
    """The router named a replica that may not be sent the call."""

    status, kind = 500, "internal_error"
