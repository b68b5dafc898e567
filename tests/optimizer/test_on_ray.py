"""Evaluating on a real Ray: the same outcomes as in this process, errors as they are, a killed worker begun again.

The second node of the cluster is on this machine, with processes of its own.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.errors import ScorerFailed
from redecode.optimizer.evaluation.process import asked
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.objectives import Outcome
from tests.optimizer.test_evaluation import POLITE, TUNING, cases_of

pytestmark = [pytest.mark.ray, pytest.mark.long]


def said(outcomes: list[Outcome]) -> list[tuple[str, float | None, str | None]]:
    return [(o.case, o.quality, o.error) for o in outcomes]


SCORER = """def right(output, case):
    import os, pathlib, ray, time
    if ray.is_initialized():
        here = ray.get_runtime_context().get_node_id()
        pathlib.Path(f"ran-{here}").touch()
        while pathlib.Path(f"stay-{here}").exists():  # so that both have a block, until one is killed
            time.sleep(0.01)
    if pathlib.Path("kill").exists():
        pathlib.Path("kill").unlink()
        os.kill(os.getpid(), 9)
    if pathlib.Path("bad").exists():
        raise KeyError("no such field")
"""


def test_blocks_are_evaluated_by_actors(
    folder: Path,
    recorded: Any,
    store: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_health_check_period_ms", "200")  # else a lost node is known as such after half a minute
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
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
        (folder / "bad").unlink()
        _on_two_nodes(workers, folder, Block(values=POLITE, cases=cases), said(expected))
    finally:
        workers.close()
    assert capfd.readouterr().out == ""  # which is for one JSON document


def _on_two_nodes(workers: Any, folder: Path, block: Block, expected: Any) -> None:
    """Two blocks beside each other, one on a node that is lost meanwhile: it is evaluated on the other."""
    with node() as (second, lose), ThreadPoolExecutor(2) as pool:
        (first,) = {p.name.removeprefix("ran-") for p in folder.glob("ran-*")}
        for each in (first, second):
            (folder / f"stay-{each}").touch()
        found = [pool.submit(workers.evaluate, block) for _ in range(2)]
        until((folder / f"ran-{second}").exists)
        lose()
        (folder / f"stay-{first}").unlink()
        assert [said(f.result()) for f in found] == [expected] * 2


def until(there: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 120
    while not (found := there()):
        assert time.monotonic() < limit
        time.sleep(0.02)
    return found


@contextmanager
def node() -> Iterator[Any]:
    """A second node with one CPU: its id, and what ends it at once."""
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    ray: Any = importlib.import_module("ray")
    known = {n["NodeID"] for n in ray.nodes()}
    made = Node(
        RayParams(
            gcs_address=ray.get_runtime_context().gcs_address, num_cpus=1, num_gpus=0, min_worker_port=0,
            max_worker_port=0, node_manager_port=0, dashboard_agent_listen_port=None,
            object_store_memory=100 * 2**20,
        ),
        head=False, shutdown_at_exit=False, spawn_reaper=False,
    )  # fmt: skip

    def lose() -> None:
        made.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)

    try:
        new = until(lambda: {n["NodeID"] for n in ray.nodes() if n["Alive"]} - known)
        yield new.pop(), lose
    finally:
        lose()


def test_a_machine_that_lacks_the_store_or_the_agent_says_so(folder: Path, store: Path) -> None:
    """What an actor does there, without Ray."""
    pytest.importorskip("ray")
    from redecode.optimizer.evaluation.on_ray import _Evaluating

    store.mkdir()
    settings = Settings(spec="nowhere:spec", store=store, source=store).to_json()
    document = asked(Block(values={}, cases=[]))
    mark, gone = store / ".on-ray-x", folder / "gone"
    said = _Evaluating(settings, [str(folder)], str(mark)).evaluate(document)["error"]
    assert f"{store} is not the store that the study is in" in said and "(on Ray, machine " in said
    mark.touch()
    for folders, lacks in (([str(gone)], f"{gone} is not there: "), ([str(folder)], "'nowhere'; install the agent's")):
        for _ in range(2):  # asked again it says the same
            said = _Evaluating(settings, folders, str(mark)).evaluate(document)["error"]
            assert "nowhere cannot be imported" in said and lacks in said and "on every machine" in said
