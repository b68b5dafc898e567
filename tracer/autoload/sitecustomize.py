"""Imported by Python itself at start-up when `redecode record` puts this folder on PYTHONPATH.

It starts the recording and then hands on to the `sitecustomize` it stands in front of, if there is one.
A program must run as if it were not here, so whatever goes wrong is one line on stderr.
"""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _hand_on() -> None:
    elsewhere = [p for p in sys.path if Path(p or ".").resolve() != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _record() -> None:
    store = os.environ.get("REDECODE_RECORD_STORE")
    if not store:
        return
    try:
        from redecode.tracer.autostart import start_from_environment

        start_from_environment(store)
    except Exception as error:
        sys.stderr.write(f"redecode: this process is not recorded: {type(error).__name__}: {error}\n")


_record()
_hand_on()
