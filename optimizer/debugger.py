"""Ray puts its own debugger into PYTHONBREAKPOINT, also for every program that is started from here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "PYTHONBREAKPOINT"


@contextmanager
def debugger_kept() -> Iterator[None]:
    """What was there is there again afterwards."""
    before = os.environ.get(_NAME)
    try:
        yield
    finally:
        os.environ.pop(_NAME, None)
        if before is not None:
            os.environ[_NAME] = before
