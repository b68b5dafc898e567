"""Values that nobody put in quotes, or into the wrong ones: read as they stand, where they can be nothing else."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from redecode.optimizer.formats import FORMATS, Format, MalformedAnswer
from redecode.optimizer.formats.value_repairs import COMMA, INSIDE, ITSELF, OTHER
from tests.optimizer.formats.records import Contact, texts

FORMS = {
    "text": "name: Ann\nemail: {0}\naddress: c",
    "slots": "Ann\n{0}\nc",
    "yaml": "name: Ann\nemail: {0}\naddress: c",
    "markdown": "| name | email | address |\n|---|---|---|\n| Ann | {0} | c |",
    "csv": "name,email,address\nAnn,{0},c",
}
BARE = [
    'He asked "why?"', 'See "x"', 'Title "A" and "B"', 'print("a") or "b"', "the title is 'Dune'", '27"', "5'10\"",
    '27" x 30"', "the dogs'", "use `ls`", "C:\\x", "\\alpha", "a\\d+ b",
]  # fmt: skip
MAY_BE_ELSE = [
    '"Hi," he said', "'Hi,' he said", "'tis \"x\"", '"A" is first', "`x` is y", "`x`", '"a" + "b"', "a,", 'a "b",',
    "the\tx", 'x"', "Dune'", 'Quell 30517"', 'a "b" "', "use `ls` `", "a\\", "a\\nb", "C:\\new", "a\\\\b", "a\\_b",
    'say \\"no\\"', "\\u00e9", 'k="v"', 'city: "Rome"', "k = 'v'", '["a", "b"', '{"a": "b"', "a ```",
    'Ann", "email": "x"',
]  # fmt: skip


@pytest.mark.parametrize(("name", "said"), list(itertools.product(FORMS, BARE)))
def test_a_bare_text_with_quotes_or_backslashes_is_itself_where_it_can_be_nothing_else(name: str, said: str) -> None:
    form, answer = FORMATS[name], FORMS[name].format(said)
    reading = form.read(answer, Contact)
    assert (reading.record, reading.repairs) == (Contact(name="Ann", email=said, address="c"), (ITSELF,))
    with pytest.raises(MalformedAnswer):
        form.parse(answer, Contact)
    assert form.read(form.render(reading.record), Contact).record == reading.record
    with pytest.raises(MalformedAnswer):
        form.read(answer, create_model("More", __base__=Contact, more=(str, "")))  # mended, and a field is missing


@pytest.mark.parametrize(("name", "said"), list(itertools.product(FORMS, MAY_BE_ELSE)))
def test_a_bare_text_that_may_be_something_else_is_refused(name: str, said: str) -> None:
    with pytest.raises(MalformedAnswer):
        FORMATS[name].read(FORMS[name].format(said), Contact)


@pytest.mark.parametrize("form", [FORMATS[name] for name in FORMS], ids=list(FORMS))
@given(said=st.one_of(texts, st.text("a \"'`\\,5sn", max_size=9)))
@settings(max_examples=120, deadline=None)
def test_what_is_read_of_a_bare_text_is_that_text_and_comes_back(form: Format, said: str) -> None:
    try:
        reading = form.read(FORMS[form.name].format(said), Contact)
    except MalformedAnswer:
        return
    if ITSELF in reading.repairs:
        assert reading.record == Contact(name="Ann", email=said.strip(" ").replace("\\|", "|"), address="c")
    assert form.read(form.render(reading.record), Contact).record == reading.record
    assert form.read(form.render(reading.record), Contact).repairs == ()


def test_a_row_that_does_not_close_may_be_cut_off_behind_a_quote() -> None:
    form, row = FORMATS["markdown"], '| name | email | address |\n|---|---|---|\n| Ann | b | see "x"'
    with pytest.raises(MalformedAnswer):
        form.read(row, Contact)
    assert form.read(f"{row} |", Contact).record.address == 'see "x"'


def test_no_value_stays_none_beside_a_bare_text() -> None:
    model = create_model("Model", a=(str | None, ...), b=(str, ...))
    for name, answer in (("text", 'a: null\nb: see "x"'), ("slots", '\nsee "x"'), ("csv", 'a,b\n,see "x"')):
        reading = FORMATS[name].read(answer, model)
        assert (reading.record, reading.repairs) == (model(a=None, b='see "x"'), (ITSELF,))
    assert FORMATS["csv"].read('a,b\nnull,"x"', model).repairs == ()


@pytest.mark.parametrize(
    ("said", "value", "repair"),
    [
        ('"He said "no"."', 'He said "no".', INSIDE),
        ("'b'", "b", OTHER),
        ('"b",', "b", COMMA),
    ],
)
def test_slots_mend_quotes_as_lines_of_text_do(said: str, value: str, repair: str) -> None:
    for name in ("text", "slots"):
        reading = FORMATS[name].read(FORMS[name].format(said), Contact)
        assert (reading.record.email, reading.repairs) == (value, (repair,))
    for two in ('"a" "b"', '"a" or "b"', "'a' + 'b'"):
        with pytest.raises(MalformedAnswer):
            FORMATS["slots"].read(FORMS["slots"].format(two), Contact)


def test_names_before_slots_are_looked_for_behind_numbers_also_where_quotes_are_missing() -> None:
    with pytest.raises(MalformedAnswer, match="where it begins"):
        FORMATS["slots"].read('1. a\n2. address: see "x"\n3. c', Contact)


def test_lines_in_a_block_of_yaml_are_not_mended() -> None:
    for said in ('email: see "x"', "email: @x"):
        answer = f"name: |\n  {said}\n  email: y\nemail: @b\naddress: c"
        assert FORMATS["yaml"].read(answer, Contact).record == Contact(
            name=f"{said}\nemail: y\n", email="@b", address="c"
        )
    rows = create_model("Rows", rows=(list[Contact], ...))
    answer = 'rows:\n  - name: |-\n      email: @x\n    email: see "x"\n    address: c'
    assert FORMATS["yaml"].read(answer, rows).record.model_dump() == {
        "rows": [{"name": "email: @x", "email": 'see "x"', "address": "c"}]
    }


# -- lines that end as Windows has it --


class Row(BaseModel):
    name: str
    note: str | None


@pytest.mark.parametrize("rest", ["Ann,hi\r\n", "Ann,hi", "Ann,hi\r\n\r\n", '"Ann","hi"\r\n'])
def test_lines_of_csv_end_as_its_rfc_has_it(rest: str) -> None:
    for read in (FORMATS["csv"].parse, lambda *a: FORMATS["csv"].read(*a).record):
        assert read(f"name,note\r\n{rest}", Row) == Row(name="Ann", note="hi")
    record = Row(name="a\r", note="\r\n")
    assert FORMATS["csv"].parse(FORMATS["csv"].render(record), Row) == record


def test_a_quote_in_a_bare_cell_of_csv_opens_nothing() -> None:
    rows = create_model("Rows", rows=(list[Row], ...))
    found = FORMATS["csv"].read('name,note\r\nA,27"\r\n"B, ""b""\n",30"\r\n', rows).record
    assert found.model_dump() == {"rows": [{"name": "A", "note": '27"'}, {"name": 'B, "b"\n', "note": '30"'}]}
    for text in ('A,say "a\nb",c', 'A,"a\nB,b', 'A, "b"', 'A,"b" c', 'A,x "b,c"'):
        with pytest.raises(MalformedAnswer):
            FORMATS["csv"].read(f"name,note\n{text}", rows)


# -- XML's ways to say the same --


@pytest.mark.parametrize("said", ['nil="true"', "nil='true'", 'nil = "true"', "nil\n=\n'true' "])
def test_no_value_is_said_in_each_way_that_is_the_same_xml(said: str) -> None:
    for element in (f"<note {said}/>", f"<note {said}></note>", f"<note {said}>\n</note>"):
        for answer in (f"<row><name>A</name>{element}</row>", f"<name>A</name>{element}"):
            assert FORMATS["xml"].read(answer, Row).record == Row(name="A", note=None)
    kept = said.replace("true", "false")
    assert FORMATS["xml"].read(f"<name>A</name><note {kept}>null</note>", Row).record == Row(name="A", note="null")


@pytest.mark.parametrize(
    "note",
    [
        "<note nil='true'>x</note>",
        "<note nil='true'><name>x</name></note>",
        "<note nil='true\"/>",
        "<note nil='true'>",
        "<note nil='true'><!-- x --></note>",
    ],
)
def test_what_says_nil_and_goes_on_is_refused(note: str) -> None:
    for answer in (f"<row><name>A</name>{note}</row>", f"<name>A</name>{note}"):
        with pytest.raises(MalformedAnswer):
            FORMATS["xml"].read(answer, Row)
