"""A memory of a run's own over a store: it finds what is in a copy that it writes to, and the store stays as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.store.base import (
    BaseStore,
    IndexConfig,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from redecode.tracer.langgraph.memory import Overlay

NAMESPACES = [("a",), ("a", "b"), ("c",)]
WORDS = ["red", "green", "blue"]
_spaces, _keys = st.sampled_from(NAMESPACES), st.sampled_from("xyz")
_values = st.fixed_dictionaries({"text": st.sampled_from(WORDS), "n": st.integers(0, 3)})
_puts = st.builds(PutOp, _spaces, _keys, _values)
_reads: Any = st.one_of(
    st.builds(
        SearchOp,
        st.sampled_from([(), *NAMESPACES]),
        filter=st.none(),
        limit=st.integers(1, 5),
        offset=st.integers(0, 2),
    ),
    st.builds(
        SearchOp,
        st.sampled_from([(), *NAMESPACES]),
        filter=st.sampled_from([{"text": "red"}, {"n": {"$gt": 1}}]),
        limit=st.just(100),
    ),
    st.builds(
        ListNamespacesOp,
        match_conditions=st.sampled_from([None, (MatchCondition("prefix", ("a",)),)]),
        max_depth=st.sampled_from([None, 1]),
        limit=st.integers(1, 3),
        offset=st.integers(0, 1),
    ),
)


def embedded(texts: Sequence[str]) -> list[list[float]]:
    return [[float(text.count(word)) + 0.01 for word in WORDS] for text in texts]


def said(found: Any) -> Any:
    """Without times."""
    if isinstance(found, SearchItem):
        return found.namespace, found.key, found.value, found.score
    if isinstance(found, list | tuple):
        return [said(f) for f in found]
    return (found.namespace, found.key, found.value) if hasattr(found, "namespace") else found


def asked(store: BaseStore, ops: list[Op], how: str) -> Any:
    # Where an item would have been that matches since it was written anew, nobody can tell, nor so on which page.
    ops = [op._replace(offset=0, limit=100) if isinstance(op, SearchOp) and op.filter else op for op in ops]
    found = said(store.batch(ops) if how == "sync" else asyncio.run(store.abatch(ops)))
    return [sorted(f, key=str) if getattr(op, "filter", None) else f for op, f in zip(ops, found, strict=True)]


def of(there: list[PutOp]) -> InMemoryStore:
    store = InMemoryStore()
    for put in there:
        store.batch([put])
    return store


@settings(max_examples=150, deadline=None)
@given(
    st.lists(_puts, max_size=6),
    st.lists(st.lists(st.one_of(_puts, _reads), min_size=1, max_size=3), max_size=8),
    st.sampled_from(["sync", "async"]),
)
def test_a_run_finds_what_it_would_in_a_store_that_it_wrote_to(
    there: list[PutOp], batches: list[list[Op]], how: str
) -> None:
    real, copy = of(there), of(there)
    before = said(real.search((), limit=100))
    run = Overlay(real)
    for ops in batches:
        assert asked(run, ops, how) == asked(copy, ops, how)
    items = {(i.namespace, i.key): i.value for i in copy.search((), limit=100)}
    for where in NAMESPACES:  # last, since an InMemoryStore lists a namespace once something was looked for in it
        for key in "xyz":
            found = run.get(where, key)
            assert (None if found is None else found.value) == items.get((where, key))
    assert said(real.search((), limit=100)) == before


def test_what_a_run_deletes_is_gone_for_it_alone() -> None:
    real = InMemoryStore()
    real.put(("a",), "x", {"n": 1})
    real.put(("a",), "y", {"n": 2})
    run = Overlay(real)
    run.delete(("a",), "x")
    assert run.get(("a",), "x") is None and [i.key for i in run.search(("a",), limit=1)] == ["y"]
    run.put(("a",), "x", {"n": 3})
    assert run.get(("a",), "x").value == {"n": 3}  # type: ignore[union-attr]
    assert [i.value["n"] for i in real.search(("a",))] == [1, 2]


def test_changing_what_was_found_changes_nothing_in_a_store_in_memory() -> None:
    real = InMemoryStore()
    real.put(("a",), "x", {"seen": [1], "of": {"n": 1}})
    run = Overlay(real)
    for found in (run.get(("a",), "x"), run.search(("a",))[0]):
        assert found is not None
        found.value["seen"].append(2)
        found.value["of"]["n"] = 2
    put = {"seen": [3]}
    run.put(("a",), "y", put)
    put["seen"].append(4)
    assert run.get(("a",), "y").value == {"seen": [3]}  # type: ignore[union-attr]
    assert real.get(("a",), "x").value == {"seen": [1], "of": {"n": 1}}  # type: ignore[union-attr]


def test_own_puts_are_ranked_among_the_stores_and_embedded_once() -> None:
    texts: list[str] = []

    def counted(asked: Sequence[str]) -> list[list[float]]:
        texts.extend(asked)
        return embedded(asked)

    real = InMemoryStore(index=IndexConfig(dims=3, embed=counted, fields=["text"]))
    for word in WORDS:
        real.put(("a",), word, {"text": word})
    run = Overlay(real)
    texts.clear()
    assert [i.key for i in run.search(("a",), query="red", limit=1)] == ["red"] and texts == ["red"]
    run.put(("a",), "mine", {"text": "red red green"})
    texts.clear()
    for _ in range(2):
        found = run.search(("a",), query="red", limit=3)
        assert [i.key for i in found][:2] == ["red", "mine"]
        assert all(i.score is not None for i in found)
    assert texts.count("red red green") == 0 and texts.count("red") == 3  # twice by the store, once for the run's own
    assert [i.key for i in run.search(("a",), query="red", limit=1, offset=1)] == ["mine"]
    assert "mine" not in {i.key for i in real.search(("a",), query="red", limit=10)}
    assert run.search(("c",), query="red") == []


class Database(BaseStore):
    """Keeps what it is asked, and answers as LangGraph's stores in databases do."""

    supports_ttl = True

    def __init__(self, *, score: bool = False) -> None:
        self.asked: list[Op] = []
        self._inner, self._score = InMemoryStore(), score

    def batch(self, ops: Any) -> list[Any]:
        ops = list(ops)
        self.asked += ops
        return [self._one(op) for op in ops]

    async def abatch(self, ops: Any) -> list[Any]:
        return self.batch(ops)

    def _one(self, op: Op) -> Any:
        if not isinstance(op, SearchOp):
            return self._inner.batch([op])[0]
        found = self._inner.search(op.namespace_prefix, limit=1000)
        found.sort(key=lambda item: item.updated_at, reverse=True)
        for item in found if self._score and op.query else ():
            item.score = 0.5
        return found[op.offset : op.offset + op.limit]


def test_of_a_database_the_runs_own_come_first_and_nothing_lives_longer_for_having_been_read() -> None:
    real = Database()
    for n in range(5):
        real.put(("a",), f"old{n}", {"n": n}, ttl=5)
    real.asked.clear()
    run = Overlay(real)
    run.put(("a",), "one", {}, ttl=5)
    run.put(("a",), "two", {}, ttl=5)
    run.put(("a",), "old0", {})
    assert [i.key for i in run.search(("a",), limit=4)] == ["old0", "two", "one", "old4"]
    assert [i.key for i in run.search(("a",), limit=3, offset=3)] == ["old4", "old3", "old2"]
    assert run.get(("a",), "old3") is not None and run.list_namespaces() == [("a",)]
    assert not any(isinstance(op, PutOp) or getattr(op, "refresh_ttl", False) for op in real.asked)


def test_own_puts_that_cannot_be_ranked_come_after_what_is() -> None:
    real = Database(score=True)
    real.put(("a",), "old", {"text": "red"})
    run = Overlay(real)
    run.put(("a",), "mine", {"text": "red"})
    assert [(i.key, i.score) for i in run.search(("a",), query="red")] == [("old", 0.5), ("mine", None)]


def test_what_only_this_kind_of_store_has_is_not_there_and_it_says_so() -> None:
    with pytest.raises(AttributeError, match=r"Database\.sweep: an evaluated run has the methods of LangGraph's"):
        Overlay(Database()).sweep()
