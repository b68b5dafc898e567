"""Which recorded runs a night is about: fixed when it begins, so that a second start has the same ones."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redecode.optimizer.cases import MODE
from redecode.optimizer.nightly.config import SINCE_LAST, seconds_of
from redecode.tracer import Run

_FALLBACK_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The runs of a night.

    Attributes:
        since_ns, until_ns: UTC; of runs that began then, or ended then for "since-last".
        run_ids: newest first, of all agents; evaluations and replays are none.
        words: which these are.
    """

    since_ns: int
    until_ns: int
    run_ids: tuple[str, ...]
    words: str

    def to_json(self) -> dict[str, Any]:
        """Its inverse is `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Window:
        """Its inverse is `to_json`."""
        return cls(**{**data, "run_ids": tuple(data["run_ids"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How runs come to be held out in the nights of a job, each of which looks at those of its own window alone.

    Attributes:
        which: as `choose` takes it.
        recorded: runs in tonight's window; `held_out` the share of these that is.
    """

    which: str
    recorded: int
    held_out: float

    def short(self, decided: int, more: int, which: str = "") -> str:
        """What would tell.

        Args:
            decided: held-out runs that the decision had; it needs so many `more`.
            which: of all held-out runs count.
        """
        return f"{decided + more} held-out runs{which} in one night ({decided} tonight)"

    def words(self, decided: int, more: int, which: str = "") -> str:
        """Likewise, with the recorded runs that this takes, and what brings them into one night."""
        window = math.ceil((decided + more) / self.held_out)
        return (
            f"{self.short(decided, more, which)}, that is about {window} recorded runs in its window ({self.recorded} "
            f"tonight): {self._way(window)}"
        )

    def _way(self, window: int) -> str:
        if self.which == SINCE_LAST:
            return "tonight's are not looked at again, so a night wants a longer window (`runs`)"
        if found := re.fullmatch(r"last-(\d+)", self.which):
            if int(found[1]) < window:
                return f'`runs = "{self.which}"` has no room for these, "last-{window}" has'
        elif self.which != "all":
            span = self.which.removeprefix("last-")
            return f"runs older than {span} are not looked at again, so a night wants a longer window (`runs`)"
        return "tonight's are looked at again, together with those that come"


def own_runs(runs: Sequence[Run]) -> list[Run]:
    """Runs of agents themselves."""
    return [r for r in runs if r.source_run_id is None and r.replay_mode is None and MODE not in r.labels]


def choose(runs: Sequence[Run], which: str, *, now_ns: int, last_until_ns: int | None) -> Window:
    """The runs of a night that begins now.

    Args:
        runs: of a store, newest first.
        which: "last-24h" (or s, m, d, w), "since-last", "last-200" (runs) or "all".
        last_until_ns: until when the last night that ended had looked.
    """
    own = [r for r in own_runs(runs) if r.started_ns <= now_ns]
    words = which
    if which == SINCE_LAST:
        since = now_ns - int(_FALLBACK_S * 1e9) if last_until_ns is None else last_until_ns
        words = "since the last night" if last_until_ns is not None else "last-24h (there was no night before)"
        # By their end: a run that is open now has its turn the next time.
        own = [r for r in own if r.ended_ns is not None and since < r.ended_ns <= now_ns]
    elif found := re.fullmatch(r"last-(\d+)", which):
        own = own[: int(found[1])]
        since = min((r.started_ns for r in own), default=now_ns)
    elif which == "all":
        since = min((r.started_ns for r in own), default=now_ns)
    else:
        since = now_ns - int(seconds_of(which.removeprefix("last-")) * 1e9)
        own = [r for r in own if r.started_ns >= since]
    return Window(since_ns=since, until_ns=now_ns, run_ids=tuple(r.run_id for r in own), words=words)
