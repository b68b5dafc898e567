"""What a graph remembers, for one run alone. Of its store (LangGraph's long-term memory) reads find what is there, and
writes stay with the run; its conversations stay in memory.

An evaluation runs a graph again and again on inputs of the past. A store or a checkpointer that these runs wrote to
would be production's, and one candidate would find in the store what another one left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.runtime import Runtime
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    ensure_embeddings,
)
from langgraph.store.memory import InMemoryStore

_RUNTIME = "__pregel_runtime"
_CHECKPOINTER = "__pregel_checkpointer"
_Place: TypeAlias = tuple[tuple[str, ...], str]
_I = TypeVar("_I", bound=Item)


def apart(
    store: BaseStore | None, checkpointer: Any = None, thread: str = "", known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What one run of a graph is given, among what is configurable, to have an `Overlay` of its store and its own
    checkpointer, where the graph has such.

    LangGraph takes the store of the runtime that a run is given before the graph's, and hands it on from there: to
    nodes, tools, tasks and the graphs within, also those that were compiled with another one. So it does with a
    checkpointer. The run's own can be asked in either way, which not every kind can, and keeps what the graph's can.

    Args:
        thread: the run's `thread_id`.
        known: channel → what it has there already; the graph then is as after a run that ended so.
    """
    given: dict[str, Any] = {} if store is None else {_RUNTIME: Runtime(store=Overlay(store))}
    if checkpointer is not None or known is not None:
        given[_CHECKPOINTER] = saver = InMemorySaver(serde=getattr(checkpointer, "serde", None))
        if known is not None:
            _begun(saver, thread, known)
    return given


def _begun(saver: InMemorySaver, thread: str, known: Mapping[str, Any]) -> None:
    """Keep a checkpoint of values themselves: to write them as a node would run that node's conditional edges."""
    versions = dict.fromkeys(known, saver.get_next_version(None, None))
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"], checkpoint["channel_versions"] = dict(known), {**versions}
    where: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    saver.put(where, checkpoint, {"source": "update", "step": 0, "parents": {}}, {**versions})


class _Put(NamedTuple):
    """What the run wrote last in a place, and when."""

    op: PutOp
    at: datetime


class Overlay(BaseStore):
    """A store over another one, which it reads and never writes: not an item, and no time to live either.

    What it finds may be changed by who asked, as items of an `InMemoryStore` would be. A search finds both. Where the
    real store ranks (by cosine), the run's own puts are embedded as it does and ranked among its own; where that cannot
    be done they come after what is ranked, as LangGraph has it of items without a vector. Where nothing is ranked own
    ones come first, the newest before the others, as of databases; of an `InMemoryStore` in order of first writing. A
    namespace that the run has emptied stays listed. What else a kind of store can do than `BaseStore` is not there.
    """

    def __init__(self, real: BaseStore) -> None:
        self._real = real
        self._own: dict[_Place, _Put] = {}
        self._index = _index_of(real)
        self._first_written_first = isinstance(real, InMemoryStore)
        self.supports_ttl, self.ttl_config = real.supports_ttl, real.ttl_config

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """As `BaseStore.batch`; what is put in a batch is there after it."""
        asked, own = list(ops), dict(self._own)
        beneath, over = _beneath(asked, own), _over(asked, own)
        there = self._real.batch(beneath.values()) if beneath else []
        mine = InMemoryStore(index=self._index)
        mine.batch(_live(own))
        here = mine.batch(over.values())
        return self._ended(asked, own, _by(beneath, there), _by(over, here))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As `BaseStore.abatch`; what is put in a batch is there after it."""
        asked, own = list(ops), dict(self._own)
        beneath, over = _beneath(asked, own), _over(asked, own)
        there = await self._real.abatch(beneath.values()) if beneath else []
        mine = InMemoryStore(index=self._index)
        await mine.abatch(_live(own))
        here = await mine.abatch(over.values())
        return self._ended(asked, own, _by(beneath, there), _by(over, here))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        kind = type(self._real).__name__
        raise AttributeError(f"{kind}.{name}: an evaluated run has the methods of LangGraph's BaseStore, and no others")

    def _ended(
        self, asked: Sequence[Op], own: Mapping[_Place, _Put], there: Mapping[int, Any], here: Mapping[int, Any]
    ) -> list[Result]:
        """The results of a batch, by what the real store and the run's own writes say; its puts are kept."""
        out: list[Result] = []
        for n, op in enumerate(asked):
            if isinstance(op, GetOp):
                put = own.get(_place(op))
                found = cast(Item | None, there[n]) if put is None else _item(put)
                out.append(None if found is None else _copy(found))
            elif isinstance(op, SearchOp):
                out.append(self._found(op, own, there[n], here[n]))
            elif isinstance(op, ListNamespacesOp):
                names = sorted({*map(tuple, there[n]), *here[n]}) if own else list(there[n])
                out.append(names[op.offset : op.offset + op.limit] if own else names)
            else:
                self._own[_place(op)] = _Put(op._replace(value=_copied(op.value)), datetime.now(UTC))
                out.append(None)
        return out

    def _found(
        self, op: SearchOp, own: Mapping[_Place, _Put], there: list[SearchItem], here: list[SearchItem]
    ) -> list[SearchItem]:
        there = [_copy(item) for item in there]
        if not own:
            return there
        here = [_dated(item, own[_place(item)].at) for item in here]
        rest = [item for item in there if _place(item) not in own]
        if any(item.score is not None for item in (*there, *here)):
            found = sorted([*rest, *here], key=_score, reverse=True)
        elif self._first_written_first:
            new = {_place(item): item for item in here}
            kept = [item for item in there if _place(item) in new or _place(item) not in own]
            found = [new.pop(_place(item), item) for item in kept]
            found += new.values()
            spaces = {where: n for n, where in enumerate(dict.fromkeys(item.namespace for item in found))}
            found.sort(key=lambda item: spaces[item.namespace])  # it has one after the other
        else:
            found = [*sorted(here, key=lambda item: item.updated_at, reverse=True), *rest]
        return found[op.offset : op.offset + op.limit]


def _beneath(asked: Sequence[Op], own: Mapping[_Place, _Put]) -> dict[int, Op]:
    """What the real store is asked, by its place in the batch: enough that what the run wrote may take its place."""
    out: dict[int, Op] = {}
    for n, op in enumerate(asked):
        if isinstance(op, GetOp):
            if _place(op) not in own:
                out[n] = op._replace(refresh_ttl=False)  # it would live longer for our having looked
        elif isinstance(op, SearchOp):
            out[n] = _widened(op, own)._replace(refresh_ttl=False)
        elif isinstance(op, ListNamespacesOp):
            out[n] = _widened(op, own)
    return out


def _over(asked: Sequence[Op], own: Mapping[_Place, _Put]) -> dict[int, Op]:
    """What is asked of the run's own writes; a query costs an embedding, so only where there is something to rank."""
    out: dict[int, Op] = {}
    for n, op in enumerate(asked):
        if isinstance(op, SearchOp):
            prefix = tuple(op.namespace_prefix)
            ranks = any(put.op.value is not None and where[: len(prefix)] == prefix for (where, _), put in own.items())
            out[n] = _widened(op, own) if ranks else _widened(op, own)._replace(query=None)
        elif not isinstance(op, GetOp):
            out[n] = op if isinstance(op, PutOp) else _widened(op, own)
    return out


_Paged = TypeVar("_Paged", SearchOp, ListNamespacesOp)


def _widened(op: _Paged, own: Mapping[_Place, _Put]) -> _Paged:
    """From the first on, as many as may be needed; where the run wrote nothing as it is."""
    return op._replace(offset=0, limit=op.offset + op.limit + len(own)) if own else op


def _by(asked: Mapping[int, Op], results: Sequence[Result]) -> dict[int, Result]:
    return dict(zip(asked, results, strict=True))


def _live(own: Mapping[_Place, _Put]) -> list[PutOp]:
    return [put.op for put in own.values() if put.op.value is not None]


def _place(what: GetOp | PutOp | Item) -> _Place:
    return tuple(what.namespace), what.key


def _item(put: _Put) -> Item | None:
    op = put.op
    if op.value is None:
        return None
    return Item(value=dict(op.value), key=op.key, namespace=tuple(op.namespace), created_at=put.at, updated_at=put.at)


def _score(item: SearchItem) -> float:
    return -math.inf if item.score is None else item.score


def _dated(item: SearchItem, at: datetime) -> SearchItem:
    found = _copy(item)
    found.created_at = found.updated_at = at
    return found


def _copy(item: _I) -> _I:
    """So that who changes what was found changes nothing in a store that is kept in memory."""
    found = copy(item)
    found.value = _copied(item.value)
    return found


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(inner) for name, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _index_of(real: BaseStore) -> IndexConfig | None:
    """How own puts are embedded to be ranked among the store's; `None` where it tells not, or ranks otherwise."""
    config = getattr(real, "index_config", None)
    if not config or config.get("distance_type", "cosine") != "cosine":
        return None
    embeddings = ensure_embeddings(getattr(real, "embeddings", None) or config.get("embed"))
    return cast(IndexConfig, {**config, "embed": _Once(embeddings)})


class _Once(Embeddings):
    """Embeds each text once: a run's own puts are ranked anew in each search."""

    def __init__(self, real: Embeddings) -> None:
        self._real = real
        self._texts: dict[str, list[float]] = {}
        self._queries: dict[str, list[float]] = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `Embeddings` says."""
        if new := [text for text in texts if text not in self._texts]:
            self._texts |= zip(new, self._real.embed_documents(new), strict=True)
        return [self._texts[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """As `Embeddings` says."""
        if text not in self._queries:
            self._queries[text] = self._real.embed_query(text)
        return self._queries[text]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `Embeddings` says."""
        if new := [text for text in texts if text not in self._texts]:
            self._texts |= zip(new, await self._real.aembed_documents(new), strict=True)
        return [self._texts[text] for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        """As `Embeddings` says."""
        if text not in self._queries:
            self._queries[text] = await self._real.aembed_query(text)
        return self._queries[text]
