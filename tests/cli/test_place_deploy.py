"""`redecode place --deploy`: which servers become which replicas, and what is refused before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.cli.place_deploy import Deployment, replicas_of
from redecode.optimizer.placement.cluster.http_engine import Found
from redecode.replay.simulator.costs import StepCosts
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits

LIMITS = Limits(max_num_seqs=4, token_budget=512, kv_blocks=256)


def an_engine(model: str) -> Engine:
    return Engine(costs=StepCosts(step=7), limits=LIMITS, model=model)


def a_server(url: str, model: str) -> Found:
    return Found(url, ({"id": model},), vllm=True, info={"scheduling_policy": "priority"}, metrics=None)


def found(*servers: Found) -> Any:
    async def find(urls: Sequence[str], api_key: str | None) -> list[Found]:
        return [next(s for s in servers if s.url == url) for url in urls]

    return find


def test_each_replica_of_the_plan_gets_a_server_of_its_model() -> None:
    servers = [a_server("http://a", "small"), a_server("http://b", "large"), a_server("http://c", "small")]
    wanted = [an_engine("large"), an_engine("small"), an_engine("small")]
    replicas = replicas_of(wanted, Deployment([s.url for s in servers], paced=False, port=1), found(*servers))
    assert [(r.endpoint, r.engine.model) for r in replicas] == [
        ("http://b", "large"), ("http://a", "small"), ("http://c", "small"),
    ]  # fmt: skip
    assert all(r.engine.limits.by_priority and r.engine.costs.step == 7 for r in replicas)


def test_too_few_servers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        replicas_of(
            [an_engine("m"), an_engine("m")],
            Deployment(["http://a"], paced=False, port=1),
            found(a_server("http://a", "m")),
        )
    assert "the plan has 2 replicas of m; of the engines named 1 serve it" in capsys.readouterr().err


def test_weights_that_nobody_has_are_refused(vllm_installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        replicas_of([an_engine("their-model")], Deployment([], paced=False, port=1))
    assert "no weights of their-model are at hand" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--deploy-paced"], "go with --deploy"),
        (["--deploy-engine", "http://a"], "go with --deploy"),
        (["--deploy", "--deploy-paced", "--deploy-engine", "http://a"], "replicas are either servers or paced"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["place", "--slo", "1s", "--load", "1rps", *options])
    assert result.exit_code == 2
    assert says in result.stderr
