"""What is told of a tuning: `report.md`, `report.html`, the same as data (`report.json`), and `tuned.toml`."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from redecode.optimizer.configuration import toml
from redecode.optimizer.knobs import Config
from redecode.optimizer.objectives import NAMES, Goals, Measured, measured
from redecode.optimizer.preparing import Prepared
from redecode.optimizer.promotion.decide import Compared, Verdict, said, within
from redecode.optimizer.study.hypervolume import front
from redecode.optimizer.tuning import INCUMBENT, Tuned

_MOST = 12
_JSON = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
_UNKNOWN = {"observed": {"cost": None, "cost_se": None, "live": None, "memo": None, "cached": None}}
"""What a lane does not tell."""


def to_json(tuned: Tuned) -> dict[str, Any]:
    """All of it as one JSON document."""
    p = tuned.prepared
    return {
        "study": tuned.study,
        "agent": p.spec.name,
        "spec": p.about.spec,
        "fidelity": p.about.fidelity,
        "sampler": p.about.sampler,
        "seed": p.about.seed,
        "versions": dict(p.about.versions),
        "settings": dict(p.about.settings),
        "knobs": dict(p.about.space),
        "goals": {**dict(p.about.goals), "cost_unit": p.goals.cost_unit},
        "runs": {"search": len(p.cases.search), "held_out": len(p.cases.decide), "left_out": dict(p.cases.left_out)},
        "incumbent": p.incumbent,
        "chosen": tuned.chosen,
        "verdict": verdict_words(tuned),
        "decision": {**tuned.decision.to_json(), "why": why_words(tuned)},
        "incumbent_breaks": breaks(tuned),
        "lanes": {
            name: asdict(found) | _UNKNOWN.get(name, {}) | ({} if found.scored else {"error": None, "error_se": None})
            for name, found in lanes_of(tuned).items()
        },
        "finalists": {name: dict(config) for name, config in tuned.finalists.items()},
        "trials": [
            {
                "number": d.number,
                "candidate": d.config,
                "measured": asdict(d.measured),
                "feasible": d.feasible,
                "out": d.why,
            }
            for d in tuned.done
        ],
        "failures": [{"candidate": config, "why": why} for config, why in tuned.failures],
        "front": [tuned.done[i].number for i in _front(tuned)],
        "importances": {k: dict(v) for k, v in tuned.importances.items()},
        "stopped": tuned.stopped,
        "cut": tuned.cut,
        "fm_calls": {
            "made": tuned.calls_live,
            "from_memo": tuned.calls_memo,
            "of_known_candidates": tuned.calls_again,
            "saved": saved_share(tuned),
            "to_decide": tuned.calls_deciding,
            "by_scorer": tuned.calls_judging,
        },
        "seconds": tuned.seconds,
        "resumed": tuned.resumed,
        "notes": list(p.notes),
    }


def lanes_of(tuned: Tuned) -> dict[str, Measured]:
    """The held-out runs as observed, of the incumbent run again, and of each finalist."""
    p = tuned.prepared
    out = {} if tuned.observed is None else {"observed": tuned.observed}
    return out | {name: measured(outcomes, p.goals) for name, outcomes in tuned.lanes.items() if outcomes}


def saved_share(tuned: Tuned) -> float | None:
    """Of the FM calls that the candidates of this search need, those that were not made; `None` of none."""
    saved = tuned.calls_memo + tuned.calls_again
    return saved / (tuned.calls_live + saved) if tuned.calls_live + saved else None


def _front(tuned: Tuned) -> list[int]:
    """Places of the feasible trials that no other dominates."""
    feasible = [i for i, d in enumerate(tuned.done) if d.feasible and d.why is None]
    return [feasible[i] for i in front([tuned.done[i].measured.values for i in feasible])]


def whole(tuned: Tuned, config: Config) -> dict[str, Any]:
    """A configuration with what all candidates have besides, as labels."""
    return whole_of(tuned.prepared, config)


def whole_of(prepared: Prepared, config: Config) -> dict[str, Any]:
    """As `whole`, of a study that has only begun."""
    return {**dict(prepared.about.base), **{n: v for n, v in config.items() if n in prepared.space.knobs}}


def markdown(tuned: Tuned) -> str:
    """The report, for people and for a pull request."""
    return "\n".join(_lines(tuned)) + "\n"


def _lines(tuned: Tuned) -> Iterator[str]:
    p, d = tuned.prepared, tuned.decision
    yield f"# Tuning {p.spec.name}: {verdict_words(tuned)}"
    yield ""
    yield from _verdict(tuned)
    yield ""
    yield "## Held-out runs, three lanes"
    yield ""
    lanes = lanes_of(tuned)
    if len(lanes) < 2:
        yield "No candidate came so far, or there was no time left: nothing was run on them."
    else:
        names = {"observed": "as observed", INCUMBENT: "incumbent, run again"}
        rows = [[names.get(name, name), *_measures(found, known=name != "observed")] for name, found in lanes.items()]
        yield from table(["lane", "runs", "error", f"cost ({p.goals.cost_unit})", *_latency(tuned), "missed SLO"], rows)
        answered = [f"{names.get(n, n)} {m.cached} in {m.runs} runs" for n, m in lanes.items() if m.cached]
        if answered:
            yield ""
            yield f"Steps that the agent's own cache answered: {', '.join(answered)}."
        yield ""
        yield (
            "The middle lane says what running it again changes by itself (another load, another time). Candidates are "
            "compared with it, pair by pair, without the memo, in turns."
        )
    yield ""
    yield from _compared(d.compared)
    yield "## What was searched"
    yield ""
    yield from _conditions(tuned)
    yield ""
    yield from _trials(tuned)
    yield from _importances(tuned)


def _verdict(tuned: Tuned) -> Iterator[str]:
    p, d = tuned.prepared, tuned.decision
    if why := why_words(tuned):
        yield why[0].upper() + why[1:] + "."
        yield ""
    if d.verdict is Verdict.PROMOTE:
        changed = {k: v for k, v in tuned.chosen.items() if p.incumbent.get(k) != v}
        dropped = [k for k in p.incumbent if k not in tuned.chosen]
        rows = [[k, str(p.incumbent.get(k, "-")), str(v)] for k, v in changed.items()]
        rows += [[k, str(p.incumbent[k]), "(does not matter)"] for k in dropped]
        yield from table(["knob", "was", "becomes"], rows)
    if (said := unmet(tuned)) is not None:
        what, dot, near = said.partition(". ")
        yield f"**{what}**{dot}{near}"


def verdict_words(tuned: Tuned) -> str:
    """The decision in a line; that what stays in use does not keep what it must is a part of it."""
    words, broken = str(tuned.decision), breaks(tuned)
    return words if broken is None or unmet(tuned) is not None else f"{words}, and {broken}"


def why_words(tuned: Tuned) -> str:
    """Why it was decided so: first what the configuration in use does not keep, then which budget ended it early."""
    said = [breaks(tuned), _way_out(tuned), tuned.decision.cut, tuned.decision.why or None]
    return "; ".join(words for words in said if words is not None)


def breaks(tuned: Tuned) -> str | None:
    """That the configuration in use, which stays, does not keep what it must: on held-out runs, else where searched."""
    if tuned.decision.verdict is Verdict.PROMOTE:
        return None
    found, goals = tuned.decision.incumbent, tuned.prepared.goals
    if found is None or not found.runs:
        found = tuned.done[0].measured if tuned.done and tuned.done[0].config == tuned.prepared.incumbent else None
    if found is None:
        return None
    parts = []
    broken = goals.constraints(found)
    if broken.get("quality", 0) > 0 and found.scored:
        parts.append(f"error at most {goals.most_error:g} (it has {found.error:.3g})")
    if broken.get("slo", 0) > 0:
        parts.append(f"{goals.percentile:g} of 100 runs within {goals.slo_s:g} s ({found.missed} of {found.runs} miss)")
    return f"the configuration in use does not keep {' nor '.join(parts)}" if parts else None


def _way_out(tuned: Tuned) -> str | None:
    """The finalist that keeps it, and which margins stand in its way; of a configuration in use that does not."""
    if breaks(tuned) is None:
        return None
    margins, goals = tuned.decision.margins, tuned.prepared.goals
    for c in tuned.decision.compared:
        if all(over <= 0 for over in goals.constraints(c.candidate).values()):
            far = [
                f"the margin of {n} ({said(n, e.estimate)}, {said(n, margins.of(n))} may be)"
                for n, e in c.effects.items()
                if e.estimate > margins.of(n)
            ]
            return f"{c.name} keeps it" + (f", and in its way is {' and '.join(far)}" if far else "")
    return None


def unmet(tuned: Tuned) -> str | None:
    """That no candidate keeps the constraints, and the nearest, if so."""
    if not tuned.done or any(t.feasible for t in tuned.done):
        return None
    best = min(tuned.done, key=lambda t: t.violation)
    nearest = f"The nearest is trial {best.number}: {_config(best.config)}."
    return f"No candidate keeps what it must ({_goals(tuned)}). {nearest}"


def _goals(tuned: Tuned) -> str:
    g = tuned.prepared.goals
    parts = []
    if g.slo_s is not None:
        parts.append(f"{g.percentile:g} of 100 runs within {g.slo_s:g} s")
    if g.most_error is not None:
        parts.append(f"error at most {g.most_error:g}")
    return "; ".join(parts) or "no SLO"


def _replicas(goals: Goals) -> str:
    if not goals.provisioned:
        return ""
    asked = goals.replica_usd_h
    by_profile = ", ".join(f"{n} {usd:g}" for n, usd in asked.items()) if isinstance(asked, Mapping) else ""
    price = "" if asked is None else f", USD an hour: {by_profile}" if by_profile else f", {asked:g} USD an hour each"
    return f": a run's share of all replicas' time, used or not{price}"


def _latency(tuned: Tuned) -> list[str]:
    return [f"p{tuned.prepared.goals.percentile:g} (s)", "median (s)"]


def _measures(found: Measured, *, known: bool = True) -> list[str]:
    error = f"{found.error:.3f}" if found.scored else "-"
    cost = f"{found.cost:.4g}" if known else "-"
    return [str(found.runs), error, cost, f"{found.latency_s:.3f}", f"{found.median_s:.3f}", str(found.missed)]


def _compared(compared: Sequence[Compared]) -> Iterator[str]:
    if not compared:
        return
    yield "## Finalists against the incumbent"
    yield ""
    rows = []
    for c in compared:
        effects = [within(n, e) for n, e in c.effects.items()]
        slo = "-" if c.slo is None else f"{c.slo[0]} of {c.slo[1]} missed; at most {c.slo[2]:.1%}"
        rows.append([c.name, *effects, slo, f"{c.p_adjusted:.3g}", c.verdict.value, "; ".join(c.why)])
    yield from table(["finalist", "error", "cost", "latency", "SLO", "p (Holm)", "verdict", "why"], rows)
    yield ""
    yield (
        "In brackets one-sided 95 % bounds: paired bootstrap, conversations resampled whole; the SLO by the exact "
        "binomial bound, of runs or of conversations, whichever says less."
    )
    yield ""


def _conditions(tuned: Tuned) -> Iterator[str]:
    p = tuned.prepared
    saved = saved_share(tuned)
    different = len(tuned.done)
    yield f"- study `{tuned.study}`, {tuned.trials} candidates told ({different} different); ended: {tuned.stopped}"
    yield f"- sampler {p.about.sampler}, seed {p.about.seed}, Optuna {p.about.versions['optuna']}; {p.about.fidelity}"
    yield f"- {len(p.cases.search)} recorded runs to search on, {len(p.cases.decide)} newer ones to decide on"
    yield f"- goals: {_goals(tuned)}; cost in {p.goals.cost_unit}{_replicas(p.goals)}"
    told = "" if saved is None else f" ({saved:.0%} saved)"
    memo = f"{tuned.calls_memo} answered from the memo, {tuned.calls_again} of candidates that were known"
    yield f"- FM calls of this search: {tuned.calls_live} made, {memo}{told}"
    yield f"- FM calls to decide: {tuned.calls_deciding}, all made"
    if tuned.calls_judging:
        yield f"- FM calls of the scorer itself: {tuned.calls_judging}"
    yield f"- {tuned.seconds:.0f} s"
    for note in (*p.notes, *([] if tuned.cut is None else [f"the decision ended early: {tuned.cut}"])):
        yield f"- {note}"
    for config, why in tuned.failures[:3]:
        yield f"- could not be evaluated: {_config(config)}: {why}"


def _trials(tuned: Tuned) -> Iterator[str]:
    best = _front(tuned)
    shown = sorted({0, *best[:_MOST]}) if tuned.done else []
    header = ["trial", "candidate", "runs", *NAMES[:1], f"cost ({tuned.prepared.goals.cost_unit})", *_latency(tuned)]
    rows = []
    for i in shown:
        d = tuned.done[i]
        name = f"{d.number}{' (incumbent)' if i == 0 else ''}"
        rows.append([name, _config(d.config), *_measures(d.measured)[:5]])
    yield "The feasible front, and the incumbent, as the search saw them:"
    yield ""
    yield from table(header, rows)
    yield ""


def _importances(tuned: Tuned) -> Iterator[str]:
    if not tuned.importances:
        return
    knobs = sorted({k for v in tuned.importances.values() for k in v})
    yield "What each knob explains of each objective (PED-ANOVA):"
    yield ""
    rows = [[k, *(f"{tuned.importances.get(n, {}).get(k, 0.0):.0%}" for n in NAMES)] for k in knobs]
    yield from table(["knob", *NAMES], rows)


def _config(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in config.items())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #8888;padding:.3rem .6rem;text-align:left}"
    "code{background:#8882;padding:0 .2rem}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}"
)


def page(tuned: Tuned) -> str:
    """The report as one HTML file that needs nothing besides."""
    return html_page(f"Tuning {tuned.prepared.spec.name}", _lines(tuned))


def html_page(title: str, lines: Iterable[str]) -> str:
    """Lines of such Markdown as is written here (headings, tables, lists, paragraphs) as one HTML file."""
    out: list[str] = []
    table = False
    for line in lines:
        row = line.startswith("|")
        if table and not row:
            out.append("</table>")
            table = False
        if row:
            if not table:
                out.append("<table>")
            if not set(line) <= {"|", "-"}:
                tag = "td" if table else "th"
                cells = line.strip("| ").replace("\\|", "\0").split(" | ")
                out.append("<tr>" + "".join(f"<{tag}>{_inline(c)}</{tag}>" for c in cells) + "</tr>")
            table = True
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            out.append(f"<h{level}>{_inline(line.lstrip('# '))}</h{level}>")
        elif line.startswith("- "):
            out.append(f"<li>{_inline(line[2:])}</li>")
        elif line:
            out.append(f"<p>{_inline(line)}</p>")
    if table:
        out.append("</table>")
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style>"
    )
    return head + "\n".join(out) + "</html>\n"


def _inline(text: str) -> str:
    safe = html.escape(text.replace("\0", "|"))
    for mark, tag in (("**", "strong"), ("`", "code")):
        parts = safe.split(mark)
        if len(parts) % 2:
            safe = "".join(p if i % 2 == 0 else f"<{tag}>{p}</{tag}>" for i, p in enumerate(parts))
    return safe


def write(tuned: Tuned, folder: Path) -> list[Path]:
    """The report and `tuned.toml` in a folder, each file whole or not at all; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    comment = [f"{tuned.decision} (study {tuned.study})"]
    config = whole(tuned, tuned.chosen)
    texts = {
        "report.md": markdown(tuned),
        "report.html": page(tuned),
        "report.json": orjson.dumps(to_json(tuned), default=str, option=_JSON).decode() + "\n",
        "tuned.toml": toml(config, comment),
    }
    out = []
    for name, text in texts.items():
        path = folder / name
        temporary = folder / f".{name}.{os.getpid()}.redecode-tmp"  # as a night sweeps it
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        out.append(path)
    return out
