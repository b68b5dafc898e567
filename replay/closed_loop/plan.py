"""Before anything is sent: whether a run can be replayed, on this engine, and what about it will be otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redecode.replay.closed_loop.options import ReplayMode
from redecode.replay.engine import EngineInfo
from redecode.replay.errors import EngineUnfit, TooLittleRecorded
from redecode.replay.run_graph import RunGraph, build_run_graph
from redecode.replay.withheld import withheld
from redecode.tracer import Decode, RecordedRun

# Parameters of a chat request that /v1/completions does not know, or that the replay sets itself.
_NOT_SENT = frozenset(
    {
        "n", "logprobs", "top_logprobs", "return_token_ids", "tool_choice", "parallel_tool_calls",
        "max_completion_tokens", "echo", "suffix", "best_of", "metadata", "store", "service_tier", "reasoning_effort",
        "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "stream_interval",
    }
)  # fmt: skip
_GRAMMARS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, ready to be replayed.

    Attributes:
        decodes: the FM calls to make, by span id.
        skipped: step key → why that FM call is not made; the time it took is waited through.
        notes: span id → what about this FM call is otherwise than recorded, one sentence each.
    """

    recorded: RecordedRun
    graph: RunGraph
    decodes: dict[str, Decode]
    skipped: dict[str, str]
    notes: dict[str, list[str]] = field(default_factory=dict)


def plan(recorded: RecordedRun, mode: ReplayMode) -> Plan:
    """Check that a run can be replayed in this mode.

    Raises:
        TooLittleRecorded: a successful decode lacks what the mode needs; says which and why.
    """
    run = recorded.run
    if not recorded.decodes:
        raise TooLittleRecorded(f"run {run.run_id[:12]} has no finished FM call; there is nothing to replay")
    decodes: dict[str, Decode] = {}
    skipped: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    for decode in recorded.decodes:
        if decode.sampled_ids is None and decode.error is not None:
            skipped[decode.step_key] = "failed when recorded, replayed as a wait"
            continue
        if decode.redacted and mode is not ReplayMode.SIMULATE:  # which needs lengths alone
            raise TooLittleRecorded(f"run {run.run_id[:12]} cannot be replayed by {mode}: {withheld(decode)}")
        need = _lack(decode, mode)
        if need:
            raise TooLittleRecorded(
                f"run {run.run_id[:12]} cannot be replayed by {mode}: decode {decode.step_key} has {need} "
                f"(fidelity {decode.fidelity}); record it against vLLM, or use --mode playback"
            )
        if not (decode.sampled_ids if decode.sampled_ids is not None else decode.output_tokens):
            skipped[decode.step_key] = "made no tokens when recorded, replayed as a wait"
            continue
        decodes[decode.span_id] = decode
        if found := _otherwise(decode, mode):
            notes[decode.span_id] = found
    if not decodes:
        why = "; ".join(f"{key} {said}" for key, said in list(skipped.items())[:3])
        raise TooLittleRecorded(f"run {run.run_id[:12]} has no FM call with tokens ({why}); there is nothing to replay")
    return Plan(recorded, build_run_graph(recorded), decodes, skipped, notes)


def _lack(decode: Decode, mode: ReplayMode) -> str:
    if mode is ReplayMode.SIMULATE:
        if decode.prompt_ids is None and decode.input_tokens is None:
            return "no count of prompt tokens"
        return "no count of sampled tokens" if decode.sampled_ids is None and decode.output_tokens is None else ""
    if decode.prompt_ids is None:
        return "no prompt token ids"
    if decode.sampled_ids is None:
        return "no sampled token ids"
    greedy = decode.sampling.get("temperature") == 0
    if mode is ReplayMode.RESAMPLE and decode.seed is None and not greedy:
        return "no seed"
    return ""


def _otherwise(decode: Decode, mode: ReplayMode) -> list[str]:
    """What of the recorded call the replayed one does not have."""
    if mode is ReplayMode.SIMULATE:
        known = decode.prompt_ids is not None or decode.prompt_hashes is not None
        return [] if known else ["what its prompt has in common with others is not known: nothing is found in a cache"]
    notes = []
    grammar = grammar_of(decode.sampling)
    if grammar and mode is ReplayMode.FORCE:
        notes.append(f"grammar removed ({grammar}): the recorded tokens are forced without it")
    elif grammar == "tool_choice":
        notes.append("grammar removed (tool_choice): a call on token ids has no tools to make one of")
    more = len(decode.more_choices) or int(decode.sampling.get("n") or 1) - 1
    if more > 0:
        notes.append(f"only the first of {more + 1} choices is replayed")
    return notes


def grammar_of(sampling: Mapping[str, Any]) -> str | None:
    """What bound a call's output to a grammar; `None` if nothing did."""
    response_format = sampling.get("response_format")
    if isinstance(response_format, Mapping) and response_format.get("type") not in (None, "text"):
        return f"response_format {response_format['type']}"
    for name in _GRAMMARS:
        if sampling.get(name) is not None:
            return name
    choice = sampling.get("tool_choice")
    return "tool_choice" if choice == "required" or isinstance(choice, Mapping) else None


def check_engine(plans: Sequence[Plan], mode: ReplayMode, info: EngineInfo) -> None:
    """Refuse what this engine cannot take, and note what it will take otherwise.

    Raises:
        EngineUnfit: a decode holds token ids that the engine does not have, or does not fit its context.
    """
    name, vocab, context = info.served_model_name, info.vocab_size, info.max_model_len
    for p in plans:
        for decode in p.decodes.values():
            prompt, sampled = decode.prompt_ids or (), decode.sampled_ids or ()
            top = max(max(sampled), max(prompt, default=0))
            if vocab is not None and top >= vocab:
                raise EngineUnfit(
                    f"decode {decode.step_key} was recorded with model {decode.model} (token id {top}), but the "
                    f"engine serves {name} with {vocab} token ids; start the recorded model"
                )
            needed = len(prompt) + len(sampled)
            if context is not None and needed > context:
                raise EngineUnfit(
                    f"decode {decode.step_key} is {needed} tokens long ({len(prompt)} of prompt), the engine serving "
                    f"{name} takes {context}; start it with --max-model-len {needed}"
                )
            limit = _limit(decode)
            if mode is ReplayMode.RESAMPLE and context is not None and limit and len(prompt) + limit > context:
                room = context - len(prompt)
                p.notes.setdefault(decode.span_id, []).append(
                    f"its limit of {limit} tokens was cut to {room}: the engine takes {context} in all"
                )


def _limit(decode: Decode) -> int | None:
    return decode.sampling.get("max_completion_tokens") or decode.sampling.get("max_tokens")


def sampling_for_replay(recorded: Decode, max_model_len: int | None) -> dict[str, Any]:
    """The recorded sampling parameters as /v1/completions takes them.

    A chat request without a limit may fill the context; /v1/completions would stop at 16 tokens.
    """
    sampling = {k: v for k, v in recorded.sampling.items() if k not in _NOT_SENT}
    limit = _limit(recorded)
    if max_model_len is not None:
        room = max_model_len - len(recorded.prompt_ids or ())
        limit = room if limit is None else min(limit, room)
    if limit is not None:
        sampling["max_tokens"] = limit
    if recorded.seed is not None:
        sampling["seed"] = recorded.seed
    return sampling
