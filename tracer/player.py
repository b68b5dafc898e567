"""The seam of a playback: who answers FM calls and tools in place of engine and world.

The seams that record also know where a call belongs, so they are the ones that ask. What to answer is
decided in the replay room; nothing here knows a recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from redecode.tracer.recorder import LiveSpan
from redecode.tracer.records import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class FmRequest:
    """What an FM is asked.

    Attributes:
        path: of the endpoint, as in `/chat/completions`.
        messages: as sent: messages, a prompt, or the input of a response.
        sampling: every other parameter of the request.
    """

    path: str
    model: str
    messages: Any
    tools: list[JsonObject] | None
    sampling: JsonObject
    stream: bool


@dataclass(frozen=True, slots=True)
class Played:
    """An answer from a recording.

    Attributes:
        value: a whole chat or completion response body, or a tool's result.
        error: to be raised instead.
        wait_s: how long the answer takes.
        chunks_s: of a stream, when each of its parts comes, in seconds after the call; empty: all at once at the end.
    """

    value: Any
    error: BaseException | None = None
    wait_s: float = 0.0
    chunks_s: tuple[float, ...] = ()


class Player(Protocol):
    """Answers in place of engine and tools. Raises when it has no answer: nothing ever goes live."""

    def decode(self, span: LiveSpan, request: FmRequest) -> Played:
        """The answer to an FM call."""
        ...

    def tool(self, span: LiveSpan, name: str, arguments: Any) -> Played:
        """The answer to a tool call."""
        ...

    def other(self, span: LiveSpan | None, what: str) -> None:
        """Something else is about to go live, called from `span`; raises unless it may."""
        ...
