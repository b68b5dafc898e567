"""One process at a time goes on with a study, however the place that it is kept in is spelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from redecode.optimizer.errors import BadStudy
from redecode.optimizer.study.alone import alone
from redecode.optimizer.study.storage import opened


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two stores and a link to itself."""
    for name in ("one", "two", "one/studies"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("place", "other"),
    [
        ("sqlite:///{here}/w.db", "sqlite:///w.db"),
        ("sqlite:///w.db", "sqlite:///{here}/link/w.db"),
        ("sqlite:///w.db", "sqlite+pysqlite:///./w.db"),
        ("sqlite:///w.db", "sqlite:///one/../w.db?timeout=5"),
        ("sqlite:///w.db", "sqlite:///file:{here}/w.db?mode=rwc&uri=true"),
        ("sqlite:///w.db", "sqlite:///file:w.db?uri=true"),
        ("w.journal", "{here}/link/w.journal"),
        ("", "one/studies/studies.journal"),
        ("sqlite:///w.db", None),
        ("postgresql://me:secret@host/db", "postgresql+psycopg://host/db"),
    ],
)
def test_two_spellings_of_one_place_are_one_place(here: Path, place: str, other: str | None) -> None:
    """Also asked by two stores, which a file knows of, but a server's database does not."""
    place, other = place.format(here=here), (place if other is None else other).format(here=here)
    second = here / ("two" if place.startswith("sqlite") else "one")
    with alone(here / "one", "study", place):
        with pytest.raises(BadStudy, match="study is under way already"), alone(second, "study", other):
            pass
        with alone(second, "another", other):
            pass
    with alone(second, "study", other):
        pass
    assert not list(here.glob("**/.*.lock"))


@pytest.mark.parametrize(
    ("place", "other"),
    [
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file:w?mode=memory&uri=true", "sqlite:///file:w?mode=memory&uri=true"),
        ("sqlite:///w.db", "sqlite:///v.db"),
        ("a.journal", "b.journal"),
        ("sqlite:///w.db", ""),
        ("postgresql://host/db", "postgresql://host/other"),
    ],
)
def test_two_places_are_two(here: Path, place: str, other: str) -> None:
    with alone(here / "one", "study", place), alone(here / "one", "study", other):
        pass


def test_sqlite_takes_the_urls_that_are_told_apart_here(here: Path) -> None:
    for url in ("sqlite:///w.db", "sqlite:///file:v.db?mode=rwc&uri=true", "sqlite+pysqlite:///x.db?timeout=5"):
        opened(url)
    assert {f.name for f in here.glob("*.db")} == {"w.db", "v.db", "x.db"}
