"""Which recorded runs candidates are evaluated on, and which are kept apart to decide on (the newest).

Runs of one conversation, and runs with the same input, stay on one side of the cut: what was searched on is not what
is decided on.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from redecode.optimizer import besides, conversations
from redecode.optimizer.conversations import Histories
from redecode.optimizer.errors import BadSpec, NoRuns
from redecode.optimizer.inputs import UNTOLD, Inputs, Told
from redecode.optimizer.spec import Case, Spec
from redecode.tracer import Run

MODE = "tune"
"""What `replay_mode` says of a run that was made to evaluate a candidate."""
SCORER: dict[str, Any] = {"scorer": True}
"""What is under that label of the runs that a scorer makes."""
JOB, NIGHT, STUDY = "job", "night", "study"
"""Of a run of an evaluation, under that label: what it was made for."""
EXPECTED = "expected"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_ROLES = {"user": "human", "assistant": "ai", **{k: k for k in ("system", "developer", "tool", "function")}}
_MESSAGES = {**{k: k for k in ("human", "ai", "system", "tool", "function", "chat")}, "AIMessageChunk": "ai"}
_OF_MESSAGES = frozenset({"type", "role", "name", "content", "id", "tool_calls", "tool_call_id", "usage_metadata"})
_WITH_IDS = frozenset({"text", "reasoning", "tool_use", "tool_call", "tool_result"})
_WHICH = re.compile(r"last-(\d+)([smhdw]?)|all")


def scorers(labels: Mapping[str, Any]) -> dict[str, Any]:
    """What is under that label of the runs a scorer makes beside runs of an evaluation with these there."""
    return {**SCORER, **{name: labels[name] for name in (JOB, NIGHT, STUDY) if name in labels}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Cases to search on and cases to decide on, each in one fixed shuffled order.

    Attributes:
        left_out: why → how many runs.
        notes: what their traces do not tell.
        brought: fields of the context that each case brings itself.
    """

    search: tuple[Case, ...]
    decide: tuple[Case, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    brought: tuple[str, ...] = ()

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
    values: Mapping[str, Any] | None = None,
    searched: Collection[str] = (),
) -> Cases:
    """The cases of a store's runs.

    Args:
        runs: newest first, as a store gives them (with what they were given besides their input, if that is to count).
        which: "last-24h" (or s, m, d, w), "last-200" (runs), "all", or run ids (their beginnings) with commas between.
        held_out: the share of cases, the newest, that is kept apart to decide on.
        most: of the cases to search on; drawn from first to last, since what is asked at one time is alike.
        expected: run id → the right answer, before any label of the run.
        values: as `Inputs` takes them.
        searched: of these, knobs.

    Raises:
        NoRuns: none is left; says why each was left out.
        BadSpec: `which` is not understood, or the graph cannot be built where it is asked what it takes.
    """
    agents = set(spec.agents) or {spec.name}
    gone: Counter[str] = Counter()
    others: dict[str, None] = {}
    out: list[Case] = []
    inputs, told, in_use = Inputs(spec, values), dict[str, Told](), values or {}
    graph = _graph_of(spec, in_use, runs)
    own = _own(runs, agents)
    histories, waited = Histories(own, graph), conversations.waited(own)
    asked = _asked(runs, which, now_ns)
    for run in asked:
        case = histories.given(_case(run, expected or {}))
        if run.source_run_id is not None or MODE in run.labels:
            gone["replays"] += 1
        elif run.agent not in agents:
            gone[f"of other agents than {', '.join(sorted(agents))}"] += 1
            others[run.agent] = None
        elif run.status == "open":
            gone["still open"] += 1
        elif run.input is None:
            gone["without a recorded input (--no-content leaves it out)"] += 1
        elif conversations.resumes(run.input):
            gone["that go on after an interrupt: their input is the answer to it"] += 1
        elif run.run_id in waited or conversations.interrupted(run):
            gone["that ended in an interrupt: what they were to come to is another run's"] += 1
        elif (unknown := histories.refused(run, case)) is not None:
            gone[unknown] += 1
        elif spec.needs_expected and case.expected is None:
            gone["without an expected answer (label `expected`, or --expected FILE)"] += 1
        elif not (found := inputs.of(run)).known:
            gone[UNTOLD] += 1
        else:
            told[case.id] = found
            out.append(besides.within_limits(_as_told(case, found, spec), graph))
    whole = out
    brought = besides.of_requests(whole, spec, in_use.keys())
    contexts_of = besides.contexts(spec, spec.own(in_use), brought)
    out = []
    for case in besides.same(whole, brought):
        if values is not None and (why := besides.refused(case, contexts_of)) is not None:
            gone[why] += 1
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
        search = _drawn(search, most, seed)
    rng = random.Random(f"cases/{seed}")
    rng.shuffle(search)
    rng.shuffle(decide)
    notes = [
        *_untold([told[c.id] for c in (*search, *decide)], spec),
        *besides.told(whole, spec, brought, in_use, searched),
    ]
    return Cases(
        search=tuple(search), decide=tuple(decide), left_out=dict(gone), notes=tuple(notes), brought=tuple(brought)
    )


def _as_told(case: Case, told: Told, spec: Spec) -> Case:
    """The case with what its graph was given. A part of an output is kept from the default scorer, which would find
    that the rest of it is wrong; a scorer of the spec's own knows what it looks at.
    """
    output = told.output if told.scored or spec.score is not None else None
    return replace(case, input=told.input, output=output)


def _untold(told: Sequence[Told], spec: Spec) -> Iterator[str]:
    """What a user should know of cases whose traces do not tell all."""
    partly = [t.partly for t in told if t.partly]
    if partly:
        yield (
            f"of {len(partly)} of {len(told)} runs the trace tells the messages that the graph was given, and no other "
            f"field ({', '.join(partly[0])}): candidates are run without (docs/foreign-traces.md)"
        )
    count = sum(not t.scored for t in told)
    if count and spec.score is None:
        yield (
            f"of {count} of {len(told)} runs the trace does not tell the whole output, which the default scorer "
            "compares: it cannot tell how good these runs are; give the spec a `score` (docs/foreign-traces.md)"
        )


def _graph_of(spec: Spec, values: Mapping[str, Any], runs: Sequence[Run]) -> Any:
    """The graph in use, for runs with a conversation or limits; `None` if these have none, and where what is known of
    it does not build one, which is told of elsewhere.
    """
    if any(run.conversation_id is not None or (run.besides or {}).get("limits") for run in runs):
        with suppress(BadSpec):
            return spec.built(spec.own(values))
    return None


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


def _own(runs: Sequence[Run], agents: Collection[str]) -> list[Run]:
    """What was recorded of these agents; evaluations and replays are none of theirs."""
    return [r for r in runs if r.agent in agents and r.source_run_id is None and MODE not in r.labels]


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
        context=(run.besides or {}).get("context", {}),
        configurable=(run.besides or {}).get("configurable", {}),
        left_out=(run.besides or {}).get("left_out", ()),
        limits=(run.besides or {}).get("limits", {}),
    )


def _cut(cases: Sequence[Case], held_out: float, *, repeats: bool) -> tuple[list[Case], list[Case], int]:
    """Older cases, newer ones, and how many were left out for having the input of one before.

    Equal inputs in other contexts are other cases, on one side of the cut; of conversations, where any number of runs
    may begin with the same words, the first one alone is kept.

    Args:
        repeats: these are kept, on both sides: without them a cache would have nothing to do.
    """
    ordered = sorted(cases, key=lambda c: (c.started_ns, c.id))
    words = {c.id: same_input(c) for c in ordered}
    groups: dict[str, list[Case]] = {}
    for case in ordered:
        group = groups.setdefault(case.id if repeats else words[case.id], [])
        if not group or all(_elsewhere(case, other) for other in group):
            group.append(case)
    kept = sum(map(len, groups.values()))
    count = min(kept - 1, round(kept * held_out))
    search, decide = list[Case](), list[Case]()
    for group in reversed(groups.values()):
        first = count > 0 and not search and not decide and len(group) < kept  # one at least, however large
        newest = not search and len(decide) + len(group) <= count  # and nothing older than what is searched on
        (decide if first or newest else search).extend(reversed(group))
    search, decide = search[::-1], decide[::-1]
    while True:  # conversations lead from one side to the other, and equal inputs back
        earlier = {c.conversation for c in search if c.conversation is not None}
        known = set() if repeats else {words[c.id] for c in search}
        moved = [c for c in decide if c.conversation in earlier or words[c.id] in known]
        if not moved:
            return search, decide, len(ordered) - kept
        search += moved
        gone = {c.id for c in moved}
        decide = [c for c in decide if c.id not in gone]


def _drawn(cases: Sequence[Case], count: int, seed: int) -> list[Case]:
    """One of each of so many stretches of time, at random: every n-th would be of one kind where kinds take turns."""
    rng = random.Random(f"drawn/{seed}")
    return [cases[rng.randrange(i * len(cases) // count, (i + 1) * len(cases) // count)] for i in range(count)]


def _elsewhere(one: Case, other: Case) -> bool:
    """Whether equal inputs of two runs were given in different contexts."""
    if one.conversation is not None or other.conversation is not None:
        return False
    return (one.context, one.configurable) != (other.context, other.configurable)


def same_input(case: Case) -> str:
    """Equal for cases of equal inputs after equal histories, whatever ids their messages have."""
    told = case.input if case.history is None else [case.history, case.input]
    return json.dumps(by_words(told), sort_keys=True, default=str)


def by_words(value: Any) -> Any:
    """Plain data in which messages are what they say: ids, and what the engine told besides, are never the same.

    Messages are LangChain's, as recorded or serialized, and the OpenAI API's; what these have besides stays.
    """
    if isinstance(value, list | tuple):
        return [by_words(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.get("lc") == 1 and value.get("type") == "constructor" and isinstance(value.get("kwargs"), dict):
        said = by_words(value["kwargs"])
        return said if isinstance(said, list) else {**value, "kwargs": said}
    kind = _MESSAGES.get(str(value.get("type"))) or _ROLES.get(str(value.get("role")))
    if kind is None or "content" not in value:
        return {k: by_words(v) for k, v in value.items()}
    if kind == "chat":
        kind = f"chat {value.get('role')}"
    calls, content = value.get("tool_calls"), value["content"]
    called = [_call(call) for call in calls] if isinstance(calls, list) else []
    said = [_part(part) for part in content] if isinstance(content, list) else content
    langchain = "additional_kwargs" in value or "response_metadata" in value
    others = {} if langchain else {k: by_words(v) for k, v in value.items() if k not in _OF_MESSAGES}
    rest = {k: v for k, v in others.items() if v not in (None, "", [], {})}
    return [kind, value.get("name"), said, called, *([rest] if rest else [])]


def _call(call: Any) -> Any:
    """A tool call's name and arguments, which the OpenAI API has as text."""
    if not isinstance(call, dict):
        return call
    inner = call.get("function")
    if not isinstance(inner, dict):
        return [call.get("name"), call.get("args")]
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return [inner.get("name"), arguments]


def _part(part: Any) -> Any:
    """A part of a message's content; a file's id is what it says."""
    if not isinstance(part, dict) or part.get("type") not in _WITH_IDS:
        return part
    return {k: v for k, v in part.items() if k not in ("id", "tool_use_id")}


def past_of(runs: Sequence[Run], spec: Spec, values: Mapping[str, Any] | None = None) -> list[Case]:
    """What has been recorded of an agent: every run that ended well, replays and evaluations left out, and later turns
    of conversations of which is not known what was said before.

    Args:
        values: as `Inputs` takes them.
    """
    agents = set(spec.agents) or {spec.name}
    own = _own(runs, agents)
    histories = Histories(own, _graph_of(spec, values or {}, runs))
    asked = [r for r in own if r.status == "ok" and not conversations.goes_on(r.input)]
    inputs = Inputs(spec, values)
    cases = [(histories.given(_case(run, {})), run) for run in asked]
    told = [(case, inputs.of(run)) for case, run in cases if histories.refused(run, case) is None]
    return [_as_told(case, found, spec) for case, found in told if found.known]


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


def of_runs(
    runs: Sequence[Run],
    expected: Mapping[str, Any] | None = None,
    spec: Spec | None = None,
    values: Mapping[str, Any] | None = None,
    among: Sequence[Run] = (),
) -> list[Case]:
    """A case of each run.

    Args:
        spec: whose graph was given the inputs; without, they are as they were recorded.
        values: as `Inputs` takes them.
        among: all runs there are, of which some say what the graph of another one knew before.
    """
    if spec is None:
        return [_case(run, expected or {}) for run in runs]
    inputs, graph = Inputs(spec, values), _graph_of(spec, values or {}, runs)
    histories = Histories(_own(among, set(spec.agents) or {spec.name}), graph)
    told = [_as_told(histories.given(_case(run, expected or {})), inputs.of(run), spec) for run in runs]
    return [besides.within_limits(case, graph) for case in told]


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
