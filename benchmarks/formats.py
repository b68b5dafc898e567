"""Message formats: tokens, validity before and after repair, quality, latency, forced tokens, tokens per language.

Five tables. Tokens of the same records in every format, by the bundled FM's own tokenizer. Faults made on purpose
(`optimizer/formats/faults.py`) and what reading comes to, beside what usual parsers come to. The bundled FM asked for
contacts from unseen articles in every way it knows, on a real vLLM, one call at a time (`--no-engine`: left out). Of
those answers: tokens that their structure determines. The same sentences in ten languages. With `--store`, also the
records that a store's answers hold, in every format. `--quick` takes under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support.fm_formats import Contact, ask
from redecode.agents import BUNDLED_MODELS, model_dir
from redecode.agents.fm.articles import cases
from redecode.optimizer.formats import FORMATS, CannotExpress, MalformedAnswer, faults, languages, model_of
from redecode.optimizer.formats.tokens import FileTokens
from redecode.tracer import Store


class Step(BaseModel):
    """A step of a plan."""

    id: int
    tool: str
    query: str
    after: list[int]


class Plan(BaseModel):
    """A nested record."""

    goal: str
    owner: Contact
    steps: list[Step]


class Row(BaseModel):
    """A row of a table."""

    id: int
    name: str
    city: str
    price: float
    note: str | None


class Rows(BaseModel):
    """A list of flat records."""

    rows: list[Row]


_HOSTILE = ('5 Main St #4, "the Mill"', "Room: 12, A & B <Hall>", "Lane 3\n2nd floor", "O'Brien's")


def contacts(count: int) -> list[Contact]:
    """Contacts of articles; one in five with markup in its address."""
    out = []
    for n, article in enumerate(islice(cases("heldout", 3), count)):
        truth = article.contact
        address = truth.address if n % 5 else f"{_HOSTILE[n // 5 % len(_HOSTILE)]}, {truth.address}"
        out.append(Contact(name=truth.name, email=truth.email, address=address))
    return out


def records(count: int) -> dict[str, list[BaseModel]]:
    """So many records of each shape."""
    rng = random.Random(5)
    flat = contacts(count)
    plans = [
        Plan(
            goal=f"find who leads {c.address.split(',')[0]}",
            owner=c,
            steps=[
                Step(id=n, tool=rng.choice(["search", "read", "ask"]), query=f"{c.name}: {n}", after=list(range(1, n)))
                for n in range(1, 4)
            ],
        )
        for c in flat
    ]
    tables = [
        Rows(
            rows=[
                Row(id=n, name=c.name, city=c.address.split(" ")[-2], price=rng.randrange(100, 9999) / 100, note=None)
                for n, c in enumerate(rng.choices(flat, k=20))
            ]
        )
        for _ in range(max(count // 5, 1))
    ]
    return {"flat, 3 fields": [*flat], "nested, 3 steps": [*plans], "table, 20 x 5": [*tables]}


def token_rows(counts: FileTokens, shapes: dict[str, list[BaseModel]]) -> list[dict[str, Any]]:
    """Mean tokens, absolute and of compact JSON's."""
    out = []
    for shape, some in shapes.items():
        row: dict[str, Any] = {"shape": shape, "records": len(some)}
        base = sum(counts.count(FORMATS["json"].render(r)) for r in some)
        pretty = sum(counts.count(r.model_dump_json(indent=2)) for r in some)
        row["json, indented"] = [round(pretty / len(some), 1), round(pretty / base, 2)]
        for name, form in FORMATS.items():
            if form.fits(type(some[0])):
                total = sum(counts.count(form.render(r)) for r in some)
                row[name] = [round(total / len(some), 1), round(total / base, 2)]
            else:
                row[name] = None
        out.append(row)
    return out


def repair_rows(some: Sequence[BaseModel]) -> list[dict[str, Any]]:
    """Outcomes by format and kind of fault."""
    out = []
    for name, form in FORMATS.items():
        usual = name in ("json", "yaml")
        found: dict[str, Counter[str]] = {}
        for record in some:
            if not form.fits(type(record)):
                continue
            try:
                made = list(faults.faults_of(form, record))
            except CannotExpress:
                continue
            for fault in made:
                counts = found.setdefault(fault.kind, Counter())
                counts[faults.outcome(form, record, fault)] += 1
                if usual:
                    counts[f"usual {faults.naive(form, fault, record)}"] += 1
        for kind, counts in found.items():
            row = {"format": name, "fault": kind, **{o: counts[o] for o in faults.OUTCOMES}}
            row |= {f"usual_{o}": counts[f"usual {o}"] if usual else None for o in ("recovered", "refused", "wrong")}
            out.append(row)
    return out


def stored_rows(path: Path, counts: FileTokens) -> list[dict[str, Any]]:
    """The records that a store's answers hold, by step: validity as they are, and their tokens in every format."""
    store, steps = Store(path, create=False), dict[tuple[str, str], list[str]]()
    for run in store.runs():
        if run.source_run_id is None:
            for decode in store.load(run.run_id).decodes:
                if isinstance(decode.output, list) and decode.output and decode.output[0].get("content"):
                    key = (run.agent, decode.step_key)
                    steps.setdefault(key, []).append(decode.output[0]["content"])
    out = []
    for (agent, step), answers in sorted(steps.items()):
        found = [r for text in answers if (r := _record(text)) is not None]
        if not found:
            continue
        row: dict[str, Any] = {"agent": agent, "step": step, "answers": len(answers), "JSON records": len(found)}
        row["as recorded"] = round(sum(counts.count(text) for text in answers) / len(answers), 1)
        for name, form in FORMATS.items():
            try:
                row[name] = round(sum(counts.count(form.render(r)) for r in found) / len(found), 1)
            except CannotExpress:
                row[name] = None
        out.append(row)
    return out


def _record(text: str) -> BaseModel | None:
    try:
        plain = json.loads(text)
        return model_of(plain).model_validate(plain) if isinstance(plain, dict) else None
    except (ValueError, CannotExpress, MalformedAnswer):
        return None


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table."""
    print(f"\n{title}")
    if not rows:
        print("nothing")
        return
    cells = [[_cell(v) for v in row.values()] for row in rows]
    names = list(rows[0])
    widths = [max(len(n), *(len(row[at]) for row in cells)) for at, n in enumerate(names)]
    for line in [names, *cells]:
        print("  ".join(value.ljust(w) for value, w in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]} ({value[1]:.2f})"
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) and value < 10 else str(value)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--no-engine", action="store_true", help="only what needs no engine")
    parser.add_argument("--articles", type=int, default=60, help="that each model is asked about, in each way")
    parser.add_argument("--level", type=int, default=2, choices=range(4), help="how much the articles mislead")
    parser.add_argument("--store", type=Path, help="a store whose answers to write in every format, too")
    args = parser.parse_args()
    counts = FileTokens(model_dir())
    some = records(4 if args.quick else 40)
    faulty: list[BaseModel] = [*some["flat, 3 fields"][: 2 if args.quick else 10]]
    faulty += [*some["nested, 3 steps"][: 1 if args.quick else 5]]
    faulty.append(Rows.model_validate({"rows": [r.model_dump() for r in some["table, 20 x 5"][0].rows[:3]]}))  # type: ignore[attr-defined]
    document: dict[str, Any] = {
        "conditions": {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "tokenizer": counts.name,
            "records": len(some["flat, 3 fields"]),
            "records_with_faults": len(faulty),
            "articles": 0 if args.no_engine else 4 if args.quick else args.articles,
            "level": args.level,
        },
        "tokens": token_rows(counts, some),
        "repair": repair_rows(faulty),
        "languages": [asdict(cost) for cost in languages.costs(counts)],
    }
    if args.store is not None:
        document["stored"] = stored_rows(args.store, counts)
    if not args.no_engine:
        models = BUNDLED_MODELS[:1] if args.quick else BUNDLED_MODELS
        temperatures = [0.0] if args.quick else [0.0, 1.0]
        asked = [
            a for m in models for a in asyncio.run(ask(m, 4 if args.quick else args.articles, temperatures, args.level))
        ]
        document["asked"] = [{k: v for k, v in asdict(a).items() if k != "forced"} for a in asked]
        document["forced"] = [
            {"model": a.model, "temperature": a.temperature, "way": a.way, "share": a.forced.share, **asdict(a.forced)}
            for a in asked
            if a.forced.tokens
        ]
    if args.json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in document["conditions"].items()))
    titles = {
        "tokens": "tokens of a record (of compact JSON's)",
        "repair": "faults: what reading comes to; usual: json-repair or yaml.safe_load, then pydantic",
        "asked": "the bundled FM, one call at a time; valid and right are counts of answers",
        "forced": "tokens that the structure determines",
        "languages": "the same sentences",
        "stored": "answers of a store in every format, mean tokens",
    }
    for name, title in titles.items():
        if name in document:
            show(title, document[name])


if __name__ == "__main__":
    main()
