"""What a call asks now against what was recorded of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redecode.replay.comparison.divergence import MISSING, FieldDifference, differences
from redecode.tracer import ANSWER_EXTRAS, PROVIDER, Decode, FmRequest, ToolStep, plain, wants_logprobs
from redecode.tracer import conventions as c

TRACERS_OWN = frozenset({"logprobs", "return_token_ids", "stream_options", "enable_response_messages"})
"""Parameters that the tracer asks for, not the program."""


def without_tracers_own(sampling: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Sampling parameters as the program asked for them.

    Args:
        attributes: of the span of an answered decode, if it is one's: the tracer asks a vLLM for logprobs, too, and
            only a program that had asked for them itself got them whole.
    """
    out = {k: v for k, v in sampling.items() if k not in TRACERS_OWN}
    if wants_logprobs(sampling) and (attributes is None or gives_logprobs(attributes)):
        out["logprobs"] = sampling["logprobs"]
    return out


def gives_logprobs(attributes: Mapping[str, Any]) -> bool:
    """Whether the answer of a decode's span can be given to a program that asks for logprobs."""
    extras = c.from_json(attributes.get(ANSWER_EXTRAS)) or {}
    whole = any("logprobs" in choice for choice in (extras.get("choices") or {}).values())
    return whole or attributes.get(PROVIDER) != "vllm"  # of another one the tracer asks nothing more


def decode_differences(
    recorded: Decode, request: FmRequest, attributes: Mapping[str, Any] | None = None
) -> list[FieldDifference]:
    """The fields in which a request differs from the recorded one.

    Args:
        attributes: of the recorded decode's span.
    """
    now = {"model": request.model, "messages": plain(request.messages), "tools": plain(request.tools)}
    then = {"model": recorded.model, "messages": recorded.messages, "tools": recorded.tool_definitions}
    if recorded.base_url is None:
        now["messages"] = _without_tool_names(now["messages"], recorded.messages)
    return differences(then, now) + _sampling_differences(recorded, plain(request.sampling), attributes)


def _without_tool_names(asked: Any, recorded: Any) -> Any:
    """Messages without names of tools where the recording, another's account, leaves them out; call ids say it too."""
    if not isinstance(asked, list) or not isinstance(recorded, list):
        return asked
    named = [isinstance(m, dict) and "name" in m for m in recorded]
    out = []
    for place, message in enumerate(asked):
        known = place < len(named) and named[place]
        tool = isinstance(message, dict) and message.get("role") == "tool" and not known
        out.append({k: v for k, v in message.items() if k != "name"} if tool else message)
    return out


def what_changed(recorded: Decode, found: Sequence[FieldDifference]) -> str:
    """What kind of change it is, in words."""
    kinds: dict[str, None] = {}
    for difference in found:
        name, _, rest = difference.path.partition("[")
        if name == "messages" or difference.path == "messages":
            kinds[_of_message(recorded, difference, rest)] = None
        elif name == "tools":
            kinds["it is offered other tools"] = None
        elif difference.path == "model":
            kinds["it asks another model"] = None
        else:
            kinds["its sampling parameters are others"] = None
    return f"the FM call asks something else than was recorded: {', '.join(kinds)}"


def _of_message(recorded: Decode, difference: FieldDifference, rest: str) -> str:
    place = rest.partition("]")[0]
    if MISSING in (difference.recorded, difference.asked):
        return f"it has a message {'more' if difference.recorded is MISSING else 'less'}"
    said = recorded.messages[int(place)] if place.isdecimal() and isinstance(recorded.messages, list) else None
    role = said.get("role") if isinstance(said, dict) else None
    return {
        "system": "its prompt has changed (the system message)",
        "developer": "its prompt has changed (the developer message)",
        "user": "its prompt, or what fills it, has changed (a user message)",
        "assistant": "an earlier answer in it is another one",
        "tool": "a tool's result in it is another one",
    }.get(str(role), "its prompt has changed")


def _sampling_differences(
    recorded: Decode, now: Mapping[str, Any], attributes: Mapping[str, Any] | None
) -> list[FieldDifference]:
    then = {k: v for k, v in recorded.sampling.items() if k in now or k not in TRACERS_OWN}
    spoken = recorded.error is None and recorded.output is not None
    if spoken and wants_logprobs(now) and attributes is not None and not gives_logprobs(attributes):
        then.pop("logprobs", None)
    if recorded.seed_source == "tracer":
        then.pop("seed", None)
    if recorded.base_url is None:  # another's account: what it does not say is unknown
        now = {k: v for k, v in now.items() if k in then}
    return differences(then, now)


def tool_differences(recorded: ToolStep, name: str, arguments: Any) -> list[FieldDifference]:
    """The fields in which a tool call differs from the recorded one."""
    then = {"tool": recorded.tool, "arguments": recorded.arguments}
    return differences(then, {"tool": name, "arguments": arguments})
