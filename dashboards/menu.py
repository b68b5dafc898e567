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
HEALTH = Screen("screens/health.py", "Health", ":material/ecg_heart:", "health")

SCREENS = (RUNS, RUN, HEALTH)
