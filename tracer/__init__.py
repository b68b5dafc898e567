"""Tracer: record a run of an agent as flat, timed facts, and read it back.

`instrument()` in a program (or `redecode record -- CMD` around one) records every node, tool and FM decode
of its LangGraph agents into a store; `Store` reads it. The words are defined in docs/record.md.

What sees a run: `langgraph/` (callbacks and loop), `fm/` (the OpenAI client), `strands/` (threads and tasks),
`collector/` and `foreign/` (spans of other tracers). What keeps it: `recorder.py`, `privacy/`, `spool.py`, `store/`.
What lets it out again: `export/`.
"""

from typing import TYPE_CHECKING, Any

from redecode.tracer.autostart import environment
from redecode.tracer.clock import Clock
from redecode.tracer.conventions import (
    ANSWER_EXTRAS,
    ANSWERED_BY,
    CHANGED,
    CONVERSATION,
    ERROR_ANSWER,
    ERROR_CLASS,
    FIDELITY_LIMIT,
    LANGCHAIN_ANSWER,
    LEFT_BY,
    OVERRIDDEN,
    PROVIDER,
    REDACTED,
    REPLAY_OPTIONS,
    RESPONSE_ID,
    SOURCE_SPAN,
    TOOL_ARGUMENTS,
    TOOL_OUTPUT,
    TOOL_RESULT,
    USAGE,
    plain,
)
from redecode.tracer.errors import AmbiguousRun, RedecodeError, StoreError, StoreUnwritable, UnknownRun
from redecode.tracer.events import SpanEvent
from redecode.tracer.fm.decode_attributes import decode_attributes
from redecode.tracer.fm.wire import wants_logprobs
from redecode.tracer.instrument import current_step, default_store, instrument, play, run, step, uninstrument
from redecode.tracer.player import ERROR_EVENT, FmRequest, Live, Played, Player
from redecode.tracer.privacy.redaction import WITHHELD, asked_privacy
from redecode.tracer.recorder import Dependency, LiveSpan, Recorder, begun_for
from redecode.tracer.records import (
    Choice,
    Decode,
    Edge,
    EdgeKind,
    Fidelity,
    Provenance,
    Run,
    Span,
    SpanKind,
    TimeSource,
    ToolStep,
)

if TYPE_CHECKING:
    from redecode.tracer.store import Dataset, ReadableStore, RecordedRun, Store, open_store, publish_runs

__all__ = [
    "ANSWERED_BY",
    "ANSWER_EXTRAS",
    "CHANGED",
    "CONVERSATION",
    "ERROR_ANSWER",
    "ERROR_CLASS",
    "ERROR_EVENT",
    "FIDELITY_LIMIT",
    "LANGCHAIN_ANSWER",
    "LEFT_BY",
    "OVERRIDDEN",
    "PROVIDER",
    "REDACTED",
    "REPLAY_OPTIONS",
    "RESPONSE_ID",
    "SOURCE_SPAN",
    "TOOL_ARGUMENTS",
    "TOOL_OUTPUT",
    "TOOL_RESULT",
    "USAGE",
    "WITHHELD",
    "AmbiguousRun",
    "Choice",
    "Clock",
    "Dataset",
    "Decode",
    "Dependency",
    "Edge",
    "EdgeKind",
    "Fidelity",
    "FmRequest",
    "Live",
    "LiveSpan",
    "Played",
    "Player",
    "Provenance",
    "ReadableStore",
    "RecordedRun",
    "Recorder",
    "RedecodeError",
    "Run",
    "Span",
    "SpanEvent",
    "SpanKind",
    "Store",
    "StoreError",
    "StoreUnwritable",
    "TimeSource",
    "ToolStep",
    "UnknownRun",
    "asked_privacy",
    "begun_for",
    "current_step",
    "decode_attributes",
    "default_store",
    "environment",
    "instrument",
    "open_store",
    "plain",
    "play",
    "publish_runs",
    "run",
    "step",
    "uninstrument",
    "wants_logprobs",
]


def __getattr__(name: str) -> Any:
    """The store on first use: a program that only records need not import DuckDB and Arrow."""
    if name in {"Dataset", "ReadableStore", "RecordedRun", "Store", "open_store", "publish_runs"}:
        from redecode.tracer import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
