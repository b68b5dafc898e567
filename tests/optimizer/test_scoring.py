"""Another scorer is another study's; the same one is the same in every process."""

from __future__ import annotations

import importlib
import linecache
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.cases import of_runs
from redecode.optimizer.scoring import scoring_of
from redecode.tracer import Run


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """The scorer of a module's text, as a new process would have it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def loaded(text: str, **others: str) -> Any:
        for name, written in {**others, "scored": text}.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(written))
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        linecache.clearcache()
        return importlib.import_module("scored").score

    yield loaded
    for name in ("scored", "beside"):
        sys.modules.pop(name, None)


JUDGE = """
class Base:
    def deep(self, o):
        return o
class Judge(Base):
    most = 1
    def __init__(self, least):
        self.least = least
    def __call__(self, o, c):
        return self.helped(o) > self.least
    def helped(self, o):
        return self.deep(o)
"""
SLOTS = "from dataclasses import dataclass\n@dataclass(slots=True)\nclass D:\n    a: int\n"
NAMES = "def score(o, c):\n    return o in T\n"
PARTIAL = "from functools import partial\ndef judge(o, c, least, *, d=1):\n    return o > least\n"
MADE = "def made(least):\n    def score(o, c):\n        return o > least\n    return score\n"


@pytest.mark.parametrize(
    ("text", "one", "other"),
    [
        (f"T = %s\n{NAMES}", "['a']", "['b']"),
        (f"T = %s\n{NAMES}", "{'a': [1]}", "{'a': [2]}"),
        (f"T = %s\n{NAMES}", "{'a'}", "{'b'}"),
        (f"T = %s\n{NAMES}", "b'a'", "b'b'"),
        (f"T = %s\n{NAMES}", "'a' * 99", "'b' * 99"),
        (f"T = %s\n{NAMES}", "None", "False"),
        (f"T = %s\n{NAMES}", "(1, {'a': {2}})", "(1, {'a': {3}})"),
        (f"import re\nT = re.compile('a', %s)\n{NAMES}", "re.I", "re.S"),
        (f"import re\nT = re.compile(%s)\n{NAMES}", "'a'", "'b'"),
        (f"from pathlib import Path\nT = Path(%s)\n{NAMES}", "'a'", "'b'"),
        (f"from datetime import timedelta\nT = timedelta(%s)\n{NAMES}", "1", "2"),
        (f"from enum import Enum\nclass K(Enum):\n    A = %s\nT = [K.A]\n{NAMES}", "1", "2"),
        (f"{SLOTS}T = D(%s)\n{NAMES}", "1", "2"),
        (f"from pydantic import BaseModel\nclass W(BaseModel):\n    a: float\nT = W(a=%s)\n{NAMES}", "1", "2"),
        (f"from collections import namedtuple\nT = namedtuple('N', 'a')(%s)\n{NAMES}", "1", "2"),
        (f"import numpy\nT = numpy.array([%s])\n{NAMES}", "1", "2"),
        (f"T = {{'a': lambda o: o > %s}}\n{NAMES}", "1", "2"),
        (f"from operator import itemgetter\nT = itemgetter(%s)\n{NAMES}", "'a'", "'b'"),
        (f"class T:\n    least = L\n{NAMES}".replace("class", "L = %s\nclass"), "1", "2"),
        (f"{PARTIAL}score = partial(judge, %s)\n", "1", "2"),
        (f"{PARTIAL}score = partial(judge, least=1, d=%s)\n", "1", "2"),
        (f"{PARTIAL}score = partial(judge, least=[%s])\n", "1", "2"),
        (f"{MADE}score = made(%s)\n", "1", "2"),
        (f"{MADE}inner = made(%s)\ndef score(o, c):\n    return inner(o, c)\n", "1", "2"),
        (f"{JUDGE}score = Judge(%s)\n", "1", "2"),
        (f"{JUDGE}score = Judge(%s).__call__\n", "1", "2"),
        (f"{JUDGE}score = Judge(%s).helped\n", "1", "2"),
        (f"{JUDGE}score = Judge(Judge(%s))\n", "1", "2"),
        (f"{JUDGE}judge = Judge(%s)\ndef score(o, c):\n    return judge(o, c)\n", "1", "2"),
        (f"{JUDGE}score = Judge(1).helped\n".replace("return self.deep(o)", "return %s"), "o", "self.deep(o)"),
        (f"{JUDGE}score = Judge(1).helped\n".replace("return o\n", "return %s\n"), "o", "-o"),
        (f"{JUDGE}score = Judge(1)\n".replace("most = 1", "most = %s"), "1", "2"),
        ("import functools\n@functools.cache\ndef f(o):\n    return %s\ndef score(o, c):\n    f(o)\n", "o", "-o"),
        ("L = %s\ndef score(o, c, least=L):\n    return o > least\n", "1", "2"),
        ("score = eval('lambda o, c: o > %s')\n", "1", "2"),
    ],
)  # fmt: skip
def test_what_a_scorer_is_made_of_is_a_part_of_it(load: Callable[..., Any], text: str, one: str, other: str) -> None:
    first = scoring_of(load(text % one), [])
    assert first == scoring_of(load(text % one), []) != scoring_of(load(text % other), [])


def test_so_is_what_it_takes_from_a_module_beside_it(load: Callable[..., Any]) -> None:
    text = "import beside\nfrom beside import helped\ndef score(o, c):\n    return helped(o) > beside.LEAST\n"
    beside = "LEAST = 1\ndef helped(o):\n    return o\ndef unrelated():\n    return 1\n"
    first = scoring_of(load(text, beside=beside), [])
    assert first == scoring_of(load(text, beside=beside.replace("return 1", "return 2")), [])
    assert first != scoring_of(load(text, beside=beside.replace("LEAST = 1", "LEAST = 2")), [])
    assert first != scoring_of(load(text, beside=beside.replace("return o", "return -o")), [])


@pytest.mark.parametrize(
    "text",
    [
        "T = {'a': 1, 'b': 2}\ndef score(o, c):\n    return T[o]\n",
        "T = {'b': 2, 'a': 1}\ndef score(o, c):\n    return T[o]\n",
        "T = {'b': 2, 'a': 1}\nU = 1\ndef other():\n    return U\ndef score(o, c):\n    return T[o]\n",
        "T = {'b': 2, 'a': 1}\nother = 3\ndef score(o, c):\n    return T[o]\n",
    ],
)
def test_the_order_of_a_dict_and_what_is_not_named_are_no_part_of_it(load: Callable[..., Any], text: str) -> None:
    plain = "T = {'a': 1, 'b': 2}\ndef score(o, c):\n    return T[o]\n"
    assert scoring_of(load(text), []) == scoring_of(load(plain), [])


WILD = """
import functools, io, itertools, logging, os, random, threading, weakref
import httpx
from pydantic import SecretStr
log, lock, local, drawn = logging.getLogger("x"), threading.Lock(), threading.local(), random.Random()
client, file, counted, nothing = httpx.Client(), io.TextIOWrapper(io.BytesIO()), itertools.count(), object()
key = SecretStr(str(os.getpid()))
words, many, held = {"a", "b", "c", ("d", 1)}, {str(i) for i in range(200_000)}, {frozenset("abc"): {"x", "y"}}
round_ = {}
round_["again"] = round_
cache, seen, count, model = {}, [], 0, None
refs = weakref.WeakValueDictionary()

class Odd:
    __slots__ = ("never",)
    def __getattr__(self, name):
        raise RuntimeError(name)
    def __repr__(self):
        raise RuntimeError
odd = Odd()

def late():
    global model
    if model is None:
        model = object.__new__(Odd)
    return model

@functools.lru_cache
def remembered(o):
    return o

class Judge:
    def __init__(self):
        self.least, self.count, self.cache, self.lock = 1, 0, {}, threading.RLock()
    @functools.cached_property
    def model(self):
        return {"loaded": os.getpid()}
    def __call__(self, o, c):
        self.count += 1
        self.cache[o] = self.model
        return self.note(o)
    def note(self, o):
        self.noted = o
        return o
judge = Judge()

def closed():
    calls = 0
    kept = {}
    def counting(o):
        nonlocal calls
        calls += 1
        kept[o] = calls
        return calls
    return counting
counting = closed()

def score(o, c):
    global count
    count += 1
    cache[o] = judge(o, c)
    seen.append(remembered(o))
    score.calls = counting(o)
    log, lock, local, drawn, client, file, counted, nothing, key, words, many, held, round_, refs, odd
    return late() is not None
"""


def test_what_changes_when_it_runs_is_no_part_of_it(load: Callable[..., Any]) -> None:
    score = load(WILD)
    before = scoring_of(score, [])
    assert score("x", None) and score("y", None)
    assert sys.modules["scored"].cache and scoring_of(score, []) == before
    assert scoring_of(load(WILD.replace("self.least, self.count", "self.count, self.least")), []) != before


def test_it_is_the_same_in_every_process(load: Callable[..., Any], tmp_path: Path) -> None:
    here = scoring_of(load(WILD), [])
    program = "from redecode.optimizer.scoring import scoring_of; import scored; print(scoring_of(scored.score, []))"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path)}
        there = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        assert there.stdout.strip() == here


class Raises:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __call__(self, output: Any, case: Any) -> float:
        return 1.0


def test_it_never_raises() -> None:
    for score in (None, len, "a".startswith, Raises(), Raises, max, int, print):
        assert len(scoring_of(score, [])) == 12


def test_the_right_answers_are_a_part_of_it() -> None:
    def cases(right: str) -> Any:
        return of_runs([Run(**{**RUN, "labels": {"expected": right}})])

    assert scoring_of(len, cases("a")) == scoring_of(len, cases("a")) != scoring_of(len, cases("b"))


RUN: dict[str, Any] = {
    "run_id": "1", "agent": "a", "status": "ok", "started_ns": 1, "ended_ns": 2, "fidelity": None, "decodes": 1,
    "tools": 0, "tokens": 1, "prompt_tokens": 1, "input": {}, "output": {},
}  # fmt: skip
