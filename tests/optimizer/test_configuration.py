"""A configuration is the same when its file is read again."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.optimizer.configuration import context_of, tables_of, toml
from redecode.optimizer.errors import BadSpec
from redecode.optimizer.nightly.history import config_id
from redecode.optimizer.schema import parse_knob
from redecode.optimizer.spec import Spec, space_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXT.filter(lambda name: not name.startswith("placement.")), VALUES, max_size=4))
def test_what_is_written_is_what_is_read(config: dict[str, Any]) -> None:
    text = toml(config, ["promoted: ü", ""])
    assert tomllib.loads(text) == {"context": config} and text.startswith("# promoted: ü\n")
    assert context_of(text.encode(), Path("x")) == config
    assert config_id(config) == config_id(context_of(text.encode(), Path("x")))


def test_names_and_characters_that_toml_wants_quoted() -> None:
    config = {"höflich": "bitte", "max tokens": 5, "a.b": "\U000e0067\x7f\u2028", "placement.replicas": 2, "none": None}
    read = tomllib.loads(toml(config))
    assert read == {
        "context": {"höflich": "bitte", "max tokens": 5, "a.b": "\U000e0067\x7f\u2028"},
        "placement": {"replicas": 2},
    }
    assert read == tables_of(config)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("patience_s = inf", "patience_s = inf: a study keeps no such number; write a large one"),
        ("deep = { x = [1, nan] }", "deep = nan: a study keeps no such number"),
        ("since = 2024-05-01", "since = 2024-05-01: a study keeps no dates; write it as text, in quotes"),
        ("at = 07:30:00", "a study keeps no dates"),
        ("big = 9223372036854775808", "big = 9223372036854775808: a study keeps integers of 64 bits"),
    ],
)
def test_what_a_study_would_give_back_as_another_value_is_refused(said: str, why: str) -> None:
    class Graph:
        nodes: tuple[str, ...] = ()

        async def ainvoke(self) -> None: ...

    spec = Spec(name="g", graph=Graph(), context=dict, knobs={"wording": ["a", "b"]}, incumbent={"wording": "a"})
    config = context_of(f"[context]\n{said}\n".encode(), Path("x"))
    assert config_id(config) == config_id(config)
    with pytest.raises(BadSpec, match=why.split("(")[0].replace("[", r"\[")):
        space_of(spec, knobs=[parse_knob("wording")], incumbent=config)
