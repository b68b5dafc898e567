"""A call on a replica, what an engine can take at once, and what is told of both."""

from __future__ import annotations

from dataclasses import dataclass

from redecode.replay.simulator.errors import SimulationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine can take at once.

    Attributes:
        max_num_seqs: calls that run.
        token_budget: tokens in a step (vLLM's max_num_batched_tokens); at least `max_num_seqs`.
        chunked_prefill: whether a prompt may be cut to fit into a step.
        by_priority: of those that wait the least number goes first, not the first that came.
    """

    max_num_seqs: int
    token_budget: int
    kv_blocks: int
    block_size: int = 16
    max_model_len: int | None = None
    chunked_prefill: bool = True
    prefix_caching: bool = True
    by_priority: bool = False

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.token_budget, self.kv_blocks, self.block_size) < 1:
            raise SimulationError(f"an engine's limits are 1 and more, not {self}")
        if self.token_budget < self.max_num_seqs:
            raise SimulationError(
                f"{self.max_num_seqs} calls cannot each have a token in a step of {self.token_budget}; "
                "vLLM refuses such an engine, too"
            )

    def refuses(self, prompt: int, output: int) -> str | None:
        """Why a call of this size can never run here; `None` if it can."""
        tokens = prompt + output
        if prompt < 1 or output < 1:
            return f"it has {prompt} tokens of prompt and {output} of output; both must be at least 1"
        if self.max_model_len is not None and tokens > self.max_model_len:
            return f"it is {tokens} tokens long, and the engine takes {self.max_model_len}"
        blocks = -(-(tokens - 1) // self.block_size)
        if blocks > self.kv_blocks:
            return f"it needs {blocks} KV blocks, and the engine has {self.kv_blocks}"
        if not self.chunked_prefill and tokens - 1 > self.token_budget:
            return f"it is {tokens} tokens long, and without chunked prefill a step takes {self.token_budget}"
        return None


class Row:
    """A call on a replica.

    Attributes:
        tokens, made: of prompt and output, and of output alone, while it does not decode; while it does it has
            `offset + clock` tokens, and the last of them when the clock is at `ends`.
        computed: tokens whose KV is there, while it prefills; `held` likewise are its KV blocks.
        kept: so many of its first blocks have been given their content, but for `copies`.
        brought: tokens whose KV comes with it from another replica.
        order: its place among those let in.
        run, place: whose call it is; not looked at here.
    """

    __slots__ = (
        "arrived", "brought", "call", "computed", "copies", "ends", "hashes", "held", "kept", "made", "offset", "order",
        "output", "place", "priority", "prompt", "run", "tokens",
    )  # fmt: skip

    def __init__(
        self, call: int, prompt: int, output: int, hashes: tuple[int, ...] = (), priority: int = 0, brought: int = 0,
        made: int = 0,
    ) -> None:  # fmt: skip
        self.call, self.prompt, self.output, self.hashes, self.priority = call, prompt, output, hashes, priority
        self.brought, self.made = brought, made
        self.tokens = prompt + made
        self.computed = self.held = self.kept = self.offset = self.arrived = self.order = 0
        self.run = self.place = 0
        self.ends = -1
        self.copies: set[int] | None = None

    def key(self) -> tuple[int, int, int]:
        """Its place among those that wait, by priority."""
        return self.priority, self.arrived, self.call


@dataclass(slots=True)
class Counts:
    """What a replica did.

    Attributes:
        busy_ps: time in steps, pauses included.
        prefilled, decoded: tokens computed of prompts (again after a preemption), and made by decoding.
        cached: tokens found in the prefix cache.
    """

    steps: int = 0
    busy_ps: int = 0
    prefilled: int = 0
    cached: int = 0
    decoded: int = 0
    preempted: int = 0
    ended: int = 0


@dataclass(slots=True)
class Extremes:
    """The most that any step had."""

    rows: int = 0
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    context_tokens: int = 0

    def join(self, other: Extremes) -> Extremes:
        """The most of both."""
        return Extremes(
            max(self.rows, other.rows),
            max(self.prefill_tokens, other.prefill_tokens),
            max(self.prefill_pairs, other.prefill_pairs),
            max(self.context_tokens, other.context_tokens),
        )


class Sink:
    """What a replica tells of its calls; times are ps."""

    def scheduled(self, row: Row, at: int, cached: int) -> None:
        """It runs, for the first time or again; `cached` of its tokens need not be computed."""

    def first_token(self, row: Row, at: int) -> None:
        """It will have its first token then."""

    def content(self, row: Row) -> tuple[int, ...]:
        """All of its content that has a name; `row.hashes` is what others may ask for."""
        return row.hashes

    def preempted(self, row: Row, at: int) -> None:
        """It lost its KV blocks and waits again."""

    def ended(self, row: Row, at: int) -> None:
        """It has its last token."""
