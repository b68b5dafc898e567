"""The generator gives the same articles everywhere, and keeps the held-out sentences to itself."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from dataclasses import fields
from itertools import islice, product

import pytest

from redecode.agents.contact import FIELDS
from redecode.agents.contacts_desk.policy import desk_cases, expected_turns
from redecode.agents.fm.articles import article, cases
from redecode.agents.fm.phrases import HELD_OUT, TRAIN, Phrases, Split

SPLITS: tuple[Split, ...] = ("train", "heldout")
PROGRAM = """
import hashlib, json
from itertools import islice
from redecode.agents.contacts_desk.policy import desk_cases, expected_turns
from redecode.agents.fm.articles import cases
found = [a.text for a in islice(cases("heldout", 7), 20)]
found += [json.dumps(expected_turns(c)) for c in islice(desk_cases("heldout", 7), 20)]
print(hashlib.sha256("".join(found).encode()).hexdigest())
"""


def test_articles_are_the_same_in_every_process() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != ""


def test_seed_split_and_number_all_matter() -> None:
    texts = [a.text for split, seed in product(SPLITS, (0, 1)) for a in islice(cases(split, seed), 10)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("split", SPLITS)
def test_an_article_contains_what_is_asked_for_exactly_once(split: Split) -> None:
    for art in islice(cases(split, 3), 300):
        for field in FIELDS:
            assert art.text.count(art.contact.value(field)) >= 1, art
            assert art.contact.value(field) not in art.decoys[field]
            for decoy in art.decoys[field]:
                assert decoy in art.text


def test_an_article_may_lack_the_address() -> None:
    art = article(random.Random(1), "train", with_address=False)
    assert not art.has_address
    assert art.contact.address not in art.text


def variants(template: str) -> set[str]:
    parts = [p.split("|") for p in re.split(r"\[([^\]]*)\]", template)]
    return {"".join(choice) for choice in product(*parts)}


def sentences(bank: Phrases) -> set[str]:
    return {v for f in fields(bank) for template in getattr(bank, f.name) for v in variants(template)}


def test_no_held_out_sentence_can_occur_in_training() -> None:
    def bare(sentence: str) -> str:
        """The sentence with all slots alike: it must differ in its words, not only in what fills them."""
        return re.sub(r"\{[^}]*\}", "{}", sentence)

    train, heldout = ({bare(s) for s in sentences(bank)} for bank in (TRAIN, HELD_OUT))
    assert len(train) > 150
    assert len(heldout) > 40
    assert not train & heldout


@pytest.mark.parametrize("split", SPLITS)
def test_desk_cases_cover_every_turn_of_events(split: Split) -> None:
    seen = set()
    for case in islice(desk_cases(split, 5), 400):
        turns = expected_turns(case)
        results = [t["content"] for t in turns if t["role"] == "tool"]
        seen.add((case.request, case.entry is not None, case.article.has_address, len(results)))
    assert {n for *_, n in seen} == {1, 2, 3}
    assert {(request, known) for request, known, *_ in seen} == set(product(("file", "mail"), (True, False)))
    assert ("file", False, False, 1) in seen
