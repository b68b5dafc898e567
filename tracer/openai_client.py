"""The decode seam: the OpenAI client itself, beneath LangChain.

LangChain's ChatOpenAI drops token ids, prompt ids and the fingerprint, so the capture happens where the
client sends a request and gets the HTTP response (`request`, `_prepare_request` and `_process_response` of
its two base clients). That one seam sees every way to call it: sync, async, streaming, raw responses, `parse`, and
LangChain on top. The response body is rewritten before the client parses it (see `wire`), so nothing the
tracer asked for reaches the caller. Rejected: patching `Completions.create` (raw responses bypass the
returned object), patching the HTTP library (there are two, and users bring their own).
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol

import orjson

from redecode.tracer import conventions as c
from redecode.tracer import wire
from redecode.tracer.decode_attributes import decode_attributes
from redecode.tracer.engine_probe import UNKNOWN, Engine, Engines
from redecode.tracer.player import Played, Player
from redecode.tracer.recorder import LiveSpan, Recorder, never_raise
from redecode.tracer.records import Decode, Fidelity, JsonObject, SpanKind, TimeSource

_current: ContextVar[Call | None] = ContextVar("redecode_fm_call", default=None)


class Placing(Protocol):
    """Finds where an FM call belongs."""

    def open_decode(self) -> LiveSpan | None:
        """The decode span a framework has opened for the call about to be sent, if any."""
        ...

    def parent(self) -> LiveSpan | None:
        """The span the call is made from, if any."""
        ...

    def claim(self, finish: Callable[[], None]) -> None:
        """Take what records the call so far, for when the framework's span ends before the call does."""
        ...


class Call:
    """One FM call in flight: its span, what was sent and what has come back."""

    def __init__(
        self,
        recorder: Recorder,
        engines: Engines,
        span: LiveSpan,
        *,
        owns_span: bool,
        owns_run: LiveSpan | None,
        path: str,
        engine: Engine,
        root: str,
        headers: dict[str, str],
        body: JsonObject,
    ) -> None:
        self.recorder, self.engines, self.span = recorder, engines, span
        self.owns_span, self.owns_run = owns_span, owns_run
        self.path, self.engine, self.root, self.headers = path, engine, root, headers
        self.rid = uuid.UUID(int=recorder.rng.getrandbits(128)).hex
        seed = recorder.rng.getrandbits(31) if engine.may_seed else None
        self.prepared = wire.prepare(
            body, path, vllm=engine.vllm, rid=self.rid if engine.step_clock else None, seed=seed
        )
        self.captured = wire.Captured()
        self.retries = 0
        self.tap: wire.StreamTap | None = None
        self.sent = time.monotonic_ns()
        self.finished = False

    def finish(self, error: BaseException | str | None = None) -> None:
        """Record the decode, once."""
        if self.finished:
            return
        self.finished = True
        done = time.monotonic_ns()
        with never_raise("recording an FM call", self.recorder):
            self._record(done, error)
        with never_raise("closing an FM call", self.recorder):
            if self.owns_span:
                self.recorder.end(self.span, error=error)
            if self.owns_run is not None:
                self.recorder.end(self.owns_run, error=error)

    def _record(self, done: int, error: BaseException | str | None) -> None:
        captured, clock = self.captured, self.recorder.clock
        first, sent_ns = captured.first, clock.utc_ns(self.sent)
        for place, call in enumerate(first.tool_calls):
            if call.get("id"):
                self.span.root.tool_order[call["id"]] = place
        operation = "chat" if self.path.endswith(wire.CHAT) else "text_completion"
        provider = "vllm" if self.engine.vllm else "openai"
        attributes = decode_attributes(self._decode(sent_ns, done), operation=operation, provider=provider)
        attributes[c.RESPONSE_ID] = captured.response_id
        attributes[c.USAGE] = c.to_json(captured.usage) if captured.usage else None
        attributes["redecode.retries"] = self.retries or None
        attributes[c.CHOICES] = n if (n := len(captured.choices)) > 1 else None
        self.span.set(attributes)
        if isinstance(error, BaseException):
            self.engines.forget(self.root)
        if self.engine.step_clock and first.token_ids:
            span = {"run": self.span.run_id, "span": self.span.span_id, "sent_ns": sent_ns}
            self.engines.fetch_steps(self.engine, self.headers, self.rid, span)

    def _decode(self, sent_ns: int, done: int) -> Decode:
        prepared, captured, first = self.prepared, self.captured, self.captured.first
        body, usage, metrics, chunks = prepared.body, captured.usage, captured.metrics, captured.chunk_times
        utc = self.recorder.clock.utc_ns
        return Decode(
            run_id=self.span.run_id,
            span_id=self.span.span_id,
            step_key=self.span.step_key,
            model=str(body.get("model")),
            fidelity=self._fidelity(),
            sent_ns=sent_ns,
            first_chunk_ns=utc(chunks[0]) if chunks else None,
            done_ns=utc(done),
            base_url=self.root,
            request_id=self.rid,
            fingerprint=captured.fingerprint,
            engine_id=self.engine.engine_id,
            seed=prepared.seed,
            seed_source=prepared.seed_source,
            sampling=wire.sampling(body),
            messages=body.get("messages", body.get("prompt")),
            tool_definitions=body.get("tools") or None,
            output=[captured.choices[i].message() for i in sorted(captured.choices)],
            stream=prepared.asked.stream,
            prompt_ids=_tuple(captured.prompt_ids),
            sampled_ids=_tuple(first.token_ids),
            logprobs=_tuple(first.logprobs),
            token_time_source=TimeSource.CLIENT if chunks else TimeSource.REQUEST if metrics else None,
            chunk_times_ns=tuple(t - self.sent for t in chunks) if chunks else None,
            chunk_tokens=tuple(captured.chunk_tokens) if chunks else None,
            finish_reason=first.finish_reason,
            input_tokens=usage.get("prompt_tokens"),
            output_tokens=usage.get("completion_tokens"),
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
            queue_ns=_ns(metrics.get("queue_time_ms")),
            # vLLM's "time to first token" is scheduled -> first token: the prefill.
            prefill_ns=_ns(metrics.get("time_to_first_token_ms")),
            decode_ns=_ns(metrics.get("generation_time_ms")),
        )

    def _fidelity(self) -> Fidelity:
        captured = self.captured
        if captured.first.token_ids is None or captured.prompt_ids is None or len(captured.choices) > 1:
            seeded = self.prepared.seed is not None or self.prepared.body.get("temperature") == 0
            return Fidelity.SEEDED if seeded else Fidelity.TEXT
        own_timing = bool(captured.metrics) or self.engine.step_clock
        return Fidelity.ENGINE if captured.fingerprint and own_timing else Fidelity.TOKENS


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _ns(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1e6)


class ClientSeam:
    """Wraps the OpenAI client's two base classes; `install` and `remove` are exact inverses."""

    def __init__(self, recorder: Recorder, engines: Engines, placing: Placing) -> None:
        self._recorder, self._engines, self._placing = recorder, engines, placing
        self._undo: list[Callable[[], None]] = []
        self.player: Player | None = None

    def install(self) -> None:
        """Wrap the classes. Call after `openai` was imported.

        Raises:
            AttributeError: this version of the client lacks a method the seam needs.
        """
        from openai import _base_client as base  # only where the host has it

        for owner, name, wrap in (
            (base.SyncAPIClient, "request", self._request),
            (base.SyncAPIClient, "_prepare_request", self._prepare),
            (base.SyncAPIClient, "_process_response", self._process),
            (base.AsyncAPIClient, "request", self._request_async),
            (base.AsyncAPIClient, "_prepare_request", self._prepare_async),
            (base.AsyncAPIClient, "_process_response", self._process_async),
        ):
            original = owner.__dict__[name] if name in owner.__dict__ else getattr(owner, name)
            setattr(owner, name, functools.wraps(original)(wrap(original)))
            self._undo.append(functools.partial(setattr, owner, name, original))

    def remove(self) -> None:
        """Put the classes back as they were."""
        while self._undo:
            self._undo.pop()()

    def _begin(self, client: Any, options: Any, engine: Engine, root: str, headers: dict[str, str]) -> Call:
        body = {**(options.json_data or {}), **(options.extra_json or {})}
        span, owned_run, owns_span = self._placing.open_decode(), None, False
        if span is None:
            parent = self._placing.parent()
            if parent is None:
                parent = owned_run = self._recorder.start_run(f"chat {body.get('model')}")
            attributes = {c.REQUEST_MODEL: str(body.get("model"))}
            span = self._recorder.start(
                SpanKind.DECODE, f"chat {body.get('model')}", parent, "chat", attributes=attributes
            )
            owns_span = True
        call = Call(
            self._recorder,
            self._engines,
            span,
            owns_span=owns_span,
            owns_run=owned_run,
            path=str(options.url),
            engine=engine,
            root=root,
            headers=headers,
            body=body,
        )
        if not owns_span:
            self._placing.claim(functools.partial(call.finish, "stream closed before its end"))
        if call.prepared.extended:
            options.json_data, options.extra_json = call.prepared.body, None
        return call

    def _request(self, original: Any) -> Any:
        def request(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            call = None
            if is_fm_call(options):
                with never_raise("preparing an FM call", self._recorder):
                    root, headers = address(client)
                    engine = UNKNOWN if self.player else self._engines.ask(root, headers)
                    options = options.model_copy()
                    call = self._begin(client, options, engine, root, headers)
            if call is None:
                return original(client, cast_to, options, **kwargs)
            token = _current.set(call)
            try:
                if self.player is not None:
                    played = self._played(call, client, options, kwargs)
                    time.sleep(played.wait_s)
                    return client._process_response(cast_to=cast_to, options=options, response=played.value, **kwargs)
                return original(client, cast_to, options, **kwargs)
            except BaseException as error:
                call.finish(error)
                raise
            finally:
                _current.reset(token)

        return request

    def _request_async(self, original: Any) -> Any:
        async def request(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            call = None
            if is_fm_call(options):
                with never_raise("preparing an FM call", self._recorder):
                    root, headers = address(client)
                    engine = UNKNOWN if self.player else self._engines.known(root)
                    if engine is None:
                        engine = await asyncio.to_thread(self._engines.ask, root, headers)
                    options = options.model_copy()
                    call = self._begin(client, options, engine, root, headers)
            if call is None:
                return await original(client, cast_to, options, **kwargs)
            token = _current.set(call)
            try:
                if self.player is not None:
                    played = self._played(call, client, options, kwargs)
                    await asyncio.sleep(played.wait_s)
                    return await client._process_response(
                        cast_to=cast_to, options=options, response=played.value, **kwargs
                    )
                return await original(client, cast_to, options, **kwargs)
            except BaseException as error:
                call.finish(error)
                raise
            finally:
                _current.reset(token)

        return request

    def _played(self, call: Call, client: Any, options: Any, kwargs: JsonObject) -> Played:
        """The recorded response to this call, as the HTTP response the client would have got."""
        assert self.player is not None
        kwargs.setdefault("stream", False)
        kwargs.setdefault("stream_cls", None)
        played = self.player.decode(call.span, call.path, call.prepared.body)
        if played.error is not None:
            raise played.error
        return replace(played, value=recorded_response(client, options, played.value, stream=kwargs["stream"]))

    def _prepare(self, original: Any) -> Any:
        def prepare(client: Any, request: Any) -> None:
            original(client, request)
            _is_sent()

        return prepare

    def _prepare_async(self, original: Any) -> Any:
        async def prepare(client: Any, request: Any) -> None:
            await original(client, request)
            _is_sent()

        return prepare

    def _process(self, original: Any) -> Any:
        def process(client: Any, **kwargs: Any) -> Any:
            _read(kwargs, _tap_stream)
            return original(client, **kwargs)

        return process

    def _process_async(self, original: Any) -> Any:
        async def process(client: Any, **kwargs: Any) -> Any:
            _read(kwargs, _tap_stream_async)
            return await original(client, **kwargs)

        return process


def is_fm_call(options: Any) -> bool:
    """Whether a client request is an inference request we know how to read."""
    return (
        str(options.method).lower() == "post"
        and str(options.url).split("?")[0].endswith((wire.CHAT, wire.TEXT))
        and isinstance(options.json_data, dict)
    )


def address(client: Any) -> tuple[str, dict[str, str]]:
    """The engine's root URL (without `/v1`) and the headers that let us in."""
    root = str(client.base_url).rstrip("/").removesuffix("/v1")
    key = getattr(client, "api_key", None)
    return root, {"authorization": f"Bearer {key}"} if key else {}


def _is_sent() -> None:
    """The client's last step before the network, once per attempt: its own overhead is not the engine's time."""
    if (call := _current.get()) is not None:
        call.sent = time.monotonic_ns()


def _read(kwargs: JsonObject, tap_stream: Callable[[Any, Call, wire.StreamTap], None]) -> None:
    """Read a successful response as the caller does, and take out what the caller did not ask for."""
    call, response = _current.get(), kwargs["response"]
    if call is None or call.tap is not None or call.finished:
        return
    with never_raise("reading an FM response"):
        call.retries = kwargs.get("retries_taken", 0)
        if "text/event-stream" in response.headers.get("content-type", ""):
            call.tap = wire.StreamTap(call.prepared, call.captured)
            tap_stream(response, call, call.tap)
            return
        data = response.content
        rewritten = wire.read_response(data, call.prepared, call.captured)
        if rewritten is not data:
            response._content = rewritten
            if "content-length" in response.headers:
                response.headers["content-length"] = str(len(rewritten))
        call.finish()


def _ended(call: Call, tap: wire.StreamTap) -> None:
    call.finish(None if tap.done else "stream closed before its end")


def _tap_stream(response: Any, call: Call, tap: wire.StreamTap) -> None:
    """Put the tap between the response's bytes and whoever reads them, at the decoded level."""
    read, close = response.iter_bytes, response.close

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        for data in read(chunk_size):
            out = tap.feed(data, time.monotonic_ns())
            if tap.done:
                call.finish()
            if out:
                yield out
        if out := tap.rest():
            yield out
        _ended(call, tap)

    def close_sync() -> None:
        close()
        _ended(call, tap)

    response.iter_bytes, response.close = iter_bytes, close_sync


def _tap_stream_async(response: Any, call: Call, tap: wire.StreamTap) -> None:
    """As `_tap_stream`, for the async client."""
    read, close = response.aiter_bytes, response.aclose

    async def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async for data in read(chunk_size):
            out = tap.feed(data, time.monotonic_ns())
            if tap.done:
                call.finish()
            if out:
                yield out
        if out := tap.rest():
            yield out
        _ended(call, tap)

    async def aclose() -> None:
        await close()
        _ended(call, tap)

    response.aiter_bytes, response.aclose = aiter_bytes, aclose


def recorded_response(client: Any, options: Any, answer: JsonObject, *, stream: bool) -> Any:
    """A recorded answer as an HTTP response; one that streams comes in a single chunk."""
    request = client._build_request(options, retries_taken=0)
    # The client may be built on either of two HTTP libraries: answer with the request's own.
    response_class = importlib.import_module(type(request).__module__.split(".")[0]).Response
    if not stream:
        return response_class(200, json=answer, request=request)
    choices = []
    for choice in answer["choices"]:
        delta = dict(choice.get("message") or {})
        if delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(delta["tool_calls"])]
        choices.append({"index": choice["index"], "delta": delta, "finish_reason": choice.get("finish_reason")})
    chunk = {**answer, "object": "chat.completion.chunk", "choices": choices}
    usage = chunk.pop("usage", None)
    events = [chunk] + ([{**chunk, "choices": [], "usage": usage}] if usage else [])
    data = b"".join(b"data: " + orjson.dumps(e) + b"\n\n" for e in events) + b"data: [DONE]\n\n"
    return response_class(200, content=data, headers={"content-type": "text/event-stream"}, request=request)
