"""Which recorded runs a verb takes, and what it says of those it cannot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from rich.text import Text

from redecode.cli.replay_engine import Selection, load_selected
from redecode.cli.screen import clean
from redecode.replay import ReplayMode
from redecode.replay.closed_loop.engine_replay import Chosen, choose
from redecode.tracer import Dataset, Store

_TOLD = 5
_NAMED = re.compile(r"^run [0-9a-f]+ ")


def choose_selected(source: Store | Dataset, selection: Selection, mode: ReplayMode) -> Chosen:
    """The runs asked for that a mode can take; `left_out` has the open ones and those without FM calls, too.

    Raises:
        TooLittleRecorded: none of them can be, or one that was named.
    """
    passed_over: dict[str, str] = {}
    recorded = load_selected(source, selection, passed_over)
    chosen = choose(recorded, mode, leave_out=not selection.by_id)
    return replace(chosen, left_out=passed_over | chosen.left_out)


def as_waits(chosen: Chosen) -> dict[str, int]:
    """FM calls that are no calls in a simulation, but take as long as they did: why → how many."""
    return dict(
        Counter(why.removesuffix(", replayed as a wait") for p in chosen.plans.values() for why in p.skipped.values())
    )


def left_out_lines(chosen: Chosen) -> Iterator[Text]:
    """What of the recorded runs is not simulated, counted by reason."""
    reasons = Counter(_NAMED.sub("", why) for why in chosen.left_out.values())
    for why, count in reasons.most_common(_TOLD):
        yield Text(f"left out: {count} run{'s' * (count != 1)}, each {clean(why)}", style="dim")
    if (rest := len(reasons) - _TOLD) > 0:
        yield Text(f"left out: others for {rest} more reason{'s' * (rest != 1)} (--json has them all)", style="dim")
    for why, count in as_waits(chosen).items():
        one = count == 1
        words = "FM call that" if one else "FM calls that"
        yield Text(f"{count} {words} {why} {'is a wait' if one else 'are waits'} as long as recorded", style="dim")
