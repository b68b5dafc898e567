"""What clusters show of themselves, as JSON has it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

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
