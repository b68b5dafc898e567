"""One FM call of a replay: made, and written down as a decode; the engine's step clock fetched after the timed part."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redecode.replay.engine import Completion, EngineClient, EngineError, EngineInfo
from redecode.replay.engine.client import has_our_clock
from redecode.replay.engine.protocol import TokenSteps
from redecode.tracer import Decode, Fidelity, LiveSpan, Recorder, TimeSource
from redecode.tracer import conventions as c
from redecode.tracer.events import with_arrays

_log = logging.getLogger("redecode")
_TOKENS_AT_ONCE = 2_000  # of step clocks, in one request: reading more at a stretch would make points late
_LONGEST_NS = 10_000_000_000  # a clock waits for no longer: with the engine it would be lost


def replayed_decode(
    recorded: Decode,
    completion: Completion | None,
    span: LiveSpan,
    info: EngineInfo,
    *,
    engine_id: str | None,
    base_url: str,
    sent_ns: int,
    done_ns: int,
    rid: str,
    stream: bool,
    error: str | None,
    utc_ns: Callable[[int], int],
) -> Decode:
    """The replayed call as a decode record.

    Args:
        completion: `None` if it failed; then `error` says why, and `sent_ns` and `done_ns` (UTC) are its times.
    """
    common: dict[str, Any] = {
        "run_id": span.run_id,
        "span_id": span.span_id,
        "step_key": recorded.step_key,
        "model": info.served_model_name,
        "base_url": base_url,
        "request_id": rid,
        "engine_id": engine_id,
        "seed": recorded.seed,
        "seed_source": recorded.seed_source,
        "sampling": recorded.sampling,
        "messages": recorded.messages,
        "tool_definitions": recorded.tool_definitions,
        "stream": stream,
        "prompt_ids": recorded.prompt_ids,
    }
    if completion is None:
        return Decode(
            **common, fidelity=Fidelity.TOKENS, sent_ns=sent_ns, first_chunk_ns=None, done_ns=done_ns, error=error
        )
    sent, first, chunks = completion.sent_ns, completion.first_chunk_ns, completion.chunks
    same = completion.token_ids == recorded.sampled_ids
    decode = Decode(
        **common,
        fidelity=Fidelity.ENGINE if completion.system_fingerprint else Fidelity.TOKENS,
        sent_ns=utc_ns(sent),
        first_chunk_ns=utc_ns(first) if first is not None else None,
        done_ns=utc_ns(completion.done_ns),
        fingerprint=completion.system_fingerprint,
        output=recorded.output if same else None,
        sampled_ids=completion.token_ids,
        logprobs=completion.logprobs,
        token_time_source=TimeSource.CLIENT if chunks else TimeSource.REQUEST,
        chunk_times_ns=tuple(t - sent for t, _ in chunks) or None,
        chunk_tokens=tuple(n for _, n in chunks) or None,
        finish_reason=recorded.finish_reason if same else completion.finish_reason,
        input_tokens=completion.prompt_tokens,
        output_tokens=len(completion.token_ids),
        cached_tokens=completion.cached_tokens,
        queue_ns=completion.queue_ns,
        prefill_ns=completion.prefill_ns,
        decode_ns=completion.decode_ns,
    )
    return decode if completion.steps is None else with_steps(decode, completion.steps, utc_ns)


def with_steps(decode: Decode, steps: TokenSteps, utc_ns: Callable[[int], int]) -> Decode:
    """The decode with the engine's own time of each token, if there is one for each."""
    if len(steps.t_ns) != len(decode.sampled_ids or ()):
        return decode
    return replace(
        decode,
        token_times_ns=tuple(utc_ns(t) - decode.sent_ns for t in steps.t_ns),
        token_time_source=TimeSource.ENGINE,
        batch_rows=tuple(steps.rows),
    )


class StepClocks:
    """The step clocks of a replay's decodes, fetched at the end, and on the way now and then: asking costs the engine.

    They are written behind the decodes, as the tracer does (`timing` events).

    Args:
        on_decode: called with each decode that has got its times.
    """

    def __init__(
        self, client: EngineClient, info: EngineInfo, recorder: Recorder, on_decode: Callable[[Decode], None]
    ) -> None:
        self._client, self._recorder, self._on_decode = client, recorder, on_decode
        self._there = has_our_clock(info)
        kept = (info.model_extra or {}).get("steps_kept") or {}
        self._most_tokens = int(kept.get("max_steps", 1_000_000)) // 2
        self._waiting: list[Decode] = []
        self._tokens = 0
        self._since_ns = 0

    def add(self, decode: Decode) -> None:
        """Remember a decode that the engine has made."""
        if self._there and decode.sampled_ids:
            if not self._waiting:
                self._since_ns = time.monotonic_ns()
            self._waiting.append(decode)
            self._tokens += len(decode.sampled_ids)

    @property
    def urgent(self) -> bool:
        """Whether it is time to fetch some: the engine will soon forget the first, or may be gone by the end."""
        waited_ns = time.monotonic_ns() - self._since_ns
        return bool(self._waiting) and (self._tokens > self._most_tokens or waited_ns > _LONGEST_NS)

    async def fetch(self) -> None:
        """Get all that are waited for. An engine that does not answer has none any more: said in the log."""
        waiting, self._waiting, self._tokens = self._waiting, [], 0
        waiting.reverse()
        while waiting:
            some, tokens = [], 0
            while waiting and tokens < _TOKENS_AT_ONCE:
                some.append(waiting.pop())
                tokens += len(some[-1].sampled_ids or ())
            try:
                answer = await self._client.steps([str(d.request_id) for d in some])
            except EngineError as error:
                _log.warning("redecode: the times of tokens of %d FM calls are lost: %s", len(some + waiting), error)
                return
            for decode in some:
                steps = answer.steps.get(str(decode.request_id))
                timed = decode if steps is None else with_steps(decode, steps, self._recorder.clock.utc_ns)
                if timed is not decode:
                    self._write(timed)
                    self._on_decode(timed)

    def _write(self, decode: Decode) -> None:
        document = {"t": "timing", "span": decode.span_id, "run": decode.run_id, "same_host": True}
        arrays = {
            c.TOKEN_GAPS: c.gaps_us(decode.token_times_ns or ()),
            c.BATCH_ROWS: c.pack(decode.batch_rows or (), "i"),
        }
        self._recorder.journal.append(with_arrays(document, arrays), decode.run_id)
