"""Records of every shape that formats are asked for, and text that tries to be something else."""

from __future__ import annotations

import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field


class Colour(Enum):
    RED = "red"
    NO = "no"
    REDDISH = "reddish"


class Contact(BaseModel):
    name: str
    email: str
    address: str


class Flat(BaseModel):
    title: str
    count: int
    share: float
    done: bool
    colour: Colour
    note: str | None
    score: int | None = None
    kind: Literal["a", "b: c"] = "a"


class Step(BaseModel):
    id: int
    what: str
    after: str | None = None


class Plan(BaseModel):
    goal: str
    owner: Contact
    steps: list[Step]
    tags: list[str]
    sizes: list[int] = Field(default_factory=list)


class Rows(BaseModel):
    steps: list[Step]


class Deep(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    plans: list[Plan]
    grid: list[list[int]]
    by_name: dict[str, str]


class Dated(BaseModel):
    day: datetime.date
    price: Decimal
    at: datetime.datetime
    called: str = Field(alias="called-by")


class Pair(BaseModel):
    left: Contact
    right: Contact
    sure: bool


MODELS: tuple[type[BaseModel], ...] = (Contact, Flat, Plan, Rows, Deep, Dated, Pair)

_HOSTILE = [
    "", " ", "null", "None", "~", "no", "true", "01234", "1e3", "0x1F", "2026-11-21", "12:30:00", "-", "- a", "?", ":",
    "a: b", "a:", ": b", "#", "a #b", "#b", "[]", "{}", "[a, b]", "{a: 1}", "a,", ",", "a, b", '"', '""', '"a"', "'",
    "O'Brien", '5\'10"', 'say "hi" now', '", "email": "x', "', 'email': 'x", "a\nb", "a\n\nb", "\n", "a\r\nb", "\r",
    "\t", "a\tb", " a ", "name: Ann", "\nemail: x", "a\nemail: b", "<name>", "</name>", "<b>x</b>", "&", "&amp;",
    "&#10;", "a < b > c", "]]>", "<!-- x -->", "|", "a | b", "\\|", "\\", "\\n", "C:\\new\\table", "```",
    "```json\n{}\n```", "---", "...", "%x", "@x", "`x`", "*a", "&a b", "!t", "|-", ">", "=", "<<", "\u2028", "a\u0085b",
    "\u00a0", "\x00", "\x1b[0m", "\ufeff", "é", "日本語", "مرحبا", "🙂", "\U000e0001", "\uffff", "a" * 200, "Infinity",
    "nan", ".5", "1_000", "y", "//x", "/* x */",
]  # fmt: skip

_joined = st.lists(st.sampled_from(_HOSTILE), max_size=3).map("".join)
texts = st.one_of(st.sampled_from(_HOSTILE), st.text(max_size=12), _joined)
numbers = st.integers(-(10**9), 10**9)
_steps = st.builds(Step, id=numbers, what=texts, after=st.none() | texts)
_contacts = st.builds(Contact, name=texts, email=texts, address=texts)
_plans = st.builds(
    Plan,
    goal=texts,
    owner=_contacts,
    steps=st.lists(_steps, max_size=3),
    tags=st.lists(texts, max_size=3),
    sizes=st.lists(numbers, max_size=2),
)
records: st.SearchStrategy[Any] = st.one_of(
    _contacts,
    st.builds(
        Flat,
        title=texts,
        count=numbers,
        share=st.floats(allow_nan=False, allow_infinity=False),
        done=st.booleans(),
        colour=st.sampled_from(Colour),
        note=st.none() | texts,
        score=st.none() | numbers,
        kind=st.sampled_from(["a", "b: c"]),
    ),
    _plans,
    st.builds(Rows, steps=st.lists(_steps, max_size=4)),
    st.builds(
        Deep,
        name=texts,
        plans=st.lists(_plans, max_size=2),
        grid=st.lists(st.lists(numbers, max_size=2), max_size=2),
        by_name=st.dictionaries(texts, texts, max_size=2),
    ),
    st.builds(
        Dated,
        day=st.dates(),
        price=st.decimals(allow_nan=False, allow_infinity=False, places=2),
        at=st.datetimes(),
        **{"called-by": texts},
    ),
    st.builds(Pair, left=_contacts, right=_contacts, sure=st.booleans()),
)
