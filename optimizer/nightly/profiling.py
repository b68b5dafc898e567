"""The engine model made anew, and how it compares with the one before."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redecode.replay.engine import status
from redecode.replay.errors import ReplayError
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.measuring import measured_profile
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.recorded_fit import fit_store
from redecode.tracer import Store

_PROMPT = 256
_CONTEXT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A kind of step in the profile made now, against the one before.

    Attributes:
        before_ms, now_ms: what the profiles say it takes.
        ratio: now over before.
        error: how far both together are typically off (the larger median error of a single step of each, summed).
    """

    what: str
    before_ms: float
    now_ms: float
    ratio: float
    error: float

    @property
    def beyond(self) -> bool:
        """Whether the difference is larger than what the profiles are off by."""
        return abs(math.log(self.ratio)) > math.log1p(self.error)


def compared(before: EngineProfile, now: EngineProfile) -> list[Change]:
    """Steps that both have measured: one call decoding, as many as both have seen, and a prompt."""
    rows = max(1, min(before.range.rows, now.range.rows))
    prompt = min(before.range.prefill_tokens, now.range.prefill_tokens, _PROMPT)
    context = min(_CONTEXT, before.range.context_tokens, now.range.context_tokens)
    steps: dict[str, dict[str, int]] = {"a step of one call": {"decodes": 1, "context_tokens": context}}
    if rows > 1:
        deep = min(rows * _CONTEXT, before.range.context_tokens, now.range.context_tokens)
        steps[f"a step of {rows} calls"] = {"decodes": rows, "context_tokens": deep}
    if prompt > 0:
        steps[f"a prompt of {prompt} tokens"] = {"prefill_tokens": prompt, "prefill_calls": 1}
    error = sum(max((r.p50 for r in p.residuals), default=0.0) for p in (before, now))
    out = []
    for what, step in steps.items():
        try:
            was, is_ = before.step_s(**step), now.step_s(**step)
        except ReplayError:  # one of them was not measured there
            continue
        if was > 0 and is_ > 0:
            out.append(Change(what=what, before_ms=was * 1e3, now_ms=is_ * 1e3, ratio=is_ / was, error=error))
    return out


def remember(store: Path, folder: Path) -> None:
    """Copy the profiles as they are now, once: what is measured takes their place."""
    if folder.exists():
        return
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for path in (store / catalogue.FOLDER).glob("*.json"):
        if path.is_file():
            shutil.copyfile(path, fresh / path.name)
    fresh.rename(folder)


def from_store(store: Store, *, runs: int, now_ns: int, check: Callable[[], None]) -> dict[str, Any]:
    """Fit the recorded runs; returns what came of it, without the comparison.

    Args:
        check: raises to end it.
    """
    found = fit_store(store, most_runs=runs, now_ns=now_ns, on_run=lambda *_: check())
    made = [catalogue.keep(store.path, p).profile for p in found.profiles]
    return {
        "source": "store",
        "made": [p.key for p in made],
        "refused": {**found.refused, **{why: f"{count} FM calls" for why, count in found.unusable.items()}},
    }


def from_engine(
    store: Store,
    url: str | None,
    *,
    seconds: float,
    now_ns: Callable[[], int],
    check: Callable[[], None],
    on_call: Callable[[], None],
) -> dict[str, Any]:
    """Measure the live engine, which must be idle; returns as `from_store`.

    Args:
        url: by default of the engine that was started in the store.
        check, on_call: may raise to end it; the second is asked before every FM call.

    Raises:
        ReplayError: there is no engine, or it cannot be measured.
    """
    state = status(store.path / "engine").state
    where = url or (None if state is None else state.base_url)
    if where is None:
        raise ReplayError(f"no engine runs in {store.path}, and nightly.toml names none: say engine = URL")
    made = asyncio.run(
        measured_profile(
            where.rstrip("/").removesuffix("/v1"),
            home=store.path / "engine",
            now_ns=now_ns,
            seconds=seconds,
            on_cell=lambda *_: check(),
            on_call=on_call,
        )
    )
    kept = catalogue.keep(store.path, made).profile
    return {"source": "engine", "made": [kept.key], "refused": {}}


def against(store: Path, before: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """What is told of profiles made now: against those before, where there were any."""
    out = []
    for key in keys:
        now = EngineProfile.load(store / catalogue.FOLDER / f"{key}.json")
        was = catalogue.readable(before / f"{key}.json")
        changes = [] if was is None else compared(was, now)
        out.append(
            {
                "key": key,
                "model": now.model,
                "hardware": now.hardware,
                "steps": now.steps,
                "new": was is None,
                "changes": [{**asdict(c), "beyond": c.beyond} for c in changes],
            }
        )
    return out
