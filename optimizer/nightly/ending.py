"""What is in use when a night ends, or after it: what it has promoted, unless somebody has changed that since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redecode.optimizer.evaluation.placing import placement_of, without_placement
from redecode.optimizer.nightly.history import Change, History

_HOW = {Change.ROLLED_BACK: "rolled back", Change.EDITED: "edited by hand"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How it stands at the end.

    Attributes:
        config, context: in use.
        promoted: by this night, and in use still.
        then: how another one came to be in use after this night's, if one has.
        why: of the verdict, and of what has come between.
    """

    config: str
    context: Mapping[str, Any]
    promoted: bool
    then: str | None
    why: str


def standing(history: History, gated: Mapping[str, Any], move: Mapping[str, Any]) -> Standing:
    """As the history has it now: what changes it wants to be kept out until the night has ended."""
    last = history.events()[-1]
    moved = bool(move["moved"])
    promoted = moved and last.config == gated["config"]
    mine = gated["config"] if moved else gated["before"]
    how = _HOW.get(last.change, str(last.change.value))
    why = str(move.get("why") or gated["why"])
    if last.config != mine and last.config not in why:
        said = f"configuration {last.config} has come into use since: {how} at {last.at}"
        said += f" ({last.why})" if last.why else ""
        why = f"configuration {mine} was promoted ({why}), and {said}" if moved else f"{why}; {said}"
    return Standing(
        config=last.config,
        context=gated["context"] if promoted else history.context(last.config),
        promoted=promoted,
        then=how if moved and not promoted else None,
        why=why,
    )


def since(history: History, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A report, as it stands now: what is in use may be another configuration by now than when the night ended."""
    now, context, note = history.loaded()
    if now == document["config"]:
        return document
    events = history.events()
    last = events[-1] if events else None
    how = "edited by hand"
    if note is None and last is not None:
        how = _HOW.get(last.change, str(last.change.value))
        note = f"configuration {now} has come into use since: {how} at {last.at}{f' ({last.why})' if last.why else ''}"
    words = document["verdict_words"]
    if document["promoted"]:
        words = f"{words}, then {how if now is not None else 'gone or broken'}"
    return {
        **document,
        "verdict_words": words,
        "why": f"{document['why']}; {note}",
        "promoted": False,
        "config": now,
        "context": without_placement(context),
        "placement": placement_of(context),
    }
