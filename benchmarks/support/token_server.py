"""An OpenAI-compatible server that answers at once, as vLLM 0.32 does byte for byte: usage `token_server.py [names]`.

Prints its base URL and serves until its standard input ends. A chat call gets as many tokens as it allows at most, the
same ones each time; a call that offers tools gets one tool call. Token ids, logprobs and prompt ids come only to who
asks for them, a streamed answer has one event (and one HTTP chunk) per token, and all of it is sent in one write: no
engine is waited for, so what is timed is the client's side alone. With `names` it is no vLLM, and answers every call
otherwise, after a wait of its own.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import sys
from typing import Any, NamedTuple

import orjson

PROMPT_TOKENS = 256
FIRST_ID = 70_001
NAMES = sys.argv[1:] == ["names"]
_numbers, _waits = itertools.count(), random.Random(7)
_WORDS = (" the", " of", " and", " run", " span", " token", " step", "s", ",", " \u00fcber", ' "', "\n")


class Asked(NamedTuple):
    """All that an answer depends on."""

    stream: bool
    tokens: int
    ids: bool
    logprobs: bool
    usage: bool
    tool: str | None


def _words(asked: Asked) -> list[str]:
    words = [_WORDS[n * 7 % len(_WORDS)] for n in range(asked.tokens)]
    if asked.tool:  # its arguments are JSON
        words = ['{"', "text", '":"', *[" word"] * max(asked.tokens - 4, 0), '"}']
    return words


def _logprobs(word: str, place: int) -> dict[str, Any]:
    logprob = -((place * 37 + 11) % 100) / 97 - 0.000123456789
    return {"token": word, "logprob": logprob, "bytes": list(word.encode()), "top_logprobs": []}


def _usage(asked: Asked) -> dict[str, Any]:
    details = {"cached_tokens": 0, "created_cache_tokens": 0}
    n = asked.tokens
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + n,
        "completion_tokens": n,
        "prompt_tokens_details": details,
    }


_ENVELOPE = {"id": "chatcmpl-9c5bc5c2f437e3af", "created": 1_795_273_266, "model": "m"}
_METRICS = {"time_to_first_token_ms": 6.42, "generation_time_ms": 15.83, "queue_time_ms": 0.03, "mean_itl_ms": 5.27}
_FINGERPRINT = {"system_fingerprint": "vllm-0.32.0-cbde58f8"}


def _whole(asked: Asked) -> bytes:
    words = _words(asked)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words), "refusal": None, "reasoning": None}
    if asked.tool:
        function = {"name": asked.tool, "arguments": "".join(words)}
        message |= {"content": None, "tool_calls": [{"id": "call-1", "type": "function", "function": function}]}
    logprobs = {"content": [_logprobs(w, n) for n, w in enumerate(words)]}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs if asked.logprobs else None,
        "finish_reason": "tool_calls" if asked.tool else "length",
        "stop_reason": None,
        "token_ids": list(range(FIRST_ID, FIRST_ID + len(words))) if asked.ids else None,
    }
    prompt = {"prompt_token_ids": list(range(PROMPT_TOKENS)) if asked.ids else None}
    common = {**_ENVELOPE, "object": "chat.completion", **_FINGERPRINT}
    return orjson.dumps({**common, "choices": [choice], "usage": _usage(asked), **prompt, "metrics": _METRICS})


def _events(asked: Asked) -> list[bytes]:
    common = {**_ENVELOPE, "object": "chat.completion.chunk"}
    words = _words(asked)
    start = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    prompt = list(range(PROMPT_TOKENS)) if asked.ids else None
    payloads: list[dict[str, Any]] = [{**common, "choices": [start], "prompt_token_ids": prompt, "prompt_text": None}]
    for place, word in enumerate(words):
        delta: dict[str, Any] = {"content": word}
        if asked.tool:
            call: dict[str, Any] = {"index": 0, "function": {"arguments": word}}
            if place == 0:
                call |= {"id": "call-1", "type": "function", "function": {"name": asked.tool, "arguments": word}}
            delta = {"tool_calls": [call]}
        last = place == len(words) - 1
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": {"content": [_logprobs(word, place)]} if asked.logprobs else None,
            "finish_reason": ("tool_calls" if asked.tool else "length") if last else None,
            **({"stop_reason": None} if last else {}),
            "token_ids": [FIRST_ID + place] if asked.ids else None,
        }
        payloads.append({**common, "choices": [choice], **(_FINGERPRINT if last and not asked.usage else {})})
    if asked.usage:
        payloads.append({**common, "choices": [], "usage": _usage(asked), **_FINGERPRINT, "metrics": _METRICS})
    return [b"data: " + orjson.dumps(payload) + b"\n\n" for payload in payloads] + [b"data: [DONE]\n\n"]


@functools.cache
def answer(asked: Asked) -> bytes:
    """The whole HTTP response."""
    if not asked.stream:
        return response(_whole(asked))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in _events(asked)) + b"0\r\n\r\n"


def response(body: bytes, status: bytes = b"200 OK") -> bytes:
    """An HTTP response with a JSON body."""
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body


def chat(body: dict[str, Any]) -> bytes:
    """The response to a chat request."""
    called = any(message["role"] == "tool" for message in body["messages"])
    tools = [] if called else body.get("tools") or []
    asked = Asked(
        stream=bool(body.get("stream")),
        tokens=body.get("max_completion_tokens") or body.get("max_tokens") or 16,
        ids=bool(body.get("return_token_ids")),
        logprobs=bool(body.get("logprobs")),
        usage=bool((body.get("stream_options") or {}).get("include_usage")),
        tool=tools[0]["function"]["name"] if tools else None,
    )
    return answer(asked)


async def name() -> bytes:
    """A name nobody else was told, after a wait of its own."""
    number = next(_numbers)
    await asyncio.sleep(_waits.uniform(0.01, 0.1))
    message = {"role": "assistant", "content": f"name {number}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    common = {"id": f"c{number}", "object": "chat.completion", "created": 1, "model": "m"}
    return response(orjson.dumps({**common, "choices": [choice]}))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, kept open for many requests."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            if method == "POST" and path.endswith("/chat/completions"):
                writer.write(await name() if NAMES else chat(orjson.loads(body)))
            elif path == "/v1/models" and not NAMES:
                writer.write(response(b'{"object":"list","data":[{"id":"m","object":"model","owned_by":"vllm"}]}'))
            else:
                writer.write(response(b'{"detail":"Not Found"}', b"404 Not Found"))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve until standard input ends."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"http://127.0.0.1:{port}/v1\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
