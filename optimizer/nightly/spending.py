"""What a night may spend and has spent, over all its starts.

FM calls and cost are counted from the record: every call of an evaluation that an engine answered is in the store, with
the job and the night it was made for, also those of a process that was killed. Those that measure the engine are not
recorded: they are written down as they are made, and what they cost is not known. Time is that of the processes which
ran the night, written down after every block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from redecode.optimizer.cases import JOB, MODE, NIGHT
from redecode.optimizer.evaluation.memo import LIVE
from redecode.optimizer.nightly.config import BudgetSection
from redecode.optimizer.nightly.errors import CapReached, Halted
from redecode.optimizer.nightly.home import NightFolder, write_json
from redecode.optimizer.objectives import Goals, Usage
from redecode.optimizer.study.stopping import Budget, seconds
from redecode.tracer import Run, Store
from redecode.tracer import conventions as c

MEASURING = "measuring"
"""Kept of a night: FM calls that measuring the engine has taken so far, by starts that were killed too."""
_EVERY = 8
_MARK_S = 1.0
_OF_NIGHT = f"""
    LEFT JOIN runs r ON r.run_id = s.run_id
    LEFT JOIN span_starts b ON r.run_id IS NULL AND b.run_id = s.run_id AND b.kind = 'run'
    WHERE s.start_ns >= {{since}}
      AND (coalesce(r.labels, b.attributes->>'$."{c.LABELS}"')->>'$.{MODE}.{NIGHT}') = '{{night}}'
      AND coalesce(coalesce(r.labels, b.attributes->>'$."{c.LABELS}"')->>'$.{MODE}.{JOB}', '{{job}}') = '{{job}}'
"""
_MADE = f"""
    SELECT d.model, count(*)::BIGINT AS calls,
           coalesce(sum(d.input_tokens), 0)::BIGINT AS input, coalesce(sum(d.output_tokens), 0)::BIGINT AS output,
           coalesce(sum(d.cached_tokens), 0)::BIGINT AS cached,
           coalesce(sum(coalesce(d.prefill_ns + d.decode_ns, d.done_ns - d.sent_ns)), 0)::BIGINT AS engine_ns
    FROM decodes d JOIN spans s ON s.run_id = d.run_id AND s.span_id = d.span_id
    {_OF_NIGHT} AND (s.attributes->>'$."{c.ANSWERED_BY}"') = '{LIVE}'
    GROUP BY d.model
"""
_EMBEDDED = f"""
    SELECT s.attributes->>'$."{c.REQUEST_MODEL}"' AS model, 0 AS calls, 0 AS output, 0 AS cached,
           coalesce(sum((s.attributes->>'$."{c.INPUT_TOKENS}"')::BIGINT), 0)::BIGINT AS input,
           sum(s.end_ns - s.start_ns)::BIGINT AS engine_ns
    FROM spans s {_OF_NIGHT} AND s.kind = 'retrieval' AND s.attributes->>'$."{c.OPERATION}"' = 'embeddings'
    GROUP BY model
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the record says of a night's evaluations.

    Attributes:
        calls: FM calls that an engine answered.
        cost: theirs, and that of calls for embeddings, in USD where there are prices, else in seconds of the engine.
    """

    calls: int
    cost: float


def is_for(run: Run, job: str, night: str, since_ns: int) -> bool:
    """Whether a run is an evaluation of a night that began then.

    The nights of two jobs are called the same; runs of before there were labels of jobs count as anybody's.
    """
    labels = run.labels.get(MODE)
    labels = labels if isinstance(labels, Mapping) else {}
    return labels.get(NIGHT) == night and labels.get(JOB, job) == job and run.started_ns >= since_ns


def made_for(store: Store, job: str, night: str, since_ns: int, goals: Goals) -> Spent:
    """FM calls of a night's evaluations, from the store, and what they cost; with that of calls for embeddings."""
    usage: dict[str, Usage] = {}
    for query in (_MADE, _EMBEDDED):
        for row in store.rows(query.format(since=since_ns, job=job, night=night)):
            used = Usage(
                calls=row["calls"],
                input_tokens=row["input"],
                output_tokens=row["output"],
                cached_tokens=row["cached"],
                engine_s=row["engine_ns"] / 1e9,
            )
            usage[row["model"]] = usage.get(row["model"], Usage()).plus(used)
    return Spent(calls=sum(u.calls for u in usage.values()), cost=goals.spent(usage)[0])


class Meter:
    """The caps of a night.

    Args:
        now: a clock that only goes forward, seconds.

    Attributes:
        calls: FM calls that measuring the engine took; `before` this start those of them.
    """

    def __init__(self, folder: NightFolder, caps: BudgetSection, stop_file: Path, now: Callable[[], float]) -> None:
        self._folder, self._path = folder, folder.path / "steps" / "time.json"
        self._caps, self._now, self._stop_file = caps, now, stop_file
        before = folder.step("time") or {"seconds": 0.0}
        self._before, self._began = float(before["seconds"]), now()
        self._marked = self._began
        # A night of before they were written down has them with its step.
        kept = folder.step(MEASURING) or folder.step("profile") or {}
        self.calls = self.before = int(kept.get("fm_calls", 0))

    @property
    def seconds(self) -> float:
        """Used by the night, earlier starts included."""
        return self._before + self._now() - self._began

    def mark(self) -> None:
        """Write the time down."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._marked = self._now()
        write_json(self._path, {"seconds": self.seconds})

    def measures(self) -> None:
        """Count an FM call that measures the engine, before it is made.

        Raises:
            Halted, CapReached: as `check`.
        """
        self.check()
        self.calls += 1
        if self.calls % _EVERY == 0:
            self.measured()

    def measured(self) -> None:
        """Write down how many there were."""
        self._folder.keep(MEASURING, {"fm_calls": self.calls})

    def stopped(self) -> None:
        """Raise if the kill switch is set.

        Raises:
            Halted: it is.
        """
        if self._stop_file.exists():
            self.mark()
            raise Halted(f"{self._stop_file} says stop; remove it and start again to go on")

    def over(self) -> str | None:
        """Why to end, if a cap is reached."""
        if self.seconds >= self._caps.time:
            return f"the time is used up ({seconds(self.seconds)} s of {seconds(self._caps.time)} s)"
        if self._caps.fm_calls is not None and self.calls >= self._caps.fm_calls:
            return f"{self.calls} FM calls were made, of at most {self._caps.fm_calls}"
        return None

    def check(self) -> None:
        """Raise if the kill switch is set, or a cap is reached; the time is written down every second.

        Raises:
            Halted, CapReached: as they say.
        """
        self.stopped()
        if self._now() - self._marked >= _MARK_S:
            self.mark()
        if (why := self.over()) is not None:
            raise CapReached(why)

    def budget(self, spent: Spent) -> Budget:
        """The caps for the study, and what is used of them; it writes the time down as it is spent."""
        budget = _Marking(
            now=self._now,
            seconds=self._caps.time,
            used=self.seconds,
            calls=self._caps.fm_calls,
            cost=self._caps.cost,
            stop_file=self._stop_file,
            spent_calls=self.calls + spent.calls,
            spent_cost=spent.cost,
        )
        budget.mark = self.mark
        return budget


class _Marking(Budget):
    mark: Callable[[], None]

    def spend(self, calls: int, cost: float) -> None:
        """Count what was spent."""
        Budget.spend(self, calls, cost)
        self.mark()
