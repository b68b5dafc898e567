"""Which runs were of one configuration: by what was in use when they began, and an edit was made before it is seen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from redecode.optimizer.nightly.history import Change, Event
from redecode.optimizer.nightly.reference import moved
from redecode.tracer import Run

S = 10**9


def runs(*began_s: float) -> list[Run]:
    return [
        Run(
            run_id=f"{int(at * 1000):032x}", agent="a", status="ok", started_ns=int(at * S), ended_ns=int(at * S) + 1,
            fidelity=None, decodes=1, tools=0, tokens=1, prompt_tokens=1,
        )
        for at in began_s
    ]  # fmt: skip


def events(*given: tuple[Change, float]) -> list[Event]:
    return [Event(at_ns=int(at * S), change=change, config=f"{n:08x}") for n, (change, at) in enumerate(given)]


BEFORE, TONIGHT = runs(10, 20, 30), runs(110, 120, 130)


@pytest.mark.parametrize(
    "history",
    [
        events(),
        events((Change.BEGUN, 50)),  # what was in use until then is what the first night found
        events((Change.BEGUN, 1), (Change.PROMOTED, 5)),
        events((Change.BEGUN, 1), (Change.PROMOTED, 140)),
        events((Change.BEGUN, 1), (Change.EDITED, 5)),
        events((Change.BEGUN, 140), (Change.EDITED, 150)),
    ],
    ids=["no history", "it begins", "before all", "after all", "edited before all", "edited after all"],
)
def test_what_is_of_one_configuration_can_be_compared(history: Sequence[Event]) -> None:
    assert moved(history, BEFORE, TONIGHT) is None


@pytest.mark.parametrize("change", [Change.PROMOTED, Change.ROLLED_BACK])
@pytest.mark.parametrize(("at", "alike"), [(100, 0), (20, 2), (25, 1), (115, 0)])
def test_a_change_within_has_runs_before_of_the_same_configuration_or_none(
    change: Change, at: float, alike: int
) -> None:
    found = moved(events((Change.BEGUN, 1), (change, at)), BEFORE, TONIGHT)
    assert found is not None and found.alike == tuple(BEFORE[len(BEFORE) - alike :])
    assert found.when == f"at 1970-01-01T00:0{at // 60}:{at % 60:02}+00:00"


def test_of_several_changes_the_last_one_within_counts() -> None:
    history = events((Change.BEGUN, 1), (Change.PROMOTED, 15), (Change.ROLLED_BACK, 25), (Change.PROMOTED, 140))
    found = moved(history, BEFORE, TONIGHT)
    assert found is not None and found.alike == tuple(BEFORE[2:]) and found.when.endswith("00:25+00:00")


def test_an_edit_that_tonight_saw_was_made_at_some_time_since_the_change_before() -> None:
    """Nobody knows since when; so nobody knows which runs it is the configuration of."""
    found = moved(events((Change.BEGUN, 1), (Change.PROMOTED, 5), (Change.EDITED, 140)), BEFORE, TONIGHT)
    assert found is not None and found.alike == () and found.when.startswith("by hand before 1970-01-01T00:02:20")
    seen = moved(events((Change.BEGUN, 1), (Change.EDITED, 22)), BEFORE, TONIGHT)
    assert seen is not None and seen.alike == tuple(BEFORE[2:])  # after that it is the one in use


def test_without_runs_nothing_has_moved() -> None:
    assert moved(events((Change.BEGUN, 1), (Change.PROMOTED, 5)), [], []) is None
