"""What is tuned: a graph or a factory of graphs, how to give it a candidate, and how to score what it makes.

`load("module:name")` (or `file.py:name`) takes a LangGraph graph as it is, a `Spec`, or plain data with a spec's fields
(a mapping, an object, or a function that returns one): so a package can be tunable without importing this one.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.knobs import Choice, Fixed, Knob, Range, Space, as_json, known_as, label
from redecode.optimizer.schema import SchemaField, fields_of, made, typed
from redecode.replay.prices import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An input that candidates are run on, from a recorded run.

    Attributes:
        id: of the recorded run.
        output: what was recorded of it; `duration_s` likewise, and `error` if it failed.
        expected: the right answer where somebody has said it (label `expected` of the run, or a file of them).
        conversation: runs of one are not independent of each other.
        context: fields of the graph's context that each run brings itself; `configurable` likewise, all of it.
        left_out: fields of which nothing could be recorded.
        limits: what LangGraph's config said of the recorded run: recursion_limit, max_concurrency.
        history: of a later turn of a conversation, the state that the turn before had left; `objects`: fields of it
            that were no plain data, and of which class.
    """

    id: str
    input: Any
    output: Any = None
    expected: Any = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    conversation: str | None = None
    started_ns: int = 0
    duration_s: float | None = None
    error: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    configurable: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    history: Mapping[str, Any] | None = None
    objects: Mapping[str, str] = field(default_factory=dict)


class Spec(BaseModel):
    """What is tuned.

    Attributes:
        graph: a compiled graph, the same for every candidate; or
        build: makes one of a candidate's values (a mapping): for what a context cannot change, such as topology.
        context: the context schema; by default the graph's own.
        knobs: further knobs, and others than the schema says: a `Choice`, `Range` or `Fixed`, or plain data: a list of
            values, `{"low": 0, "high": 1, "step": 0.1}`, each with `"when"` if it has conditions; None fixes a field.
        fixed: values of every candidate.
        incumbent: values of the configuration in use, where they are not the schema's defaults.
        score: (output of the graph, `Case`) → quality from 0 to 1 (a bool, a number, or None: cannot be told). By
            default how much of the recorded run's output comes out again.
        needs_expected: a case without `expected` cannot be scored.
        agents: names of the recorded runs whose inputs are taken; by default `name`.
        slo_s: latency that a run should not exceed, of `slo_percentile` in a hundred runs.
        prices: by model name, USD per million tokens; without, cost is seconds of the engine.
        live_tools: tools that may really run for a candidate; others are answered as recorded, or stop the study.
        stand_in: (tool, arguments, `Case`) → what a tool answers where the recorded run had not asked it that; a
            `LookupError` says that nobody knows. Without, such a call stops the study.
        caches: the graph's cached steps (`caching.CachedStep`): they begin with what the recorded past would have left
            in them, and runs that repeat an input are kept as cases.
        close: awaited at the end, in the event loop that the graph ran in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, from_attributes=True)

    name: str = ""
    graph: Any = None
    build: Callable[[Mapping[str, Any]], Any] | None = None
    context: Any = None
    knobs: Mapping[str, Any] = Field(default_factory=dict)
    fixed: Mapping[str, Any] = Field(default_factory=dict)
    incumbent: Mapping[str, Any] = Field(default_factory=dict)
    score: Callable[[Any, Case], Any] | None = None
    needs_expected: bool = False
    agents: Sequence[str] = ()
    slo_s: float | None = Field(default=None, gt=0)
    slo_percentile: float = Field(default=95.0, gt=0, lt=100)
    prices: Mapping[str, Price] = Field(default_factory=dict)
    live_tools: Sequence[str] = ()
    stand_in: Callable[[str, Any, Case], Any] | None = None
    caches: Sequence[Any] = ()
    close: Callable[[], Any] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Spec:
        if (self.graph is None) == (self.build is None):
            raise ValueError("a spec has a graph, or a function that builds one")
        return self

    @property
    def schema_type(self) -> Any:
        """The context schema; `None` if the graph takes no context."""
        return self.context if self.context is not None else getattr(self.graph, "context_schema", None)

    def fields(self) -> dict[str, SchemaField]:
        """Of the context, by name."""
        return {} if self.schema_type is None else {f.name: f for f in fields_of(self.schema_type)}

    def own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values themselves, where a study, a file or another process has their labels: the members of an Enum, say."""
        fields = self.fields()
        return {name: self._own(name, fields.get(name), value) for name, value in values.items()}

    def _own(self, name: str, field: SchemaField | None, value: Any) -> Any:
        known: list[Any] = [] if field is None else [*field.values]
        if isinstance(knob := _knob(name, self.knobs.get(name)), Choice):
            known = [*knob.values, *known]
        known += [given[name] for given in (self.fixed, self.incumbent) if name in given]
        said = as_json(value)
        return next((v for v in known if known_as(v, said)), value)

    def built(self, values: Mapping[str, Any]) -> Any:
        """The graph of a candidate's values.

        Raises:
            BadSpec: `build` raises, or returns no graph.
        """
        if self.build is None:
            return self.graph
        try:
            graph = self.build(values)
        except Exception as error:  # whatever somebody's factory does
            raise BadSpec(f"build() of {self.name} raised {type(error).__name__}: {error}") from error
        if not is_graph(graph):
            raise BadSpec(f"build() of {self.name} returned a {type(graph).__name__}, not a compiled graph")
        return graph

    def context_of(self, values: Mapping[str, Any], brought: Collection[str] = ()) -> Any:
        """The context of a candidate's values.

        Args:
            brought: those of the request.

        Raises:
            BadSpec: the schema does not take them.
        """
        return made(self.schema_type, values, brought)


def is_graph(found: Any) -> bool:
    """Whether something can be run as a compiled LangGraph graph."""
    return callable(getattr(found, "ainvoke", None)) and hasattr(found, "nodes")


def memory_of(graph: Any) -> Any:
    """The store of a graph, LangGraph's long-term memory, which all its runs have in common; `None` if it has none."""
    module = sys.modules.get("langgraph.store.base")  # who has not imported that has no such store
    store = getattr(graph, "store", None)
    return store if module is not None and isinstance(store, module.BaseStore) else None


def load(reference: str) -> Spec:
    """The spec at `module:name` or `file.py:name`.

    Raises:
        BadSpec: it is not there, or no spec can be made of it.
    """
    where, colon, name = reference.rpartition(":")
    if not colon or not where or not name:
        raise BadSpec(f"{reference}: want module:name or file.py:name, as in redecode.agents.extraction:spec")
    try:
        found = getattr(_module(where), name)
    except AttributeError as error:
        raise BadSpec(f"{where} has no {name}") from error
    return as_spec(found, name)


def _module(where: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = Path(where)
        if not path.is_file():
            raise BadSpec(f"there is no file {where}")
        made_spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
        assert made_spec is not None and made_spec.loader is not None
        if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) == str(path.absolute()):
            return sys.modules[path.stem]
        module = importlib.util.module_from_spec(made_spec)
        sys.modules[path.stem] = module  # so that its annotations can be read
        made_spec.loader.exec_module(module)
        return module
    except ImportError as error:
        raise BadSpec(f"{where} cannot be imported: {error}") from error
    except BadSpec:
        raise
    except Exception as error:  # whatever somebody's module does when it is imported
        raise BadSpec(f"{where} raised {type(error).__name__} when imported: {error}") from error


def as_spec(found: Any, name: str) -> Spec:
    """A spec of what a reference names.

    Raises:
        BadSpec: none can be made of it.
    """
    if inspect.isfunction(found):
        if any(
            p.default is p.empty and p.kind < p.VAR_POSITIONAL for p in inspect.signature(found).parameters.values()
        ):
            raise BadSpec(f"{name}() wants arguments; name a graph, or a function without arguments that returns one")
        found = found()
    if isinstance(found, Spec):
        spec = found
    elif is_graph(found):
        spec = Spec(graph=found)
    else:
        try:
            spec = Spec.model_validate(found if isinstance(found, Mapping) else _fields(found))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise BadSpec(f"{name} is no graph and no spec: {place + ': ' if place else ''}{first['msg']}") from error
    own = getattr(spec.graph, "name", None) if spec.graph is not None else None
    return spec if spec.name else spec.model_copy(update={"name": own or name})


def _fields(found: Any) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Spec.model_fields if hasattr(found, name)}


def space_of(
    spec: Spec,
    *,
    knobs: Sequence[tuple[str, Knob | None]] = (),
    fixed: Mapping[str, Any] | None = None,
    incumbent: Mapping[str, Any] | None = None,
) -> tuple[Space, dict[str, Any]]:
    """The search space, and the incumbent as a candidate of it.

    Args:
        knobs: from the command line; once one is named, nothing else is searched.
        fixed: likewise, never searched.
        incumbent: the configuration in use, where it is another than the spec says.

    Raises:
        BadSpec: a name is unknown, nothing is left to search, or the incumbent has a value that its knob has not or
            that no study can keep.
    """
    _keepable({**(incumbent or {}), **{f"fix {name}": value for name, value in (fixed or {}).items()}})
    fields = spec.fields()
    given = {**spec.fixed, **(fixed or {})}
    known: dict[str, Knob] = {name: knob for name, f in fields.items() if (knob := f.knob()) is not None}
    for name, data in spec.knobs.items():
        if (knob := _knob(name, data)) is None:
            known.pop(name, None)
        else:
            known[name] = typed(knob, fields.get(name))
    named = {}
    for name, asked in knobs:
        if name not in fields and name not in known:
            raise BadSpec(f"knob {name}: {spec.name} has no such field; it has {', '.join(sorted({*fields, *known}))}")
        if asked is None and name not in known:
            raise BadSpec(f"knob {name}: what it may be is not known; say {name}=a,b or {name}=0..1")
        named[name] = known[name] if asked is None else typed(_under(asked, known.get(name)), fields.get(name))
    searched = {name: knob for name, knob in (named or known).items() if name not in given}
    if unknown := [name for name in fixed or {} if name not in fields and name not in known]:
        raise BadSpec(f"fix {unknown[0]}: {spec.name} has no such field; it has {', '.join(sorted({*fields, *known}))}")
    if not searched:
        raise BadSpec(
            f"{spec.name} has no knob: no field of its context has values that can be listed or bounds on both sides; "
            "name some as knobs, NAME=a,b,c"
        )
    defaults = {name: f.default for name, f in fields.items() if f.has_default}
    now = {**defaults, **given, **spec.incumbent, **(incumbent or {}), **(fixed or {})}
    if missing := [name for name in searched if name not in now]:
        raise BadSpec(
            f"knob {missing[0]} has no default: say what is in use now, in the spec's `incumbent`, or in "
            "a tuned.toml that is given as the incumbent"
        )
    for name, knob in searched.items():
        usual = fields[name].default if name in fields else None
        if isinstance(knob, Choice) and None in knob and usual is not None:
            raise BadSpec(
                f"knob {name} may be None, which a tuned.toml cannot say: left out, it is {label(usual)!r}; "
                f"make None its default, or name its values (as a knob {name}=...)"
            )
    # Only what differs from the defaults is said of every candidate: a default may well change with the graph.
    base = {
        n: v for n, v in now.items() if n in given or n in spec.incumbent or n in (incumbent or {}) or n in searched
    }
    base |= {name: now[name] for name in known if name in now and name not in fields}
    base |= {other: now[other] for knob in searched.values() for other in knob.when if other in now}
    space = Space(searched, base)
    return space, space.canonical(now)


def _under(asked: Knob, known: Knob | None) -> Knob:
    """A knob that is asked for, under the conditions of its field: other values make it matter nowhere else."""
    if known is None or asked.when:
        return asked
    return Choice(*asked.values, when=known.when) if isinstance(asked, Choice) else replace(asked, when=known.when)


def _keepable(config: Mapping[str, Any]) -> None:
    """Refuse values of a file or a command line that a study, which is kept as JSON, would give back as others.

    Raises:
        BadSpec: names one.
    """
    for name, value in config.items():
        for inner in _leaves(value):
            if isinstance(inner, date | time):
                raise BadSpec(f"{name} = {inner}: a study keeps no dates; write it as text, in quotes")
            if isinstance(inner, float) and not math.isfinite(inner):
                raise BadSpec(
                    f"{name} = {inner}: a study keeps no such number; write a large one, or leave it out and have "
                    "it as the default of the context"
                )
            if isinstance(inner, int) and not -(2**63) <= inner < 2**63:
                raise BadSpec(f"{name} = {inner}: a study keeps integers of 64 bits; write it as text, in quotes")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [leaf for inner in value for leaf in _leaves(inner)] if isinstance(value, list) else [value]


def _knob(name: str, data: Any) -> Knob | None:
    """A knob from a spec's plain data; `None`: the field is fixed."""
    if data is None or isinstance(data, Fixed):
        return None
    if isinstance(data, Choice | Range):
        return data
    try:
        if isinstance(data, Mapping):
            rest = dict(data)
            if "choices" in rest:
                return Choice(*rest.pop("choices"), **rest)
            return Range(**rest)
        if isinstance(data, Sequence) and not isinstance(data, str):
            return Choice(*data)
    except TypeError as error:
        raise BadSpec(f"knob {name}: {error}") from error
    raise BadSpec(f"knob {name}: want a list of values, or low and high, not {data!r}")
