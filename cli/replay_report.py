"""What a replay showed, on a screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from redecode.cli.common import seconds
from redecode.replay import ReplayMode, ReplayReport, TokenDivergence
from redecode.replay.closed_loop.report import BatchReport
from redecode.replay.comparison.compare import logprob_gaps, notes_of
from redecode.replay.comparison.noise import Band, band
from redecode.replay.pacing import ScheduleError

_TOLD = 20  # of a kind


def print_report(report: BatchReport, *, one: bool) -> None:
    """Everything there is to say about a batch; `one`: it is one run, show its decodes."""
    console = Console(width=None if Console().is_terminal else 170, highlight=False)
    replays = report.replays
    if one and replays:
        _print_decodes(console, replays[0])
    elif replays:
        _print_runs(console, replays)
    _tell(console, [f"left out: {why}" for why in report.left_out.values()])
    _tell(console, [_diverged(r, d) for r in replays for d in r.divergences])
    _tell(console, _notes(replays))
    differences = {k: v for r in replays for k, v in r.engine_differences.items()}
    _tell(console, [f"engine differs: {name} was {then}, is {now}" for name, (then, now) in differences.items()])
    if report.mode == ReplayMode.SIMULATE:
        _print_simulated(console, report)
        return
    decodes = [d for r in replays for d in r.decodes]
    equal = sum(d.tokens_equal for d in decodes)
    tokens = sum(d.tokens_recorded for d in decodes)
    gaps = logprob_gaps(replays)
    largest, mean = gaps["logprob_gap_max"], gaps["logprob_gap_mean"]
    logprobs = "" if largest is None else f"; logprob gap {largest:.2g} at most, {mean:.2g} in the mean"
    console.print(f"{equal} of {len(decodes)} decodes equal token for token ({tokens} tokens recorded){logprobs}")
    if report.schedule_error is not None:
        console.print(_late(report.schedule_error))
    for warning in report.warnings:
        console.print(f"WARNING {warning}", markup=False)
    before = f", {report.earlier} of them before" if report.earlier else ""
    console.print(f"batch {report.batch_id}: {len(replays)} of {report.items} runs replayed{before}")


def _print_simulated(console: Console, report: BatchReport) -> None:
    tokens = sum(r.tokens_recorded for r in report.replays)
    console.print(f"simulated on {report.engine}: {tokens} tokens, those recorded; nothing was run", markup=False)
    for warning in report.warnings:
        console.print(f"WARNING {warning}", markup=False)
    console.print(f"batch {report.batch_id}: {len(report.replays)} runs simulated")


def bands(reports: Sequence[BatchReport]) -> list[tuple[str, Band]]:
    """Of each run that was replayed repeatedly: how long it takes, and how much that varies."""
    times: dict[str, list[int]] = {}
    for replay in (r for report in reports for r in report.replays):
        times.setdefault(replay.run_id, []).append(round(replay.e2e_replayed_s * 1e9))
    return [(run_id, found) for run_id, values in times.items() if (found := band(values)) is not None]


def print_bands(reports: Sequence[BatchReport]) -> None:
    """The noise of repeated replays."""
    console = Console(width=None if Console().is_terminal else 170, highlight=False)
    for run_id, b in bands(reports):
        low, high = seconds(b.low_ns / 1e9), seconds(b.high_ns / 1e9)
        console.print(f"run {run_id[:12]}: {b.n} replays, median {seconds(b.median_ns / 1e9)}, noise {low} to {high}")


def _late(error: ScheduleError) -> str:
    wait = "" if error.median_wait_s is None else f", median wait {seconds(error.median_wait_s)}"
    return (
        f"schedule error: p50 {error.p50_s * 1e3:.2f} ms, p99 {error.p99_s * 1e3:.2f} ms, "
        f"max {error.max_s * 1e3:.2f} ms ({error.points} points{wait})"
    )


def _tell(console: Console, lines: list[str]) -> None:
    for line in lines[:_TOLD]:
        console.print(line, markup=False)
    if len(lines) > _TOLD:
        console.print(f"… and {len(lines) - _TOLD} more like it; --json has all", markup=False)


def _diverged(report: ReplayReport, d: TokenDivergence) -> str:
    if d.error is not None:
        what = d.error
    else:
        gap = "" if d.logprob_gap is None else f", logprob gap {d.logprob_gap:+.4f}"
        recorded, replayed = _token(d.recorded_token, d.recorded_text), _token(d.replayed_token, d.replayed_text)
        what = f"token {d.index}: recorded {recorded}, replayed {replayed}{gap}"
    return f"DIVERGED {report.run_id[:12]} {d.step_key}: {what}"


def _token(token: int | None, text: str | None) -> str:
    return "no more" if token is None else f"{token}" + ("" if text is None else f" {text!r}")


def _notes(replays: tuple[ReplayReport, ...]) -> list[str]:
    """Each note where it is, or how often it is if that is often."""
    notes = notes_of(replays)
    often = Counter(n["note"] for n in notes)
    lines = [f"NOTE {n['run_id'][:12]} {n['step_key']}: {n['note']}" for n in notes if often[n["note"]] <= _TOLD]
    return lines + [f"NOTE {count} decodes: {note}" for note, count in often.items() if count > _TOLD]


def _print_decodes(console: Console, report: ReplayReport) -> None:
    columns = ("decode", "tokens", "equal", "logprob gap", "TTFT rec.", "TTFT repl.", "TPOT rec.", "TPOT repl.",
               "E2E rec.", "E2E repl.")  # fmt: skip
    simulated = report.mode == ReplayMode.SIMULATE
    table = _table(tuple(c.replace("repl.", "sim.") for c in columns) if simulated else columns, left=(0, 2))
    for d in report.decodes:
        count = str(d.tokens_recorded) if d.tokens_equal else f"{d.tokens_recorded}/{d.tokens_replayed}"
        gap = "-" if d.logprob_gap is None else f"{d.logprob_gap:.2g}"
        times = (
            d.ttft_recorded_s, d.ttft_replayed_s, d.tpot_recorded_s, d.tpot_replayed_s, d.e2e_recorded_s,
            d.e2e_replayed_s,
        )  # fmt: skip
        equal = "-" if simulated else "yes" if d.tokens_equal else "NO"
        table.add_row(_plain(d.step_key), count, equal, gap, *(seconds(t) for t in times))
    console.print(table)
    what = "simulated" if simulated else "replayed"
    console.print(
        f"run {report.run_id[:12]} → {report.mode} replay {report.replay_run_id[:12]}: "
        f"E2E {seconds(report.e2e_recorded_s)} recorded, {seconds(report.e2e_replayed_s)} {what}"
    )


def _print_runs(console: Console, replays: tuple[ReplayReport, ...]) -> None:
    columns = ("run", "replay", "decodes", "equal", "tokens", "TTFT rec.", "TTFT repl.", "TPOT rec.", "TPOT repl.",
               "E2E rec.", "E2E repl.", "late p99")  # fmt: skip
    simulated = replays[0].mode == ReplayMode.SIMULATE
    table = _table(tuple(c.replace("repl.", "sim.") for c in columns) if simulated else columns, left=(0, 1))
    for r in replays:
        medians = [
            _median([getattr(d, name) for d in r.decodes])
            for name in ("ttft_recorded_s", "ttft_replayed_s", "tpot_recorded_s", "tpot_replayed_s")
        ]
        times = (*medians, r.e2e_recorded_s, r.e2e_replayed_s, r.lateness_p99_s)
        equal = sum(d.tokens_equal for d in r.decodes)
        table.add_row(
            r.run_id[:12], r.replay_run_id[:12], str(len(r.decodes)), "-" if simulated else str(equal),
            str(r.tokens_recorded),
            *(seconds(t) for t in times),
        )  # fmt: skip
    console.print(table)
    late = "" if simulated else "; late: how long after it was due a point happened"
    console.print(f"TTFT and TPOT are medians over the run's decodes{late}")


def _table(columns: tuple[str, ...], *, left: tuple[int, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place in left else "right", no_wrap=True)
    return table


def _median(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
