"""Knobs are read from any context schema; spaces are ordered, hashed, and know what matters."""

from __future__ import annotations

import enum
import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model
from typing_extensions import TypeAliasType, TypedDict

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.knobs import Choice, Fixed, Range, Space, as_json, values_of
from redecode.optimizer.schema import fields_of, made, parse_fix, parse_knob
from redecode.optimizer.spec import Spec, as_spec, load, space_of


class Tone(enum.Enum):
    WARM = "warm"
    COLD = "cold"


class Model(BaseModel):
    wording: Literal["brief", "long"] = "brief"
    stream: bool = False
    tone: Tone = Tone.WARM
    maybe: Literal["a"] | None = None
    rounds: int = Field(default=2, ge=1, lt=6)
    heat: Annotated[float, Field(ge=0, le=1, multiple_of=0.5)] = 0.5
    rate: Annotated[float, Range(1e-4, 1, log=True)] = 0.1
    free: float = 1.0
    half_open: float = Field(default=1.0, ge=0)
    name: str = "x"
    left: Annotated[bool, Fixed()] = True
    only: Annotated[int, Range(1, 3, when={"wording": ["long"]})] = 1


class Debated(BaseModel):
    architecture: Literal["single", "debate"] = "debate"
    heat: Annotated[float, Range(0, 1, step=0.5)] = 0.0
    rounds: Annotated[int, Range(1, 3, when={"architecture": ["debate"]})] = 2


@dataclass
class Data:
    wording: Literal["brief", "long"] = "brief"
    rounds: Annotated[int, Field(ge=1, le=5)] = 2


class Typed(TypedDict):
    wording: Literal["brief", "long"]


class Graph:
    """As much of a compiled graph as a spec asks of one."""

    name = "g"
    nodes: tuple[str, ...] = ()

    def __init__(self, schema: Any) -> None:
        self.context_schema = schema

    async def ainvoke(self, state: Any, config: Any, **context: Any) -> Any:
        return state


def knobs(schema: Any) -> dict[str, str]:
    return {f.name: str(k) for f in fields_of(schema) if (k := f.knob()) is not None}


def test_fields_that_can_be_listed_or_are_bounded_are_knobs() -> None:
    assert knobs(Model) == {
        "wording": "{brief, long}",
        "stream": "{False, True}",
        "tone": "{warm, cold}",
        "maybe": "{a, None}",
        "rounds": "1 to 5",
        "heat": "0 to 1, step 0.5",
        "rate": "0.0001 to 1, log",
        "only": "1 to 3",
    }


def test_dataclasses_and_typed_dicts_are_context_schemas_too() -> None:
    assert knobs(Data) == {"wording": "{brief, long}", "rounds": "1 to 5"}
    assert knobs(Typed) == {"wording": "{brief, long}"}
    assert made(Data, {"rounds": 3, "other": 1}) == Data(rounds=3)
    assert made(Typed, {"wording": "long"}) == {"wording": "long"}


def test_the_graph_gets_the_values_the_study_the_labels() -> None:
    space, incumbent = space_of(as_spec(Graph(Model), "g"))
    assert incumbent["tone"] == "warm" and "only" not in incumbent
    context = made(Model, space.decoded({**incumbent, "tone": "cold", "rounds": 4}))
    assert context.tone is Tone.COLD and context.rounds == 4


def test_a_knob_that_does_not_matter_is_left_out_and_keeps_its_value() -> None:
    space, _ = space_of(as_spec(Graph(Model), "g"))
    brief = space.canonical({**space.base, "wording": "brief", "only": 3})
    long = space.canonical({**space.base, "wording": "long", "only": 3})
    assert "only" not in brief and long["only"] == 3
    assert space.decoded({**brief, "only": 3})["only"] == 1


def test_what_is_named_is_searched_and_nothing_else() -> None:
    spec = as_spec(Graph(Model), "g")
    space, incumbent = space_of(spec, knobs=[parse_knob("name=x,y"), parse_knob("rounds")], fixed={"stream": True})
    assert dict(space.knobs) == {"name": Choice("x", "y"), "rounds": Range(1, 5, integer=True)}
    assert incumbent == {"name": "x", "rounds": 2}
    assert space.decoded(incumbent)["stream"] is True


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"knobs": [parse_knob("nothing=1,2")]}, "no such field"),
        ({"knobs": [parse_knob("name")]}, "what it may be is not known"),
        ({"knobs": [parse_knob("name=y,z")]}, "takes {y, z}, not 'x'"),
        ({"knobs": [parse_knob("rounds=5..9")]}, "not 2"),
        ({"fixed": {"nothing": 1}}, "no such field"),
        ({"knobs": [parse_knob("name=x,y")], "fixed": {"name": "x"}}, "has no knob"),
    ],
)
def test_a_knob_that_makes_no_sense_is_refused(options: Any, said: str) -> None:
    with pytest.raises(BadSpec, match=said):
        space_of(as_spec(Graph(Model), "g"), **options)


def test_knobs_of_the_command_line() -> None:
    assert parse_knob("t=0..1") == ("t", Range(0, 1))
    assert parse_knob("t=-1..1:0.5") == ("t", Range(-1, 1, step=0.5))
    assert parse_knob("t=1e-4..1:log") == ("t", Range(1e-4, 1, log=True))
    assert str(Range(math.nextafter(0, 1), 0.5)) == "0 to 0.5"
    assert parse_knob("t=1,2") == ("t", Choice(1, 2))
    assert parse_knob("t=a, b,true") == ("t", Choice("a", "b", True))
    assert parse_knob("t=fm-1..2-x") == ("t", Choice("fm-1..2-x"))
    assert parse_fix('m="1"') == ("m", "1")
    for bad in ("", "=1", "t=", "t=1..0", "t=0..1:0", "t=0..1:log", "t=a,a"):
        with pytest.raises(BadSpec):
            parse_knob(bad)


def test_the_digest_changes_with_values_and_not_with_order() -> None:
    one = Space({"a": Choice(1, 2), "b": Range(0, 1)})
    assert one.digest == Space({"b": Range(0, 1), "a": Choice(1, 2)}).digest
    others = [
        Space({"a": Choice(1, 2, 3), "b": Range(0, 1)}),
        Space({"a": Choice(1, 2), "b": Range(0, 1, step=0.1)}),
        Space({"a": Choice(1, 2), "b": Range(0, 1, when={"a": [1]})}),
        Space({"a": Choice(1, 2)}),
    ]
    assert len({one.digest, *(o.digest for o in others)}) == 5
    assert others[0].changes_from({n: k.described() for n, k in one.knobs.items()}) == ["a gained 3"]


def test_conditions_in_a_circle_are_refused() -> None:
    with pytest.raises(BadSpec, match="circle"):
        Space({"a": Choice(1, when={"b": [1]}), "b": Choice(1, when={"a": [1]})})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_candidates_of_a_finite_space_are_all_there_once(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    made_knobs: dict[str, Any] = {}
    for i in range(count):
        when = {}
        if i and data.draw(st.booleans()):
            other = data.draw(st.sampled_from(sorted(made_knobs)))
            when = {other: [0]}
        low = data.draw(st.integers(1, 3))
        made_knobs[f"k{i}"] = Choice(*range(low), when=when)
    space = Space(made_knobs)
    found = list(space.candidates())
    keys = [tuple(sorted(c.items())) for c in found]
    assert len(set(keys)) == len(keys)
    assert all(space.canonical(c) == c for c in found)
    # Whatever values are drawn for all knobs, what matters of them is one of these.
    full = {n: data.draw(st.sampled_from(k.labels)) for n, k in made_knobs.items()}
    assert space.canonical(full) in found


def test_a_spec_may_be_plain_data_from_whoever_does_not_know_us() -> None:
    plain = {"name": "p", "graph": Graph(Data), "knobs": {"rounds": {"low": 1, "high": 2}, "wording": None}}
    space, incumbent = space_of(as_spec(plain, "p"))
    assert dict(space.knobs) == {"rounds": Range(1, 2, integer=True)} and incumbent == {"rounds": 2}
    assert as_spec(lambda: plain, "p").name == "p"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"name": "p"}, "a graph, or a function that builds one"),
        ({"graph": Graph(Data), "scorer": len}, "scorer"),
        (3, "no graph and no spec"),
        (lambda needed: needed, "wants arguments"),
    ],
)
def test_what_is_no_spec_is_refused_with_the_reason(found: Any, said: str) -> None:
    with pytest.raises(BadSpec, match=said):
        as_spec(found, "p")


def test_a_factory_gets_the_topology_and_its_context_the_rest() -> None:
    spec = load("redecode.agents.extraction:spec")
    space, incumbent = space_of(spec)
    assert set(space.knobs) >= {"architecture", "format", "wording", "layout", "max_rounds"}
    values = space.decoded({**incumbent, "architecture": "debate", "max_rounds": 3})
    assert spec.built(values).name == "debate"
    assert spec.context_of(values).max_rounds == 3
    debates = [space.canonical({**values, "max_rounds": n, "debate_temperature": 0.3}) for n in (1, 2)]
    assert ["debate_temperature" in config for config in debates] == [False, True]
    broken = Spec(build=lambda values: 1 / 0, knobs={"a": [1, 2]})
    with pytest.raises(BadSpec, match="ZeroDivisionError"):
        broken.built({"a": 1})


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


Wordings = TypeAliasType("Wordings", Literal["brief", "long"])


@dataclass
class Plain:
    tone: Tone = Tone.WARM
    size: Size = Size.SMALL
    wordings: Wordings = "brief"
    most: Annotated[int | None, Field(ge=1, le=4)] = 2
    least: Annotated[int, Field(ge=1, le=4)] | None = None
    tags: tuple[str, ...] = ()


class Pydantic(BaseModel):
    most: Annotated[int | None, Field(ge=1, le=4)] = 2
    least: Annotated[int, Field(ge=1, le=4)] | None = None
    wordings: Wordings = "brief"


class Loose(TypedDict, total=False):
    wordings: NotRequired[Wordings]


def test_names_of_types_and_optional_numbers_are_seen_through() -> None:
    assert knobs(Plain) == {
        "tone": "{warm, cold}",
        "size": "{1, 2}",
        "wordings": "{brief, long}",
        "most": "1 to 4",
    }
    assert knobs(Pydantic) == {"most": "1 to 4", "wordings": "{brief, long}"}
    assert knobs(Loose) == {"wordings": "{brief, long}"}
    space, _ = space_of(as_spec(Graph(Pydantic), "g"), knobs=[parse_knob("least=1..4")], incumbent={"least": 1})
    assert space.decoded({"least": 3})["least"] == 3 and space.knobs["least"] == Range(1, 4, integer=True)


@pytest.mark.parametrize("schema", [Plain, Model])
def test_labels_become_the_values_themselves_whatever_the_schema(schema: Any) -> None:
    spec = as_spec(Graph(schema), "g")
    context = spec.context_of(spec.own({"tone": "cold"}))
    assert context.tone is Tone.COLD


def test_values_that_json_has_not_are_the_specs_own_again() -> None:
    greeting = re.compile("hello")
    spec = Spec(
        graph=Graph(Plain),
        knobs={"where": [greeting, re.compile("bye")], "pair": Choice((1, 2), (3, 4))},
        fixed={"tags": ("a",), "tone": "cold"},
        incumbent={"where": greeting, "pair": (1, 2)},
    )
    space, _ = space_of(spec)
    there = json.loads(json.dumps(as_json(space.decoded({"where": str(greeting), "pair": "(3, 4)"}))))
    own = spec.own(there)
    assert own["where"] is greeting and own["pair"] == (3, 4) and own["tags"] == ("a",) and own["tone"] is Tone.COLD


def test_a_field_that_its_name_does_not_reach_is_refused() -> None:
    class Hidden(BaseModel):
        rounds: Annotated[int, Field(ge=1, le=4, alias="Rounds")] = 2

    with pytest.raises(BadSpec, match="populate_by_name"):
        made(Hidden, {"rounds": 3})


def test_none_is_refused_where_leaving_a_knob_out_means_another_value() -> None:
    class Hinted(BaseModel):
        hint: Literal["careful", "quick"] | None = "careful"

    with pytest.raises(BadSpec, match="may be None"):
        space_of(as_spec(Graph(Hinted), "g"))
    space, _ = space_of(as_spec(Graph(Hinted), "g"), knobs=[parse_knob("hint=careful,quick")])
    assert space.base == {"hint": "careful"}


@pytest.mark.parametrize(
    ("bounds", "kind", "values"),
    [
        ({"ge": 1, "le": 64, "multiple_of": 16}, int, [16, 32, 48, 64]),
        ({"gt": 16, "lt": 64, "multiple_of": 16}, int, [32, 48]),
        ({"ge": 0.1, "le": 1, "multiple_of": 0.25}, float, [0.25, 0.5, 0.75, 1.0]),
        ({"gt": 0, "lt": 1, "multiple_of": 0.25}, float, [0.25, 0.5, 0.75]),
        ({"ge": 0.2, "le": 0.7, "multiple_of": 0.1}, float, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ({"ge": 1, "le": 5, "multiple_of": 8}, int, None),
    ],
)
def test_of_a_number_with_a_step_only_multiples_are_tried(bounds: dict[str, Any], kind: Any, values: Any) -> None:
    context = create_model("Context", n=(Annotated[kind, Field(**bounds)], (values or [8])[0]))
    (found,) = fields_of(context)
    knob = found.knob()
    assert (None if knob is None else list(values_of(knob) or ())) == values
    for value in values or ():
        context(n=value)


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ("toks=16..64:0.5", "knob toks takes whole numbers, and 0.5 is none: say toks=16..64"),
        ("toks=0.5..64:log", "0.5 is none: say toks=1..64:log"),
        ("toks=1.5..8.5:2", "1.5, 8.5 is none: say toks=2..8:2"),
        ("toks=1.2..1.8", "there is none between its bounds"),
        ("spent=0.5..8", "knob spent takes whole numbers"),
    ],
)
def test_bounds_and_steps_of_whole_numbers_are_whole(knob: str, said: str) -> None:
    """Optuna would end with a traceback, or round them to something else."""

    class Whole(BaseModel):
        toks: int = 16
        spent: int | None = 1
        heat: float = 0.5

    spec = Spec(graph=Graph(Whole), name="g")
    with pytest.raises(BadSpec, match=re.escape(said)):
        space_of(spec, knobs=[parse_knob(knob)])
    assert space_of(spec, knobs=[parse_knob("heat=0.5..8:0.5")])[1] == {"heat": 0.5}
    marked = create_model("Marked", toks=(Annotated[int, Range(16, 64, step=0.5)], 16))
    with pytest.raises(BadSpec, match="knob toks takes whole numbers"):
        space_of(Spec(graph=Graph(marked), name="g"))


@pytest.mark.parametrize("asked", ["rounds", "rounds=1,2,3", "rounds=1..3:1"])
def test_a_knob_that_is_named_with_other_values_matters_where_its_field_does(asked: str) -> None:
    spec = as_spec(Graph(Debated), "g")
    space, _ = space_of(spec, knobs=[parse_knob("architecture"), parse_knob(asked)])
    found = [*space.candidates()]
    assert found.count({"architecture": "single"}) == 1 and len(found) == 4
    # Where the other is not searched, what it is in use decides.
    assert [c["rounds"] for c in space_of(spec, knobs=[parse_knob(asked)])[0].candidates()] == [1, 2, 3]
    single, incumbent = space_of(spec, knobs=[parse_knob("heat"), parse_knob(asked)], fixed={"architecture": "single"})
    assert [*single.candidates()] == [{"heat": 0.0}, {"heat": 0.5}, {"heat": 1.0}] and incumbent == {"heat": 0.0}
