"""A small server that speaks as vLLM with our plug-in does, as far as replay asks: both ways of forcing tokens.

Not a model: what is forced comes out, what is not is made of the prompt and the seed. As a program it
prints its URL and serves until it is ended: `token_engine.py DELAY_S`.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).parents[2]))

from redecode.tracer.clock import boot_id
from tests.replay.engine.small_server import Request, Response, serving


class TokenEngine:
    """What the server answers, and what it was asked.

    Args:
        info: over what it says of itself.
        delay_s: before each answer to an FM call.
        wrong: let the last token of each call come out as another one.
        refuse: answer FM calls with this status.
    """

    def __init__(
        self, info: dict[str, Any] | None = None, *, delay_s: float = 0.0, wrong: bool = False, refuse: int = 0
    ) -> None:
        self.info: dict[str, Any] = {
            "protocol": 1, "engine": "vllm", "force": True, "step_clock": True, "model": "m", "served_model_name": "m",
            "vocab_size": 1000, "max_model_len": 512, "boot_id": boot_id(), "monotonic_ns": 1, "time_ns": 2,
            "system_fingerprint": "vllm-small", "dtype": "float32", "steps_kept": {"max_steps": 1000},
            "generation_config": "vllm", "per_request_metrics": True, "prompt_tokens_details": True, **(info or {}),
        }  # fmt: skip
        self.delay_s, self.wrong, self.refuse = delay_s, wrong, refuse
        self.healthy = True
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answered_ns: list[int] = []
        self.made_ns: dict[str, int] = {}
        self.asked_for_steps: list[list[str]] = []
        self.resets = 0

    async def __call__(self, request: Request) -> Response:
        path = request.url.path
        body = orjson.loads(request.content) if request.content else {}
        if path == "/redecode/info":
            return Response(200, json=self.info)
        if path == "/redecode/reset_prefix_cache":
            self.resets += 1
            return Response(200, json={"success": True})
        if path == "/redecode/steps":
            self.asked_for_steps.append(body["rids"])
            return Response(200, json=self._steps(body["rids"]))
        if path == "/detokenize":
            return Response(200, json={"prompt": " ".join(f"<{t}>" for t in body["tokens"])})
        if path == "/health":
            return Response(200 if self.healthy else 503)
        if path in ("/v1/completions", "/inference/v1/generate"):
            return await self._complete(path, body)
        return Response(404, json={"error": f"no {path}"})

    async def _complete(self, path: str, body: dict[str, Any]) -> Response:
        self.calls.append((path, body))
        await asyncio.sleep(self.delay_s)
        if self.refuse:
            return Response(self.refuse, json={"error": {"message": "the engine core died"}})
        native = path == "/inference/v1/generate"
        prompt = body["token_ids"] if native else body["prompt"]
        ids = self._tokens(native, body, prompt)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        tail = {"usage": usage, "system_fingerprint": None if native else self.info["system_fingerprint"]}
        self.answered_ns.append(time.monotonic_ns())
        self.made_ns[body.get("request_id", "")] = self.answered_ns[-1]
        if not body.get("stream"):
            whole = {"token_ids": ids, "logprobs": self._logprobs(ids, native=native), "finish_reason": "length"}
            return Response(200, json={"choices": [whole], **tail})
        parts: list[dict[str, Any]] = [
            {"choices": [{"token_ids": [t], "logprobs": self._logprobs([t], native=native)}]} for t in ids
        ]
        parts.append({"choices": [], **tail})
        return Response(200, parts=[*(b"data: " + orjson.dumps(part) for part in parts), b"data: [DONE]"])

    def _tokens(self, native: bool, body: dict[str, Any], prompt: list[int]) -> list[int]:
        if native:
            ids = list(body["sampling_params"]["trace_decode_token_ids"])[: body["sampling_params"]["max_tokens"]]
        elif (packed := body["vllm_xargs"].get("redecode_force")) is not None:
            raw = base64.b64decode(packed)
            ids = list(struct.unpack(f"<{len(raw) // 4}i", raw))
        else:
            ids = [(sum(prompt) + body["seed"] * 7 + n) % 900 for n in range(body["max_tokens"])]
        return [*ids[:-1], ids[-1] ^ 1] if self.wrong else ids

    @staticmethod
    def _logprobs(ids: list[int], *, native: bool) -> dict[str, Any]:
        values = [-t / 1000 for t in ids]
        if native:
            return {"content": [{"token_id": t, "logprob": v, "rank": 1} for t, v in zip(ids, values, strict=True)]}
        return {"token_logprobs": values}

    def _steps(self, rids: list[str]) -> dict[str, Any]:
        lengths = {
            body.get("request_id"): body.get("max_tokens") or body["sampling_params"]["max_tokens"]
            for _, body in self.calls
        }
        now = time.monotonic_ns()
        made = {rid: self.made_ns.get(rid, now) for rid in rids}  # its tokens came 1 us after the other
        steps = {
            rid: {
                name: [made[rid] - 1000 * left for left in reversed(range(lengths[rid]))]
                for name in ("t_ns", "start_ns")
            }
            | {name: [1] * lengths[rid] for name in ("rows", "context_tokens", "prefill_tokens")}
            | {"k": list(range(lengths[rid]))}
            for rid in rids
        }
        return {"boot_id": boot_id(), "monotonic_ns": now, "time_ns": now, "steps": steps}


@asynccontextmanager
async def token_engine(engine: TokenEngine | None = None) -> AsyncIterator[str]:
    """The URL of one."""
    async with serving(engine or TokenEngine()) as url:
        yield url


async def _main(delay_s: float) -> None:
    async with token_engine(TokenEngine(delay_s=delay_s)) as url:
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1])))
