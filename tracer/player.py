"""The seam of a playback or fork: who answers FM calls, tools and retrievers in place of engine and world.

The seams that record also know where a call belongs, so they are the ones that ask. What to answer, and what may be
live, is decided in the replay room; nothing here knows a recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from redecode.tracer.events import SpanEvent
from redecode.tracer.recorder import Dependency, LiveSpan
from redecode.tracer.records import JsonObject

ERROR_EVENT = "error_event"
"""In a body of an answer whose stream was ended by the server: the event it said so in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FmRequest:
    """What an FM is asked.

    Attributes:
        path: of the endpoint, as in `/chat/completions`; empty of a LangChain model that calls no OpenAI client.
        messages: as sent: messages, a prompt, or the input of a response.
        sampling: every other parameter of the request.
        base_url: where it goes, as a decode has it; `None` where only callbacks tell of the call.
    """

    path: str
    model: str
    messages: Any
    tools: list[JsonObject] | None
    sampling: JsonObject
    stream: bool
    base_url: str | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """An answer from a recording.

    Attributes:
        value: the body of a chat, text completion or response; of a LangChain model what its callbacks recorded
            (`conventions.LANGCHAIN_ANSWER`); a tool's result; a retriever's documents.
        error: raised instead.
        status: of an HTTP error, whose body (text) is `value`; its headers are `headers`.
        cut: of a stream that was cut: makes what is raised after its last part.
        wait_s: how long the answer takes.
        chunks_s: of a stream, when each of its parts comes, in seconds after the call; empty: all at once at the end.
        chunk_tokens: how many tokens each of them has; empty: unknown.
        form: how a tool's result is made again where it was more than plain data (`conventions.TOOL_OUTPUT`).
        tokens: the body has what vLLM says when it is asked for all: the caller gets of it what the caller asked.
    """

    value: Any = None
    error: BaseException | None = None
    status: int = 200
    headers: JsonObject = field(default_factory=dict)
    cut: Callable[[], BaseException] | None = None
    wait_s: float = 0.0
    chunks_s: tuple[float, ...] = ()
    chunk_tokens: tuple[int, ...] = ()
    form: JsonObject | None = None
    tokens: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """No answer: the call goes to the engine or to the world, as a fork may allow.

    Attributes:
        change: makes the request body to send from the one that the program made; `None` sends that.
        base_url: the engine to send it to, in place of the program's.
    """

    change: Callable[[JsonObject], JsonObject] | None = None
    base_url: str | None = None


class Player(Protocol):
    """Answers in place of engine and tools. Raises when it has no answer and nothing may go live."""

    def decode(self, span: LiveSpan, request: FmRequest) -> Played | Live:
        """The answer to an FM call of the OpenAI client."""
        ...

    def model(self, span: LiveSpan, request: FmRequest) -> Played | Live | None:
        """The answer to a call of a LangChain model; `None`: its call of the OpenAI client will ask."""
        ...

    def tool(self, span: LiveSpan, name: str, arguments: Any) -> Played | Live:
        """The answer to a tool call, whose arguments are as its span has them."""
        ...

    def unmade(self, span: LiveSpan | None, what: str) -> BaseException:
        """What to raise where the recorded answer cannot be made again here."""
        ...

    def retrieval(self, span: LiveSpan, query: str) -> Played | Live:
        """The answer of a retriever."""
        ...

    def context(self, graph: LiveSpan, step_key: str, edges: list[Dependency], context: Any) -> Any:
        """The LangGraph context of a task of that graph, which is about to begin."""
        ...

    def ended(self, event: SpanEvent) -> None:
        """A span has ended."""
        ...

    def other(self, span: LiveSpan | None, what: str) -> None:
        """Something else is about to go live, called from `span`; raises unless it may."""
        ...
