"""What `redecode show` says of a run above and below its tree."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.text import Text

from redecode.cli.common import seconds
from redecode.cli.screen import Unit, clean, grid, short
from redecode.cli.show_tables import split_line
from redecode.replay import ActivityAnalysis, RunAnalysis
from redecode.replay.analysis import RunActivities
from redecode.replay.analysis.changes import CacheHit
from redecode.replay.analysis.what_if import what_if
from redecode.replay.prices import Cost, usd
from redecode.replay.withheld import said_of
from redecode.tracer import REPLAY_OPTIONS, RecordedRun
from redecode.tracer.conventions import INTERRUPTED, LEFT_BY

_MOST = 5  # lines of a kind
_WARNINGS = 3


def head(recorded: RecordedRun, analysis: RunAnalysis | None, why_not: str | None) -> Iterator[str]:
    """Who, how long, where the time went, what to know before believing it."""
    run = recorded.run
    took = seconds(run.duration_s) if run.ended_ns is not None or analysis is None else _so_far(analysis)
    yield f"run {run.run_id}  {clean(run.agent)}  {run.status}  {took}  fidelity {run.fidelity or '-'}"
    if run.source_run_id:
        yield f"{run.replay_mode} replay of {run.source_run_id}"
    yield from _forked(recorded)
    if analysis is None:
        yield f"no critical path: {clean(why_not or '')}"
    else:
        yield from _path(recorded, analysis)
    if run.error:
        yield f"error: {clean(run.error)}"
    if (kept_out := said_of(recorded)) is not None:
        yield kept_out
    if run.lost:
        yield f"incomplete: {run.lost} events of this run could not be recorded (redecode doctor says why)"


def cost_line(cost: Cost) -> Iterator[str]:
    """What its FM calls cost; nothing of a run that made none."""
    if cost.usd is not None and cost.calls:
        less = f", without {cost.uncounted} calls whose tokens are not known" if cost.uncounted else ""
        yield f"cost: {usd(cost.usd)}{less}"
    elif cost.calls:
        yield f"engine seconds: {cost.engine_s:.3g} (no price of {clean(', '.join(cost.unpriced))} in prices.toml)"


def _so_far(analysis: RunAnalysis) -> str:
    return f"{seconds(analysis.makespan_ns / 1e9)} so far"


def _path(recorded: RecordedRun, analysis: RunAnalysis) -> Iterator[str]:
    if analysis.makespan_ns:
        yield f"critical path: {split_line(analysis.split)}"
    if analysis.edges_by_time:
        yield (
            f"edges guessed from times: the path is a guess ({analysis.edges_by_time} guessed edges; "
            "redecode.tracer.instrument() records them)"
        )
    if analysis.headroom_ns is not None and analysis.deadline_ns is not None:
        allowed = seconds((analysis.deadline_ns - analysis.start_ns) / 1e9)
        over = analysis.headroom_ns < 0
        left = seconds(abs(analysis.headroom_ns) / 1e9)
        person = f", {seconds(analysis.person_ns / 1e9)} for a person not counted" if analysis.person_ns else ""
        yield f"SLO {allowed}: " + (f"MISSED by {left}" if over else f"met, headroom {left}") + person
    if analysis.barrier_cost_ns:
        yield f"barriers cost {seconds(analysis.barrier_cost_ns / 1e9)}: so much less if data alone ordered it"
    for text in analysis.warnings[:_WARNINGS]:
        yield f"WARNING {clean(text)}"
    if len(analysis.warnings) > _WARNINGS:
        yield f"WARNING and {len(analysis.warnings) - _WARNINGS} more; --json has all"
    mine = [s for s in recorded.spans if s.run_id == recorded.run.run_id]
    waits = [s for s in mine if s.attributes.get(INTERRUPTED)]
    for span in waits[:_MOST]:
        yield f"interrupted {clean(str(span.attributes[INTERRUPTED]))} a node: it waits for a person to go on"
    left_by = [s for s in mine if s.attributes.get(LEFT_BY)]
    for span in left_by[:_MOST]:
        yield f"left by {clean(str(span.attributes[LEFT_BY]))}: {short(span.step_key)}"


def _forked(recorded: RecordedRun) -> Iterator[str]:
    """Of a fork: where it went live, and with what changed."""
    options = next((s.attributes[REPLAY_OPTIONS] for s in recorded.spans if REPLAY_OPTIONS in s.attributes), None)
    try:
        told = json.loads(options or "null")
    except (ValueError, TypeError):  # a span of others may hold anything
        return
    if isinstance(told, dict) and "until" in told:
        changes = [f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in told.items() if k != "until" and v]
        yield clean(f"live from {told['until']} on{': ' + ', '.join(changes) if changes else ''}")


def longest(cut: RunActivities, analysis: RunAnalysis, width: int) -> Iterator[Text]:
    """The steps that the critical path spent most time in, and what the run would gain if they took none."""
    if not analysis.makespan_ns:
        return
    spent = dict[str, int]()
    parts: dict[str, list[ActivityAnalysis]] = {}
    for row in analysis.activities:
        parts.setdefault(row.activity.span_id, []).append(row)
    for s in analysis.critical_path:
        if not s.gap and s.activity.span_id:
            spent[s.activity.span_id] = spent.get(s.activity.span_id, 0) + s.duration_ns
    top = sorted(spent.items(), key=lambda item: (-item[1], item[0]))[:_MOST]
    unit = Unit.of(max((ns for _, ns in top), default=0))
    rows = []
    for span_id, ns in top:
        span = cut.spans[span_id]
        own = " (its own code)" if span_id in cut.parents.values() else ""
        gain = None
        if not own:  # what drag is of one activity
            own_parts = parts[span_id]
            gain = own_parts[0].drag_ns if len(own_parts) == 1 else what_if(cut, [CacheHit(span_id)]).gain_ns
        share = f"{ns / analysis.makespan_ns:.0%}"
        rows.append((unit.show(ns), share, "" if gain is None else unit.show(gain), "", short(span.step_key) + own))
    yield Text("on the critical path, longest first:")
    yield from grid((unit.name, "share", "gain if gone", "", "step"), rows, width)


def errors(recorded: RecordedRun) -> Iterator[str]:
    """What failed, in the order of the run."""
    failed = [s for s in recorded.spans if s.status == "error" and s.parent_span_id is not None]
    for span in failed[:_MOST]:
        yield f"✗ {short(span.step_key)}: {clean(str(span.error))}"
    if len(failed) > _MOST:
        yield f"✗ and {len(failed) - _MOST} more that failed; --json has all"


def conversations(recorded: RecordedRun) -> Iterator[Text]:
    """What each FM call was asked and answered."""
    for decode in recorded.decodes:
        title = f"{short(decode.step_key)}  seed {decode.seed} ({decode.seed_source or 'none'})"
        yield Text("\n") + Text(title, style="bold")
        for message in decode.messages if isinstance(decode.messages, list) else [decode.messages]:
            yield Text(f"  > {clean(str(message))}")
        yield Text(f"  < {clean(str(decode.output))}")
