"""`redecode runs --slow`: the slowest runs and where their time went, what many runs spent it on, what would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from redecode.cli.screen import Unit, clean, grid, short
from redecode.cli.show_tables import kind_words, split_line, step_of
from redecode.replay import RunAnalysis
from redecode.replay.analysis import (
    Advice,
    Aggregate,
    AnalysisError,
    StepSummary,
    advise,
    aggregate,
    analyze_recorded,
    stored_profiles,
)
from redecode.replay.analysis.models import smaller_models
from redecode.replay.analysis.slo import Slo
from redecode.tracer import Dataset, Run, Store

LISTED = 10
_STEPS = 12
_ADVICE = 6
_PROFILED_RUNS = 500
_SHORT = (
    ("queue", "queue_ns"), ("prefill", "prefill_ns"), ("decode", "decode_ns"), ("FM rest", "fm_ns"),
    ("tools", "tool_ns"), ("code", "code_ns"), ("framework", "framework_ns"), ("barrier", "barrier_wait_ns"),
    ("person", "person_ns"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AgentTimes:
    """Runs of one agent.

    Attributes:
        slowest: the slowest of them, analysed, slowest first.
        all: every one of them together.
        advice: with how many of the slowest runs gave it.
    """

    agent: str
    slowest: tuple[tuple[Run, RunAnalysis], ...]
    all: Aggregate
    advice: tuple[tuple[Advice, int], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        slowest = [
            {"run_id": run.run_id, "makespan_ns": a.makespan_ns, "headroom_ns": a.headroom_ns,
             "split": a.split.to_json(), "critical_spans": a.critical_spans, "edges_by_time": a.edges_by_time}
            for run, a in self.slowest
        ]  # fmt: skip
        advice = [{**a.to_json(), "runs": count} for a, count in self.advice]
        return {"agent": self.agent, "slowest": slowest, "aggregate": self.all.to_json(), "advice": advice}


def slow_runs(
    opened: Store | Dataset, runs: Sequence[Run], *, listed: int = LISTED, slos: Sequence[Slo] = ()
) -> list[AgentTimes]:
    """Runs by agent; steps of different agents have nothing in common.

    Args:
        slos: of these, what is about whole runs is the deadline of runs that were recorded with none.
    """
    of: dict[str, list[Run]] = {}
    for run in runs:
        of.setdefault(run.agent, []).append(run)
    return [_agent(opened, agent, found, listed, slos) for agent, found in sorted(of.items())]


def _agent(opened: Store | Dataset, agent: str, runs: Sequence[Run], listed: int, slos: Sequence[Slo]) -> AgentTimes:
    slo_s = next(
        (s.threshold_s for s in slos if s.metric == "e2e" and s.step is None and s.agent in (None, agent)), None
    )
    profiles = None
    if slo_s is not None or any(r.slo_s is not None for r in runs):
        profiles = stored_profiles(opened, agent=agent, limit=_PROFILED_RUNS)
    structures = opened.structures(run_ids=[r.run_id for r in runs])
    together = aggregate(structures, slo_s=slo_s, profiles=profiles)
    known = [s for s in structures if s.spans]
    known.sort(key=lambda s: (-_took(s.run), s.run.run_id))
    slowest: list[tuple[Run, RunAnalysis]] = []
    for structure in known:
        if len(slowest) == listed:
            break
        with suppress(AnalysisError):  # counted as left out
            slowest.append((structure.run, analyze_recorded(structure, slo_s=slo_s, profiles=profiles)))
    return AgentTimes(agent, tuple(slowest), together, tuple(_advice(opened, [run for run, _ in slowest])))


def _took(run: Run) -> int:
    return 0 if run.ended_ns is None else run.ended_ns - run.started_ns


def _advice(opened: Store | Dataset, runs: Sequence[Run]) -> Iterator[tuple[Advice, int]]:
    """Advice on these runs, each once: the one of most gain, and how many runs gave it."""
    loaded = [opened.load(run.run_id) for run in runs]
    best: dict[tuple[str, tuple[str, ...]], Advice] = {}
    count: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for recorded in loaded:
        for advice in advise(recorded):
            key = advice.kind, advice.step_keys
            count[key] += 1
            if key not in best or (advice.gain_ns or 0) > (best[key].gain_ns or 0):
                best[key] = advice
    for advice in smaller_models(loaded):
        best[advice.kind, advice.step_keys] = advice
        count[advice.kind, advice.step_keys] = advice.evidence["prompts"]
    yield from ((best[k], count[k]) for k in sorted(best, key=lambda k: (-(best[k].gain_ns or 0) * count[k], k)))


def print_slow(found: AgentTimes, width: int) -> Iterator[Text]:
    """One agent's runs on a screen."""
    together = found.all
    latency = together.latency
    yield Text(f"\n{clean(found.agent)}: {_runs(together)}", style="bold")
    if latency is None:
        return
    unit = Unit.of(latency.p99_ns)
    quantiles = ", ".join(f"p{q} {unit.show(latency.at(f'p{q}'))}" for q in (50, 95, 99))
    yield Text(f"latency {quantiles} {unit.name}")
    yield Text(f"on the critical paths of all: {split_line(together.split)}")
    yield from _slowest(found.slowest, unit, width)
    yield from _steps(together, unit, width)
    for advice, count in found.advice[:_ADVICE]:
        yield from advice_lines(advice, width, f"{count} of the {len(found.slowest)} slowest runs: ")


def _runs(together: Aggregate) -> str:
    said = [f"{together.runs} run{'s' * (together.runs != 1)}"]
    if together.with_slo:
        said.append(f"{together.missed} of {together.with_slo} missed their SLO")
    if together.open:
        said.append(f"{together.open} open")
    if together.by_time:
        said.append(f"{together.by_time} with edges guessed from times: their paths are guesses")
    if together.left_out:
        said.append(f"{together.left_out} left out: they make no sense, or only their names were recorded")
    return ", ".join(said)


def _slowest(slowest: Sequence[tuple[Run, RunAnalysis]], unit: Unit, width: int) -> Iterator[Text]:
    shown = [(name, key) for name, key in _SHORT if any(a.split.to_json()[key] for _, a in slowest)]
    deadline = any(a.headroom_ns is not None for _, a in slowest)
    rows = []
    for run, a in slowest:
        split = a.split.to_json()
        longest = max(a.critical_path, key=lambda s: s.duration_ns, default=None)
        most = "" if longest is None else f"{kind_words(longest.kind)} {step_of(longest.activity, gap=longest.gap)}"
        rows.append((
            unit.show(a.makespan_ns), *([unit.show(a.headroom_ns, signed=True)] if deadline else []),
            *(f"{split[key] / max(a.makespan_ns, 1):.0%}" for _, key in shown), run.run_id[:12], most,
        ))  # fmt: skip
    header = [
        unit.name,
        *(["headroom"] if deadline else []),
        *(name for name, _ in shown),
        "slowest",
        "longest stretch",
    ]
    yield from grid(header, rows, width)


def _steps(together: Aggregate, unit: Unit, width: int) -> Iterator[Text]:
    steps = [s for s in together.steps if s.path_ns][:_STEPS]
    burn = any(s.burn is not None for s in steps)
    header = ["on path", "share", "p50", "p95", "p99", *(["burn p50", "p95", "p99"] if burn else []), "gain", "what",
              "step"]  # fmt: skip
    yield from grid(header, [_step(s, together, unit, burn=burn) for s in steps], width)
    rest = sum(1 for s in together.steps if s.path_ns) - len(steps)
    more = f"; {rest} more steps in --json" if rest > 0 else ""
    yield Text(f"times in {unit.name}; gain: what a run would gain without it, at most, in the mean{more}", style="dim")


def _step(s: StepSummary, together: Aggregate, unit: Unit, *, burn: bool) -> tuple[str, ...]:
    d = s.duration
    burns = [] if not burn else ["-"] * 3
    if burn and s.burn is not None:
        burns = [unit.show(b, signed=True) for b in (s.burn.p50_ns, s.burn.p95_ns, s.burn.p99_ns)]
    return (
        f"{s.on_path}/{s.runs}", f"{s.path_share:.0%}", unit.show(d.p50_ns), unit.show(d.p95_ns), unit.show(d.p99_ns),
        *burns, unit.show(s.drag_ns // max(together.runs, 1)), kind_words(s.kind), short(s.step_key),
    )  # fmt: skip


def advice_lines(advice: Advice, width: int, where: str = "") -> Iterator[Text]:
    """A piece of advice, and the evidence beside it."""
    gain = ""
    if advice.gain_ns is not None:
        unit = Unit.of(advice.gain_ns)
        gain = f" (up to {unit.show(advice.gain_ns)} {unit.name})"
    yield Text(f"advice: {where}{clean(advice.text)}{gain}")
    steps = ", ".join(short(key) for key in advice.step_keys[:4])
    facts = "; ".join(f"{name.removesuffix('_ns')} {_fact(name, value)}" for name, value in advice.evidence.items())
    more = f" and {len(advice.step_keys) - 4} more" if len(advice.step_keys) > 4 else ""
    line = f"  at {steps}{more}: {facts}"
    yield Text(line if len(line) <= 3 * width else line[: 3 * width - 1] + "…", style="dim")


def _fact(name: str, value: Any) -> str:
    if name.endswith("_ns") and isinstance(value, int):
        unit = Unit.of(abs(value))
        return f"{unit.show(value)} {unit.name}"
    if name.endswith("_ns") and isinstance(value, list):
        return ", ".join(_fact(name, v) for v in value[:4])
    if name.endswith("_ns") and isinstance(value, dict):
        return ", ".join(f"{clean(str(k))} {_fact(name, v)}" for k, v in value.items())
    return clean(repr(value) if isinstance(value, str) else str(value))
