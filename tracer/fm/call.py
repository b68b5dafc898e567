"""One FM call in flight: its span, what was sent and what has come back, and how that becomes a decode."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.fm import wire, wire_responses
from redecode.tracer.fm.decode_attributes import decode_attributes
from redecode.tracer.fm.engine_probe import Address, Engine, Engines
from redecode.tracer.fm.wire_stream import BodyTap, ChatTap, PassTap, Tap
from redecode.tracer.recorder import LiveSpan, Recorder, count_fault, never_raise
from redecode.tracer.records import Choice, Decode, Fidelity, JsonObject, SpanKind, TimeSource

_LONGEST_ERROR = 65_536
_TOLD_WITH_ERRORS = ("content-type", "retry-after", "x-request-id")
PART = "it was cut short: only the part received is recorded"


@dataclass(slots=True)
class Attempts:
    """The HTTP requests of one call: the client sends again what was refused or got lost.

    Attributes:
        sent: when the last one went out, monotonic ns.
        failed: those that came to nothing: when they were sent, UTC ns, and the HTTP status or what was raised.
    """

    sent: int
    failed: list[JsonObject] = field(default_factory=list)
    count: int = 0

    def attributes(self) -> JsonObject:
        """What a span keeps of them."""
        last, before = self.failed[-1:], self.failed[: self.count - 1]
        return {
            c.HTTP_STATUS: last[0].get("status") if last and len(self.failed) == self.count else None,
            c.RETRIES: self.count - 1 if self.count > 1 else None,
            c.ATTEMPTS: c.to_json(before) if before else None,
        }


class InFlight(ABC):
    """A request of the client's that is recorded.

    Args:
        span: its span; `owns` are the spans that end with the call, innermost first.
        body: as the caller gave it.
        waiting: the calls that still have an answer to come, kept so that none is forgotten when recording ends.
    """

    what = "a request"

    def __init__(
        self, recorder: Recorder, span: LiveSpan, owns: list[LiveSpan], body: JsonObject, waiting: set[InFlight]
    ) -> None:
        self.recorder, self.span, self.owns, self.body, self._waiting = recorder, span, owns, body, waiting
        self.attempts = Attempts(time.monotonic_ns())
        self.arrived: int | None = None  # when a whole body was there, monotonic ns
        self.tap: Tap | None = None
        self.finished = False

    def sending(self, request: Any) -> None:
        """The client's last step before the network, once per attempt: its own overhead is not the engine's time.

        The request says whose it is, so that the engine's own spans join the run.
        """
        headers = request.headers
        if "traceparent" not in headers:  # the host's own tracing goes first
            headers["traceparent"] = f"00-{self.span.run_id}-{self.span.span_id}-01"
        self.attempts.count += 1
        self.attempts.sent = time.monotonic_ns()

    def attempted(self, status: int, error: BaseException | None) -> None:
        """What came of the attempt: an HTTP status, or an exception."""
        if error is not None or status >= 400:
            sent_ns = self.recorder.clock.utc_ns(self.attempts.sent)
            came = {"error": type(error).__name__} if error is not None else {"status": status}
            self.attempts.failed.append({"sent_ns": sent_ns, **came})

    @property
    def streams(self) -> bool:
        """Whether the caller asked for a stream."""
        return False

    @abstractmethod
    def open_tap(self, *, events: bool) -> Tap:
        """What reads the answer while the caller does: a stream of events, else a whole body."""

    @abstractmethod
    def read(self, data: bytes) -> bytes:
        """Read a whole body; returns the one the caller is to see."""

    def wait(self, tap: Tap) -> None:
        """The answer will come through the tap."""
        self.tap = tap
        self._waiting.add(self)

    def finish(self, error: BaseException | str | None = None) -> None:
        """Record what there is, once."""
        if self.finished:
            return
        self.finished = True
        done = self.arrived or time.monotonic_ns()
        end_ns = None
        if isinstance(error, GeneratorExit):  # found out by the garbage collector, some time later
            done = (self.tap.last_ns if self.tap is not None else None) or done
            end_ns = self.recorder.clock.utc_ns(done)
        self._waiting.discard(self)
        try:
            error = self.record(done, error)
        except Exception as fault:
            count_fault(f"recording {self.what}", self.recorder, fault, self.span.run_id)
        with never_raise(f"closing {self.what}", self.recorder):
            for span in self.owns:
                self.recorder.end(span, error=error, end_ns=end_ns)

    def dropped(self) -> None:
        """Nobody holds the answer any more."""
        self.finish(GeneratorExit())

    @abstractmethod
    def record(self, done: int, error: BaseException | str | None) -> BaseException | str | None:
        """Put what is known into the span; returns what the call failed with, if it did."""


class Call(InFlight):
    """One FM call."""

    what = "an FM call"

    def __init__(
        self,
        recorder: Recorder,
        span: LiveSpan,
        owns: list[LiveSpan],
        body: JsonObject,
        waiting: set[InFlight],
        *,
        path: str,
        engines: Engines,
        engine: Engine,
        address: Address,
    ) -> None:
        super().__init__(recorder, span, owns, body, waiting)
        self.path, self.engines, self.engine, self.address = path, engines, engine, address
        self.rid = f"{recorder.rng.getrandbits(128):032x}"
        seed = recorder.rng.getrandbits(31) if engine.may_seed else None
        self.prepared = wire.prepare(
            body,
            path,
            vllm=engine.vllm,
            rid=self.rid if engine.step_clock else None,
            seed=seed,
        )
        # Taken now: the caller may go on with its list of messages while a stream is still running.
        asked = wire.prompt_of(body)
        self._asked = None if asked is None else orjson.Fragment(c.dumps(asked))
        self.captured = wire.Captured(whole_logprobs=wire.wants_logprobs(body))
        self._cut = False
        self._refused: str | None = None

    def sending(self, request: Any) -> None:
        """A vLLM, which may be a cluster of them, is also told what a router can go by; nobody else is."""
        if self.engine.vllm:
            run = self.span.root.event.attributes
            told = {c.RUN_HEADER: self.span.run_id, c.STEP_HEADER: quote(self.span.step_key)}
            told[c.AGENT_HEADER] = quote(str(run.get(c.AGENT_NAME) or ""))
            if (slo_s := run.get(c.SLO)) is not None:
                told[c.SLO_HEADER] = f"{slo_s:g}"
            for name, value in told.items():
                if name not in request.headers:
                    request.headers[name] = value
        super().sending(request)

    @property
    def streams(self) -> bool:
        """Whether the caller asked for a stream."""
        return self.prepared.asked.stream

    def without_extras(self, why: str) -> None:
        """The server refused what we asked for more: send what the caller asked, and no more."""
        self._refused = why
        self.prepared = wire.prepare(self.body, self.path, vllm=False, rid=None, seed=None)

    def open_tap(self, *, events: bool) -> Tap:
        """What reads the answer while the caller does."""
        if not events:
            return BodyTap(self.read, rewritten=self.prepared.extended)
        extended = self.prepared.extended
        if self.path.endswith(wire.RESPONSES):
            if extended and not self.prepared.asked.token_ids:
                return wire_responses.ResponsesTap(self.prepared, self.captured)
            return PassTap(wire_responses.Events(self.captured).take, self.captured)
        return ChatTap(self.prepared, self.captured) if extended else PassTap(self.captured.chunks, self.captured)

    def read(self, data: bytes) -> bytes:
        """Read a whole body; returns the one the caller is to see."""
        read = wire_responses.read_response if self.path.endswith(wire.RESPONSES) else wire.read_response
        return read(data, self.prepared, self.captured)

    def record(self, done: int, error: BaseException | str | None) -> BaseException | str | None:
        """Put the decode into the span."""
        captured, tap = self.captured, self.tap
        if tap is not None:
            try:
                tap.settle()
            except ValueError as unreadable:
                error = error or f"the answer cannot be read: {unreadable}"
            if captured.complete and tap.last_ns is not None:
                done, error = tap.last_ns, None  # the end had come, whatever the caller did then
            elif error is None or isinstance(error, GeneratorExit):
                error = c.CUT_SHORT
        if captured.error is not None:
            error = captured.error
            self.span.set({c.ERROR_CLASS: "openai:APIError"})  # what the client makes of it
        self._cut = tap is not None and error is not None
        for place, call in enumerate(captured.first.tool_calls):
            if call.get("id"):
                self.span.root.tool_order[call["id"]] = place
        sent_ns = self.recorder.clock.utc_ns(self.attempts.sent)
        if captured.fingerprint is not None:
            self.engines.answered(self.engine, captured.fingerprint)
        fidelity, limit = self._fidelity(failed=error is not None)
        attributes = decode_attributes(
            self._decode(sent_ns, done, fidelity),
            operation="text_completion" if self.path.endswith(wire.TEXT) and not self._is_chat else "chat",
            provider="vllm" if self.engine.vllm else "openai",
        )
        attributes[c.RESPONSE_ID] = captured.response_id
        attributes[c.USAGE] = c.to_json(captured.usage) if captured.usage else None
        attributes[c.FIDELITY_LIMIT] = limit
        attributes[c.ANSWER_EXTRAS] = self._extras()
        if error is not None:
            attributes[c.ERROR_ANSWER] = self._error_answer(error)
        if self.attempts.failed:
            attributes |= self.attempts.attributes()
        self.span.set(attributes)
        if error is not None:
            self._doubt_engine(error)
        if self._clocked and captured.first.token_ids:
            tokens = len(captured.first.token_ids)
            span = {"run": self.span.run_id, "span": self.span.span_id, "sent_ns": sent_ns, "tokens": tokens}
            self.engines.fetch_steps(self.address, self.rid, span)
        return error

    def _extras(self) -> str | None:
        """What the caller got besides, that a playback is to give it too."""
        captured, asked = self.captured, self.prepared.asked.token_ids or not self.prepared.extended
        body = wire.public({k: v for k, v in captured.extras.items() if asked or k not in wire_responses.RAW})
        choices = {str(n): wire.public(choice.extras) for n, choice in captured.choices.items() if choice.extras}
        found = {name: value for name, value in (("body", body), ("choices", choices)) if value}
        return c.to_json(found) if found else None

    def _error_answer(self, error: BaseException | str) -> str | None:
        """What the server said in place of an answer: an HTTP status and a body, or an event of a stream."""
        public = self.recorder.keys.text
        if self.captured.error_event is not None:
            found: JsonObject = {"event": public(c.to_json(self.captured.error_event))}
        elif isinstance(status := getattr(error, "status_code", None), int):
            response = getattr(error, "response", None)
            headers = {k: v for k in _TOLD_WITH_ERRORS if (v := getattr(response, "headers", {}).get(k)) is not None}
            found = {"status": status, "headers": headers, "body": public(_body_text(error))}
        else:
            return None
        return c.to_json(found)

    @property
    def _is_chat(self) -> bool:
        return self.path.endswith(wire.CHAT)

    @property
    def _clocked(self) -> bool:
        return self.prepared.extended and self.engine.step_clock and self.prepared.choices == 1

    def _doubt_engine(self, error: BaseException | str) -> None:
        status = getattr(error, "status_code", None)
        lost = isinstance(error, Exception) and status is None
        if lost or (status is not None and (status >= 500 or status in (400, 404, 422))):
            self.engines.forget(self.engine.root)

    def _decode(self, sent_ns: int, done: int, fidelity: Fidelity) -> Decode:
        prepared, captured, first = self.prepared, self.captured, self.captured.first
        body, usage, metrics, chunks = prepared.body, captured.usage, captured.metrics, captured.chunk_times
        utc, sent = self.recorder.clock.utc_ns, self.attempts.sent
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        return Decode(
            run_id=self.span.run_id,
            span_id=self.span.span_id,
            step_key=self.span.step_key,
            model=str(body.get("model")),
            fidelity=fidelity,
            sent_ns=sent_ns,
            first_chunk_ns=utc(chunks[0]) if chunks else None,
            done_ns=utc(done),
            base_url=self.address.root,
            request_id=self.rid,
            fingerprint=captured.fingerprint or (self.engine.fingerprint if prepared.extended else None),
            engine_id=self.engine.engine_id if captured.fingerprint in (None, self.engine.fingerprint) else None,
            seed=prepared.seed,
            seed_source=prepared.seed_source,
            sampling=wire.sampling(body),
            messages=self._asked,
            tool_definitions=wire.tools_of(body),
            output=[captured.choices[i].message() for i in sorted(captured.choices)],
            stream=prepared.asked.stream,
            prompt_ids=_tuple(captured.prompt_ids) if not self._many_prompts else None,
            sampled_ids=_tuple(first.token_ids),
            logprobs=_tuple(first.logprobs),
            more_choices=tuple(
                Choice(_tuple(choice.token_ids), _tuple(choice.logprobs))
                for choice in (captured.choices.get(n, wire.Choice()) for n in range(1, len(captured.choices)))
            ),
            token_time_source=TimeSource.CLIENT if chunks else TimeSource.REQUEST if metrics else None,
            chunk_times_ns=tuple([t - sent for t in chunks]) if chunks else None,
            chunk_tokens=tuple(captured.chunk_tokens) if chunks else None,
            finish_reason=first.finish_reason,
            input_tokens=usage.get("prompt_tokens", usage.get("input_tokens", _count(captured.prompt_ids))),
            output_tokens=usage.get("completion_tokens", usage.get("output_tokens", captured.tokens)),
            cached_tokens=details.get("cached_tokens"),
            queue_ns=_ns(metrics.get("queue_time_ms")),
            # vLLM's "time to first token" is scheduled -> first token: the prefill.
            prefill_ns=_ns(metrics.get("time_to_first_token_ms")),
            decode_ns=_ns(metrics.get("generation_time_ms")),
        )

    @property
    def _many_prompts(self) -> bool:
        prompt = self.body.get("prompt")
        return isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)

    def _fidelity(self, *, failed: bool) -> tuple[Fidelity, str | None]:
        """The fidelity, and why it is no higher, or what it is the fidelity of."""
        fidelity, limit = self._fidelity_of_what_came(failed=failed)
        if self._cut and self.captured.choices:
            limit = PART if limit is None else f"{PART}; {limit}"
        return fidelity, limit

    def _fidelity_of_what_came(self, *, failed: bool) -> tuple[Fidelity, str | None]:
        captured, prepared, engine = self.captured, self.prepared, self.engine
        choices = captured.choices.values()
        if captured.prompt_ids is None or not choices or any(choice.token_ids is None for choice in choices):
            refused = None if failed else self._refused
            limit = prepared.limit or engine.limit or refused or ("it failed" if failed else "no token ids came back")
        elif self._many_prompts:
            limit = "several prompts in one request"
        else:
            known = captured.fingerprint or engine.fingerprint
            if known and (captured.metrics or self._clocked):
                return Fidelity.ENGINE, None
            return Fidelity.TOKENS, "the engine gave no timing of its own" if known else "the engine has no fingerprint"
        seeded = prepared.seed is not None or prepared.body.get("temperature") == 0
        return (Fidelity.SEEDED if seeded else Fidelity.TEXT), limit


def _body_text(error: Any) -> str:
    """The body of an HTTP error as it came; as the client read it where it is gone."""
    try:
        return str(error.response.text)[:_LONGEST_ERROR]
    except Exception:  # it was read as a stream, and closed
        return c.to_json(getattr(error, "body", None))[:_LONGEST_ERROR]


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _count(values: list[Any] | None) -> int | None:
    return None if values is None else len(values)


def _ns(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1e6)


class EmbeddingCall(InFlight):
    """One call for embeddings: a retrieval, since that is what they are made for, and no decode: nothing is sampled.

    How many texts, how many tokens and how long it took are kept; neither the texts nor the vectors.
    """

    what = "an embedding call"
    kind = SpanKind.RETRIEVAL

    def __init__(
        self, recorder: Recorder, span: LiveSpan, owns: list[LiveSpan], body: JsonObject, waiting: set[InFlight]
    ) -> None:
        super().__init__(recorder, span, owns, body, waiting)
        self._tokens: int | None = None

    def open_tap(self, *, events: bool) -> Tap:
        """What reads the answer while the caller does."""
        return BodyTap(self.read, rewritten=False)

    def read(self, data: bytes) -> bytes:
        """Read what it cost; the vectors are many bytes and nobody here needs them."""
        place = data.rfind(b'"usage"')
        try:
            usage = orjson.loads(data[data.index(b"{", place) : data.index(b"}", place) + 1]) if place >= 0 else {}
            self._tokens = usage.get("prompt_tokens")
        except ValueError:
            pass  # written in another way than any server we know
        return data

    def record(self, done: int, error: BaseException | str | None) -> BaseException | str | None:
        """Put what is known into the span."""
        if self.tap is not None:
            self.tap.settle()
        given = self.body.get("input")
        many = isinstance(given, list) and given and not isinstance(given[0], int)
        attributes: JsonObject = {
            c.OPERATION: "embeddings",
            c.REQUEST_MODEL: str(self.body.get("model")),
            c.EMBEDDED: len(given) if many else 1,  # type: ignore[arg-type]
            c.EMBEDDING_DIMENSIONS: self.body.get("dimensions"),
            c.INPUT_TOKENS: self._tokens,
        }
        self.span.set({**attributes, **(self.attempts.attributes() if self.attempts.failed else {})})
        return error
