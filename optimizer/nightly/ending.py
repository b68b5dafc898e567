"""What is in use when a night ends: what it has promoted, unless somebody has changed that since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
