"""SLOs: `slo.toml`, and how far measured runs attain them, all together and over time.

    [[slo]]
    agent = "contacts_desk"     # of this agent's runs; of all without it
    step = "chat"               # of this step (step key, or its end); of the whole run (of all FM calls) without it
    metric = "e2e"              # e2e, or of FM calls: ttft, tpot
    percentile = 95             # so many of a hundred …
    threshold_s = 2.5           # … take at most so long
    window = "1h"               # counted over windows of this length: 30s, 15m, 1h, 7d

A run or call that failed has not attained its SLO. One that has not ended does not count yet.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from redecode.replay.analysis.errors import BadSlo
from redecode.replay.analysis.profiles import nearest_rank

if TYPE_CHECKING:
    from redecode.tracer.store import RunStructure

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: Any) -> Any:
    """A length of time as text, in seconds."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
        if found is None:
            raise ValueError(f"'{value}' is no length of time; 30s, 15m, 1h and 7d are")
        return float(found[1]) * _UNITS_S[found[2]]
    return value


class Slo(BaseModel):
    """A target: `percentile` of 100 take at most `threshold_s`, counted over windows of `window` seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Literal["e2e", "ttft", "tpot"]
    threshold_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    percentile: Annotated[float, Field(gt=0, le=100)] = 95.0
    window: Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)] = 3600.0
    agent: str | None = None
    step: str | None = None

    def __str__(self) -> str:
        of = " ".join(filter(None, (self.agent, self.step))) or "every run"
        return f"{of}: p{self.percentile:g} {self.metric} ≤ {self.threshold_s:g} s"

    def covers(self, step_key: str) -> bool:
        """Whether a step is meant."""
        last = step_key.rsplit("/", 1)[-1]
        return self.step is None or self.step in (step_key, last, re.sub(r"(@\d+)?(\[.*\])?(#\d+)?$", "", last))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    slo: list[Slo] = Field(min_length=1)


def load_slos(path: Path) -> tuple[Slo, ...]:
    """The SLOs of a file.

    Raises:
        BadSlo: it cannot be read, or says something that is no SLO; names the place.
    """
    try:
        return tuple(_File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).slo)
    except OSError as error:
        raise BadSlo(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSlo(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadSlo(f"{path}: {place}: {first['msg']}") from error


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, step or call that an SLO is about: when it ended, and its value in ns; `None`: it failed."""

    at_ns: int
    value_ns: int | None


def measured(slo: Slo, runs: Iterable[RunStructure]) -> list[Measured]:
    """What of these runs an SLO is about, by the time it ended. Replays are no runs of the agent's."""
    out = []
    for run in runs:
        if run.run.source_run_id is not None or slo.agent not in (None, run.run.agent):
            continue
        if slo.metric != "e2e":
            for call in run.decodes:
                value = call.ttft_ns if slo.metric == "ttft" else call.tpot_ns
                if slo.covers(call.step_key) and call.done_ns is not None and (value is not None or call.error):
                    out.append(Measured(call.done_ns, None if call.error or value is None else round(value)))
        elif slo.step is None:
            if run.run.ended_ns is not None:
                took = run.run.ended_ns - run.run.started_ns
                out.append(Measured(run.run.ended_ns, took if run.run.status == "ok" else None))
        else:
            for span in run.spans:
                if span.end_ns is not None and slo.covers(span.step_key):
                    took = span.end_ns - span.start_ns
                    out.append(Measured(span.end_ns, took if span.status == "ok" else None))
    return sorted(out, key=lambda m: (m.at_ns, m.value_ns is None, m.value_ns or 0))


@dataclass(frozen=True, slots=True)
class Attainment:
    """How far an SLO was attained in [start_ns, end_ns).

    Attributes:
        n: measured; `good` of them within the threshold.
        value_s: at the SLO's percentile, by nearest rank; `None` if it is one that failed.
        met: whether enough were good; `None` if nothing was measured.
        burn_rate: bad ones as a multiple of those allowed (1: all that is allowed, in this window); `None` where none
            is allowed (percentile 100) or nothing was measured.
    """

    start_ns: int
    end_ns: int
    n: int
    good: int
    value_s: float | None
    met: bool | None
    burn_rate: float | None

    @property
    def attained(self) -> float | None:
        """Part that was good."""
        return self.good / self.n if self.n else None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "attained": self.attained}


def attainment(
    slo: Slo, values: Sequence[Measured], start_ns: int | None = None, end_ns: int | None = None
) -> Attainment:
    """How far an SLO was attained by what ended in [start_ns, end_ns); by default all of it."""
    inside = [m for m in values if (start_ns or 0) <= m.at_ns and (end_ns is None or m.at_ns < end_ns)]
    begin = start_ns if start_ns is not None else min((m.at_ns for m in inside), default=0)
    end = end_ns if end_ns is not None else max((m.at_ns for m in inside), default=-1) + 1
    n = len(inside)
    good = sum(m.value_ns is not None and m.value_ns <= round(slo.threshold_s * 1e9) for m in inside)
    if not n:
        return Attainment(begin, end, 0, 0, None, None, None)
    wanted = Fraction(str(slo.percentile)) / 100  # 99.9 is no binary fraction
    failed = 1 << 63
    value = nearest_rank(sorted(failed if m.value_ns is None else m.value_ns for m in inside), wanted)
    allowed = (1 - wanted) * n
    return Attainment(
        start_ns=begin,
        end_ns=end,
        n=n,
        good=good,
        value_s=None if value == failed else value / 1e9,
        met=good >= wanted * n,
        burn_rate=float((n - good) / allowed) if allowed else None,
    )


def over_time(slo: Slo, values: Sequence[Measured]) -> list[Attainment]:
    """Window by window, from that of the first to that of the last; windows begin at multiples of their length."""
    if not values:
        return []
    length = max(1, round(slo.window * 1e9))
    inside: dict[int, list[Measured]] = {}
    for m in values:
        inside.setdefault(m.at_ns // length, []).append(m)
    return [
        attainment(slo, inside.get(k, ()), k * length, (k + 1) * length) for k in range(min(inside), max(inside) + 1)
    ]
