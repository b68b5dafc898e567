"""What a format writes, it reads back as the same record; what it cannot write, it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from pydantic import BaseModel, RootModel

from redecode.optimizer.formats import FORMATS, CannotExpress, Format, Json, MalformedAnswer, format_named, model_of
from redecode.optimizer.formats.errors import UnknownFormat
from tests.optimizer.formats.records import Colour, Contact, Dated, Deep, Flat, Pair, Plan, Rows, records

FITS: dict[str, set[type[BaseModel]]] = {
    "json": {Contact, Flat, Plan, Rows, Deep, Dated, Pair},
    "yaml": {Contact, Flat, Plan, Rows, Deep, Dated, Pair},
    "xml": {Contact, Flat, Plan, Rows, Dated, Pair},
    "text": {Contact, Flat, Plan, Rows, Dated, Pair},
    "markdown": {Contact, Flat, Rows, Dated},
    "csv": {Contact, Flat, Rows, Dated},
    "slots": {Contact, Flat, Dated, Pair},
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
@given(record=records)
@settings(max_examples=60, deadline=None)
def test_a_record_comes_back_as_it_was(form: Format, record: BaseModel) -> None:
    model = type(record)
    if model not in FITS[form.name]:
        with pytest.raises(CannotExpress, match=model.__name__):
            form.render(record)
        return
    try:
        text = form.render(record)
    except CannotExpress as error:
        assert form.name == "xml" and "character" in str(error)
        return
    assert form.parse(text, model) == record
    reading = form.read(text, model)
    assert reading.record == record and reading.repairs == ()
    layout = form.laid_out(record)
    assert layout.text == text and len(layout.forced) == len(text)


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
def test_a_format_says_which_shapes_it_has_no_way_to_write(form: Format) -> None:
    assert {model for model in FITS["json"] if form.fits(model)} == FITS[form.name]


@given(record=records)
@settings(max_examples=40, deadline=None)
def test_other_readers_of_json_and_yaml_read_the_same(record: BaseModel) -> None:
    plain = json.loads(record.model_dump_json(by_alias=True))
    assert json.loads(FORMATS["json"].render(record)) == plain
    assert _as_texts(yaml.safe_load(FORMATS["yaml"].render(record))) == _as_texts(plain)


def _as_texts(value: Any) -> Any:
    """Numbers as PyYAML reads them differ in type alone (1e22)."""
    if isinstance(value, dict):
        return {k: _as_texts(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_as_texts(v) for v in value]
    if isinstance(value, float):
        return json.dumps(value)
    return value


@given(record=records)
@settings(max_examples=60, deadline=None)
def test_a_plain_record_needs_no_model(record: BaseModel) -> None:
    plain = json.loads(record.model_dump_json())
    try:
        text = Json().render(plain)
    except CannotExpress as error:
        assert "of one kind" in str(error) or "no name" in str(error) or "says nothing" in str(error)
        return
    assert json.loads(text) == plain


def test_what_a_plain_record_cannot_be_is_named() -> None:
    for wrong, why in (
        ({}, "says nothing"),
        ({"a b": 1}, "no name"),
        ({"a": [1, "b"]}, "one kind"),
        ({"a": object()}, "type"),
    ):
        with pytest.raises(CannotExpress, match=why):
            model_of(wrong)


def test_infinity_is_refused_where_it_is_written() -> None:
    record = Flat(title="t", count=1, share=1.0, done=True, colour=Colour.RED, note=None)
    for form in FORMATS.values():
        if Flat in FITS[form.name]:
            with pytest.raises(CannotExpress):
                form.render({"share": float("inf")})
            assert "1.0" in form.render(record)


def test_yaml_anchors_and_tags_are_refused_and_other_signs_are_read_to_the_letter() -> None:
    form = FORMATS["yaml"]
    for value in ("&x a", "*x", "!t c", "!!str c", "!t"):
        for read in (form.parse, form.read):
            with pytest.raises(MalformedAnswer, match="anchors and tags"):
                read(f"name: {value}\nemail: b\naddress: c", Contact)
    with pytest.raises(MalformedAnswer, match="anchors and tags"):
        form.read("goal: g\nowner:\n  name: a\n  email: b\n  address: c\nsteps: []\ntags:\n- &a x\n- *a", Plan)
    for value in ("*bold* words", "**x**", "* a", "& Sons", "%x", "@x"):
        assert form.read(f"name: {value}\nemail: b\naddress: c", Contact).record.name == value


def test_what_yaml_can_mean_in_one_way_only_is_read() -> None:
    form = FORMATS["yaml"]
    for value, name in (('"x" # c', "x"), ("|-\n  a\n  b", "a\nb"), (">-\n  a\n  b", "a b")):
        assert form.read(f"name: {value}\nemail: b\naddress: c", Contact).record.name == name
    for value in ("x # c", "a\n  b", '"a\n  b"', "|-", ">"):
        with pytest.raises(MalformedAnswer):
            form.read(f"name: {value}\nemail: b\naddress: c", Contact)


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
def test_instructions_show_a_form_that_the_format_itself_can_read(form: Format) -> None:
    for model in (Contact, Rows):
        if not form.fits(model):
            continue
        told = form.instructions(model)
        shown = told.partition("Form:\n")[2]
        assert form.parse(shown, model)
        assert all(
            name in told
            for name in (model.model_fields if form.name != "slots" else ("<name>", "<email>"))
            if model is Contact
        )


def test_an_example_is_shown_as_it_is() -> None:
    ann = Contact(name="Ann", email="a@b.c", address="1 X, Y 2")
    assert FORMATS["text"].instructions(Contact, ann).endswith("Example:\nname: Ann\nemail: a@b.c\naddress: 1 X, Y 2")


def test_values_keep_their_letters_where_yaml_would_make_other_types_of_them() -> None:
    class Parcel(BaseModel):
        code: str
        country: str
        version: str

    reading = FORMATS["yaml"].read("code: 01234\ncountry: no\nversion: 1.10", Parcel)
    assert reading.record == Parcel(code="01234", country="no", version="1.10")
    assert yaml.safe_load("code: 01234\ncountry: no\nversion: 1.10") == {"code": 668, "country": False, "version": 1.1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json", '{"name":"a","email":"b","address":"c","phone":"d"}'),
        ("json", '{"name":"a","name":"x","email":"b","address":"c"}'),
        ("yaml", "name: a\nemail: b"),
        ("yaml", "name: a\nemail: b\naddress: 5 Main St #4"),
        ("yaml", "name: a\nemail: b\naddress: 5 Main St\n  Springfield"),
        ("xml", "<contact><name>a</name><name>x</name><email>b</email><address>c</address></contact>"),
        (
            "xml",
            '<!DOCTYPE x [<!ENTITY e "x">]><contact><name>&e;</name><email>b</email><address>c</address></contact>',
        ),
        ("text", "name: a\nemail: b\naddress: c\nemail: d"),
        ("csv", "name,email,address\na,b,c\nd,e,f"),
        ("markdown", "| name | email | address |\n|---|---|---|\n| a | b |"),
        ("slots", "a\nb"),
    ],
)
def test_what_is_not_exactly_one_record_is_refused(name: str, text: str) -> None:
    with pytest.raises(MalformedAnswer):
        FORMATS[name].read(text, Contact)


def test_a_format_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UnknownFormat, match=r"'toml'.*json, yaml"):
        format_named("toml")


def test_a_model_without_fields_is_refused() -> None:
    with pytest.raises(CannotExpress, match="no named fields"):
        Json().shape(RootModel[list[int]])
