"""What a batch of replays showed, from what was just replayed or from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from redecode.replay.closed_loop.batch import LABEL
from redecode.replay.closed_loop.loop import Kind
from redecode.replay.closed_loop.options import ReplayMode
from redecode.replay.closed_loop.plan import Plan
from redecode.replay.comparison.compare import ReplayReport, compare_decodes, logprob_gaps, notes_of
from redecode.replay.engine import EngineClient, EngineError
from redecode.replay.pacing import ScheduleError
from redecode.replay.run_graph import END, START
from redecode.tracer import Decode, RecordedRun, Run
from redecode.tracer.conventions import SOURCE_SPAN

if TYPE_CHECKING:
    from redecode.replay.closed_loop.session import ReplayedRun

_MOST_NAMED = 50  # diverging tokens whose text is asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What a batch showed.

    Attributes:
        items: runs in the batch; `replays` are those that are done, in order of their arrival.
        partial: replay → recorded run, of those that were under way when it was stopped this time.
        left_out: recorded run → why it cannot be replayed.
        stopped: what stopped it; `None` if nothing did.
        earlier: how many of `replays` were done before it was gone on with.
        schedule_error: of what was replayed this time; `None` if nothing was left to do.
        without: what the engine does not have and the replay went without.
        unknown_engine: some decode's recording does not say what engine made it.
        doubts: what else is to be known before its numbers are believed.
    """

    batch_id: str
    mode: str
    options: dict[str, Any]
    engine: str
    items: int
    replays: tuple[ReplayReport, ...]
    partial: dict[str, str]
    left_out: dict[str, str]
    stopped: str | None
    earlier: int
    schedule_error: ScheduleError | None
    without: tuple[str, ...]
    unknown_engine: bool
    doubts: tuple[str, ...] = ()

    @property
    def tokens_equal(self) -> bool:
        """Whether every decode replayed came out token for token."""
        return all(r.tokens_equal for r in self.replays)

    @property
    def warnings(self) -> list[str]:
        """What a reader of its numbers must know."""
        found = []
        if self.schedule_error is not None and self.schedule_error.warning is not None:
            found.append(f"schedule error: {self.schedule_error.warning}; do not trust times that small")
        found += [f"the engine has {lack}" for lack in self.without]
        found += self.doubts
        if self.unknown_engine:
            found.append("the recording does not say all of the engine that made it: differences may be unseen")
        return found

    def to_json(self) -> dict[str, Any]:
        """As plain data, in the documented form of `redecode replay --json`."""
        replays = self.replays
        return {
            "batch": self.batch_id,
            "mode": self.mode,
            "engine": self.engine,
            "options": self.options,
            "runs": self.items,
            "replayed": len(replays),
            "replayed_before": self.earlier,
            "stopped": self.stopped,
            "partial": [{"replay_run_id": k, "run_id": v} for k, v in self.partial.items()],
            "left_out": [{"run_id": k, "why": v} for k, v in self.left_out.items()],
            "tokens_recorded": sum(r.tokens_recorded for r in replays),
            "tokens_replayed": sum(r.tokens_replayed for r in replays),
            "tokens_equal": self.tokens_equal,
            "decodes": sum(len(r.decodes) for r in replays),
            **logprob_gaps(replays),
            "schedule_error": None if self.schedule_error is None else self.schedule_error.to_json(),
            "warnings": self.warnings,
            "notes": notes_of(replays),
            "divergences": [d for r in replays for d in r.to_json()["divergences"]],
            "engine_differences": {k: list(v) for r in replays for k, v in r.engine_differences.items()},
            "replays": [r.to_json() for r in replays],
        }

    def one_json(self) -> dict[str, Any]:
        """As `to_json`, of a batch that is one run: the report of that run, with what is known of the batch."""
        batch = self.to_json()
        more = ("batch", "engine", "options", "stopped", "partial", "warnings")
        return {**self.replays[0].to_json(), **{name: batch[name] for name in more}}


def report_of(part: ReplayedRun, mode: ReplayMode) -> ReplayReport:
    """Of a run that has just been replayed."""
    replayed_s = (part.happened_ns[Kind.END] - part.happened_ns[Kind.START]) / 1e9
    return _report(part.plan, part.place, mode, part.run_id, part.replayed, replayed_s, part.schedule_error)


def report_of_simulated(
    plan: Plan, place: int, run_id: str, replayed: dict[str, Decode], replayed_s: float
) -> ReplayReport:
    """Of a run that has just been simulated."""
    return _report(plan, place, ReplayMode.SIMULATE, run_id, replayed, replayed_s, None)


def report_of_recorded(plan: Plan, place: int, mode: ReplayMode, replay: RecordedRun, run: Run) -> ReplayReport:
    """Of a replay that is in the store."""
    sources = {s.span_id: str(s.attributes.get(SOURCE_SPAN)) for s in replay.spans}
    label = run.labels.get(LABEL) or {}
    diverged = label.get("diverged")
    replayed = {}
    for decode in replay.decodes:
        source = sources[decode.span_id]
        if decode.sampled_ids is None and decode.error is None and diverged is not None and source in plan.decodes:
            # Withheld from the store; whether they were the same was said when they were there.
            same = source not in diverged
            decode = (
                replace(decode, sampled_ids=plan.decodes[source].sampled_ids)
                if same
                else replace(decode, error="it came out with other tokens, which were withheld from the store")
            )
        replayed[source] = decode
    late = label.get("schedule_error")
    error = None
    if late:
        error = ScheduleError(**{k: late[k] for k in ("points", "p50_s", "p99_s", "max_s", "median_wait_s")})
    return _report(plan, place, mode, run.run_id, replayed, run.duration_s or 0.0, error)


def _report(
    plan: Plan,
    place: int,
    mode: ReplayMode,
    run_id: str,
    replayed: dict[str, Decode],
    replayed_s: float,
    error: ScheduleError | None,
) -> ReplayReport:
    graph = plan.graph
    return ReplayReport(
        run_id=plan.recorded.run.run_id,
        replay_run_id=run_id,
        mode=mode.value,
        decodes=tuple(
            compare_decodes(decode, replayed[span_id], tuple(plan.notes.get(span_id, ())))
            for span_id, decode in plan.decodes.items()
        ),
        e2e_recorded_s=(graph.time_ns[graph.root, END] - graph.time_ns[graph.root, START]) / 1e9,
        e2e_replayed_s=replayed_s,
        skipped=plan.skipped,
        engine_differences={},
        schedule_error=error,
        place=place,
    )


async def name_tokens(client: EngineClient, reports: Sequence[ReplayReport]) -> list[ReplayReport]:
    """The reports with the texts of the tokens where decodes diverge, as far as the engine says them."""
    places = [d.divergence for r in reports for d in r.decodes if d.divergence is not None]
    wanted = {t for p in places[:_MOST_NAMED] for t in (p.recorded_token, p.replayed_token) if t is not None}
    texts: dict[int | None, str] = {}
    for token in sorted(wanted):
        try:
            texts[token] = await client.detokenize([token])
        except EngineError:  # it is not needed
            break
    if not texts:
        return list(reports)
    named = []
    for report in reports:
        decodes = []
        for d in report.decodes:
            at = d.divergence
            if at is not None:
                recorded, replayed = texts.get(at.recorded_token), texts.get(at.replayed_token)
                d = replace(d, divergence=replace(at, recorded_text=recorded, replayed_text=replayed))
            decodes.append(d)
        named.append(replace(report, decodes=tuple(decodes)))
    return named
