"""What-if on tools: recorded waits made shorter or longer, all of them or those of named steps."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from redecode.replay.errors import ReplayError
from redecode.tracer import RecordedRun, Span, SpanKind

_TOOLS = frozenset({SpanKind.TOOL, SpanKind.RETRIEVAL})


class UnknownStep(ReplayError):
    """A step was named that no run of the batch has; names the nearest."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How recorded waits are scaled.

    Attributes:
        tool_speed: every tool (and retrieval) is so many times as fast; 0 is at once.
        steps: step → factor of its recorded waits; 0 is at once. It counts for everything below the step that is
            waited through, FM calls excepted, and goes before `tool_speed`; of several the innermost counts.
    """

    tool_speed: float = 1.0
    steps: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.tool_speed) or self.tool_speed < 0:
            raise ReplayError(f"--tool-speed is a number above 0, or 0 for at once, not {self.tool_speed}")
        for step, factor in self.steps.items():
            if not math.isfinite(factor) or factor < 0:
                raise ReplayError(f"--step {step}: the factor is a number from 0 on, not {factor}")

    def check(self, runs: Iterable[RecordedRun]) -> None:
        """Refuse steps that are nowhere in these runs, and those that are an FM call.

        Raises:
            UnknownStep: names the nearest.
            ReplayError: the step is an FM call, whose time is the engine's.
        """
        if not self.steps:
            return
        waited, calls = set[str](), set[str]()
        for run in runs:
            for span in run.spans:
                (calls if span.kind is SpanKind.DECODE else waited).update(names_of(span))
        for step in self.steps:
            if step in waited:
                continue
            if step in calls:
                raise ReplayError(
                    f"--step {step} is an FM call: its time is the engine's, and nothing is waited through"
                )
            raise unknown_step(f"no step '{step}' in these runs", step, waited)

    def factors(self, spans: Mapping[str, Span]) -> dict[str, float]:
        """Span id → what its own waits are multiplied by; spans that are not scaled are left out."""
        named: dict[str, float | None] = {}

        def own(span_id: str) -> float | None:
            path = []
            at: str | None = span_id
            while at is not None and at in spans and at not in named:
                path.append(at)
                at = spans[at].parent_span_id
            inherited = named.get(at) if at is not None else None
            for each in reversed(path):
                found = [self.steps[name] for name in names_of(spans[each]) if name in self.steps]
                inherited = named[each] = found[0] if found else inherited
            return named[span_id]

        tool = 1 / self.tool_speed if self.tool_speed else 0.0
        factors = {}
        for span_id, span in spans.items():
            factor = own(span_id) if self.steps else None
            if factor is None:
                factor = tool if span.kind in _TOOLS else 1.0
            if factor != 1.0:
                factors[span_id] = factor
        return factors


def unknown_step(what: str, step: str, known: Collection[str]) -> UnknownStep:
    """The error that says so, with the nearest names of those known."""
    near = difflib.get_close_matches(step, sorted(known), n=3, cutoff=0.3)
    return UnknownStep(
        what + (f"; the nearest: {', '.join(near)}" if near else "; `redecode show RUN` names its steps")
    )


def parse_steps(given: Sequence[str]) -> dict[str, float]:
    """`STEP=FACTOR` texts; the last `=` counts, since a step key may have others.

    Raises:
        ReplayError: one is not of that form.
    """
    steps = {}
    for text in given:
        step, equals, factor = text.rpartition("=")
        try:
            steps[step.strip()] = float(factor)
        except ValueError:
            equals = ""
        if not equals or not step.strip():
            raise ReplayError(f"--step wants STEP=FACTOR, like find_person=0.5, not '{text}'")
    return steps


def names_of(span: Span) -> tuple[str, ...]:
    """What a step may be called on the command line, the most specific first."""
    last = span.step_key.rsplit("/", 1)[-1]
    bare = re.sub(r"(@\d+)?(\[.*\])?(#\d+)?$", "", last)
    tool = bare.rsplit(":", 1)[-1] if span.kind in _TOOLS else ""
    drawn = re.sub(r"\[pull:[^\[\]]*\]", "", span.step_key).removeprefix("run/")  # as `redecode show` has it
    numbered = drawn.rsplit("/", 1)[-1]
    shorter = span.name.removeprefix("execute_tool ")
    names = (span.step_key, drawn, last, numbered, bare, span.name, shorter, tool)
    return tuple(dict.fromkeys(name for name in names if name))
