"""A contact survives every format; anything else is malformed, never guessed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.agents.contact import Contact
from redecode.agents.extraction.formats import FORMATS, Format, MalformedAnswer, parse, render

anything = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r"))
contacts = st.builds(Contact, anything, anything, anything)


@given(contacts, st.sampled_from(FORMATS))
def test_rendered_contacts_are_read_back(contact: Contact, fmt: Format) -> None:
    assert parse(render(contact, fmt), fmt) == contact


@given(anything, st.sampled_from(FORMATS))
def test_any_text_is_read_or_called_malformed(text: str, fmt: Format) -> None:
    try:
        contact = parse(text, fmt)
    except MalformedAnswer:
        return
    assert parse(render(contact, fmt), fmt) == contact


@pytest.mark.parametrize(
    ("fmt", "text"),
    [
        ("json", '{"name": "A B", "email": "a@b.org", "address": "1 C"'),
        ("json", '{"name": "A B", "email": "a@b.org"}'),
        ("json", '{"name": "A B", "email": "a@b.org", "address": 1}'),
        ("json", 'Here: {"name": "A B", "email": "a@b.org", "address": "1 C"}'),
        ("yaml", "name: A B\nemail: a@b.org"),
        ("yaml", "name: A B\nemail: a@b.org\naddress: 1 C\n"),
        ("yaml", "name: A B\naddress: 1 C\nemail: a@b.org"),
        ("yaml", "name: A B\nemail: a@b.org\naddress: a: b"),
        ("xml", "<contact><name>A B</name><email>a@b.org</email></contact>"),
        ("xml", "<contact><name>A <b>B</b></name><email>e</email><address>1</address></contact>"),
        ("text", '<NAME="A B">\n<EMAIL="a@b.org">'),
        ("text", '<NAME="A B"> <EMAIL="a@b.org"> <ADDRESS="1 C">'),
    ],
)
def test_malformed_answers_are_named_as_such(fmt: Format, text: str) -> None:
    with pytest.raises(MalformedAnswer):
        parse(text, fmt)


def test_the_formats_look_as_agreed() -> None:
    contact = Contact("Ada Low", "ada@low.org", "7 Hill Road, Bern 30001")
    assert render(contact, "json") == (
        '{"name": "Ada Low", "email": "ada@low.org", "address": "7 Hill Road, Bern 30001"}'
    )
    assert render(contact, "yaml") == "name: Ada Low\nemail: ada@low.org\naddress: 7 Hill Road, Bern 30001"
    assert render(contact, "xml") == (
        "<contact><name>Ada Low</name><email>ada@low.org</email><address>7 Hill Road, Bern 30001</address></contact>"
    )
    assert render(contact, "text") == ('<NAME="Ada Low">\n<EMAIL="ada@low.org">\n<ADDRESS="7 Hill Road, Bern 30001">')
