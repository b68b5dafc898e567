"""The pages there are; of those about something that not every store has, which are shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Screen:
    """A page: its script, and whether it is about one run."""

    script: str
    title: str
    icon: str
    url: str
    of_a_run: bool = False


RUNS = Screen("screens/runs.py", "Runs", ":material/list:", "all")
RUN = Screen("screens/run.py", "Run", ":material/waterfall_chart:", "run", of_a_run=True)
DECODE = Screen("screens/decode.py", "Decode", ":material/token:", "decode", of_a_run=True)
BLAME = Screen("screens/blame.py", "Slack and blame", ":material/balance:", "blame", of_a_run=True)
COMPARE = Screen("screens/compare.py", "Compare", ":material/compare_arrows:", "compare", of_a_run=True)
SLO = Screen("screens/slo.py", "SLO", ":material/flag:", "slo")
ENGINE = Screen("screens/engine.py", "Engine", ":material/memory:", "engine")
PLACEMENT = Screen("screens/placement.py", "Placement", ":material/dns:", "placement")
TUNING = Screen("screens/tuning.py", "Tuning", ":material/tune:", "tuning")
SQL = Screen("screens/sql.py", "SQL", ":material/database:", "sql")
HEALTH = Screen("screens/health.py", "Health", ":material/ecg_heart:", "health")

SCREENS = (RUNS, RUN, DECODE, BLAME, COMPARE, SLO, ENGINE, PLACEMENT, TUNING, SQL, HEALTH)


def shown(location: str) -> tuple[Screen, ...]:
    """Those in the menu: Placement and Tuning where there is something to see. The others can be asked for by name."""
    from redecode.dashboards import planned, tuned

    root = Path(location)
    there = {PLACEMENT: planned.any_in(root), TUNING: tuned.any_in(root)} if root.is_dir() else {}
    return tuple(s for s in SCREENS if there.get(s, s not in (PLACEMENT, TUNING)))
