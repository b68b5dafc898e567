"""Measures of all nights in one table, as Apache Otava reads it, and the change points that it finds.

Otava (https://otava.apache.org, E-divisive with Student's t test) is another program: its versions of numpy and scipy
are other ones than ours, so it lives in an environment of its own and is only called.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from redecode.optimizer.nightly.home import Home, write_whole
from redecode.optimizer.objectives import Goals, nearest_rank
from redecode.replay.prices import Price, cost_of
from redecode.tracer import Decode, Run, Store
from redecode.tracer import conventions as c

MEASURES = {
    "p50_s": "median latency (s)",
    "p95_s": "p95 latency (s)",
    "failed": "share of runs that failed",
    "error": "error of the incumbent, run again",
    "cost": "cost of a run",
    "output_tokens": "output tokens of a run",
    "prompt_tokens": "prompt tokens of a run",
}
"""Of the runs of a night as recorded; all are better the smaller they are. A night that lacks one has it empty."""
UNIT, SCORER = "cost_unit", "scorer"
_OF = {"cost": UNIT, "error": SCORER}
"""What two numbers must have in common to be of one series: another unit, or another scorer, makes another one."""
CSV, FOLDER, CONFIG = "measures.csv", "otava", "otava.yaml"
_TIMEOUT_S = 120.0
_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """A night since when a measure is another one.

    Attributes:
        before, after: its mean over the nights until then (from the change before), and since (to the next one).
        moved: the configuration changed between the nights on both sides, which may be why.
    """

    measure: str
    night: str
    before: float
    after: float
    p: float
    moved: bool

    def __str__(self) -> str:
        change = "" if self.before == 0 else f" ({self.after / self.before - 1:+.0%})"
        why = "; the configuration was changed then" if self.moved else ""
        return f"{MEASURES[self.measure]} since {self.night}: {self.before:.4g} → {self.after:.4g}{change}{why}"


def measured(store: Store, runs: Sequence[Run], prices: Mapping[str, Price]) -> dict[str, Any]:
    """Of the recorded runs of a night's agent: `measures` (`None`: cannot be told), `cost_unit`, `unpriced` models, and
    `uncounted`: how many calls were answered though nobody told their tokens.

    With prices a cost is in USD, or there is none: seconds of an engine are another measure. Neither is there one, nor
    tokens, with an uncounted call: what lacks some of them is no smaller for it.
    """
    ended = [r for r in runs if r.duration_s is not None]
    times = sorted(r.duration_s for r in ended if r.status == "ok" and r.duration_s is not None)
    costs: list[float] = []
    tokens = {"output_tokens": 0, "prompt_tokens": 0}
    unpriced, uncounted, paid = set[str](), 0, 0
    for place in range(0, len(ended), _AT_ONCE):
        ids = [r.run_id for r in ended[place : place + _AT_ONCE]]
        calls = store.timed_decodes(ids)
        found = cost_of(calls, prices)
        untold = [call for call in calls if _untold(call)]
        uncounted += len(untold)
        paid += sum(call.model in prices and _is_paid(prices[call.model]) for call in untold)
        tokens["output_tokens"] += sum(call.output_tokens or 0 for call in calls)
        tokens["prompt_tokens"] += sum(call.input_tokens or 0 for call in calls)
        unpriced.update(found.unpriced if prices else ())
        costs.append(found.usd or 0.0 if prices else found.engine_s)
    count = len(ended)
    measures = {
        "p50_s": nearest_rank(times, 50) if times else None,
        "p95_s": nearest_rank(times, 95) if times else None,
        "failed": sum(r.status == "error" for r in ended) / count if count else None,
        "error": None,
        "cost": math.fsum(costs) / count if count and not unpriced and not paid else None,
        **{name: total / count if count and not uncounted else None for name, total in tokens.items()},
    }
    unit = Goals(prices=prices).cost_unit
    return {"measures": measures, "cost_unit": unit, "unpriced": sorted(unpriced), "uncounted": uncounted}


def _untold(call: Decode) -> bool:
    """Whether a call was answered, as far as it was read, and nobody told its tokens; one that failed has none."""
    return call.error in (None, c.CUT_SHORT) and None in (call.input_tokens, call.output_tokens)


def _is_paid(price: Price) -> bool:
    return price.input + price.output > 0


def written(home: Home, name: str) -> list[dict[str, Any]]:
    """Write the table and Otava's input anew, from all nights that have measures; returns the rows, oldest first.

    Otava wants a number in every place, so each measure has a file of the nights that have it.
    """
    rows = []
    for night in home.nights():
        found = night.step("trends")
        if found is not None:
            row = {"time": found["time"], "night": night.id, "config": found["config"], **found["measures"]}
            rows.append(
                {**row, UNIT: found.get(UNIT) if row.get("cost") is not None else None, SCORER: found.get(SCORER)}
            )
    rows.sort(key=lambda r: r["time"])
    write_whole(home.root / CSV, _table(rows, list(MEASURES), UNIT))
    (home.root / FOLDER).mkdir(exist_ok=True)
    tests = {}
    for measure in MEASURES:
        known = _known(rows, measure)
        if known:
            write_whole(home.root / FOLDER / f"{measure}.csv", _table(known, [measure]))
            tests[f"{name}.{measure}"] = {
                "type": "csv",
                "file": f"{FOLDER}/{measure}.csv",
                "time_column": "time",
                "attributes": ["night", "config"],
                "metrics": {measure: {"column": measure, "direction": -1}},
            }
    # YAML, of which JSON is a part.
    write_whole(home.root / CONFIG, orjson.dumps({"tests": tests}, option=orjson.OPT_INDENT_2) + b"\n")
    return rows


def previous(rows: Sequence[Mapping[str, Any]], night: str) -> Mapping[str, Any] | None:
    """The row of the night before one; of measures that are of another series since there are none."""
    place = next((i for i, r in enumerate(rows) if r["night"] == night), 0)
    if place == 0:
        return None
    before = rows[place - 1]
    return {**before, **{measure: None for measure in _OF if not _alike(before, rows[place], measure)}}


def _known(rows: Sequence[Mapping[str, Any]], measure: str) -> list[Mapping[str, Any]]:
    """Nights that have a measure of the same series as the newest has."""
    known = [r for r in rows if r.get(measure) is not None]
    return [r for r in known if _alike(r, known[-1], measure)]


def _alike(one: Mapping[str, Any], other: Mapping[str, Any], measure: str) -> bool:
    """Whether a measure of two nights is of one series. A night of before its scorer was kept has any."""
    if (of := _OF.get(measure)) is None:
        return True
    return one[of] == other[of] or (of == SCORER and None in (one[of], other[of]))


def _table(rows: Sequence[Mapping[str, Any]], measures: Sequence[str], *further: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["time", "night", "config", *measures, *further])
    for row in rows:
        values = ["" if row.get(m) is None else repr(float(row[m])) for m in measures]
        writer.writerow([row["time"], row["night"], row["config"], *values, *(row[f] or "" for f in further)])
    return out.getvalue()


def iso(at_ns: int) -> str:
    """With its offset, as Otava wants it."""
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trends:
    """What Otava said.

    Attributes:
        words: in one line, also why nothing can be said.
    """

    nights: int
    words: str
    changes: tuple[ChangePoint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As data."""
        return asdict(self)


def changes(home: Home, name: str, rows: Sequence[Mapping[str, Any]], *, otava: str, magnitude: float) -> Trends:
    """Ask Otava for the change points of what was `written`; never raises on its account."""
    count = len(rows)
    program = None if otava == "off" else shutil.which(otava)
    if program is None:
        why = "switched off" if otava == "off" else f"no program {otava} here: pip install apache-otava, elsewhere"
        return Trends(
            nights=count, words=f"change points were not looked for ({why}); its input is {CONFIG} and {FOLDER}/"
        )
    tests = [f"{name}.{measure}" for measure in MEASURES if _known(rows, measure)]
    command = [
        program, "analyze", *tests, "--config-file", CONFIG, "--output", "json", "--since", rows[0]["time"],
        "--magnitude", str(magnitude),
    ]  # fmt: skip
    quiet = {k: v for k, v in os.environ.items() if not k.startswith(("OTAVA_", "SLACK_", "GRAFANA_"))}
    try:
        done = subprocess.run(
            command, cwd=home.root, env=quiet, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        found = _read(done.stdout, rows) if done.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError, IndexError) as error:
        return Trends(nights=count, words=f"change points were not found: {otava} failed: {str(error)[:200]}")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Trends(nights=count, words=f"change points were not found: {otava} failed: {last[:200]}")
    words = "; ".join(map(str, found)) or f"no change point in {count} nights"
    return Trends(nights=count, words=words, changes=tuple(found))


def _read(text: str, rows: Sequence[Mapping[str, Any]]) -> list[ChangePoint]:
    """A line of JSON for each measure. Its means are rounded to 1e-6, more than a run may cost: they are made anew."""
    out = []
    for line in text.splitlines():
        for test, groups in json.loads(line).items():
            measure = test.rpartition(".")[2]
            known = _known(rows, measure)
            found = sorted((int(c["index"]), float(c["pvalue"])) for g in groups for c in g["changes"])
            edges = [0, *(place for place, _ in found), len(known)]
            for nth, (place, p) in enumerate(found, 1):
                out.append(
                    ChangePoint(
                        measure=measure,
                        night=known[place]["night"],
                        before=_mean(known[edges[nth - 1] : place], measure),
                        after=_mean(known[place : edges[nth + 1]], measure),
                        p=p,
                        moved=place > 0 and known[place]["config"] != known[place - 1]["config"],
                    )
                )
    return out


def _mean(rows: Sequence[Mapping[str, Any]], measure: str) -> float:
    return math.fsum(r[measure] for r in rows) / max(1, len(rows))
