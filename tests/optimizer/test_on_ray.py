"""Evaluating on a real Ray: the same outcomes as in this process, errors as they are, a killed worker begun again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.errors import ScorerFailed
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.objectives import Outcome
from tests.optimizer.test_evaluation import POLITE, TUNING, cases_of

pytestmark = [pytest.mark.ray, pytest.mark.long]


def said(outcomes: list[Outcome]) -> list[tuple[str, float | None, str | None]]:
    return [(o.case, o.quality, o.error) for o in outcomes]


SCORER = """def right(output, case):
    import os, pathlib
    if pathlib.Path("kill").exists():
        pathlib.Path("kill").unlink()
        os.kill(os.getpid(), 9)
    if pathlib.Path("bad").exists():
        raise KeyError("no such field")
"""


def test_blocks_are_evaluated_by_actors(folder: Path, recorded: Any, store: Path) -> None:
    pytest.importorskip("ray")
    from redecode.optimizer.evaluation.on_ray import RayWorkers

    (folder / "tuning.py").write_text(TUNING.replace("def right(output, case):\n", SCORER))
    settings = Settings(spec="tuning:spec", store=store, source=store, concurrency=2, again_s=(0.01,))
    cases = cases_of(store, 4)
    here = InProcess(settings)
    expected = here.evaluate(Block(values=POLITE, cases=cases))
    here.close()
    paid = len(recorded.requests)
    workers = RayWorkers(settings, 1, "local")
    try:
        # The first calls of a process tell which engine is there; what is known is not asked again.
        found = workers.evaluate(Block(values=POLITE, cases=cases))
        assert said(found) == said(expected)
        assert 0 < sum(o.live for o in found) == len(recorded.requests) - paid <= 2
        (folder / "kill").touch()
        assert said(workers.evaluate(Block(values=POLITE, cases=cases))) == said(expected)
        assert not (folder / "kill").exists()
        (folder / "bad").touch()
        with pytest.raises(ScorerFailed, match="no such field"):
            workers.evaluate(Block(values=POLITE, cases=cases))
    finally:
        workers.close()
