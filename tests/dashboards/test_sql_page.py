"""SQL, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from redecode.dashboards.data import source
from tests.dashboards.conftest import App

EXAMPLES = ("Runs by agent", "Slowest steps", "Tools that failed", "Prefix cache", "Rare tokens", "Tables and columns")


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_has_an_answer(open_page: App, filled: Path, name: str) -> None:
    at = open_page(filled, "sql")
    next(b for b in at.button if b.label == name).click().run()
    assert not at.exception
    assert not at.error
    assert len(at.dataframe[0].value) > 0


def test_the_question_is_in_the_address(open_page: App, filled: Path) -> None:
    at = open_page(filled, "sql", sql="SELECT count(*) AS n FROM runs")
    assert list(at.dataframe[0].value["n"]) == [14]


@pytest.mark.parametrize(("sql", "why"), [("DROP TABLE runs", "only be read"), ("SELECT nonsense", "nonsense")])
def test_a_bad_question_is_a_sentence(open_page: App, filled: Path, sql: str, why: str) -> None:
    at = open_page(filled, "sql", sql=sql)
    assert why in at.error[0].value.replace("\\", "")
    assert len(source(str(filled)).runs()) == 14
