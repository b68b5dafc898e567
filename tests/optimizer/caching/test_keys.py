"""Keys of caches: one question never gets another's answer, whatever its state holds."""

from __future__ import annotations

import re
import uuid
from collections import deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict
from uuid import UUID

import numpy as np
import pytest
from pydantic import BaseModel

pytest.importorskip("langgraph")

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy

from redecode.optimizer.caching import CachedStep, CachingError, ExactCache, FileCache, exact_key
from redecode.optimizer.caching.calls import digest
from redecode.optimizer.evaluation.warming import Past
from redecode.optimizer.spec import Case

EXACT = {"cache": "exact"}


class Page:
    """Somebody's class, whose text is an address."""

    def __init__(self, text: str) -> None:
        self.text = text


class Table:
    """Somebody's class, whose text leaves out the middle."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows

    def __str__(self) -> str:
        return f"{self.rows[:1]}…{self.rows[-1:]}"


class Colour(Enum):
    RED = 1
    BLUE = 2


class Size(StrEnum):
    BIG = "big"


class Search(BaseModel):
    query: str


class Delete(BaseModel):
    query: str


class Act(BaseModel):
    """Its field says less than what it holds."""

    what: Any


@dataclass
class Found:
    _hits: Any
    at: Path


Pair = namedtuple("Pair", "left right")


def long_array(n: int) -> Any:
    return np.array([0] * 1000 + [n] + [0] * 999)


def strange(n: int) -> list[Any]:
    """What no key can be made of."""
    circle: list[Any] = [n]
    circle.append(circle)
    return [Page(f"{n}"), Table([0, n, 0]), BytesIO(b"%d" % n), lambda: n, ValueError(n), circle]


# -- what a key cannot hold --


class State(TypedDict, total=False):
    question: str
    page: Any
    answer: str


def graph_of(cache: Any, **policy: Any) -> Any:
    builder = StateGraph(State)
    policy.setdefault("key_func", exact_key("question", "page"))
    builder.add_node("ask", lambda state: {"answer": state["page"].text}, cache_policy=CachePolicy(**policy))
    builder.add_edge(START, "ask")
    return builder.compile(cache=cache)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_langgraphs_node_never_gets_the_answer_to_another_object(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache: Any = InMemoryCache() if kind == "memory" else FileCache(tmp_path / "a", serde=JsonPlusSerializer())
    graph = graph_of(cache)
    answers = [graph.invoke({"question": "q", "page": Page(f"page {n}")})["answer"] for n in range(30)]
    assert answers == [f"page {n}" for n in range(30)]
    told = [line for line in caplog.messages if "Page" in line]
    assert len(told) <= 1 and all("nothing is cached" in line for line in told)


def test_what_cannot_be_told_apart_is_named_once_with_the_way_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scan(Page):
        pass

    monkeypatch.setattr(uuid, "os", SimpleNamespace(urandom=bytes))  # as a playback pins it
    key = exact_key("page")
    assert len({key({"page": Scan("a")}) for _ in range(3)}) == 3
    (told,) = caplog.messages
    assert "Scan" in told and "plain" in told


@pytest.mark.parametrize("n", range(6))
@pytest.mark.parametrize("inside", ["alone", "in a list", "in a model", "in an array", "as a name"])
def test_what_has_no_text_of_its_own_is_never_a_hit(tmp_path: Path, n: int, inside: str) -> None:
    def given(k: int) -> Any:
        one = strange(k)[n]
        if inside == "as a name":
            return {(1, Page("x")): 1} if isinstance(one, list) else {one: 1}
        array = np.empty(1, dtype=object)
        array[0] = one
        return {"alone": one, "in a list": [[one]], "in a model": Act(what=one), "in an array": array}[inside]

    step = CachedStep("n", tmp_path / "a", text=lambda s: "q", side_effect=False, scope=lambda s, c: s["o"])
    assert [step.run({"o": given(k)}, EXACT, partial(int, k)) for k in range(20)] == list(range(20))
    key = exact_key()
    one = given(1)
    assert key({"o": one}) != key({"o": one})
    with pytest.raises(CachingError):
        step.scope_of({"o": one}, EXACT)


def test_an_object_that_the_step_does_not_ask_of_is_no_obstacle(tmp_path: Path, caplog: Any) -> None:
    step = CachedStep("n", tmp_path / "a", text=lambda s: s["q"], side_effect=False)
    states = [{"q": "q", "messages": [HumanMessage("q")], "page": Page(f"{n}")} for n in range(3)]
    assert [step.run(state, EXACT, partial(int, n)) for n, state in enumerate(states)] == [0, 0, 0]
    assert not caplog.messages and not step.scoped


@pytest.mark.parametrize("key", ["image", "text"])
def test_a_picture_in_a_message_that_is_an_object_is_never_a_hit(tmp_path: Path, key: str) -> None:
    cache = ExactCache(tmp_path / "a")
    node, _ = cache.around("look", lambda s: s["n"], text=lambda s: "q", side_effect=False)

    def state(n: int) -> dict[str, Any]:
        return {
            "n": n,
            "m": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "x", key: Page("")}]}],
        }

    assert [node(state(n)) for n in range(10)] == list(range(10))


def test_a_tenant_is_a_name(tmp_path: Path) -> None:
    def asked(step: CachedStep, whose: list[Any]) -> list[int]:
        return [step.run({"t": t}, EXACT, partial(int, n)) for n, t in enumerate(whose)]

    step = CachedStep("n", tmp_path / "a", text=lambda s: "q", side_effect=False, tenant=lambda s: s["t"])
    assert asked(step, ["a", 1, UUID(int=1), "a", 1, UUID(int=1)]) == [0, 1, 2, 0, 1, 2]
    assert asked(step, [Page("x") for _ in range(10)]) == list(range(10))


def test_the_recorded_past_finds_nothing_where_a_cache_in_use_would_not() -> None:
    pages: Callable[..., Any] = lambda s, c: Page(s["q"])  # noqa: E731
    step = CachedStep("s", "x", text=lambda s: "same", side_effect=False, scope=pages)
    runs = [Case(id=str(n), input={"q": f"{n}"}, started_ns=n * 10**10, duration_s=1.0) for n in range(20)]
    past = Past(runs, [step])
    scopes = past.scopes(step, lambda case: EXACT, each=False)
    assert {past.source(step, step.setting(EXACT), str(n), (), scopes) for n in range(20)} == {None}


# -- what it can --

APART: list[tuple[Any, Any]] = [
    (Path("a"), Path("b")),
    (UUID(int=1), UUID(int=2)),
    (Decimal("1.0"), Decimal("1.00")),
    (date(2024, 1, 1), date(2024, 1, 2)),
    (datetime(2024, 1, 1, 0, 0, 0, 1, UTC), datetime(2024, 1, 1, 0, 0, 0, 2, UTC)),
    (timedelta(microseconds=1), timedelta(microseconds=2)),
    (Colour.RED, Colour.BLUE),
    (Colour.RED, 1),
    (b"a" * 9999 + b"a", b"a" * 9999 + b"b"),
    (b"a", "a"),
    ({1, "1"}, {1, 2}),
    (frozenset({"b", "a"}), frozenset({"a", "c"})),
    (1j, 2j),
    (Fraction(1, 3), Fraction(1, 4)),
    (re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c")),
    (re.compile("a"), re.compile("a", re.IGNORECASE)),
    (range(3), range(4)),
    (long_array(1), long_array(2)),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    (np.zeros(2), np.zeros(2, dtype=np.int64)),
    (long_array(1)[::2], long_array(1)[1::2]),
    (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
    (np.float32(1), np.float32(2)),
    (Document("a"), Document("b")),
    (Document("a", metadata={"page": 1}), Document("a", metadata={"page": 2})),
    (Search(query="q"), Delete(query="q")),
    (Act(what=Search(query="a")), Act(what=Search(query="b"))),
    (Found(1, Path("a")), Found(2, Path("a"))),
    (Pair(1, 2), Pair(1, 3)),
    (deque([1]), deque([2])),
    ({1: 2}, {"1": 2}),
    ({(1, 2): 3}, {(1, 3): 3}),
    (1, True),
    (1, 1.0),
    (None, "None"),
    (None, float("nan")),
    (float("inf"), float("nan")),
    (2**70, str(2**70)),
    ("a\udc80", "a?"),
]


@pytest.mark.parametrize(("one", "other"), APART, ids=[type(a).__name__ for a, _ in APART])
def test_what_differs_has_another_key(one: Any, other: Any) -> None:
    key = exact_key("o")
    assert key({"o": one}) != key({"o": other})
    for value in (one, other):
        assert key({"o": value}) == key({"o": value}), "it has a key"


def test_equal_values_have_one_key() -> None:
    key = exact_key()
    assert key({"o": {"a", "b", 3}}) == key({"o": {3, "b", "a"}})
    assert key({"o": {1: 2, 3: 4}}) == key({"o": {3: 4, 1: 2}})
    assert key({"o": long_array(1)[::2]}) == key({"o": long_array(1)[::2].copy()})
    assert key(Search(query="q")) == key(Search(query="q")) != key(Search(query="r"))
    shared = [1]
    assert key({"a": shared, "b": shared}) == key({"a": [1], "b": [1]})


def test_plain_data_keeps_the_key_it_had() -> None:
    """Answers in a file from before are found."""
    state = {"question": "q", "n": [1, 2.5, None, True, {"a": "é"}], "t": (1, 2)}
    assert exact_key()(state) == digest([{**state, "t": [1, 2]}, None])
    said = {"content": "hi", "type": "human", "name": None}
    assert exact_key("m")({"m": [HumanMessage("hi", id="1")]}) == digest([{"m": [said]}, None])


def test_a_functional_task_is_known_by_all_it_is_given() -> None:
    key: Callable[..., str] = exact_key()
    assert len({key(1), key(1, 2), key(1, b=2), key(1, b=3), key(b=3)}) == 5 and key(1, 2) == key(1, 2)


# -- messages --


def history(**more: Any) -> dict[str, Any]:
    return {"messages": [HumanMessage("w"), AIMessage("", **more)]}


def test_what_a_message_says_besides_counts_and_what_varies_per_call_does_not() -> None:
    key = exact_key("messages")

    def of(**more: Any) -> str:
        return key(history(additional_kwargs=more))

    assert of(function_call={"name": "f", "arguments": "1"}) != of(function_call={"name": "f", "arguments": "2"})
    assert of(refusal="No.") != of(refusal="Never.") != of()
    assert of(parsed=Search(query="a")) != of(parsed=Search(query="b"))
    assert of(id=1) != of(id=2)  # one's own field of that name

    assert of(audio={"id": "1", "expires_at": 1, "data": "A"}) == of(audio={"id": "2", "expires_at": 2, "data": "A"})
    assert of(reasoning={"id": "1", "summary": []}) == of(reasoning={"id": "2", "summary": []})
    assert of(usage={"n": 1}) == of(usage={"n": 2}) == of(__openai_function_call_ids__={"a": "b"}) == of()
    one = history(
        id="1", response_metadata={"a": 1}, usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    )
    assert key(one) == key(history(id="2")) == of()


# -- fields and texts that are not there --


def test_a_key_of_fields_that_the_state_has_not_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CachingError, match=r"'query'.*question"):
        exact_key("query")({"question": "one"})
    with pytest.raises(CachingError, match=r"'query'.*question"):
        graph_of(InMemoryCache(), key_func=exact_key("query")).invoke({"question": "one"})
    with pytest.raises(CachingError, match=r"'queri'.*query"):  # a model's fields are always there
        exact_key("query", "queri")(Search(query="q"))
    with pytest.raises(CachingError, match="'query'"):
        exact_key("query")("what `Send` brought")
    some = exact_key("question", "hints")
    assert some({"question": "one"}) != some({"question": "two"}) and some({"question": None}) == some(
        {"question": None}
    )
    assert [("hints" in line, "question" in line) for line in caplog.messages] == [(True, True)]


@pytest.mark.parametrize("wrong", [None, 1, ["q"], b"q"])
def test_a_text_that_is_none_is_not_asked(tmp_path: Path, wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    step = CachedStep(f"n {wrong}", tmp_path / "a", text=lambda s: wrong, side_effect=False)
    assert [step.run({"q": n}, EXACT, partial(int, n)) for n in range(3)] == [0, 1, 2]
    (told,) = caplog.messages
    assert "cannot be asked" in told and type(wrong).__name__ in told
    with pytest.raises(CachingError):
        step.text({"q": 1})


# -- what comes back --


class Urgency(StrEnum):
    HIGH = "high"


class Level(IntEnum):
    ONE = 1


class Word(str):
    pass


@pytest.mark.parametrize(
    "made",
    [
        *(Urgency.HIGH, Level.ONE, Word("a"), (1, 2), Pair(1, 2), np.float64(1), deque([1]), {"a", "b"}),
        *({1: 2}, {True: 1}, {Urgency.HIGH: 1}, {1.5: 2}, {None: 1}),
    ],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("inside", [lambda v: v, lambda v: {"a": [1, {"b": v}]}], ids=["alone", "inside"])
def test_a_hit_is_of_the_type_that_was_made(tmp_path: Path, made: Any, inside: Callable[[Any], Any]) -> None:
    step = CachedStep("triage", tmp_path / "a", text=lambda s: "q", side_effect=False)
    first, again = [step.run({}, EXACT, lambda: inside(made)) for _ in range(2)]
    assert repr(first) == repr(again)
