"""A cache around a node that answers what is alike with what was answered before, in a file that processes share.

Upstream there is none. This one is asked by what the node would ask (`text`), only among answers to calls whose every
setting is equal (`scope`) and of the same tenant, and never around a step that has effects. Pictures, sound and files
in the state's messages have no meaning here: they must be equal. A hit runs no node body, and is recorded as a cache
step in its place. Its threshold comes from recorded runs (`worth`), not from taste.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from redecode.optimizer.caching.calls import digest
from redecode.optimizer.caching.errors import CachingError, NeverCached, NoKey
from redecode.optimizer.caching.files import AnswerFile
from redecode.optimizer.caching.kept import SameSerializer, Serializer, keepable, renewed
from redecode.optimizer.caching.keys import keyed, name_of, parts_of, say_once, words_of
from redecode.optimizer.caching.vectors import Matrix, Vectors, best_vectors
from redecode.tracer import step

_log = logging.getLogger("redecode")
KEEPING: dict[str, str | None] = {}
"""Nodes of this process whose answers were to be kept: why none could be, `None` if one was."""
_TOLD: set[str] = set()
R = TypeVar("R")
Node = Callable[..., Any]


@dataclass(slots=True)
class _Space:
    """What is known of a tenant's space in this process: ids and vectors; the file has the answers."""

    newest: int = 0
    ids: list[int] = field(default_factory=list)
    rows: Matrix = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question to the cache."""

    tenant: str
    space: str
    key: str
    vector: Matrix


class SemanticCache:
    """Answers by meaning.

    Args:
        path: of the file.
        threshold: least cosine of a hit, 0 < t ≤ 1; `worth` finds one.
        vectors: how texts are compared; the same in every process of a file (another one sees none of its answers).
        ttl_s: how old an answer may be.
        most: answers to keep in each tenant's space.
        serde: how node results become bytes; by default plain data as JSON, all else by LangGraph's own serializer.

    Raises:
        CachingError: a threshold that is none.
        CacheUnusable: as `AnswerFile`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        threshold: float,
        vectors: Vectors | None = None,
        ttl_s: float | None = None,
        most: int = 10_000,
        serde: Serializer | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if not 0 < threshold <= 1:
            raise CachingError(f"a threshold of cosine is above 0 and at most 1, not {threshold}")
        self._file = AnswerFile(path, most=most, now_ns=now_ns)
        self._threshold, self._ttl_s, self._most = threshold, ttl_s, most
        self._vectors = vectors or best_vectors()
        self._serde: Serializer = serde or SameSerializer()
        self._spaces: dict[tuple[str, str], _Space] = {}
        self._lock = Lock()

    def around(
        self,
        name: str,
        node: Callable[[Any], R],
        anode: Callable[[Any], Awaitable[R]] | None = None,
        *,
        text: Callable[[Any], str],
        side_effect: bool,
        scope: Callable[[Any], Any] = lambda _: None,
        tenant: Callable[[Any], str] = lambda _: "",
        keep: bool = True,
    ) -> tuple[Callable[[Any], R], Callable[[Any], Awaitable[R]]]:
        """A node with the cache around it, for `invoke` and for `ainvoke`: `RunnableLambda(*cache.around(…))`.

        Args:
            name: of the step; answers of one step are none of another's.
            node, anode: what to run on a miss; without `anode`, `node` in a thread.
            text: what of the state is compared by meaning.
            side_effect: whether the node does anything but answer.
            scope: what must be equal: model, prompt, tools, sampling, the conversation so far. What the state's
                messages hold that is no text must be, too, whatever `text` and `scope` say.
            tenant: whose the state is.
            keep: whether what a miss made is kept; else the cache is only read.

        Raises:
            NeverCached: the node has effects, or a tool that does not say that it has none.
        """
        may_be_cached(name, node, side_effect=side_effect)

        def ask(state: Any) -> _Asked | None:
            try:
                words, whose = words_of(text(state)), name_of(tenant(state))
                parts = parts_of(state)  # a text that leaves them out would be equal for all of them
                space = digest([name, self._vectors.name, keyed(scope(state)), *([parts] if parts else [])])
                (vector,) = self._vectors.of([words])
            except NoKey as why:
                say_once(f"redecode: the cache around '{name}' cannot be asked: {why}")
                return None
            except Exception as error:  # a cache never stops its host
                _log.warning("redecode: the cache around '%s' cannot be asked: %s", name, error)
                return None
            return _Asked(whose, space, digest(words), vector) if vector.any() else None

        def cached(state: Any) -> R:
            asked = ask(state)
            found = self._found(asked, name)
            if found is not None:
                return found[0]  # type: ignore[no-any-return]
            result = node(state)
            if keep:
                self._keep(asked, result, name)
            return result

        async def acached(state: Any) -> R:
            asked = await asyncio.to_thread(ask, state)
            found = await asyncio.to_thread(self._looked_up, asked, name)
            if found is not None:
                return self._taken(found, name)  # type: ignore[no-any-return]
            result = await (anode(state) if anode is not None else asyncio.to_thread(node, state))
            if keep:
                await asyncio.to_thread(self._keep, asked, result, name)
            return result

        return cached, acached

    def _found(self, asked: _Asked | None, name: str) -> tuple[Any] | None:
        found = self._looked_up(asked, name)
        return None if found is None else (self._taken(found, name),)

    def _taken(self, found: tuple[Any], name: str) -> Any:
        with step(name, cached=True):
            return found[0]

    def _looked_up(self, asked: _Asked | None, name: str) -> tuple[Any] | None:
        if asked is None:
            return None
        try:
            return self._nearest(asked)
        except Exception as error:  # a cache never stops its host
            _log.warning("redecode: the cache around '%s' cannot be read: %s", name, error)
            return None

    def _nearest(self, asked: _Asked) -> tuple[Any] | None:
        with self._lock:
            space = self._spaces.setdefault((asked.tenant, asked.space), _Space())
            if len(space.ids) > 2 * self._most:  # most of them have made room by now
                space = self._spaces[asked.tenant, asked.space] = _Space()
            self._refresh(space, asked)
            if not space.ids:
                return None
            likeness = space.rows @ asked.vector
            order = np.argsort(-likeness, kind="stable")
            ids = [(space.ids[n], float(likeness[n])) for n in order if likeness[n] >= self._threshold - 1e-5]
        now = self._file.now_ns()
        for answer_id, _ in ids:
            with self._file.opened() as connection:
                row = connection.execute(
                    "SELECT kind, value FROM answers WHERE id = ? AND tenant = ? AND space = ? "
                    "AND (expires_ns IS NULL OR expires_ns > ?)",
                    [answer_id, asked.tenant, asked.space, now],
                ).fetchone()
                if row is None:
                    continue  # too old, or it had to make room
                connection.execute("UPDATE answers SET used_ns = ? WHERE id = ?", [now, answer_id])
            return (renewed(self._serde.loads_typed((row[0], row[1]))),)
        return None

    def _refresh(self, space: _Space, asked: _Asked) -> None:
        """Read what has come since."""
        with self._file.opened() as connection:
            new = connection.execute(
                "SELECT id, vector FROM answers WHERE tenant = ? AND space = ? AND id > ? ORDER BY id",
                [asked.tenant, asked.space, space.newest],
            ).fetchall()
        if new:
            rows = np.stack([np.frombuffer(vector, dtype="<f4") for _, vector in new])
            space.rows = np.concatenate([space.rows, rows]) if space.ids else rows
            space.ids += [answer_id for answer_id, _ in new]
            space.newest = space.ids[-1]

    def _keep(self, asked: _Asked | None, result: Any, name: str) -> None:
        if asked is None:
            return
        try:
            vector = asked.vector.astype("<f4").tobytes()
            data = self._serde.dumps_typed(keepable(result))
            self._file.put(asked.tenant, asked.space, asked.key, data, self._ttl_s, vector)
            KEEPING[name] = None
        except Exception as error:  # a cache never stops its host
            if name not in _TOLD:
                _log.warning("redecode: the cache around '%s' cannot keep its answer: %s", name, error)
            _TOLD.add(name)
            KEEPING.setdefault(name, str(error))


class _Whole:
    """No likeness: equal or not."""

    name = "exact"

    def of(self, texts: Sequence[str]) -> Matrix:
        """All alike; the key tells them apart."""
        return np.ones((len(texts), 1), dtype=np.float32)


class ExactCache(SemanticCache):
    """The same around a node for equal texts alone, in a file; `SemanticCache` says what its arguments are."""

    def __init__(
        self,
        path: Path | str,
        *,
        ttl_s: float | None = None,
        most: int = 10_000,
        serde: Serializer | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(path, threshold=1.0, vectors=_Whole(), ttl_s=ttl_s, most=most, serde=serde, now_ns=now_ns)

    def _nearest(self, asked: _Asked) -> tuple[Any] | None:
        found = self._file.get(asked.tenant, asked.space, [asked.key])
        return (renewed(self._serde.loads_typed(found[asked.key])),) if found else None


def may_be_cached(name: str, node: Any, *, side_effect: bool) -> None:
    """Refuse a step that has effects, or may have.

    Raises:
        NeverCached: as it says.
    """
    if side_effect:
        raise NeverCached(f"'{name}' has effects; an answer from a cache would leave them out")
    owner = getattr(node, "__self__", node)
    tools: Mapping[str, Any] = getattr(owner, "tools_by_name", None) or {}
    for tool_name, tool in tools.items():
        said = (getattr(tool, "metadata", None) or {}).get("side_effect")
        if said is not False:
            what = "has effects" if said else "does not say whether it has effects (metadata={'side_effect': False})"
            raise NeverCached(f"'{name}' calls '{tool_name}', which {what}")
