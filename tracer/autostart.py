"""Recording a program that knows nothing of it: what `redecode record` hands to the program's processes.

The folder `autoload/` goes on PYTHONPATH; Python imports the `sitecustomize` in it at start-up, which calls
what REDECODE_AUTOSTART names. Not under `python -E`, `-I` or `-S`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from redecode.tracer.instrument import instrument
from redecode.tracer.records import JsonObject

_FOLDER = Path(__file__).parent / "autoload"
_RECORD = f"{__name__}:start_from_settings"


def environment(base: Mapping[str, str], settings: JsonObject, *, start: str = _RECORD) -> dict[str, str]:
    """The environment in which every Python process calls `start` with `settings` before its program.

    Args:
        start: "module:function", called with the settings as keyword arguments.
    """
    path = os.pathsep.join([str(_FOLDER), *filter(None, [base.get("PYTHONPATH")])])
    return {
        **base,
        "PYTHONPATH": path,
        "REDECODE_AUTOSTART": start,
        "REDECODE_AUTOSTART_SETTINGS": orjson.dumps(settings).decode(),
    }


def start_from_settings(
    *,
    store: str,
    agent: str | None = None,
    slo_s: float | None = None,
    labels: JsonObject | None = None,
    content: bool | None = None,
    redact: list[str] | None = None,
    forward: str | None = None,
    forward_headers: dict[str, str] | None = None,
) -> None:
    """Begin recording."""
    instrument(
        store,
        agent=agent,
        slo_s=slo_s,
        labels=labels,
        content=content,
        redact=redact,
        forward=forward,
        forward_headers=forward_headers,
    )
