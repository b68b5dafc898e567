"""Forced tokens: those, and only those, that no other record of the shape could have had in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from redecode.agents import model_dir
from redecode.optimizer.formats import FORMATS, CannotExpress
from redecode.optimizer.formats.forced import SURE, added, forced_share
from redecode.optimizer.formats.languages import SENTENCES, costs
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.tokens import EngineTokens, FileTokens, TokenizerUnusable
from tests.optimizer.formats.records import Colour, Contact, Flat, Pair, Rows, records, texts

ANN = Contact(name="Ann", email="a@b.c", address="1 X")


def marked(layout: Layout) -> str:
    return "".join(ch if forced else "." for ch, forced in zip(layout.text, layout.forced, strict=True))


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("json", '{"name":"....,"email":"......,"address":"....}'),
        ("yaml", "name: ....email: ......address: ..."),
        ("xml", "<contact><name>.../name><email>...../email><address>.../address></contact>"),
        ("slots", "............."),
    ],
)
def test_what_is_forced_in_a_flat_record(name: str, marks: str) -> None:
    found = marked(FORMATS[name].laid_out(ANN))
    if name == "xml":  # the `<` that ends a value is a choice
        marks = "<contact><name>..../name><email>....../email><address>..../address></contact>"
    assert found.replace("\n", ".") == marks.replace("\n", ".")


@pytest.mark.parametrize("name", list(FORMATS))
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_two_records_that_begin_alike_go_on_alike_where_it_is_forced(name: str, data: st.DataObject) -> None:
    one = data.draw(records)
    others = data.draw(st.lists(records, max_size=6))
    same = [r for r in others if type(r) is type(one)]
    if not FORMATS[name].fits(type(one)):
        return
    try:
        layout = FORMATS[name].laid_out(one)
        texts = [FORMATS[name].render(other) for other in same]
    except CannotExpress:
        return
    for text in texts:
        differ = next((n for n, (a, b) in enumerate(zip(layout.text, text, strict=False)) if a != b), None)
        if differ is not None:
            assert not layout.forced[differ], (layout.text, text, differ)


def test_whether_a_list_has_items_and_goes_on_is_a_choice_of_the_text_format() -> None:
    class Lists(BaseModel):
        tags: list[str]
        tally: list[int]

    text = FORMATS["text"]
    for one in (Lists(tags=["a"], tally=[]), Lists(tags=[], tally=[1]), Lists(tags=["a", "b"], tally=[1, 2])):
        for other in (Lists(tags=[], tally=[]), Lists(tags=["a"], tally=[1]), Lists(tags=["a", "b", "c"], tally=[1])):
            layout, said = text.laid_out(one), text.render(other)
            differ = next((n for n, (a, b) in enumerate(zip(layout.text, said, strict=False)) if a != b), None)
            assert differ is None or not layout.forced[differ]
    assert marked(text.laid_out(Lists(tags=["a"], tally=[]))) == "tags.1]: ..ta.ly. []"


def test_where_a_list_of_yaml_ends_is_a_choice_at_the_sign_that_says_so() -> None:
    class Inner(BaseModel):
        by_name: dict[str, str]
        tags: list[str]

    class Outer(BaseModel):
        inner: list[Inner]
        grid: list[list[str]]
        last: str

    yaml, inners = FORMATS["yaml"], []
    for by_name in ({"a": "y"}, {"a": "y", "b": "y"}):
        inners += [Inner(by_name=by_name, tags=tags) for tags in (["y"], ["y", "y"])]
    grids = [[["y"]], [["y", "y"]], [["y"], ["y"]], [["y"], []]]
    outers = [
        Outer(inner=inner, grid=grid, last="y")
        for inner in ([inners[0]], [inners[0], inners[0]], *([one] for one in inners[1:]))
        for grid in grids
    ]
    for one in outers:
        layout = yaml.laid_out(one)
        for said in map(yaml.render, outers):
            differ = next((n for n, (a, b) in enumerate(zip(layout.text, said, strict=False)) if a != b), None)
            assert differ is None or not layout.forced[differ], (layout.text, said)
    assert marked(yaml.laid_out(outers[0])).endswith(".....ast: ...")


def test_a_choice_among_names_is_forced_from_where_one_is_left() -> None:
    flat = Flat(title="t", count=1, share=0.5, done=True, colour=Colour.REDDISH, note=None)
    found = marked(FORMATS["json"].laid_out(flat))
    assert '"done":.rue,"colour":".edd' not in found  # red and reddish: whether it goes on is a choice
    assert '"done":.rue,"colour":".ed.ish","note":.ull' in found


def test_shares_count_tokens_by_what_they_say() -> None:
    layout = FORMATS["json"].laid_out(ANN)
    tokens = [b'{"name":"', b"Ann", b'","', b"email", b'":"', b"a@b.c", b'"', b',"address":"', b"1 X", b'"}', b"<end>"]
    share = forced_share(layout, tokens, logprobs=[0.0] * 6 + [SURE - 1] * 5, gaps_s=[0.5] * 11)
    assert (share.tokens, share.forced, share.partly) == (11, 5, 2)
    assert (share.sure, share.forced_sure, share.forced_s) == (6, 3, 2.5)
    assert share.share == 5 / 11


def test_an_answer_that_is_laid_out_differently_is_left_out() -> None:
    layout = FORMATS["json"].laid_out(ANN)
    for tokens in ([b'{ "name"'], [layout.text.encode()[:-1]], [layout.text.encode(), b"x", b"y"], [b""]):
        assert forced_share(layout, tokens).left_out == 1
    whole = forced_share(layout, [layout.text.encode()])
    assert added([whole, forced_share(layout, [b"?"])]).left_out == 1


@given(text=texts)
@settings(max_examples=60, deadline=None)
def test_tokens_spell_what_was_encoded(text: str) -> None:
    tokens = FileTokens(model_dir("redecode-fm-xs"))
    assert b"".join(tokens.spelled(tokens.encode(text))) == text.encode()
    assert tokens.count(text) == len(tokens.encode(text))


def test_every_language_says_as_many_sentences_and_english_is_one() -> None:
    assert len({len(sentences) for sentences in SENTENCES.values()}) == 1
    found = {cost.language: cost for cost in costs(FileTokens(model_dir("redecode-fm-xs")))}
    assert found["English"].ratio == found["English"].least == found["English"].most == 1
    assert found["Hindi"].ratio > found["German"].ratio > 1


def test_no_tokenizer_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TokenizerUnusable, match="not a tokenizer"):
        FileTokens(tmp_path)
    with pytest.raises(TokenizerUnusable, match="does not count"):
        EngineTokens("http://127.0.0.1:9", "m").count("a")


def test_a_pair_is_forced_where_its_records_meet() -> None:
    text = marked(FORMATS["json"].laid_out(Pair(left=ANN, right=ANN, sure=False)))
    assert '},"right":{"name":"' in text
    assert json.loads(FORMATS["json"].render(Rows(steps=[]))) == {"steps": []}
