"""What clusters show of themselves, as JSON has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from redecode.optimizer.placement.cluster.errors import BadRequest
from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.placing import Choice


def plain_replica(replica: LiveReplica) -> dict[str, Any]:
    """A replica as JSON has it."""
    return {
        "number": replica.number,
        "name": replica.name,
        "model": replica.engine.model,
        "hardware": replica.engine.hardware,
        "state": replica.state.value,
        "ready_s": replica.ready_s,
        "outstanding": replica.outstanding,
        "outstanding_prompt_tokens": replica.outstanding_prompt_tokens,
        "running": replica.running,
        "waiting": replica.waiting,
        "free_kv_blocks": replica.free_kv_blocks,
        "by_priority": replica.engine.limits.by_priority,
        "told_by_engine": replica.load is not None,
    }


_MOST_DIGITS = 9


def number(words: str) -> int | None:
    """A whole number that a request names; `None`: it is none, or beyond all there could be of anything here."""
    return int(words) if words.isascii() and words.isdigit() and len(words) <= _MOST_DIGITS else None


def decided(choices: Sequence[Choice], last: str) -> dict[str, Any]:
    """The last so many choices, the newest last.

    Raises:
        BadRequest: that is no number.
    """
    many = number(last)
    if many is None:
        raise BadRequest(f"last={last[:40]} is no number of decisions: want ?last=100")
    return {"decisions": [plain(choice) for choice in choices[max(0, len(choices) - many) :]]}


def plain(choice: Choice) -> dict[str, Any]:
    """A choice as JSON has it."""
    call = {name: value for name, value in asdict(choice.call).items() if name != "hashes"}
    return {
        "at_s": choice.at_s,
        "call": call,
        "replica": choice.replica,
        "priority": choice.priority,
        "outstanding": dict(choice.outstanding),
        "decision": None if choice.decision is None else choice.decision.to_json(),
    }
