"""What caches are worth: predicted from recorded runs, and then measured with the caches in place.

A real vLLM with a bundled FM answers a stream of requests to the agent `single`: new ones, ones that come again, ones
in other words, and ones with a single digit changed (to which the old answer is wrong). It is recorded without any
cache. From the recording: hits, false hits with their exact bound, seconds saved on critical paths, by threshold and by
kind of vectors; the verdicts under several budgets, also without the changed ones. Then the same requests in the same
order with an exact cache, and with a semantic one at the largest threshold, against none turn by turn, so that
prediction and measurement stand side by side. Then prompt tokens that the engine could take over, as prompts are and
with their stable part first, for all agents in both layouts; and what one look-up costs. `--quick` takes a minute or
two; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support import cache_workload as workload
from redecode.agents import BUNDLED_MODELS, DEFAULT_MODEL
from redecode.agents.extraction.prompts import LAYOUTS
from redecode.optimizer.caching import (
    THRESHOLDS,
    HashedNgrams,
    Recorded,
    SemanticCache,
    SentenceVectors,
    StepWorth,
    Vectors,
    VectorsUnusable,
    decide,
    prefix_use,
    recorded_calls,
    worth,
)
from redecode.optimizer.caching.files import AnswerFile
from redecode.optimizer.caching.replayed import semantic_hits
from redecode.tracer import Store

BUDGETS = (0.02, 0.05, 0.1)
EACH = 1 - 0.05 / (2 * len(THRESHOLDS))
"""Confidence of each threshold's bound, as `worth` has it by default."""


def level_rows(found: StepWorth, kinds: dict[float | None, Counter[str]]) -> list[dict[str, Any]]:
    """A row for each cache that was replayed."""
    out = []
    for level in (found.exact, *found.semantic):
        if level is None:
            continue
        out.append(
            {
                "vectors": found.vectors if level.threshold is not None else "-",
                "cosine": "exact" if level.threshold is None else level.threshold,
                "calls": level.calls,
                "hits": level.hits,
                "hit_rate": round(level.hit_rate, 3),
                "hit_rate_95": [round(level.low, 3), round(level.high, 3)],
                "false_hits": level.false_hits,
                "false_at_most": round(level.false_upper, 3),
                "saved_s": round(level.savings.saved_s, 2),
                "of_recorded_s": round(level.savings.recorded_s, 2),
                "hits_by_kind": dict(kinds.get(level.threshold, Counter())),
            }
        )
    return out


def by_kind(
    recorded: Recorded, vectors: Vectors, found: StepWorth, kinds: list[str]
) -> dict[float | None, Counter[str]]:
    """Of what kind the requests were that hit."""
    calls = recorded.calls
    kind_of = {call.span_id: kind for call, kind in zip(calls, kinds, strict=True)}
    rows = vectors.of([call.text for call in calls])
    return {
        level.threshold: Counter(
            kind_of[hit.call.span_id] + (", false" if hit.false else "")
            for hit in semantic_hits(calls, rows, level.threshold or 0.0)
        )
        for level in found.semantic
    }


def without_edits(recorded: Recorded, some: Sequence[workload.Request]) -> Recorded:
    """Without the requests for articles in which a digit was changed."""
    edited = {r.article for r in some if r.kind == "edited"}
    calls = [c for c, r in zip(recorded.calls, some, strict=True) if r.article not in edited]
    runs = {c.run_id: recorded.runs[c.run_id] for c in calls if c.run_id in recorded.runs}
    return Recorded(calls, runs, recorded.withheld, recorded.failed)


def measured(name: str, graph: Any, some: Any, place: tuple[str, str], predicted: float | None) -> dict[str, Any]:
    """The same requests with a cache and without, turn by turn, so that a busy machine is busy for both."""
    with_s = without_s = 0.0
    other, plain, quick = 0, workload.plain_agent(), []
    for request in some:
        workload.forget(place[0])
        base, base_s = workload.run(plain, [request], *place)
        workload.forget(place[0])
        got, got_s = workload.run(graph, [request], *place)
        without_s, with_s, other = without_s + base_s[0], with_s + got_s[0], other + (base != got)
        quick.append(got_s[0])
    return {
        "cache": name,
        "requests": len(some),
        "without_s": round(without_s, 2),
        "with_s": round(with_s, 2),
        "saved": round(1 - with_s / without_s, 3),
        "predicted": None if predicted is None else round(predicted, 3),
        "fastest_tenth_ms": round(sorted(quick)[len(quick) // 10] * 1e3, 2),
        "other_answers": other,
    }


def in_place(
    found: StepWorth, vectors: Vectors, some: Sequence[workload.Request], place: tuple[str, str], folder: Path
) -> list[dict[str, Any]]:
    """An exact cache, and a semantic one at the largest threshold, in use."""
    assert found.exact is not None
    level = found.semantic[-1]
    cosine = level.threshold or 1.0
    (folder / "by-meaning").mkdir()
    exact = workload.with_exact_cache(folder, *place)
    semantic = workload.with_semantic_cache(folder / "by-meaning", cosine, vectors)
    return [
        measured("exact", exact, some, place, found.exact.savings.share),
        measured(f"{vectors.name}, cosine {cosine}", semantic, some, place, level.savings.share),
    ]


def prefix_rows(url: str, model: str, folder: Path, count: int) -> list[dict[str, Any]]:
    """Prompt tokens by agent and layout."""
    out = []
    for layout in LAYOUTS:
        store = folder / layout
        workload.architectures(url, model, store, count, layout)
        recorded = recorded_calls(Store(store))
        agents = sorted({call.agent for call in recorded.calls})
        for agent in agents:
            use = prefix_use([call for call in recorded.calls if call.agent == agent])[""]
            out.append(
                {
                    "layout": layout if agent != "contacts_desk" else "-",
                    "agent": agent,
                    "calls": use.calls,
                    "prompt_tokens": use.tokens,
                    "stable": use.stable,
                    "reusable": use.reusable,
                    "engine_reused": use.recorded,
                    "stable_first": use.reordered,
                    "gain": use.gain,
                }
            )
    return out


def lookup_rows(folder: Path, kinds: list[Vectors], sizes: list[int]) -> list[dict[str, Any]]:
    """Milliseconds of one look-up, median of 20, by number of answers kept."""
    out = []
    text = "Article: " + "Nadia Texste looks after the reading week; write to fefle@draxjam.example. " * 6
    for size in sizes:
        file = AnswerFile(folder / f"exact-{size}", most=size)
        with file.opened() as connection:
            rows = [("", "s", str(n), "json", b"{}", 1, 1) for n in range(size)]
            connection.executemany(
                "INSERT INTO answers (tenant, space, key, kind, value, made_ns, used_ns) VALUES (?,?,?,?,?,?,?)", rows
            )
        out.append({"cache": "exact", "answers": size, "ms": _median_ms(lambda f=file: f.get("", "s", ["1"]))})
        for vectors in kinds:
            cache = SemanticCache(folder / f"{vectors.name[:6]}-{size}", threshold=0.999, vectors=vectors, most=size)
            node, _ = cache.around("n", lambda state: {"a": 1}, text=str, side_effect=False)
            node(text)
            filled = AnswerFile(folder / f"{vectors.name[:6]}-{size}", most=size)
            with filled.opened() as connection:
                (space,) = connection.execute("SELECT space FROM answers").fetchone()
                other = (vectors.of(["something else entirely"])[0]).astype("<f4").tobytes()
                rows2 = [("", space, f"k{n}", "json", b"{}", other, 1, 1) for n in range(size - 1)]
                connection.executemany(
                    "INSERT INTO answers (tenant, space, key, kind, value, vector, made_ns, used_ns) "
                    "VALUES (?,?,?,?,?,?,?,?)",
                    rows2,
                )
            node(text)  # reads them once
            out.append({"cache": vectors.name, "answers": size, "ms": _median_ms(lambda ask=node: ask(text))})
    return out


def _median_ms(work: Any) -> float:
    took = []
    for _ in range(20):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return round(median(took) * 1e3, 3)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table."""
    print(f"\n{title}")
    cells = [[str(v) if v is not None else "-" for v in row.values()] for row in rows]
    names = list(rows[0])
    widths = [max(len(n), *(len(row[at]) for row in cells)) for at, n in enumerate(names)]
    for line in [names, *cells]:
        print("  ".join(value.ljust(w) for value, w in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few requests, hashed vectors alone")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--articles", type=int, default=8, help="for each agent, in the table of prompts")
    parser.add_argument("--model", choices=BUNDLED_MODELS, default=DEFAULT_MODEL)
    args = parser.parse_args()
    some = workload.requests(24 if args.quick else args.requests)
    kinds: list[Vectors] = [HashedNgrams()]
    if not args.quick:
        try:
            kinds.append(SentenceVectors())
        except VectorsUnusable as error:
            sys.stderr.write(f"left out: {error}\n")
    document: dict[str, Any] = {
        "conditions": {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "model": args.model,
            "requests": len(some),
            **{f"{k} requests": n for k, n in sorted(Counter(r.kind for r in some).items())},
        }
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with workload.engine(args.model, folder) as url:
            place = url, args.model
            workload.recorded(some, *place, folder / "store")
            recorded = recorded_calls(Store(folder / "store"))
            document["levels"], document["verdicts"], document["measured"] = [], [], []
            for vectors in kinds:
                for of, those in (("all", recorded), ("without edited", without_edits(recorded, some))):
                    (found,) = worth(those, vectors=vectors)
                    assert found.exact is not None
                    for b in BUDGETS:
                        v = decide(found.exact, found.semantic, found.noise, b, EACH, found.nearest)
                        row = {"requests": of, "vectors": vectors.name, "budget": b, "choice": v.choice}
                        document["verdicts"].append({**row, "cosine": v.threshold, "why": v.why})
                    if of == "all":
                        per_kind = by_kind(recorded, vectors, found, [r.kind for r in some])
                        rows = level_rows(found, per_kind)
                        document["levels"] += rows if not document["levels"] else rows[1:]
                        if not document["measured"]:
                            document["measured"] = in_place(found, vectors, some, place, folder)
            document["prompts"] = prefix_rows(url, args.model, folder, 2 if args.quick else args.articles)
        document["lookups"] = lookup_rows(folder, kinds, [1_000] if args.quick else [1_000, 10_000])
    if args.json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in document["conditions"].items()))
    show(
        "caches replayed over the recording; bounds of false hits hold for all rows of one kind of vectors together",
        document["levels"],
    )
    show("verdicts", document["verdicts"])
    show(
        "the same requests with the cache in place; other_answers: contacts unlike those without a cache",
        document["measured"],
    )
    show(
        "prompt tokens: of use to the engine's own cache as they stand, and with the stable part first",
        document["prompts"],
    )
    show("one look-up", document["lookups"])


if __name__ == "__main__":
    main()
