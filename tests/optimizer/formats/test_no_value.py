"""No value, and words for it: a choice that is called `none` is that choice, and `null` is never a guess."""

from __future__ import annotations

import datetime
from enum import Enum, IntEnum
from itertools import combinations, product
from typing import Any, Literal, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from redecode.optimizer.formats import FORMATS, CannotExpress, Format, MalformedAnswer
from tests.optimizer.formats.records import texts

XML = FORMATS["xml"]
WORDS = ["none", "null", "nil", "~", "None", "NULL", "", " none ", "low"]
LIKE_OTHERS = ["1", "01", "1e3", "true", "True", "false", "yes", "no", "on", "y", "2026-11-21", "- a", "a, b", "a\r\nb"]
NOTHING = "empty elements and words for nothing read as no value"


class Yes(Enum):
    TRUE = "true"
    NO = "no"
    NONE = "none"


class Size(IntEnum):
    S = 0
    M = 1
    L = 12


def written(form: Format, model: type[BaseModel], word: str) -> str:
    """An answer of two fields, `level` (that says a word) and `note`, without a quote."""
    root = model.__name__.lower()
    return {
        "yaml": f"level: {word}\nnote: n",
        "xml": f"<{root}><level>{word}</level><note>n</note></{root}>",
        "text": f"level: {word}\nnote: n",
        "markdown": f"| level | note |\n|---|---|\n| {word} | n |",
        "csv": f"level,note\n{word},n",
        "slots": f"{word}\nn",
    }[form.name]


def of(kind: Any) -> type[BaseModel]:
    return create_model("Found", level=(kind, ...), note=(str, ...))


def level(reading: Any) -> Any:
    return reading.record.model_dump()["level"]


BARE = [form for name, form in FORMATS.items() if name != "json"]
LINES = [form for form in BARE if form.name != "xml"]


@pytest.mark.parametrize("form", BARE, ids=lambda form: form.name)
@pytest.mark.parametrize("word", ["none", "null", "nil", "~", "None", "NULL"])
def test_a_bare_word_is_the_choice_of_that_name(form: Format, word: str) -> None:
    needed = of(Literal[word, "low"])
    assert level(form.read(written(form, needed, word), needed)) == word
    assert form.read(written(form, needed, word), needed).repairs == ()


@pytest.mark.parametrize("form", LINES, ids=lambda form: form.name)
def test_where_no_value_is_needed_null_is_none_and_other_words_are_the_choices(form: Format) -> None:
    model = of(Literal["none", "nil", "null", "~", "low"] | None)
    for word, value in (("none", "none"), ("nil", "nil"), ("null", None), ("~", None), ("", None), ("NULL", None)):
        assert level(form.read(written(form, model, word), model)) == value
    for word in ("None", "NIL"):  # Python's, or a choice in capital letters
        with pytest.raises(MalformedAnswer, match="may be one of its choices"):
            form.read(written(form, model, word), model)
    plain = of(Literal["low"] | None)
    for word in ("none", "None", "nil", "null", "~", ""):
        assert level(form.read(written(form, plain, word), plain)) is None


@pytest.mark.parametrize("form", LINES, ids=lambda form: form.name)
@pytest.mark.parametrize("kind", [str, Literal["", "low"], Literal["none", "low"], int, bool, Yes, datetime.date])
def test_no_word_at_all_is_no_value_where_one_is_needed(form: Format, kind: Any) -> None:
    with pytest.raises(MalformedAnswer, match="level has no value"):
        form.read(written(form, of(kind), ""), of(kind))


@pytest.mark.parametrize("form", LINES, ids=lambda form: form.name)
@pytest.mark.parametrize("word", ["none", "null", "nil", "~", "None"])
def test_a_bare_word_for_nothing_is_no_text(form: Format, word: str) -> None:
    with pytest.raises(MalformedAnswer, match="level has no value"):
        form.read(written(form, of(str), word), of(str))


KINDS: list[tuple[Any, list[Any]]] = [
    *((Literal[words], list(words)) for words in combinations(WORDS, 2)),
    *((Literal[pair], list(pair)) for pair in combinations(LIKE_OTHERS, 2)),
    (Literal[0, 1, -1, 12], [0, 1, -1, 12]),
    (Yes, list(Yes)),
    (Size, list(Size)),
    (bool, [True, False]),
    (datetime.date, [datetime.date(2024, 2, 29)]),
    (str, [*WORDS, *LIKE_OTHERS]),
]


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_a_choice_is_called_it_comes_back(form: Format, data: st.DataObject) -> None:
    kind: Any
    kind, values = data.draw(st.sampled_from(KINDS))
    nullable = data.draw(st.booleans())
    many = data.draw(st.booleans())
    some: st.SearchStrategy[Any] = st.sampled_from(values)
    if nullable:
        kind, some = Union[kind, None], st.none() | some  # noqa: UP007
    if many and form.name in ("json", "yaml", "xml", "text"):
        kind, some = list[kind], st.lists(some, max_size=3)
    model = of(kind) if data.draw(st.booleans()) else create_model("Found", level=(kind, ...))
    levels = data.draw(st.lists(some, min_size=1, max_size=4))
    records = [model.model_validate({"level": value, "note": "n"}) for value in levels]
    for record in records:
        text = form.render(record)
        for reading in (form.read(text, model), form.read(f"```\n{text}\n```", model)):
            assert reading.record == record, text
        assert form.parse(text, model) == record
    for one, other in product(records, records):
        layout, said = form.laid_out(one), form.render(other)
        differ = next((n for n, (a, b) in enumerate(zip(layout.text, said, strict=False)) if a != b), None)
        assert differ is None or not layout.forced[differ], (layout.text, said)
    assert form.instructions(model).partition("Form:\n")[2]


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_bare_word_is_what_it_says_or_refused(form: Format, data: st.DataObject) -> None:
    if form.name == "json":
        return
    choices = data.draw(st.lists(st.sampled_from([*WORDS, "1", "true", "no"]), min_size=1, max_size=4, unique=True))
    nullable = data.draw(st.booleans())
    kind: Any = Literal[tuple(choices)]
    model = of(Union[kind, None] if nullable else kind)  # noqa: UP007
    word = data.draw(st.sampled_from([*WORDS, "nIl", "1", "true", "no"]))
    try:
        found = level(form.read(written(form, model, word), model))
    except MalformedAnswer:
        assert word not in choices or word.strip() in ("", "none") or nullable
        return
    assert found == (word if form.name == "xml" else word.strip()) or (found is None and nullable)


@pytest.mark.parametrize("form", LINES, ids=lambda form: form.name)
def test_the_form_that_is_shown_can_be_read_where_a_choice_is_called_none(form: Format) -> None:
    model = of(Literal["none", "shown first"] | None)
    assert form.parse(form.instructions(model).partition("Form:\n")[2], model).model_dump()["level"] == "none"


# -- XML, where a word is a text --


class Told(BaseModel):
    a: str | None
    when: datetime.date | None = None
    count: int | None = None
    how: Literal["low", "high"] | None = None


def xml(a: str = "<a>x</a>", when: str = '<when nil="true"/>', count: str = "<count>1</count>") -> str:
    return f'<told>{a}{when}{count}<how nil="true"/></told>'


def test_xml_tells_how_to_say_no_value_where_there_need_be_none() -> None:
    assert 'No value: <a nil="true"/>.' in XML.instructions(Told)
    nested = create_model("Outer", inner=(list[Told], ...))
    assert 'No value: <a nil="true"/>.' in XML.instructions(nested)
    assert 'No value: <item nil="true"/>.' in XML.instructions(create_model("Outer", inner=(list[int | None], ...)))
    assert "nil" not in XML.instructions(of(str))


@pytest.mark.parametrize("word", ["null", "None", "nil", "~", "NULL", " null\n", "&#110;ull", "<![CDATA[null]]>"])
def test_a_text_of_xml_that_says_null_is_undecided(word: str) -> None:
    for read in (XML.parse, XML.read):
        with pytest.raises(MalformedAnswer):
            read(xml(f"<a>{word}</a>"), Told)
        with pytest.raises(MalformedAnswer):  # to be mended
            read(xml(f"<a>{word}</a>").replace("<told>", "").replace("</told>", ""), Told)
    with pytest.raises(MalformedAnswer, match='nil="true" and nothing in it, it has no value, with nil="false" this'):
        XML.read(xml("<a>null</a>"), Told)
    needed = of(str)
    assert XML.parse("<found><level>null</level><note>n</note></found>", needed).model_dump()["level"] == "null"


def test_a_text_of_xml_that_says_null_comes_back() -> None:
    for word in ("null", "None", "~", " nil "):
        record = Told(a=word)
        assert f'<a nil="false">{word}</a>' in XML.render(record)
        assert XML.parse(XML.render(record), Told) == record
        mended = XML.read(XML.render(record).replace("told>", "TOLD>"), Told)
        assert mended.record == record and mended.repairs == ("small and capital letters",)
    for said, value in (("<a></a>", ""), ("<a/>", ""), ('<a nil="false"/>', ""), ('<a nil="false">x</a>', "x")):
        assert XML.read(xml(said), Told).record == Told(a=value, count=1)
        assert XML.read(f"{xml(said)[6:-7]}", Told).record.a == value
    for said in ('<a nil="true">x</a>', '<a nil="false" x="y">x</a>', '<a nil="no">x</a>', '<a nil="true">null</a>'):
        with pytest.raises(MalformedAnswer):
            XML.read(xml(said), Told)


@pytest.mark.parametrize("inside", ["/>", "></{0}>", ">null</{0}>", ">None</{0}>", "> \n </{0}>", ">~</{0}>"])
def test_a_word_for_nothing_in_xml_is_no_value_where_it_can_be_nothing_else(inside: str) -> None:
    for name in ("when", "count", "how"):
        said = f"<{name}{inside.format(name)}"
        whole = XML.render(Told(a="x")).replace(f'<{name} nil="true"/>', said)
        with pytest.raises(MalformedAnswer):
            XML.parse(whole, Told)
        reading = XML.read(whole, Told)
        assert (reading.record, reading.repairs) == (Told(a="x"), (NOTHING,))
    with pytest.raises(MalformedAnswer):
        XML.read(xml(count="<count/>").replace('<how nil="true"/>', ""), Told)  # mended, and not every field is there


def test_a_word_that_may_be_a_choice_of_xml_or_nothing_is_refused() -> None:
    model = of(Literal["none", "null"] | None)
    for word, value in (("none", "none"), ("null", "null")):
        assert level(XML.read(written(XML, model, word), model)) == value
    assert level(XML.read(written(XML, model, "nil"), model)) is None
    for word in ("None", "NULL", " none "):
        with pytest.raises(MalformedAnswer):
            XML.read(written(XML, model, word), model)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_what_a_text_of_xml_says_comes_back(data: st.DataObject) -> None:
    some = texts | st.sampled_from([*WORDS, "nUll", "\tnull", "~ ", '"null"', '<a nil="true"/>', '" nil="false'])
    record = Told(a=data.draw(st.none() | some))
    try:
        text = XML.render(record)
    except CannotExpress:
        return
    assert XML.parse(text, Told) == record
    if record.a is None or not any(sign in record.a for sign in ("told>", "```")):
        assert XML.read(text.replace("told>", "TOLD>"), Told).record == record
