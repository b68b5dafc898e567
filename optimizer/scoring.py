"""A digest of what qualities are made of: another scorer's are another study's.

It is taken when a study is prepared, from what can be reached from the scorer then: texts, and the values they name.
The same in every process, whatever the seed of its hashes, and after the scorer has run.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import json
import sys
import sysconfig
import textwrap
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path, PurePath
from re import Pattern
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from redecode.optimizer.spec import Case

MOST_VALUES = 100_000
"""Values in one thing that is named; of one with more only its type and its length count."""
_MOST_BYTES = 1 << 26
_DEEPEST = 60
_SAID = (type(None), type(...), bool, int, float, complex, Decimal, Fraction, UUID, date, time, timedelta, range, slice)
_ROWS, _SETS = (list, tuple, deque), (set, frozenset)
_PASSING = frozenset({
    "_asyncio", "_contextvars", "_io", "_random", "_socket", "_ssl", "_thread", "_weakref", "asyncio", "concurrent",
    "contextvars", "io", "itertools", "logging", "multiprocessing", "queue", "random", "selectors", "socket", "ssl",
    "subprocess", "tempfile", "threading", "unittest", "weakref",
})  # fmt: skip
"""Modules whose objects are no values: locks, files, loggers, loops, counters, draws."""
_HELD = ("close", "aclose", "shutdown", "__enter__", "__aenter__")
_MAKING = frozenset({"__init__", "__new__", "__post_init__", "__setstate__", "__set_name__", "__init_subclass__"})
_CHANGING = frozenset({
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove",
    "setdefault", "subtract", "update",
})  # fmt: skip
_LIBRARIES = tuple(Path(path).resolve() for name, path in sysconfig.get_paths().items() if name.endswith("lib"))


def scoring_of(score: Callable[..., Any] | None, cases: Sequence[Case]) -> str:
    """A digest of the scorer and the right answers. It never raises.

    Of the scorer count: its text, and those of the functions and classes it reaches in its own package and in other
    modules that are not installed; the values that these name (constants of any kind, an instance's attributes, a
    model's fields); defaults, closures, the arguments of a `partial`, the instance of a bound method. A dict, a set
    and attributes are the same in any order.

    Left out is what has no form that lasts: modules, files, locks, loggers, clients (all of other packages that is
    closed or entered) and secrets, of which the type alone counts; what is remembered (`lru_cache`,
    `cached_property`); a name or an attribute that the scorer itself changes (a counter, a cache in a dict, a model
    loaded late); what it imports when it is called; what installed packages do. Of a thing with more than
    `MOST_VALUES` values its type and length count, and of an array of more than 64 MiB its shape.
    """
    texts: list[str] = []
    if score is not None:
        try:
            first = _Reader(score, _Changed())
            first.read(score)
            again = _Reader(score, first.changed())
            again.read(score)
            texts = sorted(again.texts)
        except Exception:  # whatever somebody's objects do when they are looked at
            texts = [_name(type(score))]
    known = sorted((case.id, json.dumps(case.expected, sort_keys=True, default=str)) for case in cases)
    return blake2b(json.dumps([texts, known]).encode(), digest_size=6).hexdigest()


class _TooMany(Exception):
    """More values than are looked at."""


class _Changed:
    """What the scorer changes when it runs.

    Attributes:
        names: a module's, by its name and their own.
    """

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()
        self.attributes: set[str] = set()


class _Reader:
    """Goes through all that a scorer reaches.

    Args:
        changed: left out.
    """

    def __init__(self, score: Any, changed: _Changed) -> None:
        self.texts: set[str] = set()
        self._package = _top(_innermost(score))
        self._left_out = changed
        self._waiting: deque[tuple[Any, bool]] = deque()
        self._met: dict[int, Any] = {}
        self._open: set[int] = set()
        self._left = MOST_VALUES
        self._asked: set[str] = {getattr(_given(score), "__name__", "")}
        self._stored: list[tuple[str, bool, set[str]]] = []
        self._names: set[tuple[str, str]] = set()

    def read(self, score: Any) -> None:
        """All of it, into `texts`."""
        self.texts.add(f"score {self._value(score)}")
        while self._waiting:
            thing, method = self._waiting.popleft()
            self._class(thing) if isinstance(thing, type) else self._function(thing, method=method)

    def changed(self) -> _Changed:
        """What the functions that were read change. Methods that none of them asks for do not run."""
        out = _Changed()
        out.names = self._names
        for name, method, attributes in self._stored:
            runs = name not in _MAKING and (name in self._asked or name.startswith("__"))
            if runs or not method:
                out.attributes |= attributes
        return out

    def _value(self, value: Any) -> str:
        """The form of one thing that is named."""
        self._left, self._open = MOST_VALUES, set()
        try:
            return self._form(value, 0)
        except _TooMany:
            with suppress(Exception):
                return f"{_name(type(value))} of {len(value)}"
            return _name(type(value))

    def _form(self, value: Any, depth: int) -> str:
        self._left -= 1
        if self._left < 0:
            raise _TooMany
        kind = type(value)
        if depth > _DEEPEST or id(value) in self._open:
            return _name(kind)
        self._open.add(id(value))
        try:
            return self._of_kind(value, kind, depth + 1)
        except _TooMany:
            raise
        except Exception:  # an object of somebody's may do anything when it is looked at
            return _name(kind)
        finally:
            self._open.discard(id(value))

    def _of_kind(self, value: Any, kind: type, depth: int) -> str:
        name = _name(kind)
        if kind is datetime:  # the `repr` of a zone of somebody's has an address
            return f"{name} {value.isoformat()}"
        if kind in _SAID:
            return f"{name} {value!r}"
        self._wait(kind)
        if issubclass(kind, str):
            return f"{name} {_short(str.__str__(value).encode('utf-8', 'surrogatepass'))}"
        if issubclass(kind, Enum):
            return f"{name}.{value.name} {self._form(value._value_, depth)}"
        if issubclass(kind, int | float):
            return f"{name} {(int if issubclass(kind, int) else float).__repr__(value)}"
        if issubclass(kind, PurePath):
            return f"{name} {value}"
        if kind is Pattern:
            return f"{name} {self._form(value.pattern, depth)} {value.flags}"
        if issubclass(kind, ModuleType):
            return name
        if issubclass(kind, type):
            self._wait(value)
            return _name(value)
        if (called := self._callable(value, kind, depth)) is not None:
            return called
        return self._held(value, kind, depth)

    def _held(self, value: Any, kind: type, depth: int) -> str:
        """Of what holds other values."""
        name = _name(kind)
        if issubclass(kind, dict | MappingProxyType):
            return name + self._pairs(value.items(), depth)
        if issubclass(kind, _ROWS):
            return f"{name}[{','.join([self._form(v, depth) for v in value])}]"
        if issubclass(kind, _SETS):
            return f"{name}[{','.join(sorted(self._form(v, depth) for v in value))}]"
        own = self._own(kind)
        if not own and name.partition(".")[0] in _PASSING:
            return name
        if issubclass(kind, BaseModel):
            fields = [f for f, about in kind.model_fields.items() if not about.exclude]
            said = {f: vars(value)[f] for f in fields if f in vars(value)} | (value.__pydantic_extra__ or {})
            return name + self._attributes(said, kind, depth)
        if issubclass(kind, bytes | bytearray | array) or hasattr(kind, "__array__"):
            with suppress(TypeError, ValueError, BufferError), memoryview(value) as seen:
                data = b"" if seen.nbytes > _MOST_BYTES or "O" in (seen.format or "") else seen.tobytes()
                return f"{name} {seen.format} {seen.shape} {_short(data)}"
        if not own and ("Secret" in kind.__name__ or any(hasattr(kind, held) for held in _HELD)):
            return name
        if kind.__module__ == "operator":  # an `itemgetter`
            return name + self._form(value.__reduce__(), depth)
        return name + self._attributes(_attributes(value, kind), kind, depth)

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> str:
        return "{" + ",".join(sorted(f"{self._form(k, depth)}:{self._form(v, depth)}" for k, v in pairs)) + "}"

    def _attributes(self, found: Mapping[str, Any], kind: type, depth: int) -> str:
        """Those that are not left out."""
        kept = [
            (name, value)
            for name, value in found.items()
            if name not in self._left_out.attributes
            and not isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)
        ]
        return self._pairs(kept, depth)

    def _callable(self, value: Any, kind: type, depth: int) -> str | None:
        """Of a function or method, with what it has been given; its text is read later."""
        if issubclass(kind, functools.partial):
            return f"{_name(kind)} {self._form([value.func, value.args, value.keywords], depth)}"
        if kind is MethodType:
            return f"{self._form(value.__func__, depth)} of {self._form(value.__self__, depth)}"
        if kind in (staticmethod, classmethod):
            return self._form(value.__func__, depth)
        if kind is property:
            return self._form([value.fget, value.fset], depth)
        if kind is FunctionType:
            self._wait(value)
            given: dict[str, Any] = {"of parameters": value.__defaults__, "of keywords": value.__kwdefaults__}
            changed = _changes(value.__code__)[0]
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
                with suppress(ValueError):  # not set yet
                    given |= {} if name in changed else {f"closure {name}": cell.cell_contents}
            return f"{_name(value)} {self._attributes({**vars(value), **given}, kind, depth)}"
        if hasattr(kind, "cache_info") and "__wrapped__" in vars(value):  # of `lru_cache`
            return f"{_name(kind)} {self._form(value.__wrapped__, depth)}"
        if kind is BuiltinFunctionType or kind.__name__ == "method-wrapper":
            return f"{_name(value)} {self._form(value.__self__, depth)}"
        return None

    def _wait(self, thing: Any, *, method: bool = False) -> None:
        """Until its text is read, if that counts."""
        key = thing if isinstance(thing, type) else thing.__code__
        if id(key) not in self._met and self._own(thing):
            self._met[id(key)] = key
            self._waiting.append((thing, method))

    def _own(self, thing: Any) -> bool:
        """Whether its text counts: of the scorer's package, or not installed."""
        top = _top(thing)
        if top in ("builtins", ""):
            return False
        if top in (self._package, "__main__"):
            return True
        file = getattr(sys.modules.get(thing.__module__), "__file__", None)
        return top != "redecode" and isinstance(file, str) and not _installed(file)  # its version is the study's

    def _function(self, function: Any, *, method: bool) -> None:
        code, around = function.__code__, function.__globals__
        self.texts.add(f"{_name(function)}\n{_text(code)}")
        names, attributes = _changes(code)
        self._stored.append((function.__name__, method, attributes))
        module = str(around.get("__name__"))
        for chain in _named(code):
            self._asked.update(chain[1:] if chain[0] else chain)
            if not chain[0] or chain[0] not in around:
                continue
            if chain[0] in names:
                self._names.add((module, chain[0]))
            if (module, chain[0]) not in self._left_out.names:
                self._global(module, around[chain[0]], chain)

    def _global(self, module: str, value: Any, chain: Sequence[str]) -> None:
        """A name in a module, or one in a module that it names."""
        said = f"{module} {chain[0]}"
        for name in chain[1:]:
            if not isinstance(value, ModuleType):
                break
            if name in self._left_out.attributes or not self._own_module(value):
                return
            value, said = vars(value).get(name), f"{said}.{name}"
        self.texts.add(f"{said} = {self._value(value)}")

    def _own_module(self, module: ModuleType) -> bool:
        stand_in = type("_", (), {"__module__": module.__name__})
        return self._own(stand_in)

    def _class(self, kind: type) -> None:
        try:
            source = inspect.getsource(kind)
        except (OSError, TypeError, SyntaxError):
            source = ""
        self.texts.add(f"{_name(kind)}\n{source}")
        for base in kind.__mro__[1:]:
            self._wait(base)
        if issubclass(kind, Enum):
            self.texts.add(f"{_name(kind)} = {self._value({n: m._value_ for n, m in kind.__members__.items()})}")
            return
        if issubclass(kind, BaseModel):
            self.texts.add(f"{_name(kind)} = {self._value({n: f.default for n, f in kind.model_fields.items()})}")
        for name, value in vars(kind).items():
            for function in _functions(value):
                if not (source and function.__code__.co_filename.startswith("<")):  # made of the text
                    self._wait(function, method=True)
            if name in self._left_out.attributes or isinstance(value, functools.cached_property):
                continue
            if isinstance(value, FunctionType) or not name.startswith(("_abc_", "__")):
                self.texts.add(f"{_name(kind)}.{name} = {self._value(value)}")


def _given(score: Any) -> Any:
    """What a `partial` is made of."""
    while isinstance(score, functools.partial):
        score = score.func
    return score


def _innermost(score: Any) -> Any:
    """What has the scorer's module."""
    score = _given(score)
    return inspect.unwrap(score) if isinstance(score, FunctionType | MethodType | type) else type(score)


@functools.cache
def _installed(file: str) -> bool:
    path = Path(file).resolve()
    return bool({"site-packages", "dist-packages"} & {*path.parts}) or any(
        path.is_relative_to(lib) for lib in _LIBRARIES
    )


def _top(thing: Any) -> str:
    return str(getattr(thing, "__module__", None) or "").partition(".")[0]


def _name(thing: Any) -> str:
    """Of a class or function; never with an address."""
    kind = type(thing)
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None)
    return f"{module}.{name}" if isinstance(name, str) else f"{kind.__module__}.{kind.__qualname__}"


def _short(data: bytes) -> str:
    return repr(data) if len(data) <= 64 else f"{len(data)} {blake2b(data, digest_size=16).hexdigest()}"


def _attributes(value: Any, kind: type) -> dict[str, Any]:
    """An object's own, those in slots included; nothing is run to have them."""
    out = dict(value.__dict__) if isinstance(getattr(value, "__dict__", None), dict) else {}
    for base in kind.__mro__:
        for name, slot in vars(base).items():
            if inspect.ismemberdescriptor(slot):
                with suppress(AttributeError):
                    out[name] = slot.__get__(value)
    return out


def _functions(value: Any) -> Iterator[FunctionType]:
    """In a class's attribute, whatever it is wrapped in."""
    if isinstance(value, property):
        parts = [value.fget, value.fset]
    elif isinstance(value, functools.cached_property):
        parts = [value.func]
    else:
        parts = [getattr(value, "__func__", value)]
    for part in parts:
        inner = inspect.unwrap(part) if callable(part) else part
        if isinstance(inner, FunctionType):
            yield inner


def _text(code: CodeType) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError, SyntaxError):  # typed in, or made
        return f"{code.co_code.hex()} {code.co_names} {[_const(c) for c in code.co_consts]}"


def _const(value: Any) -> str:
    if isinstance(value, CodeType):
        return _text(value)
    if isinstance(value, frozenset):
        return str(sorted(_const(v) for v in value))
    return f"({', '.join(_const(v) for v in value)})" if isinstance(value, tuple) else repr(value)


def _named(code: CodeType) -> Iterator[tuple[str, ...]]:
    """The names of its module that a function uses, with the attributes taken of them; other attributes after ""."""
    chain: list[str] = []
    for step in dis.get_instructions(code):
        if step.opname == "EXTENDED_ARG":
            continue
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain = [*(chain or [""]), str(step.argval)]
            continue
        if chain:
            yield tuple(chain)
        chain = [str(step.argval)] if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") else []
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _named(inner)


def _changes(code: CodeType) -> tuple[set[str], set[str]]:
    """The names and the attributes that a function sets anew, or changes in place."""
    names: set[str] = set()
    attributes: set[str] = set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError, ValueError):  # a part of a statement, or no text
        return names, attributes
    for node in ast.walk(tree):
        changed: ast.expr | None = None
        if isinstance(node, ast.Global | ast.Nonlocal):
            names.update(node.names)
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            changed = node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
            changed = node.func.value
        while isinstance(changed, ast.Subscript):
            changed = changed.value
        if isinstance(changed, ast.Attribute):
            attributes.add(changed.attr)
        elif isinstance(changed, ast.Name):
            names.add(changed.id)
    return names, attributes
