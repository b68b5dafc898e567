"""A cache around one step whose kind and threshold are knobs of the graph's context.

    answers = CachedStep("answer", "answers.sqlite", text=lambda state: state["question"], side_effect=False)

    def answer(state, runtime):
        return answers.run(state, runtime.context, lambda: asked(state, runtime.context))

`cache: Literal["none", "exact", "semantic"]` and `threshold` are fields of the context. Answers of one configuration
are none of another's: everything else in the context is part of the key. While `redecode tune` evaluates a candidate
the file is another one, with what a cache would hold of the recorded past (`evaluation.warming`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar, cast, get_args

from redecode.optimizer.caching.errors import CachingError
from redecode.optimizer.caching.kept import Serializer
from redecode.optimizer.caching.keys import keyed, name_of, parts_of, words_of
from redecode.optimizer.caching.semantic import ExactCache, SemanticCache, may_be_cached
from redecode.optimizer.caching.vectors import Vectors, best_vectors

R = TypeVar("R")
Kind = Literal["none", "exact", "semantic"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What the knobs say: the kind of cache, and the least cosine of a semantic one's hits."""

    kind: Kind = "none"
    threshold: float = 1.0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where the caches of one evaluated run are, instead of in their own files.

    Attributes:
        path: of the file.
        read: step → the place in it to read; the others read, and keep, in `own`.
    """

    path: Path
    own: str
    read: Mapping[str, str] = field(default_factory=dict)


_elsewhere: ContextVar[Elsewhere | None] = ContextVar("redecode_caches_elsewhere", default=None)


@contextmanager
def elsewhere(place: Elsewhere) -> Iterator[None]:
    """Caches of what runs inside are there."""
    token = _elsewhere.set(place)
    try:
        yield
    finally:
        _elsewhere.reset(token)


class CachedStep:
    """A cache around a step, of the kind that the context says.

    Args:
        name: of the step; answers of one step are none of another's.
        path: of the file of answers; made when it is first needed.
        text: what of the state is compared.
        side_effect: whether the step does anything but answer.
        kind, threshold: names of the context's fields.
        scope: (state, context) → what else must be equal: by default the context without these two fields. What the
            state's messages hold that is no text (pictures, sound, files) must be, too.
        tenant: whose the state is.
        vectors: how texts are compared by meaning; by default the best there are.
        ttl_s, most, serde: as `SemanticCache`.

    Raises:
        NeverCached: the step has effects.
    """

    def __init__(
        self,
        name: str,
        path: Path | str,
        *,
        text: Callable[[Any], str],
        side_effect: bool,
        kind: str = "cache",
        threshold: str = "threshold",
        scope: Callable[[Any, Any], Any] | None = None,
        tenant: Callable[[Any], str] = lambda _: "",
        vectors: Vectors | None = None,
        ttl_s: float | None = None,
        most: int = 10_000,
        serde: Serializer | None = None,
    ) -> None:
        may_be_cached(name, None, side_effect=side_effect)
        self.name, self.tenant, self.ttl_s = name, tenant, ttl_s
        self._path, self._kind, self._threshold, self._scope = Path(path), kind, threshold, scope
        self._text, self._parts_seen = text, False
        self._given, self._most, self._serde = vectors, most, serde
        self._caches: dict[tuple[Path, Setting], SemanticCache] = {}
        self._lock = Lock()

    @property
    def vectors(self) -> Vectors:
        """How texts are compared; an encoder is loaded when it is first needed."""
        with self._lock:
            if self._given is None:
                self._given = best_vectors()
            return self._given

    def text(self, state: Any) -> str:
        """What of a state is compared.

        Raises:
            NoKey: it is no text, or a message has a part that a key cannot hold.
        """
        words = words_of(self._text(state))
        self._parts_seen = bool(parts_of(state)) or self._parts_seen
        return words

    def scope_of(self, state: Any, context: Any) -> Any:
        """What else must be equal for a hit, as plain data.

        Raises:
            NoKey: it holds what a key cannot.
        """
        parts, given = parts_of(state), keyed(self._given_scope(state, context))
        return [given, parts] if parts else given

    def _given_scope(self, state: Any, context: Any) -> Any:
        if self._scope is not None:
            return self._scope(state, context)
        return {k: v for k, v in _fields(context).items() if k not in (self._kind, self._threshold)}

    @property
    def scoped(self) -> bool:
        """Whether that may differ between states of one context: those whose `text` has been asked for."""
        return self._scope is not None or self._parts_seen

    def setting(self, context: Any) -> Setting:
        """What a context asks for.

        Raises:
            CachingError: it has no such field, or the field says something else.
        """
        values = _fields(context)
        if self._kind not in values:
            raise CachingError(f"the cache of '{self.name}' is to be what field {self._kind} says, which there is not")
        kind = values[self._kind]
        if kind not in get_args(Kind):
            raise CachingError(f"{self._kind} is none, exact or semantic, not {kind!r}")
        if kind != "semantic":
            return Setting(cast(Kind, kind))
        threshold = values.get(self._threshold)
        if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
            raise CachingError(f"{self._threshold} is a cosine above 0 and at most 1, not {threshold!r}")
        return Setting("semantic", float(threshold))

    def run(self, state: Any, context: Any, make: Callable[[], R]) -> R:
        """The answer to a state: from the cache, or made and kept.

        Raises:
            CachingError: as `setting`; and whatever `make` raises.
        """
        setting = self.setting(context)
        if setting.kind == "none":
            return make()
        cached, _ = self._around(setting, context, lambda _: make(), None)
        return cast(R, cached(state))

    async def arun(self, state: Any, context: Any, make: Callable[[], Awaitable[R]]) -> R:
        """As `run`, awaited."""
        setting = self.setting(context)
        if setting.kind == "none":
            return await make()
        _, cached = self._around(setting, context, _never, lambda _: make())
        return cast(R, await cached(state))

    def _around(self, setting: Setting, context: Any, node: Any, anode: Any) -> tuple[Any, Any]:
        place = _elsewhere.get()
        path = self._path if place is None else place.path
        read = None if place is None else place.read.get(self.name)

        def whose(state: Any) -> str:
            tenant = name_of(self.tenant(state))
            return tenant if place is None else f"{read or place.own} {tenant}"

        def scope(state: Any) -> Any:
            return self._given_scope(state, context)  # the cache adds the parts itself

        return self._cache(path, setting).around(
            self.name, node, anode, text=self._text, side_effect=False, scope=scope, tenant=whose, keep=read is None
        )

    def _cache(self, path: Path, setting: Setting) -> SemanticCache:
        vectors = self.vectors if setting.kind == "semantic" else None
        with self._lock:
            if (path, setting) not in self._caches:
                # Elsewhere it is known by the recorded times what is too old, and what was filled took its own.
                ttl_s = self.ttl_s if path == self._path else None
                how: dict[str, Any] = {"ttl_s": ttl_s, "most": self._most, "serde": self._serde}
                self._caches[path, setting] = (
                    ExactCache(path, **how)
                    if vectors is None
                    else SemanticCache(path, threshold=setting.threshold, vectors=vectors, **how)
                )
            return self._caches[path, setting]


def _never(_: Any) -> Any:
    raise AssertionError("only awaited")


def _fields(context: Any) -> dict[str, Any]:
    """A context's values by name: of a pydantic model, a dataclass or a mapping."""
    if hasattr(context, "model_dump"):
        return dict(context.model_dump(mode="json"))
    if dataclasses.is_dataclass(context) and not isinstance(context, type):
        return dataclasses.asdict(context)
    return dict(context or {})
