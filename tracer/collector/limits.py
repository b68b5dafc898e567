"""How much a collector takes at once; beyond it clients are told so, and when to come again."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a collector refuses, and when it asks clients to wait. Attribute values are never cut.

    Attributes:
        body_bytes: of one request, as sent and again decompressed. OpenTelemetry's Python exporters send 64 MiB
            at most.
        json_bytes: the same of a JSON request, which costs far more memory to read.
        stored_bytes: what the spans of one request may come to in the journal (each holds its resource).
        request_spans: spans of one request.
        requests: worked on at the same time.
        in_flight_bytes: bodies, and what they become in the journal, held at the same time; more than one request
            can need, or it would be asked to wait for ever.
        backlog_bytes: journals on disk that nobody has moved into the database yet.
        free_bytes: room the disk must keep.
        body_s: seconds a client may take to send one request.
        retry_after_s: seconds a client is asked to wait.
    """

    body_bytes: int = 64 * MiB
    json_bytes: int = 16 * MiB
    stored_bytes: int = 256 * MiB
    request_spans: int = 20_000
    requests: int = 64
    in_flight_bytes: int = 512 * MiB
    backlog_bytes: int = 4096 * MiB
    free_bytes: int = 256 * MiB
    body_s: float = 30.0
    retry_after_s: int = 2
