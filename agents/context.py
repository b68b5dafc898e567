"""What every agent may be told from outside, as a LangGraph context schema, and the client made from it.

A graph's context is where its knobs live: an optimizer reads the fields, their `Literal` choices and their
bounds, and runs the same compiled graph with other values. The API key is not a knob and never part of the
context (contexts are recorded); it comes from `OPENAI_API_KEY`.
"""

from __future__ import annotations

import os
from functools import lru_cache

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


def chat_model(context: AgentContext) -> ChatOpenAI:
    """Return the client for a context; equal connections share one, and with it their HTTP pool."""
    return _client(
        context.base_url,
        context.model,
        context.max_tokens,
        context.stream,
        context.timeout_s,
        context.max_retries,
        os.environ.get("OPENAI_API_KEY") or "none",
    )


@lru_cache(maxsize=32)
def _client(
    base_url: str,
    model: str,
    max_tokens: int,
    stream: bool,  # noqa: FBT001
    timeout_s: float,
    max_retries: int,
    api_key: str,
) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=base_url,
        model=model,
        max_completion_tokens=max_tokens,
        streaming=stream,
        stream_usage=stream,
        timeout=timeout_s,
        max_retries=max_retries,
        api_key=SecretStr(api_key),
        use_responses_api=False,
    )
