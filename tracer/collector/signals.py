"""The three signals of OTLP: traces are kept; metrics and logs are answered honestly, as rejected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

_SERVICE = "opentelemetry.proto.collector."


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal and how it is asked for.

    Attributes:
        path: of OTLP/HTTP.
        service: of OTLP/gRPC; its method is `Export`.
        count: how many items a request holds.
        rejected: the field of `partial_success` that says how many were not taken.
    """

    name: str
    path: str
    service: str
    request: type[Message]
    response: type[Message]
    count: Callable[[Any], int]
    rejected: str

    def answer(self, rejected: int = 0, why: str = "") -> Message:
        """The response to a request that was taken but for `rejected` items."""
        if not rejected:
            return self.response()
        return self.response(partial_success={self.rejected: rejected, "error_message": why})


def _spans(request: trace.ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for group in request.resource_spans for scope in group.scope_spans)


def _log_records(request: logs.ExportLogsServiceRequest) -> int:
    return sum(len(scope.log_records) for group in request.resource_logs for scope in group.scope_logs)


def _data_points(request: metrics.ExportMetricsServiceRequest) -> int:
    count = 0
    for group in request.resource_metrics:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                count += len(getattr(metric, kind).data_points) if kind else 0
    return count


TRACES = Signal(
    "traces",
    "/v1/traces",
    _SERVICE + "trace.v1.TraceService",
    trace.ExportTraceServiceRequest,
    trace.ExportTraceServiceResponse,
    _spans,
    "rejected_spans",
)
METRICS = Signal(
    "metrics",
    "/v1/metrics",
    _SERVICE + "metrics.v1.MetricsService",
    metrics.ExportMetricsServiceRequest,
    metrics.ExportMetricsServiceResponse,
    _data_points,
    "rejected_data_points",
)
LOGS = Signal(
    "logs",
    "/v1/logs",
    _SERVICE + "logs.v1.LogsService",
    logs.ExportLogsServiceRequest,
    logs.ExportLogsServiceResponse,
    _log_records,
    "rejected_log_records",
)
SIGNALS = (TRACES, METRICS, LOGS)
BY_PATH: Mapping[str, Signal] = {signal.path: signal for signal in SIGNALS}
