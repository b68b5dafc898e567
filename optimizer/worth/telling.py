"""The answer in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from redecode.optimizer.report import table
from redecode.optimizer.worth.calculator import Interval, Worth, number


def headline(found: Worth) -> str:
    """In one sentence."""
    a = found.assumptions
    over = f"over {a.horizon_days:g} days"
    if found.choice == "fine-tune":
        return f"fine-tuning saves {_usd(found.net)} {over}; it is paid back after {_days(found.break_even_days)}"
    if found.choice == "prompt":
        lost = Interval(-found.net.estimate, -found.net.high, -found.net.low)
        return f"prompting is cheaper: fine-tuning loses {_usd(lost)} {over}"
    return f"cannot be told: fine-tuning saves {_usd(found.net)} {over}"


def lines(found: Worth) -> Iterator[str]:
    """In Markdown, what was assumed and what depends on it with it."""
    a = found.assumptions
    calls = found.calls_per_day
    recorded = f"{number(calls.low)} to {number(calls.high)}; {found.days} days recorded"
    if found.volume_said:
        recorded = "as you say"
    yield (
        f"At {number(calls.estimate)} FM calls a day ({recorded}) "
        f"prompting costs {_usd(found.prompt_per_day)} a day, a fine-tuned model {_usd(found.tuned_per_day)}, hosting "
        f"included. It breaks even {_even(found)}."
    )
    yield ""
    rows = [
        [s.name, s.model, number(s.calls), f"{s.input_tokens:.0f}", f"{s.cached_tokens:.0f}", f"{s.output_tokens:.0f}",
         f"{s.constant_tokens:.0f}{' (by words)' if s.source == 'words' else ' ?' if s.source == 'unknown' else ''}",
         f"{s.removed_tokens:.0f}", f"{s.prompt_usd:.4g}", f"{s.tuned_usd:.4g}"]
        for s in found.steps
    ]  # fmt: skip
    header = ["step", "FM", "calls a day", "input tokens", "of them cached", "output tokens", "always the same",
              "left out", "USD a day", "tuned"]  # fmt: skip
    yield from table(header, rows)
    yield ""
    yield "If one assumption is another, and the rest stays (net of the horizon, USD):"
    yield ""
    yield from table(
        ["assumption", "is", "net at half", "net at twice", "the other choice is right"],
        [[s.name, s.value, f"{s.low:.4g}", "-" if s.name.startswith("share") else f"{s.high:.4g}", s.flips or "never"]
         for s in found.sensitivity],
    )  # fmt: skip
    yield ""
    yield "Assumed:"
    yield ""
    tuned = "as much as the model that it replaces"
    if a.tuned is not None:
        cached = "" if a.tuned.cached is None else f", {a.tuned.cached:g} cached"
        tuned = f"{a.tuned.input:g} input, {a.tuned.output:g} output{cached} (USD per million tokens)"
    yield f"- a fine-tuned model costs {tuned}; answers as long as now × {a.output_factor:g}"
    lasts = "it lasts as long" if a.retrain_days is None else f"again every {a.retrain_days:g} days"
    yield f"- a training costs {a.train_cost:g} USD, {lasts}; hosting {a.hosting:g} USD a day"
    yield (
        f"- of the tokens that are the same in nearly every call of a step {a.keep_tokens:g} stay, of the others "
        f"{a.removed:.0%} become unnecessary; of these as many as were cached cost the cached price"
    )
    yield "- it answers as well as now: try it (`redecode tune` with the fine-tuned model as a value of a knob)"
    if found.volume_said:
        yield "- calls to come are as those recorded (intervals: conversations drawn anew, 95 %)"
    else:
        yield "- all calls are recorded, and days to come are as those recorded (intervals: days drawn anew, 95 %)"
    for note in found.notes:
        yield f"- {note}"


def _even(found: Worth) -> str:
    days, calls = found.break_even_days, found.break_even_calls
    if not math.isfinite(calls.estimate):
        return "never: without what is left out a call costs no less"
    enough = (
        f"from {number(calls.estimate)} calls a day on ({number(calls.low)} to {number(calls.high)}) within "
        f"{found.assumptions.horizon_days:g} days"
    )
    if not math.isfinite(days.estimate):
        left, a = found.prompt_per_day.estimate - found.tuned_per_day.estimate, found.assumptions
        why = "hosting costs more than calls save"
        if left > 0 and a.retrain_days is not None:
            paid = number(a.train_cost / left)
            why = f"a training lasts {a.retrain_days:g} days, and would be paid back after {paid}"
        return f"never at this volume, since {why}; {enough}"
    return f"after {_days(days)}, and {enough}"


def _usd(value: Interval) -> str:
    return f"{value.estimate:.4g} USD ({value.low:.4g} to {value.high:.4g})"


def _days(value: Interval) -> str:
    return f"{number(value.estimate)} days ({number(value.low)} to {number(value.high)})"
