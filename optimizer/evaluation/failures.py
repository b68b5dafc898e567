"""Calls that failed in the run of an earlier candidate: which of them fail again, and for whom.

Whether an engine fails is drawn anew each time it is asked. A candidate that asked again what had failed for another
one would have fewer failures than that, and one that asks several times would look no better than one that does not. So
the outcomes of a call that has ever failed are known by its case and by how manieth ask of it that was in its run: the
nth ask gets what the first live nth ask on that case got, and goes live where there was none.

Nobody gets what is no draw of the engine's: that it could not be reached (the run is tried again), that the caller
wanted no more, and what whoever runs the study mends (a key, a quota, a model that is not served). A failure that
cannot be raised again as it was (an answer that nobody could read, a stream that began with an error) leaves its call
live for all. How often the client itself tries (`max_retries`) and how long it waits (`timeout`) are no part of a
request: what came of a call came of it with those of the candidate that made it first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from redecode.optimizer.evaluation.calls import Known
from redecode.optimizer.evaluation.reaching import not_there
from redecode.replay.program.answers import gave_up, plain_json, recorded_error
from redecode.tracer import ERROR_ANSWER, ERROR_CLASS, Played

_MENDED, _QUOTA = frozenset({401, 402, 403, 404, 407}), "insufficient_quota"
_STOPPED = ("KeyboardInterrupt", "SystemExit")
_UNREACHED = ("ConnectionError", "ConnectError", "ConnectorError", "ProtocolError")
_BROKEN = ("APIConnectionError", "RemoteProtocolError", "ReadError")  # in the middle of a stream
_LATE, _CLIENTS = ("TimeoutError", "Timeout", "TimeoutException"), ("openai", "httpx", "httpx2")


class Ask(NamedTuple):
    """One ask of a call.

    Attributes:
        case: of its run.
        nth: how often the run had asked the same before.
        limit: on the tokens of the answer.
    """

    case: str
    nth: int
    limit: int | None


@dataclass(slots=True)
class Asks:
    """What came of a call's asks.

    Attributes:
        _came: the failure, or `None` where there was an answer.
        _failed: it ever has.
        lost: it has failed in a way that cannot be made again.
    """

    _came: dict[Ask, Known | None] = field(default_factory=dict)
    _failed: bool = False
    lost: bool = False

    def learn(self, ask: Ask, failure: Known | None) -> None:
        """What came of a live ask; the first counts."""
        self._came.setdefault(ask, failure)
        self._failed = self._failed or failure is not None

    def failure(self, ask: Ask) -> Known | None:
        """The failure that this ask gets, if it gets one."""
        return self._came.get(ask)

    def is_open(self, ask: Ask) -> bool:
        """Whether only the engine can tell what comes of this ask; an answer under another limit may serve it, too."""
        if self.lost or not self._failed:
            return self.lost
        return not any(came is None and (a.case, a.nth) == (ask.case, ask.nth) for a, came in self._came.items())


def fails_again(known: Known) -> bool | None:
    """Whether a failure can be raised again as it was; `None`: it is no draw of the engine's."""
    decode, span = known
    said, kind = plain_json(span.attributes.get(ERROR_ANSWER)) or {}, (decode.error or "").partition(":")[0]
    module, _, raised = str(span.attributes.get(ERROR_CLASS)).partition(":")
    if (status := said.get("status")) is not None:
        return None if status in _MENDED or _QUOTA in str(said.get("body")) else True
    if gave_up(span, decode.error) or raised in _STOPPED:
        return None
    if decode.stream and decode.output and raised in _BROKEN and module.partition(".")[0] in _CLIENTS:
        return True
    if kind.endswith(_UNREACHED) or not_there(recorded_error(span, decode.error)) is not None:
        return None
    if "event" in said:
        return bool(decode.stream and decode.output) and plain_json(said["event"]) is not None
    return raised.endswith(_LATE) and module.partition(".")[0] in _CLIENTS


def as_raised(played: Played) -> Played:
    """With the errors of the client as they are raised: made of a message alone, one takes that for its request."""
    if played.error is not None:
        _mended(played.error)
    return played if played.cut is None else replace(played, cut=_then_mended(played.cut))


def _then_mended(cut: Callable[[], BaseException]) -> Callable[[], BaseException]:
    return lambda: _mended(cut())


def _mended(error: BaseException) -> BaseException:
    if isinstance(vars(error).get("request"), str):
        error.request = None  # type: ignore[attr-defined]
    return error
