"""The HTTP client of replay: give an engine prompt ids and, if wanted, the tokens that must come out.

Ids go in and ids come out, over /v1/completions, so neither chat template nor tokenizer takes part.
Forced tokens go to vLLM's own trace replay where the engine offers it (GPU, model runner V2) and to
our logits processor otherwise; the caller does not see which, and compares the ids it gets with
those it asked for. This client never takes equality for granted and never compares.

Rejected: the OpenAI SDK (drops `token_ids` and timing, adds retries that would falsify a replay); proxies, which
would falsify every time.
"""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import orjson
from pydantic import ValidationError

from redecode.replay.engine.errors import (
    EngineLacksPlugin,
    EngineRefused,
    EngineUnreachable,
    TokensNotForceable,
)
from redecode.replay.engine.http import Answer, ConnectionFailed, Connections, EventParser, Take
from redecode.replay.engine.processes import boot_id
from redecode.replay.engine.protocol import (
    PROTOCOL,
    Assembly,
    Completion,
    EngineInfo,
    StepsAnswer,
    TokenSteps,
)

#: Sampling parameters that cannot stand beside forced tokens: they would end the call early, be
#: refused, or (a seed) kill a CPU engine that cuts prefills. They have no effect on forced tokens.
NOT_WITH_FORCE = frozenset(
    {
        "seed", "n", "best_of", "max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos",
        "include_stop_str_in_output", "response_format", "structured_outputs", "bad_words",
        "thinking_token_budget", "repetition_detection", "prompt_logprobs",
    }
)  # fmt: skip
#: What the native route is given of the recorded sampling: enough to run the same sampler kernels.
_NATIVE_SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"}
)
_STEPS_PER_REQUEST = 1_000
_NOT_FOUND, _METHOD_NOT_ALLOWED, _BAD_REQUEST = 404, 405, 400


class EngineClient:
    """One engine at one URL; close it with `aclose()` or use it as an async context manager."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 1800.0,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._info: EngineInfo | None = None
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        try:
            self._http = Connections(self.base_url, headers, timeout_s=timeout_s, now_ns=now_ns)
        except ConnectionFailed as error:
            raise EngineUnreachable(self.base_url, str(error)) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def info(self) -> EngineInfo:
        """Ask the engine what it is; EngineLacksPlugin when it runs without our middleware."""
        try:
            answer = await self._json("GET", "/redecode/info")
            self._info = EngineInfo.model_validate(answer)
        except EngineRefused as error:
            if error.status == _NOT_FOUND:
                raise EngineLacksPlugin(self.base_url) from error
            raise
        except ValidationError as error:
            raise EngineRefused(self.base_url, 200, f"/redecode/info does not fit: {error}") from error
        if self._info.protocol != PROTOCOL:
            theirs = self._info.protocol
            raise EngineRefused(self.base_url, 200, f"its plug-in speaks protocol {theirs}, not {PROTOCOL}")
        return self._info

    async def complete(
        self,
        prompt_token_ids: Sequence[int],
        *,
        sampling: Mapping[str, Any],
        rid: str,
        force: Sequence[int] | None = None,
        priority: int | None = None,
        stream: bool = False,
        with_steps: bool = True,
    ) -> Completion:
        """One FM call on prompt ids; with `force`, these tokens come out (compare them yourself).

        `sampling` holds vLLM's completion parameters as recorded; None values are left out, and
        without `max_tokens` the engine's remaining context is the limit. `rid` names the call in
        the engine's log and step clock and must be unique. `with_steps=False` saves the request
        that fetches the step clock (use `steps` for many at once). `priority` needs an engine
        with priority scheduling.
        """
        info = self._info or await self.info()
        if force is not None:
            _check_forceable(force, len(prompt_token_ids), info)
        path, body = _request(info, prompt_token_ids, sampling, force, rid)
        if priority is not None:
            body["priority"] = priority
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = Assembly()
        if stream:
            response = await self._send("POST", path, body, self._taker(answer))
        else:
            response = await self._send("POST", path, body)
            answer.add(self._document(path, response), response.done_ns)
        steps = await self._own_steps(rid, info) if with_steps else None
        return answer.finish(sent_ns=response.sent_ns, done_ns=response.done_ns, streamed=stream, steps=steps)

    async def healthy(self) -> bool:
        """Whether the engine says that it can go on; False when it is dying or gone."""
        try:
            return (await self._http.exchange("GET", "/health")).status < _BAD_REQUEST
        except ConnectionFailed:
            return False

    async def steps(self, rids: Sequence[str]) -> StepsAnswer:
        """Fetch the step clock of these calls; ids the engine does not know (any more) are absent."""
        answers = [
            StepsAnswer.model_validate(await self._json("POST", "/redecode/steps", {"rids": list(some)}))
            for some in (rids[i : i + _STEPS_PER_REQUEST] for i in range(0, max(len(rids), 1), _STEPS_PER_REQUEST))
        ]
        merged = {rid: steps for answer in answers for rid, steps in answer.steps.items()}
        return answers[-1].model_copy(update={"steps": merged})

    async def reset_prefix_cache(self) -> bool:
        """Forget cached prompts; False when the engine cannot (calls are running, or no such route)."""
        for path in ("/redecode/reset_prefix_cache", "/reset_prefix_cache"):
            try:
                return bool((await self._json("POST", path, {}))["success"])
            except EngineRefused as error:
                if error.status not in (_NOT_FOUND, _METHOD_NOT_ALLOWED):
                    raise
        return False

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Turn a text into token ids by the engine's own tokenizer."""
        body = {"prompt": text, "add_special_tokens": add_special_tokens}
        tokens: list[int] = (await self._json("POST", "/tokenize", body))["tokens"]
        return tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Turn token ids into text by the engine's own tokenizer."""
        answer = await self._json("POST", "/detokenize", {"tokens": list(tokens)})
        return str(answer.get("prompt", ""))

    async def _own_steps(self, rid: str, info: EngineInfo) -> TokenSteps | None:
        if not has_our_clock(info):
            return None
        return (await self.steps([rid])).steps.get(rid)

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._document(path, await self._send(method, path, body))

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None, take: Take | None = None) -> Answer:
        content = None if body is None else orjson.dumps(body)
        try:
            answer = await self._http.exchange(method, path, content, take)
        except ConnectionFailed as error:
            raise EngineUnreachable(self.base_url, str(error)) from error
        if answer.status >= _BAD_REQUEST:
            raise EngineRefused(self.base_url, answer.status, _message(answer.body))
        return answer

    def _document(self, path: str, response: Answer) -> dict[str, Any]:
        try:
            answer = orjson.loads(response.body)
        except ValueError as error:
            raise EngineRefused(self.base_url, response.status, f"{path} answered no JSON") from error
        if not isinstance(answer, dict):
            raise EngineRefused(self.base_url, response.status, f"{path} answered no JSON object")
        return answer

    def _taker(self, answer: Assembly) -> Take:
        events = EventParser()

        def take(data: bytes, arrived_ns: int) -> None:
            for event in events.feed(data):
                if event == b"[DONE]":
                    continue
                part = orjson.loads(event)
                if "error" in part:  # the stream had begun: the status can say nothing any more
                    raise EngineRefused(self.base_url, 500, _message(event))
                answer.add(part, arrived_ns)

        return take


def has_our_clock(info: EngineInfo) -> bool:
    """Whether the engine's step clock is there, and is the clock of this host."""
    return bool(info.step_clock and info.boot_id is not None and info.boot_id == boot_id())


def _request(
    info: EngineInfo,
    prompt: Sequence[int],
    sampling: Mapping[str, Any],
    force: Sequence[int] | None,
    rid: str,
) -> tuple[str, dict[str, Any]]:
    """Build path and body of one call, by the way this engine offers."""
    kept = {name: value for name, value in sampling.items() if value is not None}
    if force is None:
        xargs: dict[str, Any] = {**(kept.get("vllm_xargs") or {}), "redecode_rid": rid}
        body = {"max_tokens": None, **kept}
    elif info.trace_replay:
        kept = {name: value for name, value in kept.items() if name in _NATIVE_SAMPLING}
        params = {**kept, "trace_decode_token_ids": list(force), "max_tokens": len(force), "logprobs": 0}
        body = {"model": info.served_model_name, "token_ids": list(prompt), "sampling_params": params}
        return "/inference/v1/generate", body | {"request_id": rid}
    else:
        xargs = {"redecode_rid": rid, "redecode_force": pack_tokens(force)}
        body = {name: value for name, value in kept.items() if name not in NOT_WITH_FORCE}
        body |= {"max_tokens": len(force), "ignore_eos": True}
    body |= {"model": info.served_model_name, "prompt": list(prompt), "request_id": rid}
    body |= {"return_token_ids": True, "logprobs": 0}
    # Without a plug-in that knows them vLLM ignores these, so a foreign engine can still resample.
    return "/v1/completions", body | {"vllm_xargs": xargs}


def pack_tokens(ids: Sequence[int]) -> str:
    """Token ids as base64 of little-endian int32: a third of the JSON, and quicker to parse."""
    return base64.b64encode(struct.pack(f"<{len(ids)}i", *ids)).decode()


def _check_forceable(force: Sequence[int], prompt_tokens: int, info: EngineInfo) -> None:
    if not force:
        raise TokensNotForceable("there are no tokens to force: the recorded call made none")
    if not (info.force or info.trace_replay):
        raise TokensNotForceable(
            f"the engine serving {info.served_model_name} cannot force tokens: start it with "
            "`--logits-processors redecode.replay.engine.plugin:ForceTokens`"
        )
    if min(force) < 0 or (info.vocab_size is not None and max(force) >= info.vocab_size):
        raise TokensNotForceable(
            f"the recording holds token ids {min(force)}..{max(force)}, but {info.served_model_name} "
            f"knows 0..{(info.vocab_size or 0) - 1}: it is another model than the one recorded"
        )
    needed = prompt_tokens + len(force)
    if info.max_model_len is not None and needed > info.max_model_len:  # vLLM would cut it short, silently
        raise TokensNotForceable(
            f"the recorded call is {needed} tokens long ({prompt_tokens} of prompt), the engine serving "
            f"{info.served_model_name} takes {info.max_model_len}: start it with --max-model-len {needed}"
        )


def _message(content: bytes) -> str:
    """Find the one line that says what was wrong, out of vLLM's or our own error body."""
    try:
        error = orjson.loads(content)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace") or "no message"
