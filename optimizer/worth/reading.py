"""The FM calls of recorded runs, as a store has them, or a published dataset."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redecode.optimizer.caching.calls import said
from redecode.tracer import Dataset, Decode, Store
from redecode.tracer import conventions as c
from redecode.tracer.blocks import BLOCK_TOKENS

_IN = 500
_MOST = 2_000_000
_COUNTS = """
    SELECT run_id, step_key, model, count(*)::BIGINT AS calls, count(*) FILTER (counted)::BIGINT AS counted,
           coalesce(sum(input) FILTER (counted), 0)::BIGINT AS input,
           coalesce(sum(output) FILTER (counted), 0)::BIGINT AS output,
           coalesce(sum(cached_tokens) FILTER (counted), 0)::BIGINT AS cached,
           count(cached_tokens) FILTER (counted)::BIGINT AS told
    FROM (SELECT *, input IS NOT NULL AND output IS NOT NULL AS counted FROM (
        SELECT run_id, step_key, model, cached_tokens, coalesce(output_tokens, len(sampled_ids)) AS output,
               coalesce(input_tokens, {block} * coalesce(len(prompt_blocks), 0) + len(prompt_tail)) AS input
        FROM decodes WHERE error IS NULL AND run_id IN ({runs})
    )) GROUP BY run_id, step_key, model
"""
_PROMPTS = """
    SELECT d.run_id, d.span_id, d.step_key, d.model, d.sent_ns, d.messages, d.prompt_tail,
           (SELECT flatten(list(b.tokens ORDER BY u.at))
            FROM (SELECT unnest(d.prompt_blocks) AS hash, generate_subscripts(d.prompt_blocks, 1) AS at) u
            JOIN prompt_blocks b USING (hash)) AS prompt_body
    FROM decodes d WHERE d.error IS NULL AND d.run_id IN ({runs})
"""


@dataclass(slots=True)
class Counts:
    """Of one run's FM calls at one step, with one model; those that failed are none.

    Attributes:
        counted: calls that tell their tokens; `input`, `output` and `cached` are of these.
        told: of these, those that say how many came from the engine's cache.
    """

    run_id: str
    step_key: str
    model: str
    calls: int = 0
    counted: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    told: int = 0

    def add(self, call: Decode) -> None:
        """Count one more."""
        self.calls += 1
        given = _first(call.input_tokens, call.prompt_ids)
        came = _first(call.output_tokens, call.sampled_ids)
        if given is not None and came is not None:
            self.counted += 1
            self.input += given
            self.output += came
            self.cached += call.cached_tokens or 0
            self.told += call.cached_tokens is not None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one FM call was asked.

    Attributes:
        ids: of its tokens, or of its words where token ids are not recorded (`by_words`).
    """

    run_id: str
    span_id: str
    step_key: str
    model: str
    sent_ns: int
    ids: tuple[int, ...]
    by_words: bool


def counts_of(source: Store | Dataset, run_ids: Sequence[str]) -> list[Counts]:
    """How many FM calls these runs have, and of how many tokens; of a dataset these runs are loaded."""
    if isinstance(source, Store):
        return [Counts(**row) for row in _asked(source, _COUNTS, run_ids)]
    out: dict[tuple[str, str, str], Counts] = {}
    for call in _loaded(source, run_ids):
        key = (call.run_id, call.step_key, call.model)
        out.setdefault(key, Counts(*key)).add(call)
    return list(out.values())


def prompts_of(source: Store | Dataset, run_ids: Sequence[str]) -> Iterator[Prompt]:
    """What the FM calls of these runs were asked; those of which that is not known are left out."""
    if isinstance(source, Store):
        for row in _asked(source, _PROMPTS, run_ids):
            tail, messages = row.pop("prompt_tail"), c.from_json(row.pop("messages"))
            body = row.pop("prompt_body") or ()
            yield from _prompt(None if tail is None else (*body, *tail), messages, **row)
        return
    for call in _loaded(source, run_ids):
        where = {n: getattr(call, n) for n in ("run_id", "span_id", "step_key", "model", "sent_ns")}
        yield from _prompt(call.prompt_ids, call.messages, **where)


def _prompt(ids: tuple[int, ...] | None, messages: Any, **where: Any) -> Iterator[Prompt]:
    if ids is not None:
        yield Prompt(**where, ids=ids, by_words=False)
    elif messages is not None:
        words = tuple(zlib.crc32(word.encode()) & 0x7FFFFFFF for word in said(messages).split())
        yield Prompt(**where, ids=words, by_words=True)


def _first(told: int | None, ids: Sequence[int] | None) -> int | None:
    """A number of tokens as it was told, else as many as there are."""
    return told if told is not None or ids is None else len(ids)


def _loaded(source: Dataset, run_ids: Sequence[str]) -> Iterator[Decode]:
    for place in range(0, len(run_ids), _IN):
        for one in source.load_many(run_ids[place : place + _IN]):
            yield from (call for call in one.decodes if call.error is None)


def _asked(store: Store, sql: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    out = []
    for place in range(0, len(ids), _IN):
        listed = ", ".join(f"'{i}'" for i in ids[place : place + _IN])
        out += store.ask(sql.format(runs=listed, block=BLOCK_TOKENS), limit=_MOST, timeout_s=60.0).rows()
    return out
