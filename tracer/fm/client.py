"""The decode seam: the OpenAI client itself, beneath LangChain.

LangChain's ChatOpenAI drops token ids, prompt ids and the fingerprint, so the capture happens where the
client sends a request and gets the HTTP response (`request`, `_send_request` and `_process_response` of
its two base clients). That one seam sees every way to call it: sync, async, streaming, raw responses, `parse`, and
LangChain on top. The response body is rewritten before the client parses it (see `wire`), so nothing the
tracer asked for reaches the caller. Rejected: patching `Completions.create` (raw responses bypass the
returned object), patching the HTTP library (there are two, and users bring their own).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from redecode.tracer import conventions as c
from redecode.tracer.fm import wire
from redecode.tracer.fm.call import Call, EmbeddingCall, InFlight
from redecode.tracer.fm.engine_probe import PLAYED, UNKNOWN, Address, Engine, Engines
from redecode.tracer.fm.played_response import play, play_async
from redecode.tracer.fm.response_tap import answered
from redecode.tracer.player import Live, Played, Player
from redecode.tracer.recorder import LiveSpan, Recorder, count_fault, never_raise
from redecode.tracer.records import JsonObject, SpanKind

_current: ContextVar[InFlight | None] = ContextVar("redecode_fm_call", default=None)
_FM_CALLS = (wire.CHAT, wire.TEXT, wire.RESPONSES)


class Placing(Protocol):
    """Finds where an FM call belongs."""

    def open_decode(self, body: JsonObject) -> LiveSpan | None:
        """The decode span a framework has opened for the call about to be sent with this body, if any."""
        ...

    def parent(self) -> LiveSpan | None:
        """The span the call is made from, if any."""
        ...

    def goes_live(self) -> bool:
        """Whether what a framework is calling here may go around the OpenAI client, live."""
        ...

    def claim(self, finish: Callable[[], None]) -> None:
        """Take what records the call so far, for when the framework's span ends before the call does."""
        ...


class ClientSeam:
    """Wraps the OpenAI client's two base classes; `install` and `remove` are exact inverses."""

    def __init__(self, recorder: Recorder, engines: Engines, placing: Placing) -> None:
        self._recorder, self._engines, self._placing = recorder, engines, placing
        self._undo: list[Callable[[], None]] = []
        self._addresses: WeakKeyDictionary[Any, tuple[Any, str | None, Address]] = WeakKeyDictionary()
        self._waiting: set[InFlight] = set()
        self.player: Player | None = None

    def install(self) -> None:
        """Wrap the classes. Call after `openai` was imported.

        Raises:
            AttributeError: this version of the client lacks a method the seam needs.
        """
        from openai import _base_client as base  # only where the host has it

        for owner, name, wrap in (
            (base.SyncAPIClient, "request", self._request),
            (base.SyncAPIClient, "_send_request", _send),
            (base.SyncAPIClient, "_process_response", _process),
            (base.AsyncAPIClient, "request", self._request_async),
            (base.AsyncAPIClient, "_send_request", _send_async),
            (base.AsyncAPIClient, "_process_response", _process_async),
        ):
            original = owner.__dict__[name] if name in owner.__dict__ else getattr(owner, name)
            setattr(owner, name, functools.wraps(original)(wrap(original)))
            self._undo.append(functools.partial(setattr, owner, name, original))

    def remove(self) -> None:
        """Put the classes back as they were; streams that were dropped without a word are recorded as they are."""
        while self._undo:
            self._undo.pop()()
        for call in list(self._waiting):
            call.finish(c.CUT_SHORT)

    def _address(self, client: Any) -> Address:
        url, key = client.base_url, getattr(client, "api_key", None)
        known = self._addresses.get(client)
        if known is not None and known[0] is url and known[1] is key:
            return known[2]
        headers = {
            name.lower(): value
            for name, value in (getattr(client, "_custom_headers", None) or {}).items()
            if isinstance(value, str)
        }
        if isinstance(key, str) and key:
            self._recorder.keys.add(key)
            headers["authorization"] = f"Bearer {key}"
        address = Address.of(str(url), headers, getattr(client, "_custom_query", None))
        self._addresses[client] = url, key, address
        return address

    def _begin(self, path: str, options: Any, address: Address, engine: Engine) -> tuple[InFlight, Any]:
        """The call, and the options to send it with."""
        body = body_of(options)
        model = str(body.get("model"))
        if path.endswith(wire.EMBEDDINGS):
            embeddings = (SpanKind.RETRIEVAL, f"embeddings {model}", "embeddings")
            span, owns = self._open(*embeddings, {c.REQUEST_MODEL: model})
            return EmbeddingCall(self._recorder, span, owns, body, self._waiting), options
        opened = self._placing.open_decode(body)
        if opened is not None:
            span, owns = opened, []
        else:
            span, owns = self._open(SpanKind.DECODE, f"chat {model}", "chat", {c.REQUEST_MODEL: model})
        call, sent = self._call(span, owns, body, path, options, address, engine)
        if opened is not None:
            self._placing.claim(call.finish)
        return call, sent

    def _call(
        self,
        span: LiveSpan,
        owns: list[LiveSpan],
        body: JsonObject,
        path: str,
        options: Any,
        address: Address,
        engine: Engine,
    ) -> tuple[Call, Any]:
        """An FM call of that span, and the options to send it with."""
        call = Call(
            self._recorder,
            span,
            owns,
            body,
            self._waiting,
            path=path,
            engines=self._engines,
            engine=engine,
            address=address,
        )
        if call.prepared.extended:
            options = options.model_copy()
            options.json_data, options.extra_json = call.prepared.body, None
        return call, options

    def _open(self, kind: SpanKind, name: str, step: str, attributes: JsonObject) -> tuple[LiveSpan, list[LiveSpan]]:
        """A span of our own, and the spans that end with it: outside any run it is one."""
        parent = self._placing.parent()
        owns = []
        if parent is None:
            parent = self._recorder.start_run(name)
            owns = [parent]
        span = self._recorder.start(kind, name, parent, step, attributes=attributes)
        return span, [span, *owns]

    def _request(self, original: Any) -> Any:
        def request(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            path, call, sent = None, None, options
            try:
                path = recorded_path(options)
                if path is not None:
                    address = self._address(client)
                    engine = UNKNOWN if self.player else self._engines.ask(address)
                    call, sent = self._begin(path, options, address, engine)
            except Exception as fault:
                count_fault("preparing an FM call", self._recorder, fault)
            if path is None or call is None:
                self._goes_live(options)
                return original(client, cast_to, options, **kwargs)
            token = _current.set(call)
            try:
                if self.player is not None:
                    played = self._asked(self.player, call, path)
                    if isinstance(played, Played):
                        call = self._as_played(call, played, path, options)
                        return play(client, cast_to, options, path, played, kwargs)
                    options, address = self._redirected(client, call, options, played)
                    call, sent = self._goes_on(call, path, options, address, self._engines.ask(address))
                refusal = None
                try:
                    return original(client, cast_to, sent, **kwargs)
                except Exception as error:
                    if (refusal := _refusal(call, error)) is None:
                        raise
                answer = original(client, cast_to, options, **kwargs)
                self._refused(call, refusal)
                return answer
            except BaseException as error:
                call.finish(error)
                raise
            finally:
                _current.reset(token)

        return request

    def _request_async(self, original: Any) -> Any:
        async def request(client: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            path, call, sent = None, None, options
            try:
                path = recorded_path(options)
                if path is not None:
                    address = self._address(client)
                    engine = UNKNOWN if self.player else await self._ask(address)
                    call, sent = self._begin(path, options, address, engine)
            except Exception as fault:
                count_fault("preparing an FM call", self._recorder, fault)
            if path is None or call is None:
                self._goes_live(options)
                return await original(client, cast_to, options, **kwargs)
            token = _current.set(call)
            try:
                if self.player is not None:
                    played = self._asked(self.player, call, path)
                    if isinstance(played, Played):
                        call = self._as_played(call, played, path, options)
                        return await play_async(client, cast_to, options, path, played, kwargs)
                    options, address = self._redirected(client, call, options, played)
                    call, sent = self._goes_on(call, path, options, address, await self._ask(address))
                refusal = None
                try:
                    return await original(client, cast_to, sent, **kwargs)
                except Exception as error:
                    if (refusal := _refusal(call, error)) is None:
                        raise
                answer = await original(client, cast_to, options, **kwargs)
                self._refused(call, refusal)
                return answer
            except BaseException as error:
                call.finish(error)
                raise
            finally:
                _current.reset(token)

        return request

    async def _ask(self, address: Address) -> Engine:
        engine = self._engines.known(address.root)
        return engine if engine is not None else await asyncio.to_thread(self._engines.ask, address)

    def goes_out(self, what: str) -> None:
        """An inference request is about to go out, by whatever client; one of the OpenAI client's was asked about."""
        if self.player is not None and _current.get() is None and not self._placing.goes_live():
            self.player.other(self._placing.parent(), what)

    def _goes_live(self, options: Any) -> None:
        """A request that is not recorded; a playback has no answer to it."""
        if self.player is not None:
            self.player.other(self._placing.parent(), f"{options.method} {options.url} of the OpenAI client")

    def _asked(self, player: Player, call: InFlight, path: str) -> Played | Live:
        """What a playback has to say to this call."""
        if isinstance(call, Call):
            return player.decode(call.span, wire.request(path, call.body, call.address.root))
        player.other(call.span, f"{call.span.name}: vectors are not recorded; it")
        return Live()

    def _as_played(self, call: InFlight, played: Played, path: str, options: Any) -> InFlight:
        """The call as it is recorded when it is answered from a recording."""
        if not isinstance(call, Call) or not played.tokens:
            return call
        again, _ = self._call(call.span, call.owns, call.body, path, options, call.address, PLAYED)
        return self._instead(call, again)

    def _goes_on(
        self, call: InFlight, path: str, options: Any, address: Address, engine: Engine
    ) -> tuple[InFlight, Any]:
        """The call that goes live in a fork, and the options to send it with."""
        if not isinstance(call, Call):
            return call, options
        again, sent = self._call(call.span, call.owns, body_of(options), path, options, address, engine)
        return self._instead(call, again), sent

    def _instead(self, call: Call, again: Call) -> Call:
        if not call.owns:
            self._placing.claim(again.finish)
        _current.set(again)  # the caller puts back what was there before
        return again

    def _redirected(self, client: Any, call: InFlight, options: Any, live: Live) -> tuple[Any, Address]:
        """The options with what a fork changes in them, and where they are sent."""
        address = self._address(client)
        if live.change is not None and isinstance(call, Call):
            options = options.model_copy()
            options.json_data, options.extra_json = live.change(call.body), None
        if live.base_url is not None and isinstance(call, Call):
            options = options.model_copy()
            end = next(end for end in _FM_CALLS if str(options.url).partition("?")[0].endswith(end))
            options.url = live.base_url.rstrip("/") + end
            address = Address.of(live.base_url, address.headers)
        return options, address

    def _refused(self, call: InFlight, refusal: str) -> None:
        """What the caller asked went through, what we asked for more did not: never ask that server again."""
        with never_raise("learning from a refusal", self._recorder):
            if isinstance(call, Call):
                self._engines.refused(call.engine, refusal)


def _refusal(call: InFlight, error: Exception) -> str | None:
    """Whether the server may have refused only what we added; then the call goes out again without it."""
    status = getattr(error, "status_code", None)
    if status not in (400, 422) or not isinstance(call, Call) or not call.prepared.extended:
        return None
    why = f"the server answered {status} to the fields that vLLM takes, and took the call without them"
    call.without_extras(why)
    return why


def _send(original: Any) -> Any:
    def send(client: Any, request: Any, **kwargs: Any) -> Any:
        call = _current.get()
        if call is None:
            return original(client, request, **kwargs)
        _sending(call, request)
        try:
            response = original(client, request, **kwargs)
        except BaseException as error:
            _attempted(call, 0, error)
            raise
        _attempted(call, response.status_code, None)
        return response

    return send


def _send_async(original: Any) -> Any:
    async def send(client: Any, request: Any, **kwargs: Any) -> Any:
        call = _current.get()
        if call is None:
            return await original(client, request, **kwargs)
        _sending(call, request)
        try:
            response = await original(client, request, **kwargs)
        except BaseException as error:
            _attempted(call, 0, error)
            raise
        _attempted(call, response.status_code, None)
        return response

    return send


def _sending(call: InFlight, request: Any) -> None:
    with never_raise("sending an FM call", call.recorder, call.span.run_id):
        call.sending(request)


def _attempted(call: InFlight, status: int, error: BaseException | None) -> None:
    with never_raise("sending an FM call", call.recorder, call.span.run_id):
        call.attempted(status, error)


def _process(original: Any) -> Any:
    def process(client: Any, **kwargs: Any) -> Any:
        _answered(kwargs["response"], asynchronous=False)
        return original(client, **kwargs)

    return process


def _process_async(original: Any) -> Any:
    async def process(client: Any, **kwargs: Any) -> Any:
        _answered(kwargs["response"], asynchronous=True)
        return await original(client, **kwargs)

    return process


def _answered(response: Any, *, asynchronous: bool) -> None:
    call = _current.get()
    if call is None or call.finished or call.tap is not None:
        return
    try:
        answered(response, call, asynchronous=asynchronous)
    except Exception as fault:
        count_fault("reading an answer", call.recorder, fault, call.span.run_id)


def body_of(options: Any) -> JsonObject:
    """The body of a client request, as the client puts it together."""
    body: JsonObject = options.json_data
    if options.extra_json:
        merged = {**body, **options.extra_json}
        body = {name: value for name, value in merged.items() if type(value).__name__ != "Omit"}
    return body


def recorded_path(options: Any) -> str | None:
    """The path of a client request that is recorded: an inference request, or one for embeddings."""
    path = str(options.url).partition("?")[0]
    if not path.endswith((*_FM_CALLS, wire.EMBEDDINGS)) or str(options.method).lower() != "post":
        return None
    return path if isinstance(options.json_data, dict) else None
