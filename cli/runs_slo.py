"""`redecode runs --slo slo.toml`: how far each SLO is attained, all together and window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from redecode.cli.common import seconds
from redecode.cli.screen import clean, grid
from redecode.replay.analysis.slo import Attainment, Slo, attainment, measured, over_time
from redecode.tracer import Dataset, Run, Store

_WINDOWS = 24
_BAR = 20


@dataclass(frozen=True, slots=True)
class SloTimes:
    """One SLO: all together, and in each of its windows."""

    slo: Slo
    all: Attainment
    windows: tuple[Attainment, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "slo": self.slo.model_dump(),
            "all": self.all.to_json(),
            "windows": [window.to_json() for window in self.windows],
        }


def slo_times(opened: Store | Dataset, runs: Sequence[Run], slos: Sequence[Slo]) -> list[SloTimes]:
    """How far these runs attain SLOs."""
    structures = opened.structures(run_ids=[r.run_id for r in runs])
    out = []
    for slo in slos:
        values = measured(slo, structures)
        out.append(SloTimes(slo, attainment(slo, values), tuple(over_time(slo, values))))
    return out


def print_slo(found: SloTimes, width: int) -> Iterator[Text]:
    """One SLO on a screen."""
    everything, slo = found.all, found.slo
    yield Text(f"\n{clean(str(slo))}", style="bold")
    if everything.met is None:
        yield Text("nothing that it is about was measured; is the agent's or step's name right? (redecode runs, show)")
        return
    verdict = "met" if everything.met else "MISSED"
    yield Text(
        f"{verdict}: {everything.good} of {everything.n} within {seconds(slo.threshold_s)} "
        f"({everything.attained or 0:.1%}, wanted {slo.percentile:g} %); p{slo.percentile:g} {_value(everything)}; "
        f"burn rate {_rate(everything)}",
        style="" if everything.met else "bold red",
    )
    windows = found.windows[-_WINDOWS:]
    rows = []
    for w in windows:
        bar = "" if w.attained is None else "█" * round(w.attained * _BAR)
        share = "-" if w.attained is None else f"{w.attained:.0%}"
        verdict = {None: "nothing", True: "met", False: "MISSED"}[w.met]
        rows.append((_when(w.start_ns), str(w.n), share, _value(w) if w.n else "-", _rate(w), verdict, bar))
    yield from grid(
        ("window from (UTC)", "n", "good", f"p{slo.percentile:g}", "burn rate", "", "attained"), rows, width
    )
    if len(found.windows) > len(windows):
        yield Text(f"the newest {len(windows)} of {len(found.windows)} windows; --json has all", style="dim")


def _value(a: Attainment) -> str:
    return "failed" if a.value_s is None else seconds(a.value_s)


def _rate(a: Attainment) -> str:
    return "-" if a.burn_rate is None else f"{a.burn_rate:.2f}"


def _when(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
