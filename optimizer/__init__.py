"""Optimizer: the nightly search that makes recorded agents faster, and the SLA-aware placement below it.

knobs.py, schema.py   what may vary, read from a graph's context schema
spec.py               what is tuned, and how it is scored
cases.py              which recorded runs it is searched on, and which are kept apart to decide on
inputs.py             what their graph was given, of which a recording has plain data, and other tracers less
scoring.py            a digest of the scorer: by another one it is another study
objectives.py         error, cost, latency, and what they may not exceed
evaluation/           a candidate's runs: memo of paid decodes, processes, racing, simulation at load
study/                the Optuna study: search, resumption, when to stop
promotion/            whether a candidate replaces what is in use
preparing.py          all that a study begins with, or why it does not
tuning.py, report.py  all of it in order, and what is told of it; configuration.py: the file that a graph loads
debugger.py           what Ray does to the debugger is undone
placement/            router, provisioner and cluster under an SLO

The names are looked up when asked for: who marks a knob in a context need not import a search.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redecode.optimizer.errors import OptimizerError
    from redecode.optimizer.knobs import Choice, Fixed, Range
    from redecode.optimizer.spec import Case, Spec
    from redecode.replay.prices import Price

_MODULES = {
    "Case": "spec",
    "Choice": "knobs",
    "Fixed": "knobs",
    "OptimizerError": "errors",
    "Price": "spec",
    "Range": "knobs",
    "Spec": "spec",
}

__all__ = ["Case", "Choice", "Fixed", "OptimizerError", "Price", "Range", "Spec"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
