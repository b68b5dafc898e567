"""Models nobody has thought of: random shapes, written and read back in every format that says it can."""

from __future__ import annotations

from itertools import count
from types import GenericAlias
from typing import Any, Literal, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from redecode.optimizer.formats import FORMATS, CannotExpress, Format, faults
from tests.optimizer.formats.records import Colour, texts

_NAMES = [
    "item",
    "name",
    "Name",
    "id",
    "class_",
    "record",
    "n1",
    "a_b",
    "straße",
    "x-y",
    "a b",
    "nil",
    "true",
    "no",
    "e.f",
]
_NUMBER = count()
Kind = tuple[Any, st.SearchStrategy[Any]]

_leaves: st.SearchStrategy[Kind] = st.sampled_from(
    [
        (str, texts),
        (int, st.integers(-(2**70), 2**70)),
        (float, st.floats(allow_nan=False, allow_infinity=False)),
        (bool, st.booleans()),
        (Colour, st.sampled_from(Colour)),
        (Literal["a", "ab", "null", "<x>"], st.sampled_from(["a", "ab", "null", "<x>"])),
        (Literal[1, 12, 2], st.sampled_from([1, 12, 2])),
        (Union[int, str], st.integers() | texts),  # noqa: UP007
    ]
)


def _maybe(kind: Kind) -> Kind:
    return kind[0] | None, st.none() | kind[1]


def _many(kind: Kind) -> Kind:
    return GenericAlias(list, (kind[0],)), st.lists(kind[1], max_size=3)


def _keyed(kind: Kind) -> Kind:
    return GenericAlias(dict, (str, kind[0])), st.dictionaries(texts, kind[1], max_size=2)


def _record(fields: dict[str, Kind]) -> Kind:
    names = {f"f{n}": name for n, name in enumerate(fields)}
    annotated: dict[str, Any] = {f: (fields[name][0], Field(alias=name)) for f, name in names.items()}
    model = create_model(f"Model{next(_NUMBER) % 7}", **annotated)
    return model, st.fixed_dictionaries({name: kind[1] for name, kind in fields.items()}).map(model.model_validate)


kinds = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        inner.map(_maybe),
        inner.map(_many),
        inner.map(_keyed),
        st.dictionaries(st.sampled_from(_NAMES), inner, min_size=1, max_size=3).map(_record),
    ),
    max_leaves=6,
)
models = st.dictionaries(st.sampled_from(_NAMES), kinds, min_size=1, max_size=4).map(_record)


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_record_comes_back_or_is_refused_beforehand(form: Format, data: st.DataObject) -> None:
    model, values = data.draw(models)
    record: BaseModel = data.draw(values)
    if not form.fits(model):
        with pytest.raises(CannotExpress):
            form.render(record)
        return
    try:
        text = form.render(record)
    except CannotExpress as error:
        assert "character" in str(error)
        return
    assert form.parse(text, model) == record, text
    assert form.laid_out(record).text == text
    assert form.instructions(model)


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_no_fault_makes_a_wrong_one_of_it(form: Format, data: st.DataObject) -> None:
    model, values = data.draw(models)
    record: BaseModel = data.draw(values)
    if not form.fits(model):
        return
    try:
        made = list(faults.faults_of(form, record))
    except CannotExpress:
        return
    for fault in data.draw(st.lists(st.sampled_from(made), max_size=8)):
        assert faults.outcome(form, record, fault) != "wrong", fault
