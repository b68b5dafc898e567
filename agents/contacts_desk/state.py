"""The desk's state and context."""

from __future__ import annotations

from typing import Annotated

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from pydantic import Field
from typing_extensions import TypedDict

from redecode.agents.contacts_desk.prompts import Request, Wording
from redecode.agents.context import AgentContext


class DeskContext(AgentContext):
    """Knobs of the desk: the wording of the request, how many turns it may take, how slow the service is."""

    wording: Wording = "plain"
    system: bool = True
    max_turns: int = Field(default=6, ge=1, le=20)
    tool_wait_s: float = Field(default=0.03, ge=0.0)


class DeskState(TypedDict, total=False):
    """`article` and `request` go in; `answer` comes out, or None and `error`."""

    article: str
    request: Request
    messages: Annotated[list[AnyMessage], add_messages]
    turns: int
    answer: dict[str, str | bool] | None
    error: str | None
