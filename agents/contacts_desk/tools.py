"""The desk's two tools as LangChain tools, sync and async.

How often the address service was asked before is read from the conversation, so the tools keep no state:
the same conversation gets the same answers, also in a replay.
"""

from __future__ import annotations

import asyncio
import time
from itertools import takewhile

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.prebuilt import ToolRuntime

from redecode.agents.contacts_desk import prompts
from redecode.agents.contacts_desk.directory import Directory
from redecode.agents.contacts_desk.service import AddressService, TemporaryError
from redecode.agents.contacts_desk.state import DeskContext, DeskState


def desk_tools(directory: Directory, service: AddressService) -> list[BaseTool]:
    """Return `find_person` and `verify_address` over this directory and service."""

    def find_person(name: str) -> str:
        return prompts.person_result(directory.find(name))

    async def find_person_async(name: str) -> str:
        return find_person(name)

    def answer(address: str, runtime: ToolRuntime[DeskContext, DeskState]) -> str:
        attempt = earlier_checks(runtime.state["messages"], runtime.tool_call_id, address)
        return prompts.address_result(service.verify(address, attempt))

    def verify_address(address: str, runtime: ToolRuntime[DeskContext, DeskState]) -> str:
        time.sleep(_wait(runtime))
        return answer(address, runtime)

    async def verify_address_async(address: str, runtime: ToolRuntime[DeskContext, DeskState]) -> str:
        await asyncio.sleep(_wait(runtime))
        return answer(address, runtime)

    return [
        StructuredTool.from_function(
            func=find_person,
            coroutine=find_person_async,
            name=prompts.FIND_PERSON,
            description="look up a person",
            metadata={"side_effect": False},
        ),
        StructuredTool.from_function(
            func=verify_address,
            coroutine=verify_address_async,
            name=prompts.VERIFY_ADDRESS,
            description="check a postal address",
            metadata={"side_effect": False},
        ),
    ]


def on_busy(error: TemporaryError) -> str:
    """Write a temporary error the way the model is told of it; other errors are bugs and pass through."""
    return prompts.address_result(None)


def earlier_checks(messages: list[AnyMessage], call_id: str | None, address: str) -> int:
    """Count the checks of this address before the call with this id in the last of the model's messages."""
    spoken = [m for m in messages if isinstance(m, AIMessage)]
    before = [call for message in spoken[:-1] for call in message.tool_calls]
    beside = [call for message in spoken[-1:] for call in message.tool_calls]
    before += takewhile(lambda call: call["id"] != call_id, beside)
    return sum(c["name"] == prompts.VERIFY_ADDRESS and c["args"] == {"address": address} for c in before)


def _wait(runtime: ToolRuntime[DeskContext, DeskState]) -> float:
    context = runtime.context
    return (DeskContext() if context is None else context).tool_wait_s
