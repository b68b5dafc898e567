"""An answer with a fault is recovered or refused. A wrong record never comes out, where any reader could know."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from redecode.optimizer.formats import FORMATS, CannotExpress, Format, MalformedAnswer, faults
from redecode.optimizer.formats.form import PROSE
from tests.optimizer.formats.records import Colour, Contact, Flat, Pair, Plan, Rows, Step, records

ANN = Contact(name="Hana Brosk", email="hana.brosk@tuvel.net", address="41 Drimo Lane, Quell 30517")
SEAN = Contact(name='Sean "Red" O\'Brien', email="sean: o@x.org", address="5 Main St #4, A & B <b>\nFloor 2")
CORPUS: tuple[BaseModel, ...] = (
    ANN,
    SEAN,
    Flat(title="a: b", count=-3, share=1e22, done=False, colour=Colour.NO, note='say "hi", then go', kind="b: c"),
    Plan(
        goal="move",
        owner=ANN,
        steps=[Step(id=1, what="pack: all, now"), Step(id=22, what="go #2", after="1")],
        tags=["a", "b: c"],
        sizes=[1, 20],
    ),
    Rows(steps=[Step(id=1, what="x | y", after="a, b"), Step(id=2, what='q "z"')]),
    Pair(left=ANN, right=SEAN, sure=True),
)


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
def test_no_fault_of_the_corpus_makes_a_wrong_record(form: Format) -> None:
    found = faults.tally(form, CORPUS)
    assert {kind: counts["wrong"] for kind, counts in found.items() if counts["wrong"]} == {}
    assert sum(counts.total() for counts in found.values()) > 300
    assert sum(counts["recovered"] for counts in found.values()) >= 12
    assert sum(counts["refused"] for counts in found.values()) > 100


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
@given(record=records, data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_fault_of_any_record_makes_a_wrong_one(form: Format, record: BaseModel, data: st.DataObject) -> None:
    if not form.fits(type(record)):
        return
    try:
        all_of_it = list(faults.faults_of(form, record))
    except CannotExpress:
        return
    for fault in data.draw(st.lists(st.sampled_from(all_of_it), max_size=15)):
        assert faults.outcome(form, record, fault) != "wrong", fault


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("json", "code fence"),
        ("json", "words behind"),
        ("json", "trailing comma"),
        ("json", "single quotes"),
        ("json", "typographic quotes"),
        ("json", "names without quotes"),
        ("json", "Python's words"),
        ("json", "comments"),
        ("json", "envelope"),
        ("json", "line breaks not escaped"),
        ("yaml", "code fence"),
        ("yaml", "words before"),
        ("yaml", "no space behind a colon"),
        ("yaml", "tabs"),
        ("yaml", "envelope"),
        ("xml", "< and & not escaped"),
        ("xml", "capital letters"),
        ("xml", "no outermost element"),
        ("text", "equals sign"),
        ("text", "bullets and bold"),
        ("text", "capital letters"),
        ("markdown", "no line below the names"),
        ("markdown", "no outer pipes"),
        ("csv", "words before"),
    ],
)
def test_what_models_do_often_is_recovered_always(name: str, kind: str) -> None:
    counts = Counter[str]()
    for record in CORPUS:
        if FORMATS[name].fits(type(record)):
            for fault in faults.faults_of(FORMATS[name], record, [kind]):
                counts[faults.outcome(FORMATS[name], record, fault)] += 1
    assert counts["recovered"] and counts.total() == counts["recovered"] + counts["intact"], counts


def test_usual_parsers_do_make_wrong_records_of_the_same_faults() -> None:
    for name in ("json", "yaml"):
        form, wrong = FORMATS[name], 0
        for record in CORPUS:
            wrong += sum(faults.naive(form, fault, record) == "wrong" for fault in faults.faults_of(form, record))
        assert wrong > 20


def test_a_cut_answer_is_read_only_where_its_end_can_be_seen() -> None:
    for name, form in FORMATS.items():
        whole = form.render(ANN)
        if form.shows_its_end:
            assert form.read(whole, Contact, finish_reason="length").record == ANN
        else:
            with pytest.raises(MalformedAnswer, match="cut off"):
                form.read(whole, Contact, finish_reason="length")
        assert form.read(whole, Contact, finish_reason="stop").record == ANN, name


def test_half_a_list_is_never_a_list() -> None:
    text = FORMATS["json"].render(CORPUS[3])
    for at in range(len(text) - 1):
        with pytest.raises(MalformedAnswer):
            FORMATS["json"].read(text[:at], Plan)
    assert FORMATS["json"].read(text[:-1], Plan).record == CORPUS[3]


def test_a_reading_says_what_it_mended() -> None:
    reading = FORMATS["json"].read("Here: {name:'A','email':'b','address':'c',}", Contact)
    assert reading.repairs == (PROSE, "names without quotes", "single quotes", "trailing comma")
    assert FORMATS["yaml"].read('name:"Ann: x"\nemail: a: b\naddress: c', Contact).repairs == (
        "space behind a colon",
        "values with markup quoted",
    )


def test_what_was_mended_must_have_every_field() -> None:
    flat = FORMATS["json"].render(CORPUS[2]).replace(',"score":null', "")
    assert FORMATS["json"].read(flat, Flat).repairs == ()
    assert FORMATS["json"].read(f"```\n{flat}\n```", Flat).record == CORPUS[2]
    with pytest.raises(MalformedAnswer, match="no 'score'"):
        FORMATS["json"].read(flat.replace("false", "False"), Flat)


def test_deep_nesting_is_refused_not_a_crash() -> None:
    for name in ("json", "yaml", "xml"):
        for text in ("[" * 5_000, '{"a":' * 5_000, "<contact>" * 5_000, "- " * 5_000 + "a"):
            with pytest.raises(MalformedAnswer):
                FORMATS[name].read(text, Contact)
