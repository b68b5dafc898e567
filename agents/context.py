"""What every agent may be told from outside, as a LangGraph context schema, and the client made from it.

A graph's context is where its knobs live: an optimizer reads the fields, their `Literal` choices and their
bounds, and runs the same compiled graph with other values. The API key is not a knob and never part of the
context (contexts are recorded); it comes from `OPENAI_API_KEY`.
"""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop, get_running_loop
from dataclasses import dataclass, field
from threading import Lock

import openai
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict, Field, SecretStr

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
DEFAULT_MODEL = "redecode-fm-s"


def default_base_url() -> str:
    """Return `$OPENAI_BASE_URL`, or where a local engine usually listens."""
    return os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL


class AgentContext(BaseModel):
    """The engine to call and how to sample; agents add their own knobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(default_factory=default_base_url)
    model: str = DEFAULT_MODEL
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    seed: int | None = None
    max_tokens: int = Field(default=192, ge=1)
    stream: bool = False
    timeout_s: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=2, ge=0)

    def seed_for(self, index: int) -> int | None:
        """Return the seed of the index-th of several calls that should differ; None without a seed."""
        return None if self.seed is None else self.seed + 1009 * index


@dataclass(frozen=True, slots=True)
class _Connection:
    """What a client is made of; equal connections share one client, and with it the HTTP pool."""

    base_url: str
    model: str
    max_tokens: int
    stream: bool
    timeout_s: float
    max_retries: int
    api_key: str = field(repr=False)


def chat_model(context: AgentContext, loop: AbstractEventLoop | None = None) -> ChatOpenAI:
    """Return the client for a context: one per connection, and per event loop where calls are awaited.

    An HTTP pool belongs to the loop it was first used in; shared between loops it fails on the second.
    """
    connection = _Connection(
        context.base_url,
        context.model,
        context.max_tokens,
        context.stream,
        context.timeout_s,
        context.max_retries,
        os.environ.get("OPENAI_API_KEY") or "none",
    )
    with _making:  # branches of a graph run in threads and ask at once; a second client would be left unclosed
        made = _by_loop.setdefault(loop, {}) if loop is not None else _blocking
        if connection not in made:
            made[connection] = _client(connection)
        return made[connection]


async def close_clients() -> None:
    """Close the connections that awaited calls have opened in the running loop, before it ends."""
    for model in _by_loop.pop(get_running_loop(), {}).values():
        await model.root_async_client.close()


_making = Lock()
_blocking: dict[_Connection, ChatOpenAI] = {}
_by_loop: dict[AbstractEventLoop, dict[_Connection, ChatOpenAI]] = {}


def _client(connection: _Connection) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=connection.base_url,
        model=connection.model,
        max_completion_tokens=connection.max_tokens,
        streaming=connection.stream,
        stream_usage=connection.stream,
        # As an object, not a number: LangChain shares one HTTP pool among all clients with equal numbers.
        timeout=openai.Timeout(connection.timeout_s),
        max_retries=connection.max_retries,
        api_key=SecretStr(connection.api_key),
        use_responses_api=False,
    )
