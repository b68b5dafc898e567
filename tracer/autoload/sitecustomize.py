"""Imported by Python itself at start-up when a redecode command puts this folder on PYTHONPATH.

It calls what REDECODE_AUTOSTART names and then hands on to the `sitecustomize` it stands in front of, if
there is one. A program must run as if it were not here, so whatever goes wrong is one line on stderr.
"""

import importlib
import importlib.machinery
import importlib.util
import json
import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _hand_on() -> None:
    elsewhere = [p for p in sys.path if Path(p or ".").resolve() != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _start() -> None:
    module, _, function = os.environ.get("REDECODE_AUTOSTART", "").partition(":")
    if not function:
        return
    try:
        settings = json.loads(os.environ.get("REDECODE_AUTOSTART_SETTINGS") or "{}")
        getattr(importlib.import_module(module), function)(**settings)
    except Exception as error:
        sys.stderr.write(f"redecode: this process is not recorded: {type(error).__name__}: {error}\n")


_start()
_hand_on()
