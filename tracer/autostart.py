"""Recording a program that knows nothing of it: what `redecode record` hands to the program's processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from redecode.tracer.instrument import instrument
from redecode.tracer.records import JsonObject

_FOLDER = Path(__file__).parent / "autoload"


def environment(
    store: Path,
    base: Mapping[str, str],
    *,
    agent: str | None = None,
    slo_s: float | None = None,
    labels: JsonObject | None = None,
) -> dict[str, str]:
    """The environment in which every Python process started records itself into `store`.

    Python imports `sitecustomize` from PYTHONPATH at start-up (not under `python -E`, `-I` or `-S`).
    """
    path = os.pathsep.join([str(_FOLDER), *filter(None, [base.get("PYTHONPATH")])])
    settings = {"agent": agent, "slo_s": slo_s, "labels": labels or {}}
    return {
        **base,
        "PYTHONPATH": path,
        "REDECODE_RECORD_STORE": str(store),
        "REDECODE_RECORD": orjson.dumps(settings).decode(),
    }


def start_from_environment(store: str) -> None:
    """Begin recording as `environment` said."""
    settings = orjson.loads(os.environ.get("REDECODE_RECORD") or "{}")
    instrument(store, agent=settings.get("agent"), slo_s=settings.get("slo_s"), labels=settings.get("labels") or None)
