"""OTLP over gRPC.

The handlers take bytes, so that what is no message is refused in our words, and read them themselves, so that nothing
is read for a client without the token. Messages are left compressed: grpcio before 1.8x unpacks any gzip bomb first
and looks at its size then (measured: 1.1 GB from 1 MB).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from redecode.tracer.collector import bodies
from redecode.tracer.collector.intake import Intake
from redecode.tracer.collector.limits import Limits
from redecode.tracer.collector.refusals import Malformed, Refusal
from redecode.tracer.collector.signals import SIGNALS, Signal

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_READING = 8  # whole messages arrive at once: this many times the largest may be held before it is counted


def make_server(intake: Intake) -> grpc.aio.Server:
    """A server of all signals, not yet listening; to be called on the loop it will run on."""
    server = grpc.aio.server(options=_options(intake.limits))
    reading = asyncio.Semaphore(_READING)
    handlers = [
        grpc.method_handlers_generic_handler(
            signal.service, {"Export": grpc.stream_unary_rpc_method_handler(_export(intake, signal, reading))}
        )
        for signal in SIGNALS
    ]
    server.add_generic_rpc_handlers(tuple(handlers))
    return server


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.per_message_decompression", 0),
        ("grpc.so_reuseport", 0),  # or a second collector would share the port, and half the spans, in silence
    ]


def _export(intake: Intake, signal: Signal, reading: asyncio.Semaphore) -> Callable[..., Awaitable[bytes]]:
    async def export(_requests: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            intake.authorize(dict(context.invocation_metadata()).get("authorization"))
            with intake.admit() as ticket:
                body = await _read(intake, context, reading)
                ticket.hold(len(body))
                answer = await intake.receive(ticket, signal, body, bodies.sniffed(body), is_json=False)
                document: bytes = answer.SerializeToString()
                return document
        except Refusal as refusal:
            intake.refused += 1
            status = refusal.status()
            metadata = [("grpc-status-details-bin", status.SerializeToString())]
            if refusal.retry_after_s is not None:  # where OpenTelemetry's Python exporter looks for it
                metadata.append(("google.rpc.retryinfo-bin", refusal.retry_info().SerializeToString()))
            await context.abort(_CODES[int(refusal.code)], status.message, trailing_metadata=tuple(metadata))
            raise

    return export


async def _read(intake: Intake, context: Any, reading: asyncio.Semaphore) -> bytes:
    """The one message of a call."""
    async with intake.arriving(), reading:
        body = await context.read()
    if not isinstance(body, bytes):
        raise Malformed("the call ended without a message")
    return body
