"""Engine profiles from the recorded runs of a store: one for each engine that made them.

Engines are told apart by their description (`engine_id`: model, weights, settings, host), and replicas of one by their
URL: two that are alike have step clocks of their own. Runs that were played back or simulated ran on no engine; replays
by force and resample did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from redecode.replay.simulator.errors import SimulationError
from redecode.replay.simulator.fit import fit_profile, info_of
from redecode.replay.simulator.observed import Observed, ObservedStep, from_decodes, passages_of
from redecode.replay.simulator.profile import EngineProfile
from redecode.tracer import Decode, Store, TimeSource

_AT_ONCE = 200
_ON_AN_ENGINE = (None, "force", "resample")
NO_CLOCK = "their engine kept no step clock"
NO_ENGINE = "they do not say what engine made them"


@dataclass(frozen=True, slots=True)
class RecordedFits:
    """What came of a store.

    Attributes:
        runs, decodes: how many were looked at.
        refused: engine (its model, and id) → why there is no profile of it.
        unusable: why decodes say nothing of steps → how many.
    """

    profiles: tuple[EngineProfile, ...]
    runs: int
    decodes: int
    refused: dict[str, str]
    unusable: dict[str, int]


def fit_store(
    store: Store,
    *,
    most_runs: int,
    now_ns: int,
    kv_blocks: int | None = None,
    on_run: Callable[[int, int], None] | None = None,
) -> RecordedFits:
    """Fit every engine of the newest runs.

    Args:
        most_runs: at most so many are looked at.
        now_ns: UTC.
        kv_blocks: of engines that did not say it.
        on_run: called with (runs read, runs in all).
    """
    runs = [r for r in store.runs() if r.decodes and r.replay_mode in _ON_AN_ENGINE][:most_runs]
    by_engine: dict[str, list[Decode]] = {}
    unusable: dict[str, int] = {}
    count = 0
    for place in range(0, len(runs), _AT_ONCE):
        if on_run is not None:
            on_run(place, len(runs))
        for decode in store.timed_decodes([r.run_id for r in runs[place : place + _AT_ONCE]]):
            count += 1
            timed = decode.token_time_source is TimeSource.ENGINE and decode.batch_rows
            why = NO_CLOCK if not timed else NO_ENGINE if decode.engine_id is None else ""
            if why:
                unusable[why] = unusable.get(why, 0) + 1
            else:
                by_engine.setdefault(str(decode.engine_id), []).append(decode)
    profiles, refused = [], {}
    for engine_id, decodes in by_engine.items():
        try:
            profiles.append(_fit(decodes, store.engine(engine_id), now_ns, kv_blocks))
        except SimulationError as error:
            refused[f"{decodes[0].model} ({engine_id})"] = str(error)
    return RecordedFits(tuple(profiles), len(runs), count, refused, unusable)


def _fit(
    decodes: Sequence[Decode], described: dict[str, object] | None, now_ns: int, kv_blocks: int | None
) -> EngineProfile:
    info = info_of(described or {})
    said = (info.model_extra or {}).get("kv_blocks")
    budget = info.max_num_batched_tokens if info.chunked_prefill else None
    replicas: dict[str | None, list[Decode]] = {}
    for decode in decodes:
        replicas.setdefault(decode.base_url, []).append(decode)
    observed = _together(from_decodes(own, budget) for own in replicas.values())
    passages = [p for own in replicas.values() for p in passages_of(own)]
    return fit_profile(observed, info, source="store", now_ns=now_ns, passages=passages, kv_blocks=said or kv_blocks)


def _together(parts: Iterable[Observed]) -> Observed:
    steps: list[ObservedStep] = []
    left_out: dict[str, int] = {}
    for part in parts:
        steps += part.steps
        for why, count in part.left_out.items():
            left_out[why] = left_out.get(why, 0) + count
    return Observed(tuple(steps), left_out)
