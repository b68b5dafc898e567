"""deploy/: what is there can be read by who is to read it, and the very commands in it run."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.optimizer.nightly.conftest import Job

DEPLOY = Path(__file__).parents[3] / "deploy"
# Of systemd 252; a key that is not known it ignores, with a warning that nobody reads.
KNOWN = {
    "Unit": {"Description", "StartLimitIntervalSec", "StartLimitBurst"},
    "Service": {
        "Type", "WorkingDirectory", "Environment", "ExecStart", "SuccessExitStatus", "Restart", "RestartSec",
        "TimeoutStartSec", "TimeoutStopSec", "Nice",
    },
    "Timer": {"OnCalendar", "RandomizedDelaySec", "Persistent"},
    "Install": {"WantedBy"},
}  # fmt: skip


def unit(name: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=True)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(DEPLOY / "systemd" / name)
    return parsed


@pytest.mark.parametrize("name", ["redecode-nightly.service", "redecode-nightly.timer"])
def test_systemd_knows_every_key(name: str) -> None:
    parsed = unit(name)
    assert parsed.sections() and {s: set(parsed[s]) - KNOWN[s] for s in parsed.sections()} == {
        s: set() for s in parsed.sections()
    }


def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    units = [tmp_path / p.name for p in (DEPLOY / "systemd").iterdir()]
    for path in units:
        shutil.copyfile(DEPLOY / "systemd" / path.name, path)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def bin_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`redecode` and `python` of this interpreter come first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "redecode").write_text(f'#!/bin/sh\nexec {sys.executable} -m redecode.cli "$@"\n')
    (folder / "redecode").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def done(command: list[str], folder: Path) -> None:
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_very_commands_run(job: Job, bin_path: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The night is the service's; to the others it is over. Nothing is promoted, and that is no failure."""
    job.configure(("trials = 3", "trials = 1"))
    monkeypatch.setenv("REDECODE_STORE", str(job.store))
    folder = job.file.parent
    service = unit("redecode-nightly.service")["Service"]
    assert service["WorkingDirectory"].startswith("%h/")
    done(service["ExecStart"].split(), folder)
    assert job.home.nights()[0].finished
    (container,) = cron_job()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    inside = {"/etc/redecode/nightly.toml": str(job.file), "/var/lib/redecode/store": str(job.store)}
    assert all(any(path.startswith(m["mountPath"]) for m in container["volumeMounts"]) for path in inside)
    done([inside.get(word, word) for word in container["command"]], folder)
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    uploaded = on_github(folder)
    assert summary.read_text().startswith("# Night ")
    assert json.loads((uploaded / "report.json").read_text())["job"] == "tuning"
    assert len(job.home.nights()) == 1


def test_on_github_a_kill_switch_is_no_failure_and_is_told(
    job: Job, bin_path: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDECODE_STORE", str(job.store))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    job.home.root.mkdir(parents=True)
    job.home.stop_file.touch()
    uploaded = on_github(job.file.parent)
    assert "says stop" in (tmp_path / "summary.md").read_text()
    assert json.loads((uploaded / "night.json").read_text())["verdict"] == "stopped"


def on_github(folder: Path) -> Path:
    """Run the workflow's own steps; returns what is uploaded."""
    steps = workflow()["jobs"]["nightly"]["steps"]
    for script in [step["run"] for step in steps if "run" in step]:
        done(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], folder)  # as the runner does
    return folder / str(next(step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")))


def workflow() -> Any:
    return yaml.load((DEPLOY / "github" / "nightly.yml").read_text(), Loader=yaml.BaseLoader)


def cron_job() -> Any:
    return yaml.safe_load((DEPLOY / "kubernetes" / "cronjob.yaml").read_text())


def test_the_workflow_has_what_github_wants() -> None:
    found = workflow()
    assert found.keys() <= {"name", "on", "permissions", "concurrency", "jobs", "env", "defaults"}
    (job,) = found["jobs"].values()
    assert job.keys() <= {"runs-on", "timeout-minutes", "env", "steps", "needs", "if"}
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step) and step.keys() <= {"name", "uses", "run", "with", "env", "if"}
        assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
    assert re.fullmatch(r"(\S+ ){4}\S+", found["on"]["schedule"][0]["cron"])


def test_the_cron_job_has_what_kubernetes_wants() -> None:
    """Names as in batch/v1 CronJob; who mistypes one is not told by everything that reads YAML."""
    found = cron_job()
    assert (found["apiVersion"], found["kind"]) == ("batch/v1", "CronJob")
    spec, job = found["spec"], found["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    known: list[tuple[dict[str, Any], set[str]]] = [
        (spec, {"schedule", "concurrencyPolicy", "startingDeadlineSeconds", "successfulJobsHistoryLimit",
                "failedJobsHistoryLimit", "jobTemplate", "suspend", "timeZone"}),
        (job, {"backoffLimit", "activeDeadlineSeconds", "template", "ttlSecondsAfterFinished"}),
        (pod, {"restartPolicy", "terminationGracePeriodSeconds", "containers", "volumes", "nodeSelector"}),
        (container, {"name", "image", "command", "args", "env", "resources", "volumeMounts"}),
    ]  # fmt: skip
    assert [set(have) - may for have, may in known] == [set()] * 4
    assert spec["concurrencyPolicy"] == "Forbid" and pod["restartPolicy"] == "Never"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert "/" not in container["image"]  # no registry of anybody's
