"""What is told of a night: `report.json` with all of it, and `report.md` and `report.html` made from that alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redecode.optimizer.evaluation.placing import PLACEMENT, placement_of, without_placement
from redecode.optimizer.nightly.config import NightlyConfig
from redecode.optimizer.nightly.drift import Feature
from redecode.optimizer.nightly.ending import Standing
from redecode.optimizer.nightly.errors import BadNight
from redecode.optimizer.nightly.history import Event
from redecode.optimizer.nightly.home import NightFolder, write_json, write_whole
from redecode.optimizer.nightly.trends import MEASURES, ChangePoint, iso
from redecode.optimizer.nightly.tuning import FOLDER as TUNING
from redecode.optimizer.promotion.decide import Verdict
from redecode.optimizer.report import html_page, table
from redecode.optimizer.study.stopping import seconds

VERSION = 1
_LATEST = 8


def document(
    config: NightlyConfig, folder: NightFolder, steps: Mapping[str, Any], now: Standing, events: Sequence[Event]
) -> dict[str, Any]:
    """All of a night as data.

    Args:
        steps: what each came to; "done" without the report.
        now: what is in use.
    """
    gated, tuned, done = steps["gate"], steps["tune"], steps["done"]
    incumbent = tuned["incumbent"]
    words = gated["verdict"]
    if steps["move"]["moved"]:
        words = f"promoted {gated['finalist']}" + ("" if now.then is None else f", then {now.then}")
    elif steps["move"].get("why"):
        words = "not promoted"
    elif gated.get("wanted") is not None:
        words = f"not enough evidence: need {gated['wanted']}"
    elif gated["verdict"] == Verdict.KEEP.value and tuned.get("unmet"):
        words = "keep: no candidate keeps what it must"
    elif gated["verdict"] == Verdict.UNSURE.value and tuned.get("cut") and tuned["verdict"] == gated["verdict"]:
        words = f"{gated['verdict']}: a budget was used up"
    if not now.promoted and tuned.get("breaks") and not tuned["unmet"] and gated["config"] == gated["before"]:
        words += f", and {tuned['breaks']}"
    return {
        "version": VERSION,
        "night": folder.id,
        "job": config.name,
        "spec": config.spec,
        "began": iso(steps["begin"]["began_ns"]),
        "ended": iso(done["ended_ns"]),
        "seconds": done["seconds"],
        "versions": steps["begin"]["versions"],
        "verdict": gated["verdict"],
        "verdict_words": words,
        "why": now.why,
        "promoted": now.promoted,
        "config_before": gated["before"],
        "config": now.config,
        "incumbent": without_placement(incumbent),
        "incumbent_placement": placement_of(incumbent),
        "context": without_placement(now.context),
        "placement": placement_of(now.context),
        "more_runs": gated["more"],
        "wanted": gated.get("wanted"),
        "rolled_back_before": gated["rejected"],
        "runs": steps["select"],
        "drift": steps["drift"],
        "profile": steps["profile"],
        "tuning": tuned.get("report"),
        "skipped": tuned.get("skipped"),
        "held_out_before": tuned.get("held_out_before", 0),
        "trends": {**steps["trends"], **steps["changes"]},
        "worth": steps["worth"],
        "budget": {
            "time_s": config.budget.time,
            "fm_calls": config.budget.fm_calls,
            "cost": config.budget.cost,
            "used": {
                "time_s": done["seconds"],
                "fm_calls": tuned.get("fm_calls", steps["profile"].get("fm_calls", 0)),
                "fm_calls_before": tuned.get("fm_calls_before", 0),
                "fm_calls_to_profile": steps["profile"].get("fm_calls", 0),
                "cost": tuned.get("cost", 0.0),
                "cost_unit": tuned.get("cost_unit"),
            },
        },
        "history": [e.to_json() for e in events[-_LATEST:]],
    }


def write(folder: NightFolder, found: Mapping[str, Any]) -> None:
    """`report.md`, `report.html`, and last `report.json`."""
    path = folder.path / TUNING / "report.md"
    study = path.read_text(encoding="utf-8") if path.exists() and found["tuning"] is not None else ""
    if found["wanted"] is not None:  # the study does not know that the next night's runs are others
        study = study.replace(f"need {found['more_runs']} more runs", f"need {found['wanted']}", 1)
    lines = [line for line, after in _pairs(_lines(found, study.splitlines())) if line or after]
    write_whole(folder.path / "report.md", "\n".join(lines) + "\n")
    write_whole(folder.path / "report.html", html_page(f"Night {found['night']} of {found['job']}", lines))
    write_json(folder.path / "report.json", found)


def read(folder: NightFolder) -> dict[str, Any]:
    """`report.json` of a night that has ended.

    Raises:
        BadNight: it is gone, or damaged.
    """
    path = folder.path / "report.json"
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadNight(f"{path} cannot be read ({error}); --again begins another night") from error
    return found


def _pairs(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Each line with the next one: of several empty lines one is enough."""
    before: str | None = None
    for line in lines:
        if before is not None:
            yield before, line
        before = line
    if before is not None:
        yield before, ""


def _lines(found: Mapping[str, Any], study: Sequence[str]) -> Iterator[str]:
    yield f"# Night {found['night']} of {found['job']}: {found['verdict_words']}"
    yield ""
    yield from _verdict(found)
    yield "## Runs"
    yield ""
    runs = found["runs"]
    yield f"{len(runs['run_ids'])} recorded runs: {runs['words']}, until {iso(runs['until_ns'])}."
    yield ""
    yield from _drift(found["drift"])
    yield from _profile(found["profile"])
    yield from _trends(found["trends"])
    yield from _worth(found["worth"])
    yield from _spent(found)
    if study:
        yield ""
        yield from (f"#{line}" if line.startswith("#") else line for line in study)


def _verdict(found: Mapping[str, Any]) -> Iterator[str]:
    yield found["why"]
    yield ""
    if found["promoted"]:
        was, now = (
            {**found[context], **{PLACEMENT + n: v for n, v in found[placed].items()}}
            for context, placed in (("incumbent", "incumbent_placement"), ("context", "placement"))
        )
        names = [n for n in dict.fromkeys((*was, *now)) if was.get(n) != now.get(n)]
        rows = [[n, str(was.get(n, "-")), str(now.get(n, "(does not matter)"))] for n in names]
        yield f"Configuration {found['config']} is in use, in place of {found['config_before']}:"
        yield ""
        yield from table(["knob", "was", "is"], rows)
        yield ""
        yield f"Back: `redecode nightly rollback nightly.toml {found['config_before']}`"
    else:
        how = "stays" if found["config"] == found["config_before"] else "is"
        yield f"Configuration {found['config']} {how} in use."
    yield ""
    for name, why in found["rolled_back_before"].items():
        yield f"- {name} is not promoted again: {why}"
    if found["held_out_before"]:
        yield (
            f"- {found['held_out_before']} of the held-out runs had been decided on in a night before: of several "
            'looks at the same runs one is wrong more easily; `runs = "since-last"` takes new ones only'
        )
    yield ""


def _drift(drift: Mapping[str, Any]) -> Iterator[str]:
    yield "## Mix of runs"
    yield ""
    yield f"**{drift['verdict']}**: {drift['words']}"
    yield ""
    rows = []
    for data in drift["features"]:
        f = Feature.from_json(data)
        was, now = (
            f"{s[0]:.0%}" if f.kind == "share" else f"{s[1]:g} ({s[0]:g} to {s[2]:g})" for s in (f.before, f.now)
        )
        rows.append([f.name, was, now, _effect(f), _difference(f), f"{f.p_adjusted:.2g}", _said(f)])
    if rows:
        header = ["feature", "before", "tonight", "change (95 %)", "difference", "p (Holm)", ""]
        yield from table(header, rows)
        yield ""
        yield (
            "Shares of conversations with Newcombe's interval and Fisher's exact test; numbers as median (10 % to "
            "90 %), with a bootstrap interval of the ratio of medians and the test of Kolmogorov and Smirnov, whose "
            "difference is that of the distribution functions, and beside it by how much of the larger one a decile "
            "differs at most: both must reach `drift.matters`."
        )
        yield ""
    for name, why in drift["untested"].items():
        yield f"- not compared: {name}: {why}"
    yield ""


def _effect(f: Feature) -> str:
    if f.effect is None or f.low is None or f.high is None:
        return "-"
    if f.kind == "share":
        return f"{100 * f.effect:+.0f} points ({100 * f.low:+.0f} to {100 * f.high:+.0f})"
    return f"{f.effect - 1:+.0%} ({f.low - 1:+.0%} to {f.high - 1:+.0%})"


def _difference(f: Feature) -> str:
    return f"{f.difference:.2f}" + ("" if f.kind == "share" else f", by {f.shift:.0%}")


def _said(f: Feature) -> str:
    if f.drifted or f.follows:
        return "**changed**" if f.drifted else "changed, as did the configuration"
    return f"below {f.visible:.2f} could not be seen" if f.visible > f.difference else ""


def profile_line(profile: Mapping[str, Any]) -> str:
    """In one line."""
    if profile["source"] == "none":
        return "not asked for"
    parts = []
    for p in profile["profiles"]:
        beyond = [f"{c['what']} {c['ratio'] - 1:+.0%}" for c in p["changes"] if c["beyond"]]
        parts.append(f"{p['model']}: {'the first one' if p['new'] else ', '.join(beyond) or 'as before'}")
    parts += [f"none ({why})" for why in profile["refused"].values()] if not parts else []
    return "; ".join(parts) or "none"


def _profile(profile: Mapping[str, Any]) -> Iterator[str]:
    yield "## Engine"
    yield ""
    where = "" if profile["source"] == "none" else f" from the {profile['source']}"
    yield f"Profile{where}: {profile_line(profile)}."
    yield ""
    rows = [
        [p["model"], c["what"], f"{c['before_ms']:.2f}", f"{c['now_ms']:.2f}", f"{c['ratio'] - 1:+.0%}",
         f"{c['error']:.0%}", "**beyond that**" if c["beyond"] else ""]
        for p in profile["profiles"] for c in p["changes"]
    ]  # fmt: skip
    if rows:
        yield from table(["FM", "step", "before (ms)", "now (ms)", "change", "profiles are off by", ""], rows)
        yield ""
    if profile["profiles"]:
        for what, why in profile["refused"].items():
            yield f"- left out: {what}: {why}"
        yield ""


def _trends(trends: Mapping[str, Any]) -> Iterator[str]:
    yield "## Over the nights"
    yield ""
    now, before = trends["measures"], trends["previous"]
    was = f"; night {before['night']} with {before['config']}" if before else ""
    yield f"Tonight's runs with configuration {trends['config']}{was}."
    yield ""
    rows = []
    for name in (m for m in MEASURES if now[m] is not None):
        then = before[name] if before else None
        ratio = "" if not then else f"{now[name] / then - 1:+.0%}"
        unit = f" ({trends['cost_unit']})" if name == "cost" else ""
        rows.append([MEASURES[name] + unit, "-" if then is None else f"{then:.4g}", f"{now[name]:.4g}", ratio])
    yield from table(["", before["night"] if before else "before", "tonight", "change"], rows)
    yield ""
    if trends["unpriced"]:
        yield f"- cost cannot be told: there is no price of {', '.join(trends['unpriced'])}"
        yield ""
    if uncounted := trends.get("uncounted", 0):  # a night of before they were counted does not say
        what = "tokens cannot" if now["cost"] is not None or trends["unpriced"] else "cost and tokens cannot"
        yield (
            f"- {what} be told: nobody told how many tokens {uncounted} FM calls had; a stream tells if it is asked to "
            '(stream_usage=True of ChatOpenAI, stream_options={"include_usage": True} of the OpenAI client) and read '
            "to its end"
        )
        yield ""
    changes = [ChangePoint(**c) for c in trends["changes"]]
    if not changes:
        yield trends["words"] + "."
    for change in changes:
        yield f"- {change}"
    yield ""


def _worth(worth: Mapping[str, Any]) -> Iterator[str]:
    yield "## Fine-tune or prompt"
    yield ""
    yield worth["words"] + "."
    yield ""
    yield from worth.get("lines", ())
    yield ""


def _spent(found: Mapping[str, Any]) -> Iterator[str]:
    used, caps = found["budget"]["used"], found["budget"]
    yield "## Spent"
    yield ""
    yield f"- {seconds(used['time_s'])} s, of at most {seconds(caps['time_s'])}"
    limit = "" if caps["fm_calls"] is None else f", of at most {caps['fm_calls']}"
    yield f"- {used['fm_calls']} FM calls{limit}"
    if used["fm_calls_before"]:
        before = used["fm_calls_before"]
        yield f"- of these {before} were made before the last start; what is said of the search below is since then"
    if used["fm_calls_to_profile"]:
        yield f"- of these {used['fm_calls_to_profile']} measured the engine; the cost is without theirs"
    if used["cost_unit"] is not None:
        limit = "" if caps["cost"] is None else f", of at most {caps['cost']:g}"
        yield f"- {used['cost']:.4g} {used['cost_unit']}{limit}"
    if found["skipped"] is not None:
        yield f"- nothing was tried: {found['skipped']}"
    yield ""
    yield "## Configurations"
    yield ""
    rows = [
        [e["at"], e["config"], e["change"], e["night"] or "-", e["why"]]
        for e in reversed(found["history"])
    ]  # fmt: skip
    yield from table(["since", "configuration", "how", "night", "why"], rows)
