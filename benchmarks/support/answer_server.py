"""An OpenAI-compatible server that answers every request otherwise, after a wait of its own: usage `answer_server.py`.

Prints its URL and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys

NUMBERS = itertools.count()
WAITS = random.Random(7)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            await reader.readexactly(int(headers.get("content-length", "0")))
            body, status = b'{"detail":"Not Found"}', b"404 Not Found"
            if head[0].startswith("POST") and "/chat/completions" in head[0]:
                number = next(NUMBERS)
                await asyncio.sleep(WAITS.uniform(0.01, 0.1))
                message = {"role": "assistant", "content": f"name {number}"}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                common = {"id": f"c{number}", "object": "chat.completion", "created": 1, "model": "m"}
                body, status = json.dumps({**common, "choices": [choice]}).encode(), b"200 OK"
            writer.write(
                b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve until standard input ends."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
