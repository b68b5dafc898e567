"""The part of redecode that runs inside vLLM's engine: forced tokens and the step clock.

Loaded with `--logits-processors redecode.replay.engine.plugin:ForceTokens`; the only module of
this project that imports vllm. A request asks for it by its `vllm_xargs`:

redecode_force  the output tokens to produce: a list of ids, or base64 of little-endian int32
redecode_rid    keep the step clock for this request, under this id (V1 runner only)

Forcing sets a row's logits to -inf but for the recorded id. vLLM takes the raw logprobs before any
logits processor, so a forced token comes back with the probability the model gave it, bitwise as
recorded when the batch had the same shape. Rejected: allowed_token_ids (static per request),
re-sampling with a seed (not exact under batching), speculative draft tokens (the target decides).

One class serves both of vLLM's model runners, which refuse classes of the other's kind: V1 calls
`update_state` and `apply(logits)` with live lists of output ids; V2 (MRV2, on GPUs) calls
`add_request`, `apply_staged_writes` and `apply(logits, ctx)` and must stay on the device. There is
no step clock on V2: `apply` runs there when work is queued, up to a step before the GPU does it,
so its time would be wrong by an unknown amount. `/redecode/info` says which case it is. The V2 path
has been exercised on CPU tensors only, not on a GPU.
"""

from __future__ import annotations

import base64
import binascii
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor as V1LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2LogitsProcessor

from redecode.replay.engine.step_log import STEP_LOG_ENV, Step, StepLogWriter, keeps_clock

FORCE = "redecode_force"
RID = "redecode_rid"
_MAX_RID_LENGTH = 200
_NEG_INF = float("-inf")


def parse_force(params: Any) -> list[int] | None:
    """Return the tokens a request wants forced; None when it wants none; ValueError when it is malformed."""
    value = (params.extra_args or {}).get(FORCE)
    if value is None:
        return None
    if isinstance(value, str):
        value = _unpack(value)
    if not isinstance(value, list) or not value or not all(type(t) is int and t >= 0 for t in value):
        raise ValueError(f"{FORCE} must be a non-empty list of token ids (integers >= 0), or base64 of int32")
    return value


def _unpack(text: str) -> list[int]:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{FORCE} is not base64: {error}") from error
    if len(raw) % 4:
        raise ValueError(f"{FORCE} holds {len(raw)} bytes, which is no whole number of int32")
    return list(struct.unpack(f"<{len(raw) // 4}i", raw))


def parse_rid(params: Any) -> str | None:
    """Return the id a request is clocked under; None when it is not; ValueError when it is malformed."""
    rid = (params.extra_args or {}).get(RID)
    if rid is None:
        return None
    if not isinstance(rid, str) or not 0 < len(rid) <= _MAX_RID_LENGTH:
        raise ValueError(f"{RID} must be a string of 1 to {_MAX_RID_LENGTH} characters")
    return rid


@dataclass(slots=True)
class _Row:
    """What the V1 path keeps per row; `output` is vLLM's live list of the tokens so far."""

    force: list[int] | None
    rid: str | None
    prompt_tokens: int
    output: list[int]


class ForceTokens(V1LogitsProcessor, V2LogitsProcessor):  # type: ignore[misc]
    """Forces recorded tokens and keeps the step clock; see the module's docstring."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse, with HTTP 400, a request whose forced tokens could not come out exactly."""
        parse_rid(sampling_params)
        if parse_force(sampling_params) is None:
            return
        p = sampling_params
        needs = {
            "n=1": p.n == 1,
            "ignore_eos=true (an end token may stand in the middle)": p.ignore_eos,
            "no stop and no stop_token_ids": not p.stop and not p.stop_token_ids,
            "no structured outputs": p.structured_outputs is None,
            "no thinking_token_budget": p.thinking_token_budget is None,
        }
        for need, met in needs.items():
            if not met:
                raise ValueError(f"{FORCE} needs {need}")

    def __init__(self, vllm_config: Any, *runner_args: Any) -> None:
        self._vocab = vllm_config.model_config.get_vocab_size()
        self._log: StepLogWriter | None = None
        if len(runner_args) == 1:  # V2: (req_states,); V1: (device, is_pin_memory)
            self._init_v2(runner_args[0], vllm_config.model_config.max_model_len)
            return
        self._rows: dict[int, _Row] = {}
        self._step_start_ns = 0
        path = os.environ.get(STEP_LOG_ENV)
        if path and keeps_clock(vllm_config.parallel_config):
            self._log = StepLogWriter(Path(path))

    def is_argmax_invariant(self) -> bool:
        """Return False: it decides the argmax, so greedy sampling must run it too."""
        return False

    def _force_of(self, params: Any) -> list[int] | None:
        ids = parse_force(params)
        # An id past the vocabulary would index outside the row and kill the engine for everybody:
        # not forced, and the caller sees other tokens than it asked for.
        return ids if ids is not None and max(ids) < self._vocab else None

    # --- V1 runner -------------------------------------------------------------------------

    def update_state(self, batch_update: Any) -> None:
        """Follow rows as they come, move and go; called before every forward pass."""
        if self._log is not None:
            self._step_start_ns = time.monotonic_ns()
        if batch_update is not None:
            process_dict_updates(self._rows, batch_update, self._new_row)

    def _new_row(self, params: Any, prompt_ids: list[int] | None, output_ids: list[int]) -> _Row | None:
        force = self._force_of(params)
        if force is None and self._log is None:
            return None
        return _Row(force, parse_rid(params), len(prompt_ids or ()), output_ids)

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Force this step's tokens and clock it; `ctx` is given by the V2 runner only."""
        if ctx is not None:
            return self._apply_v2(logits, ctx)
        if self._log is not None:
            self._clock(self._log, logits.shape[0])
        for index, row in self._rows.items():
            k = len(row.output)
            if row.force is not None and k < len(row.force):
                scores = logits[index]
                scores.fill_(_NEG_INF)
                scores[row.force[k]] = 0.0
        return logits

    def _clock(self, log: StepLogWriter, rows: int) -> None:
        recorded: list[tuple[str, int]] = []
        context = prefill = 0
        for row in self._rows.values():
            k = len(row.output)
            context += row.prompt_tokens + k
            if k == 0:
                prefill += row.prompt_tokens
            if row.rid is not None:
                recorded.append((row.rid, k))
        if recorded:
            log.write(Step(time.monotonic_ns(), self._step_start_ns, rows, context, prefill, recorded))

    # --- V2 runner -------------------------------------------------------------------------

    def _init_v2(self, req_states: Any, max_model_len: int) -> None:
        self._req_states = req_states
        shape = (req_states.max_num_reqs, max_model_len)
        self._trace = torch.zeros(shape, dtype=torch.int32, device=req_states.device)
        self._trace_len = torch.zeros(req_states.max_num_reqs, dtype=torch.int32, device=req_states.device)
        self._staged: list[tuple[int, list[int]]] = []

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Stage a slot's tokens; also clears what its last occupant left."""
        ids = self._force_of(sampling_params) or []
        self._staged.append((req_idx, ids))
        return bool(ids)

    def apply_staged_writes(self) -> None:
        """Copy staged tokens to the device, before the forward pass."""
        for slot, ids in self._staged:
            kept = ids[: self._trace.shape[1]]
            if kept:
                source = torch.tensor(kept, dtype=torch.int32)
                self._trace[slot, : len(kept)] = source.to(self._trace.device, non_blocking=True)
            self._trace_len[slot] = len(kept)
        self._staged.clear()

    def _apply_v2(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Masked by tensors alone: no value comes to the host, so the GPU is never waited for."""
        slot = ctx.expanded_idx_mapping.long()  # -1 pads the batch
        known = slot.clamp(min=0)
        step = (ctx.pos + 1 - self._req_states.prompt_len.gpu[known]).long()
        forced = ((slot >= 0) & (step >= 0) & (step < self._trace_len[known])).unsqueeze(1)
        token = self._trace[known, step.clamp(0, self._trace.shape[1] - 1)].long().unsqueeze(1)
        kept = logits.gather(1, token)
        logits.masked_fill_(forced, _NEG_INF)
        return logits.scatter_(1, token, torch.where(forced, torch.zeros_like(kept), kept))
