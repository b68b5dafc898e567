"""A played answer takes the time of the recorded one: what it takes to make it is a part of that, and no more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from redecode.tracer.fm import played_response
from redecode.tracer.player import Played

BUILD_S = 0.25


class Client:
    """Of OpenAI's, as far as an answer is played to it; building a request takes a while."""

    def __init__(self, clock: list[float], *, asynchronous: bool) -> None:
        self.clock, self.asynchronous = clock, asynchronous

    def _build_request(self, options: Any, retries_taken: int) -> httpx2.Request:
        self.clock[0] += BUILD_S
        return httpx2.Request("POST", "http://m/v1/chat/completions")

    def _process_response(self, *, response: httpx2.Response, **rest: Any) -> Any:
        async def later() -> Any:
            return response.json()

        return later() if self.asynchronous else response.json()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("wait_s", "took"), [(2.0, 2.0), (0.1, BUILD_S)])
def test_it_takes_as_long_as_it_took(monkeypatch: Any, asynchronous: bool, wait_s: float, took: float) -> None:
    clock = [10.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    async def sleep_async(seconds: float) -> None:
        sleep(seconds)

    monkeypatch.setattr(played_response, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(played_response, "asyncio", SimpleNamespace(sleep=sleep_async))
    client, said = Client(clock, asynchronous=asynchronous), Played({"said": "x"}, wait_s=wait_s)
    rest: dict[str, Any] = {}
    if asynchronous:
        answer = asyncio.run(played_response.play_async(client, dict, None, "/chat/completions", said, rest))
    else:
        answer = played_response.play(client, dict, None, "/chat/completions", said, rest)
    assert answer == {"said": "x"} and clock[0] == pytest.approx(10.0 + took)
    failed = Played(error=ValueError("as recorded"), wait_s=wait_s)
    failed.error.request = None  # type: ignore[union-attr]
    before = clock[0]
    with pytest.raises(ValueError, match="as recorded"):
        if asynchronous:
            asyncio.run(played_response.play_async(client, dict, None, "/chat/completions", failed, {}))
        else:
            played_response.play(client, dict, None, "/chat/completions", failed, {})
    assert clock[0] == pytest.approx(before + took)
