"""Answers that read smoothly and mean something else: each is read right, with a word, or refused."""

from __future__ import annotations

import dataclasses
import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, RootModel, create_model

from redecode.optimizer.formats import FORMATS, MalformedAnswer
from redecode.optimizer.formats.form import FENCE, PROSE
from redecode.optimizer.formats.slot_format import BULLETS, NAMES, NUMBERS
from tests.optimizer.formats.records import Contact, Pair

JSON, YAML, XML, TEXT, SLOTS = (FORMATS[name] for name in ("json", "yaml", "xml", "text", "slots"))
ABC = Contact(name="a", email="b", address="c")


# -- slots --


@pytest.mark.parametrize(
    ("text", "repairs"),
    [
        ("name: a\nemail: b\naddress: c", (NAMES,)),
        ("address: c\nname: a\nemail: b", (NAMES,)),
        ("Name: a\nEMAIL=b\n**Address:** c", (NAMES,)),
        ("`name`: a\n**email**: b\naddress : c", (NAMES,)),
        ("<name>a</name>\n<email> b\n<address>c</address>", (NAMES,)),
        ("1. a\n2. b\n3. c", (NUMBERS,)),
        ("1) a\n2) b\n3) c", (NUMBERS,)),
        ("(1) a\n(2)b\n(3) c", (NUMBERS,)),
        ("0: a\n1: b\n2: c", (NUMBERS,)),
        ("- a\n- b\n- c", (BULLETS,)),
        ("- name: a\n- email: b\n- address: c", (BULLETS, NAMES)),
        ('```\n1. name: a\n2. email: "b"\n3. address: c\n```', (FENCE, NUMBERS, NAMES)),
    ],
)
def test_what_all_lines_of_slots_begin_with_is_taken_off_and_told(text: str, repairs: tuple[str, ...]) -> None:
    reading = SLOTS.read(text, Contact)
    assert (reading.record, reading.repairs) == (ABC, repairs)
    with pytest.raises(MalformedAnswer):
        SLOTS.parse(text, Contact)


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nemail: b\nc",
        "name: a\nname: b\naddress: c",
        "name: a\nb\nc",
        "email: a\naddress: b\nc",
        "1. a\n2. b\nc",
        "1. a\n3. b\n2. c",
        "- a\n- b\nc",
        "name: email: a\nemail: b\naddress: c",
        "**name: a**\n**email: b**\n**address: c**",
    ],
)
def test_slots_of_which_some_begin_with_more_than_a_value_are_refused(text: str) -> None:
    with pytest.raises(MalformedAnswer):
        SLOTS.read(text, Contact)


def test_one_line_of_slots_that_looks_named_or_numbered_is_a_value() -> None:
    for name in ("email: x", "2. x", "- x", "name://x", "name x"):
        reading = SLOTS.read(f"{name}\nb\nc", Contact)
        assert (reading.record.name, reading.repairs) == (name, ())


def test_slots_write_what_looks_named_or_numbered_so_that_it_comes_back() -> None:
    for values in (("name: a", "email: b", "address: c"), ("1. a", "2. b", "3. c"), ("- a", "* b", "• c")):
        record = Contact(**dict(zip(Contact.model_fields, values, strict=True)))
        assert SLOTS.parse(SLOTS.render(record), Contact) == record
        assert SLOTS.read(SLOTS.render(record), Contact).repairs == ()


def test_slots_that_are_named_alike_are_read_in_their_order_only() -> None:
    names = ["name", "email", "address"] * 2
    lines = [f"{name}: {n}" for n, name in enumerate(names)]
    pair = SLOTS.read("\n".join([*lines, "sure: true"]), Pair).record
    assert (pair.left.name, pair.right.name, pair.right.address) == ("0", "3", "5")
    with pytest.raises(MalformedAnswer):
        SLOTS.read("\n".join(["sure: true", *lines]), Pair)
    by_path = [f"{'left' if n < 3 else 'right'}.{name}: {n}" for n, name in enumerate(names)]
    assert SLOTS.read("\n".join(["sure: true", *by_path]), Pair).record == pair


# -- moments --


@dataclasses.dataclass
class Day:
    day: datetime.date


Days = RootModel[list[datetime.date]]
MOMENTS: list[tuple[Any, list[str]]] = [
    (datetime.datetime, ["2024", '"2024"', "20240203", '"20240203100000"', "12.5", "0"]),
    (datetime.date, ["1706918400", '"1706918400"', "0"]),
    (datetime.time, ["36000"]),
    (datetime.timedelta, ["90"]),
    (datetime.datetime | None, ["2024"]),
    (datetime.datetime | str, ["2024"]),
    (list[datetime.date], ["[0]"]),
    (set[datetime.date], ["[0]"]),
    (dict[str, datetime.date], ['{"a":0}']),
    (dict[datetime.date, int], ['{"0":1}']),
    (tuple[datetime.date, int], ["[0,1]"]),
    (Day, ['{"day":0}']),
    (Days, ["[0]"]),
    (Annotated[datetime.datetime, Field(alias="x")], ["2024"]),
]


@pytest.mark.parametrize(("kind", "said"), [(k, s) for k, many in MOMENTS for s in many])
def test_a_number_is_no_moment(kind: Any, said: str) -> None:
    model = create_model("Model", x=(kind, ...))
    with pytest.raises(MalformedAnswer, match=r"^x\b.* is a number, which no"):
        JSON.read(f'{{"x":{said}}}', model)


@pytest.mark.parametrize("form", [YAML, XML, TEXT, SLOTS, FORMATS["csv"], FORMATS["markdown"]], ids=lambda f: f.name)
def test_digits_are_no_moment_in_any_format(form: Any) -> None:
    class At(BaseModel):
        at: datetime.datetime
        note: str

    text = form.render(At(at=datetime.datetime(2024, 2, 3, 10, tzinfo=datetime.UTC), note="n"))
    assert form.read(text, At).record.at == datetime.datetime(2024, 2, 3, 10, tzinfo=datetime.UTC)
    with pytest.raises(MalformedAnswer, match="at: '2024' is a number, which no datetime"):
        form.read(text.replace("2024-02-03T10:00:00Z", "2024"), At)


def test_a_moment_that_is_written_as_a_number_is_read_as_one() -> None:
    class Took(BaseModel):
        model_config = ConfigDict(ser_json_timedelta="float")
        took: datetime.timedelta
        at: Annotated[datetime.datetime, PlainSerializer(lambda at: at.timestamp(), when_used="json")]
        days: list[datetime.timedelta]

    record = Took(
        took=datetime.timedelta(seconds=90),
        at=datetime.datetime(2024, 2, 3, tzinfo=datetime.UTC),
        days=[datetime.timedelta(1)],
    )
    assert JSON.read(JSON.render(record), Took).record == record


# -- numbers --


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (float, "1e400"),
        (float, "-1e400"),
        (float, '"1e400"'),
        (float, '"Infinity"'),
        (float, '"nan"'),
        (float | None, "1e400"),
        (list[float], "[1e400]"),
        (float | bool, "1e400"),
        (int, '"1_0"'),
        (float, '"1_0.5"'),
        (Decimal, '"1_0"'),
        (int | float, '"1_0"'),
        (int | str, "true"),
        (int | None | str, "false"),
        (Literal[1] | float, "true"),
        (list[int | str], '["a",true]'),
    ],
)
def test_what_is_no_number_in_json_makes_none(kind: Any, said: str) -> None:
    with pytest.raises(MalformedAnswer, match=r"^x"):
        JSON.read(f'{{"x":{said}}}', create_model("Model", x=(kind, ...)))


@pytest.mark.parametrize("said", ["12345678901234567.89", "0.1000000000000000055", "1.5", "-2.50e3"])
@pytest.mark.parametrize("kind", [Decimal, Decimal | None, list[Decimal]])
def test_a_decimal_is_the_one_that_was_written(kind: Any, said: str) -> None:
    model = create_model("Model", x=(kind, ...))
    value = f"[{said}]" if kind == list[Decimal] else said
    for text in (f'{{"x":{value}}}', f"{{x: {value},}}"):  # as it should be, and to be mended
        found = JSON.read(text, model).record.model_dump()["x"]
        assert found == ([Decimal(said)] if kind == list[Decimal] else Decimal(said))


@pytest.mark.parametrize("kind", [float, float | str, str, datetime.date, bool])
def test_a_number_of_many_digits_is_no_other_thing_than_one_of_few(kind: Any) -> None:
    model = create_model("Model", x=(kind, ...))
    if kind in (float, float | str):
        assert JSON.read('{"x":0.1000000000000000055}', model).record.model_dump()["x"] == 0.1
        return
    with pytest.raises(MalformedAnswer, match=r"^x"):
        JSON.read('{"x":12345.1000000000000000055}', model)


def test_a_number_too_large_is_refused_in_every_format() -> None:
    model = create_model("Model", x=(float, ...), note=(str, ...))
    for form in FORMATS.values():
        text = form.render(model(x=7.25, note="n"))
        with pytest.raises(MalformedAnswer, match="x: 'inf'"):
            form.read(text.replace("7.25", "1e400"), model)


def test_texts_and_truth_values_stay_what_they_are() -> None:
    model = create_model("Model", x=(int | bool | str, ...))
    for said, value in (("true", True), ("1", 1), ('"1_0"', "1_0"), ('"true"', "true")):
        found = JSON.read(f'{{"x":{said}}}', model).record.model_dump()["x"]
        assert (found, type(found)) == (value, type(value))


# -- drafts --

ONE = JSON.render(ABC)
TAGGED = XML.render(ABC)


@pytest.mark.parametrize("reason", ["length", None])
@pytest.mark.parametrize(("form", "one"), [(JSON, ONE), (XML, TAGGED)], ids=["json", "xml"])
def test_a_record_with_words_behind_it_may_be_a_draft_where_the_answer_was_cut_off(
    form: Any, one: str, reason: str | None
) -> None:
    for text in (f"{one} or rather", f"```\n{one}\n```\nor rather", f"```\n{one} or\n```"):
        with pytest.raises(MalformedAnswer, match="cut off"):
            form.read(text, Contact, finish_reason=reason)
    for text in (one, f"{one}\n", f"Here: {one}", f"```\n{one}\n```\n"):
        assert form.read(text, Contact, finish_reason=reason).record == ABC
    assert form.read(f"{one} or rather", Contact).record == ABC


@pytest.mark.parametrize("reason", ["stop", "length", None])
@pytest.mark.parametrize(("form", "one"), [(JSON, ONE), (XML, TAGGED)], ids=["json", "xml"])
def test_a_record_in_a_thought_is_none(form: Any, one: str, reason: str | None) -> None:
    for text in (
        f"<think>maybe {one}",
        f"<think>maybe {one} or rather",
        f"<think>maybe {one}</think>",
        f"<think>\n```\n{one}\n```",
        f"maybe {one}</think>",
    ):
        with pytest.raises(MalformedAnswer):
            form.read(text, Contact, finish_reason=reason)
    other = one.replace("a", "z", 0)
    for thought in ("<think>so</think>\n", f"<think>maybe {other}</think>", "\n<Thinking>\n```\nx</Thinking>"):
        assert form.read(f"{thought}{one}", Contact, finish_reason=reason).repairs == (PROSE,)
        assert form.read(f"{thought}```\n{one}\n```", Contact, finish_reason=reason).repairs == (PROSE, FENCE)


# -- lines of text --


class Person(BaseModel):
    name: str
    age: int | None = None
    city: str = ""
    tags: list[str] = []


def test_a_value_with_another_one_behind_it_on_its_line_is_refused() -> None:
    for text in (
        "name: A age: 30",
        "name: A, City = b",
        "name: A\ncity: b tags[1]: c",
        "name: A\ntags[1]: a tags[2]: b",
    ):
        with pytest.raises(MalformedAnswer, match="another one behind it"):
            TEXT.read(text, Person)
        with pytest.raises(MalformedAnswer):
            TEXT.read(f"- {text}", Person)
    for text in ("name: A age: 30\nage: 30", 'name: "A age: 30"', "name: A wage: 30", "name: A x[1]: 3"):
        assert TEXT.read(text, Person).record.name.startswith("A ")


def test_a_text_that_looks_like_two_items_comes_back() -> None:
    record = Person(name="a tags[2]: b", tags=["a tags[2]: b", "tags[1] = x"])
    assert TEXT.parse(TEXT.render(record), Person) == record


# -- XML --


def test_markup_in_a_value_of_xml_is_not_left_out_of_it() -> None:
    for value in ("a<!-- b -->", "<!-- a -->"):
        with pytest.raises(MalformedAnswer):
            XML.read(TAGGED.replace(">a<", f">{value}<"), Contact)
    assert XML.read(TAGGED.replace(">a<", ">a<?b c?><"), Contact).record.name == "a<?b c?>"
    for text in (f"<!-- x -->{TAGGED}<!-- y -->", TAGGED.replace("<email>", "<!-- x --> <email>")):
        assert XML.read(text, Contact).record == ABC


# -- half a character --


def test_half_a_character_is_refused_in_every_format() -> None:
    model = create_model("Model", x=(Any, ...), y=(dict[str, str], ...))
    half = "\ud83d"
    for said in ('"a\\ud83d"', '["\\uDE00"]', '{"\\ud83d":1}', f'"{half}"'):
        for read in (JSON.parse, JSON.read):
            with pytest.raises(MalformedAnswer, match="half a character"):
                read(f'{{"x":{said},"y":{{}}}}', model)
    with pytest.raises(MalformedAnswer, match="half a character"):
        JSON.read('{"x":1,"y":{"\\ud83d\\ud83d":"a"}}', model)
    assert JSON.read('{"x":"\\ud83d\\ude00\\\\ud83d","y":{}}', model).record.model_dump()["x"] == "😀\\ud83d"
    for form in FORMATS.values():
        for text in (form.render(ABC).replace("a", half, 1), form.render(Contact(name="a,b", email="b", address="c"))):
            with pytest.raises(MalformedAnswer):
                form.read(text.replace("a,b", half), Contact)


# -- two texts, and quotes inside of one --

TWO = [
    "{0}a{1}+{0}b{1}",
    "{0}a{1} + {0}b{1}",
    "{0}a{1} {0}b{1}",
    "{0}a{1}{0}b{1}",
    "{0}a{1} or {0}b{1}",
    "{0}a{1} . {0}b{1}",
]
TWO += ["{0}Dear {1}+x+{0} a{1}", "{0}Dear {1} + x + {0}!{1}", "{0}Dear {1}.x.{0} a{1}", "{0}5{1} or {0}6{1}"]
ONE_TEXT = ["he said {0}no{1} to it", "he said {0}no{1}", "{0}no{1} he said", "a ({0}b{1}) c", "the {0}.env{1} file"]


@pytest.mark.parametrize("two", TWO)
@pytest.mark.parametrize("quotes", ['""', "''", "“”", "‘’"])
def test_two_texts_are_not_one_with_quotes_inside(two: str, quotes: str) -> None:
    said = two.format(*quotes)
    for text in (f'{{"name":{said},"email":"b","address":"c"}}', f'{{"address":"c","email":"b","name":{said}}}'):
        with pytest.raises(MalformedAnswer):
            JSON.read(text, Contact)
    if quotes in ('""', "''"):
        for form in (YAML, TEXT) if said != "'a''b'" else (TEXT,):  # YAML's own way to write a'b
            with pytest.raises(MalformedAnswer):
                form.read(f"name: {said}\nemail: b\naddress: c", Contact)


@pytest.mark.parametrize("text", ONE_TEXT)
@pytest.mark.parametrize("quotes", ['""', "“”"])
def test_quotes_inside_of_a_text_are_read(text: str, quotes: str) -> None:
    value = text.format(*quotes)
    said = f"{quotes[0]}{value}{quotes[1]}"
    assert JSON.read(f'{{"name":{said},"email":"b","address":"c"}}', Contact).record.name == value
    if quotes == '""':
        for form in (YAML, TEXT):
            assert form.read(f"name: {said}\nemail: b\naddress: c", Contact).record.name == value


def test_an_apostrophe_and_an_inch_are_no_ends_of_a_text() -> None:
    for value in ("it's", "the dogs' bowl", "'tis", "O'Brien's"):
        for form in (YAML, TEXT):
            assert form.read(f"name: '{value}'\nemail: b\naddress: c", Contact).record.name == value
    assert YAML.read('name: "5\'10" tall"\nemail: b\naddress: c', Contact).record.name == "5'10\" tall"
    assert JSON.read('{"name":‘it’s’,"email":"b","address":"c"}', Contact).record.name == "it’s"


# -- blanks and line breaks --


def test_blanks_around_values_of_csv_are_taken_off_with_a_word() -> None:
    csv = FORMATS["csv"]
    padded = ("name, email, address\na, b, c", "name ,email , address\na ,b,  c", "name,email,address\na, b,c ")
    for text in padded:
        reading = csv.read(text, Contact)
        assert (reading.record, reading.repairs) == (ABC, ("blanks around values taken off",))
        with pytest.raises(MalformedAnswer):
            csv.parse(text, Contact)
    for text in ('name,email,address\n"a,  x", b, c', 'name,email,address\na, "b", c'):
        with pytest.raises(MalformedAnswer):
            csv.read(text, Contact)
    record = Contact(name=" a", email="b ", address=" ")
    assert csv.parse(csv.render(record), Contact) == record
    assert csv.parse('name,email,address\n" a","b "," "', Contact) == record
    quoted = 'Here it is:\nname,email,address\n"a, x ",b,c'
    assert csv.read(quoted, Contact).record == Contact(name="a, x ", email="b", address="c")


def test_what_is_a_line_break_to_some_readers_of_yaml_only_is_refused_and_written_escaped() -> None:
    model = create_model("Model", x=(dict[str, str], ...))
    for text in ('x: {{"a{0}b": c}}', 'x:\n  ? "a{0}b"\n  : c', "x:\n  k: |\n    a{0}    b", 'x: {{k: "a{0}b"}}'):
        for sign in "\x85\u2028\u2029":
            with pytest.raises(MalformedAnswer):
                YAML.read(text.format(sign), model)
    for text in ('x:\n  ? "a\n    b"\n  : c', "x:\n  ? a\n    b\n  : c", 'x: {"a\n  b": c}'):
        with pytest.raises(MalformedAnswer):
            YAML.read(text, model)
    record = model(x={"a\x85b": "c\u2028", "\u2029": "\x85"})
    assert YAML.parse(YAML.render(record), model) == record
