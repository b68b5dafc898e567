"""Which recorded runs candidates are evaluated on, and which are kept apart to decide on (the newest).

Runs of one conversation, and runs with the same input, stay on one side of the cut: what was searched on is not what
is decided on.
"""

from __future__ import annotations

import inspect
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from redecode.optimizer.errors import BadSpec, NoRuns
from redecode.optimizer.spec import Case, Spec
from redecode.tracer import Run

MODE = "tune"
"""What `replay_mode` says of a run that was made to evaluate a candidate."""
EXPECTED = "expected"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_WHICH = re.compile(r"last-(\d+)([smhdw]?)|all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Cases to search on and cases to decide on, each in one fixed shuffled order.

    Attributes:
        left_out: why → how many runs.
    """

    search: tuple[Case, ...]
    decide: tuple[Case, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the runs on both sides, in their order."""
        text = " ".join([*(c.id for c in self.search), "|", *(c.id for c in self.decide)])
        return blake2b(text.encode(), digest_size=4).hexdigest()


def select(
    runs: Sequence[Run],
    spec: Spec,
    which: str,
    *,
    now_ns: int,
    seed: int = 0,
    held_out: float = 1 / 3,
    most: int | None = None,
    expected: Mapping[str, Any] | None = None,
) -> Cases:
    """The cases of a store's runs.

    Args:
        runs: newest first, as a store gives them.
        which: "last-24h" (or s, m, d, w), "last-200" (runs), "all", or run ids (their beginnings) with commas between.
        held_out: the share of cases, the newest, that is kept apart to decide on.
        most: of the cases to search on; taken evenly from first to last, since what is asked at one time is alike.
        expected: run id → the right answer, before any label of the run.

    Raises:
        NoRuns: none is left; says why each was left out.
        BadSpec: `which` is not understood.
    """
    agents = set(spec.agents) or {spec.name}
    gone: Counter[str] = Counter()
    others: dict[str, None] = {}
    out: list[Case] = []
    asked = _asked(runs, which, now_ns)
    for run in asked:
        case = _case(run, expected or {})
        if run.source_run_id is not None or MODE in run.labels:
            gone["replays"] += 1
        elif run.agent not in agents:
            gone[f"of other agents than {', '.join(sorted(agents))}"] += 1
            others[run.agent] = None
        elif run.status == "open":
            gone["still open"] += 1
        elif run.input is None:
            gone["without a recorded input (--no-content leaves it out)"] += 1
        elif _resumes(run.input):
            gone["that go on after an interrupt: their input is the answer to it"] += 1
        elif spec.needs_expected and case.expected is None:
            gone["without an expected answer (label `expected`, or --expected FILE)"] += 1
        else:
            out.append(case)
    if not out:
        why = "; ".join(f"{count} {reason}" for reason, count in gone.most_common()) or "none was recorded in that time"
        if others:
            first = ", ".join([*others][:5])
            why += f" ({first}{', …' if len(others) > 5 else ''}; a spec's `agents` says whose runs it takes)"
        raise NoRuns(f"no recorded run of {spec.name} to tune on in {which}: {why}")
    search, decide, doubled = _cut(out, held_out, repeats=bool(spec.caches))
    if doubled:
        gone["with the input of another one"] += doubled
    if most is not None and most < len(search):
        search = [search[(2 * i + 1) * len(search) // (2 * most)] for i in range(most)]
    rng = random.Random(f"cases/{seed}")
    rng.shuffle(search)
    rng.shuffle(decide)
    return Cases(search=tuple(search), decide=tuple(decide), left_out=dict(gone))


def _resumes(given: Any) -> bool:
    """Whether a run's input is LangGraph's `Command`, to a graph that has begun."""
    return isinstance(given, Mapping) and given.keys() == {"graph", "update", "resume", "goto"}


def _asked(runs: Sequence[Run], which: str, now_ns: int) -> list[Run]:
    found = _WHICH.fullmatch(which)
    recorded = [r for r in runs if r.source_run_id is None and MODE not in r.labels]
    if found is None:
        ids = [part.strip().lower() for part in which.split(",") if part.strip()]
        if not ids or any(re.fullmatch("[0-9a-f]+", i) is None for i in ids):
            raise BadSpec(f"--runs {which}: want last-24h, last-200, all, or run ids with commas between")
        chosen = [r for r in runs if any(r.run_id.startswith(i) for i in ids)]
        if missing := [i for i in ids if not any(r.run_id.startswith(i) for r in runs)]:
            raise NoRuns(f"no run starts with {missing[0]}; `redecode runs` lists them")
        return chosen
    number, unit = found[1], found[2]
    if number is None:
        return recorded
    if not unit:
        return recorded[: int(number)]
    return [r for r in recorded if r.started_ns >= now_ns - int(number) * _UNITS_S[unit] * 1_000_000_000]


def _case(run: Run, expected: Mapping[str, Any]) -> Case:
    return Case(
        id=run.run_id,
        input=run.input,
        output=run.output,
        expected=expected.get(run.run_id, run.labels.get(EXPECTED)),
        labels=run.labels,
        conversation=run.conversation_id,
        started_ns=run.started_ns,
        duration_s=run.duration_s if run.status == "ok" else None,
        error=run.error,
    )


def _cut(cases: Sequence[Case], held_out: float, *, repeats: bool) -> tuple[list[Case], list[Case], int]:
    """Older cases, newer ones, and how many were left out for having the input of one before.

    Args:
        repeats: these are kept, on both sides: without them a cache would have nothing to do.
    """
    ordered = sorted(cases, key=lambda c: (c.started_ns, c.id))
    seen: set[str] = set()
    single = []
    for case in ordered:
        text = same_input(case)
        if repeats or text not in seen:
            single.append(case)
        seen.add(text)
    count = min(len(single) - 1, round(len(single) * held_out))
    search, decide = single[: len(single) - count], single[len(single) - count :]
    earlier = {c.conversation for c in search if c.conversation is not None}
    search += [c for c in decide if c.conversation in earlier]
    decide = [c for c in decide if c.conversation not in earlier]
    return search, decide, len(ordered) - len(single)


def same_input(case: Case) -> str:
    """Equal for cases of equal inputs."""
    return json.dumps(case.input, sort_keys=True, default=str)


def past_of(runs: Sequence[Run], spec: Spec) -> list[Case]:
    """What has been recorded of an agent: every run that ended well, replays and evaluations left out."""
    agents = set(spec.agents) or {spec.name}
    own = [r for r in runs if r.agent in agents and r.source_run_id is None and MODE not in r.labels]
    return of_runs([r for r in own if r.status == "ok" and r.input is not None and not _resumes(r.input)])


def kept(cases: Sequence[Case], search: Sequence[str], decide: Sequence[str]) -> Cases:
    """The cases of a study that is gone on with, in its order.

    Raises:
        NoRuns: the store has some of them no more.
    """
    known = {c.id: c for c in cases}
    missing = [i for i in (*search, *decide) if i not in known]
    if missing:
        raise NoRuns(
            f"the store has {len(missing)} of the study's runs no more ({missing[0][:12]}…); begin a new study"
        )
    return Cases(search=tuple(known[i] for i in search), decide=tuple(known[i] for i in decide))


def of_runs(runs: Sequence[Run], expected: Mapping[str, Any] | None = None) -> list[Case]:
    """A case of each run."""
    return [_case(run, expected or {}) for run in runs]


def read_expected(path: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Run id → the right answer, from lines of JSON: `{"run_id": "3f2a…", "expected": …}`.

    Raises:
        BadSpec: it cannot be read, or a line says something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSpec(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    out = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            prefix, answer = str(data["run_id"]), data["expected"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadSpec(f'{path}, line {number}: want {{"run_id": "…", "expected": …}}') from error
        out.update({r.run_id: answer for r in runs if r.run_id.startswith(prefix)})
    return out


def scoring_of(score: Callable[..., Any] | None, cases: Sequence[Case]) -> str:
    """A digest of what qualities are made of: the text of the scorer and of what it names in its own module, and the
    right answers.
    """
    thing: Any = getattr(score, "func", score)  # of a functools.partial
    if thing is not None and not inspect.isroutine(thing):
        thing = type(thing)
    text = "" if thing is None else "\n".join(_texts(thing, {}).values())
    known = sorted((case.id, json.dumps(case.expected, sort_keys=True, default=str)) for case in cases)
    return blake2b(json.dumps([text, known]).encode(), digest_size=6).hexdigest()


def _texts(thing: Any, known: dict[str, str]) -> dict[str, str]:
    """Name → text of a function or class, and of those of its module that it names, and so on."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    if name in known:
        return known
    try:
        known[name] = inspect.getsource(thing)
    except (OSError, TypeError, SyntaxError):  # typed in, built, or in C
        known[name] = name
        return known
    around = vars(sys.modules.get(thing.__module__, thing))
    for word in dict.fromkeys(re.findall(r"\w+", known[name])):
        there = around.get(word)
        if getattr(there, "__module__", None) == thing.__module__ and (
            inspect.isfunction(there) or inspect.isclass(there)
        ):
            _texts(there, known)
        elif there is not None and isinstance(there, str | int | float | bool | tuple):
            known[f"{name} {word}"] = repr(there)
    return known
