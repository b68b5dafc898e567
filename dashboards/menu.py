"""The pages there are; a page that is not finished is not in this list."""

from __future__ import annotations

from dataclasses import dataclass


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
SQL = Screen("screens/sql.py", "SQL", ":material/database:", "sql")
HEALTH = Screen("screens/health.py", "Health", ":material/ecg_heart:", "health")

SCREENS = (RUNS, RUN, DECODE, BLAME, COMPARE, SLO, ENGINE, SQL, HEALTH)
