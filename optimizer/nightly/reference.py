"""Which of the runs before a night's were of the configuration that all of the night's were.

A run counts as of the configuration that was in use when it began. What a promotion, a rollback or an edit does to
prompts, answers and calls is no change of what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redecode.optimizer.nightly.history import Change, Event
from redecode.tracer import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """That the configuration was changed in the time of some runs.

    Attributes:
        when: the last time, as the end of "the configuration, which changed ...".
        alike: the runs before the night's that were of the configuration of all of the night's; none, if those were of
            more than one themselves.
    """

    when: str
    alike: tuple[Run, ...]


def moved(events: Sequence[Event], before: Sequence[Run], tonight: Sequence[Run]) -> Moved | None:
    """Whether a change of the configuration lies between these runs; `None` if all were of one.

    Args:
        events: of the history, oldest first.
    """
    began = [run.started_ns for run in (*before, *tonight)]
    if not began:
        return None
    times = [span for span in _times(events) if span[1].at_ns > min(began) and span[0] <= max(began)]
    if not times:
        return None
    last = times[-1][1]
    settled = all(last.at_ns <= run.started_ns for run in tonight)
    return Moved(
        when=f"{'by hand before' if last.change is Change.EDITED else 'at'} {last.at}",
        alike=tuple(run for run in before if run.started_ns >= last.at_ns) if settled else (),
    )


def _times(events: Sequence[Event]) -> Iterator[tuple[int, Event]]:
    """From when on a change may have been made, and the change: an edit is only seen by the next start."""
    for n, event in enumerate(events):
        if event.change is not Change.BEGUN:  # what was in use already
            yield events[n - 1].at_ns if event.change is Change.EDITED and n else event.at_ns, event
