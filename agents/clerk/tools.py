"""What the clerk asks the world, as LangChain tools without side effects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from langchain_core.tools import BaseTool, StructuredTool

from redecode.agents.contacts_desk import prompts
from redecode.agents.contacts_desk.directory import Directory
from redecode.agents.contacts_desk.service import AddressService, TemporaryError

READS = {"side_effect": False}
"""A tool that says so may be asked before it is certain that it is needed, and its answers may be cached."""


def clerk_tools(
    directory: Directory, service: AddressService, waits_s: Callable[[], tuple[float, float]]
) -> dict[str, BaseTool]:
    """The directory and the address service, each slow by so much, the service for each attempt."""

    async def find_person(name: str) -> str:
        await asyncio.sleep(waits_s()[0])
        return prompts.person_result(directory.find(name))

    async def verify_address(address: str, attempt: int) -> str:
        await asyncio.sleep(waits_s()[1])
        try:
            return prompts.address_result(service.verify(address, attempt))
        except TemporaryError:
            return prompts.address_result(None)

    made: tuple[tuple[str, Callable[..., Awaitable[str]], str], ...] = (
        (prompts.FIND_PERSON, find_person, "look up a person"),
        (prompts.VERIFY_ADDRESS, verify_address, "check a postal address"),
    )
    return {
        name: StructuredTool.from_function(coroutine=asked, name=name, description=told, metadata=dict(READS))
        for name, asked, told in made
    }
