"""Recorded against replayed, decode by decode: tokens first, then times and logprobs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from redecode.replay.pacing import ScheduleError
from redecode.tracer import Decode

# What tells engines apart without saying how they compute.
_NO_SETTINGS = frozenset({"boot_id", "instance_id", "monotonic_ns", "time_ns", "digests_pending", "steps_kept"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDivergence:
    """Where a replayed decode left the recording.

    Attributes:
        index: position of the first differing token; the shorter length when one is a prefix of the other;
            `None` when the tokens cannot be compared.
        recorded_token, replayed_token: ids there, `None` past an end.
        recorded_text, replayed_text: of these tokens, where the engine was asked.
        logprob_gap: recorded minus replayed logprob of the chosen token there, `None` if either is unknown.
        error: why there is nothing to compare: the engine refused, or the recording was changed since.
    """

    span_id: str
    step_key: str
    index: int | None
    recorded_token: int | None
    replayed_token: int | None
    logprob_gap: float | None
    error: str | None = None
    recorded_text: str | None = None
    replayed_text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeComparison:
    """One decode, recorded against replayed. Times in seconds; `None` where one side did not measure it.

    Attributes:
        logprob_gap: largest |recorded - replayed| logprob over the tokens up to the first that differs.
        logprob_gap_mean: the mean of the same.
        notes: what about the replayed call was otherwise than recorded, on purpose.
    """

    span_id: str
    step_key: str
    model: str
    tokens_recorded: int
    tokens_replayed: int
    tokens_equal: bool
    logprob_gap: float | None
    logprob_gap_mean: float | None
    ttft_recorded_s: float | None
    ttft_replayed_s: float | None
    tpot_recorded_s: float | None
    tpot_replayed_s: float | None
    e2e_recorded_s: float | None
    e2e_replayed_s: float | None
    cached_recorded: int | None
    cached_replayed: int | None
    divergence: TokenDivergence | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What a replay showed.

    Attributes:
        skipped: step key → why that FM call was not made but waited through.
        schedule_error: how late the replay itself was; `None` of an old replay that was read from the store.
        place: in its batch.
        engine_differences: settings that differ between the recorded and the present engine: name → (then, now).
    """

    run_id: str
    replay_run_id: str
    mode: str
    decodes: tuple[DecodeComparison, ...]
    e2e_recorded_s: float
    e2e_replayed_s: float
    skipped: dict[str, str]
    engine_differences: dict[str, tuple[Any, Any]]
    schedule_error: ScheduleError | None = None
    place: int = 0

    @property
    def lateness_p99_s(self) -> float | None:
        """How late points of the replay were, 99th percentile."""
        return None if self.schedule_error is None else self.schedule_error.p99_s

    @property
    def divergences(self) -> list[TokenDivergence]:
        """Decodes whose tokens differ."""
        return [d.divergence for d in self.decodes if d.divergence is not None]

    @property
    def tokens_recorded(self) -> int:
        """Sampled tokens of the recording."""
        return sum(d.tokens_recorded for d in self.decodes)

    @property
    def tokens_replayed(self) -> int:
        """Tokens the engine returned in the replay."""
        return sum(d.tokens_replayed for d in self.decodes)

    @property
    def tokens_equal(self) -> bool:
        """Whether every decode came out token for token."""
        return all(d.tokens_equal for d in self.decodes)

    def to_json(self) -> dict[str, Any]:
        """As plain data, in the documented form of `redecode replay --json`."""
        return {
            "run_id": self.run_id,
            "replay_run_id": self.replay_run_id,
            "mode": self.mode,
            "decodes": [asdict(d) for d in self.decodes],
            "tokens_recorded": self.tokens_recorded,
            "tokens_replayed": self.tokens_replayed,
            "tokens_equal": self.tokens_equal,
            "divergences": [asdict(d) for d in self.divergences],
            "e2e_recorded_s": self.e2e_recorded_s,
            "e2e_replayed_s": self.e2e_replayed_s,
            **logprob_gaps([self]),
            "lateness_p99_s": self.lateness_p99_s,
            "schedule_error": None if self.schedule_error is None else self.schedule_error.to_json(),
            "skipped": list(self.skipped),
            "notes": notes_of([self]),
            "engine_differences": {k: list(v) for k, v in self.engine_differences.items()},
        }


def logprob_gaps(reports: Iterable[ReplayReport]) -> dict[str, float | None]:
    """Largest and mean |recorded - replayed| logprob over the tokens that came out equal; `None` if none was given."""
    known = [d for r in reports for d in r.decodes if d.logprob_gap is not None and d.logprob_gap_mean is not None]
    weights = [min(d.tokens_recorded, d.tokens_replayed) for d in known]
    total = sum((d.logprob_gap_mean or 0.0) * n for d, n in zip(known, weights, strict=True))
    return {
        "logprob_gap_max": max((d.logprob_gap or 0.0 for d in known), default=None),
        "logprob_gap_mean": total / sum(weights) if sum(weights) else None,
    }


def notes_of(reports: Iterable[ReplayReport]) -> list[dict[str, str]]:
    """What was otherwise than recorded on purpose, a run and step at a time."""
    found = []
    for report in reports:
        said = [(key, why) for key, why in report.skipped.items()]
        said += [(d.step_key, note) for d in report.decodes for note in d.notes]
        found += [{"run_id": report.run_id, "step_key": key, "note": note} for key, note in said]
    return found


def first_divergence(recorded: Decode, replayed: Decode) -> TokenDivergence | None:
    """The first place where two decodes' sampled tokens differ, or `None`."""
    if recorded.digest is not None and recorded.digest != recorded.content_digest():
        return TokenDivergence(
            span_id=recorded.span_id,
            step_key=recorded.step_key,
            index=None,
            recorded_token=None,
            replayed_token=None,
            logprob_gap=None,
            error="the recorded tokens are not the ones that were recorded (their digest differs)",
        )
    a, b = recorded.sampled_ids or (), replayed.sampled_ids or ()
    if a == b:
        return None
    index = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    logprobs = (_at(recorded.logprobs, index), _at(replayed.logprobs, index))
    gap = logprobs[0] - logprobs[1] if logprobs[0] is not None and logprobs[1] is not None else None
    return TokenDivergence(
        span_id=recorded.span_id,
        step_key=recorded.step_key,
        index=index,
        recorded_token=_at(a, index),
        replayed_token=_at(b, index),
        logprob_gap=gap,
        error=replayed.error,
    )


def compare_decodes(recorded: Decode, replayed: Decode, notes: tuple[str, ...] = ()) -> DecodeComparison:
    """Compare one decode with its replay."""
    divergence = first_divergence(recorded, replayed)
    same = divergence.index if divergence is not None else None  # behind it the contexts differ
    pairs = zip((recorded.logprobs or ())[:same], (replayed.logprobs or ())[:same], strict=False)
    gaps = [abs(x - y) for x, y in pairs]
    return DecodeComparison(
        span_id=recorded.span_id,
        step_key=recorded.step_key,
        model=recorded.model,
        tokens_recorded=_tokens(recorded),
        tokens_replayed=_tokens(replayed),
        tokens_equal=divergence is None,
        logprob_gap=max(gaps, default=None),
        logprob_gap_mean=fmean(gaps) if gaps else None,
        ttft_recorded_s=_s(recorded.ttft_ns),
        ttft_replayed_s=_s(replayed.ttft_ns),
        tpot_recorded_s=_s(recorded.tpot_ns),
        tpot_replayed_s=_s(replayed.tpot_ns),
        e2e_recorded_s=_s(recorded.e2e_ns),
        e2e_replayed_s=_s(replayed.e2e_ns),
        cached_recorded=recorded.cached_tokens,
        cached_replayed=replayed.cached_tokens,
        divergence=divergence,
        notes=notes,
    )


def engine_differences(then: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings in which two engine descriptions differ, where both know them."""
    known = (k for k in sorted(then or {}) if k not in _NO_SETTINGS)
    both = ((k, (then or {})[k], now.get(k)) for k in known)
    return {k: (a, b) for k, a, b in both if a is not None and b is not None and a != b}


def _tokens(decode: Decode) -> int:
    """How many were sampled; of a decode without ids as the engine counted."""
    return decode.output_tokens or 0 if decode.sampled_ids is None else len(decode.sampled_ids)


def _s(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e9


def _at(values: tuple[Any, ...] | None, index: int) -> Any:
    return values[index] if values is not None and index < len(values) else None
