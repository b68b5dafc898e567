"""Whether replays of a run sampled the same tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redecode.tracer import RecordedRun


@dataclass(frozen=True, slots=True)
class Sameness:
    """Of the replays by one mode.

    Attributes:
        compared: replays in which at least one FM call could be compared; `same` of these sampled the same everywhere.
        differs: run id and step key of the first difference found.
    """

    mode: str
    compared: int
    same: int
    differs: tuple[str, str] | None


def sameness(recorded: RecordedRun, replays: Iterable[RecordedRun]) -> list[Sameness]:
    """By mode; forced tokens are the same by construction, unless the engine did not do as told."""
    then = {d.step_key: d.sampled_ids for d in recorded.decodes if d.sampled_ids is not None}
    counts: dict[str, list[int]] = {}
    first: dict[str, tuple[str, str]] = {}
    for replay in replays:
        mode = replay.run.replay_mode or "replay"
        pairs = [
            (d.step_key, d.sampled_ids) for d in replay.decodes if d.step_key in then and d.sampled_ids is not None
        ]
        if not pairs:
            continue
        other = next((key for key, ids in pairs if ids != then[key]), None)
        tally = counts.setdefault(mode, [0, 0])
        tally[0] += 1
        tally[1] += other is None
        if other is not None:
            first.setdefault(mode, (replay.run.run_id, other))
    return [Sameness(mode, n, same, first.get(mode)) for mode, (n, same) in sorted(counts.items())]
