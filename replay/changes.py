"""What a call asks now against what was recorded of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redecode.replay.divergence import FieldDifference, differences
from redecode.tracer import Decode, FmRequest, ToolStep, plain

TRACERS_OWN = frozenset({"logprobs", "return_token_ids", "stream_options", "enable_response_messages"})
"""Parameters that the tracer asks for, not the program."""


def decode_differences(recorded: Decode, request: FmRequest) -> list[FieldDifference]:
    """The fields in which a request differs from the recorded one."""
    now = {"model": request.model, "messages": plain(request.messages), "tools": plain(request.tools)}
    then = {"model": recorded.model, "messages": recorded.messages, "tools": recorded.tool_definitions}
    return differences(then, now) + _sampling_differences(recorded, plain(request.sampling))


def _sampling_differences(recorded: Decode, now: Mapping[str, Any]) -> list[FieldDifference]:
    then = {k: v for k, v in recorded.sampling.items() if k in now or k not in TRACERS_OWN}
    if recorded.seed_source == "tracer":
        then.pop("seed", None)
    if recorded.base_url is None:  # another's account: what it does not say is unknown
        now = {k: v for k, v in now.items() if k in then}
    return differences(then, now)


def tool_differences(recorded: ToolStep, name: str, arguments: Any) -> list[FieldDifference]:
    """The fields in which a tool call differs from the recorded one."""
    then = {"tool": recorded.tool, "arguments": recorded.arguments}
    return differences(then, {"tool": name, "arguments": arguments})
