"""What a cache holds when an evaluated run begins: what a production cache would hold at the time of its case.

A cache's hits come from the past, and an evaluation has none: its cases are a few runs in any order. So for each case
the recorded runs before it are gone through in order of time, with the cache as the candidate has it: one that finds an
answer leaves none, the others do. Where the case finds one, of run H say, the candidate runs on H's input first, beside
the clock, and what that leaves is all that the case's run can read. So hits are where a production cache would have
them, and the answer is the candidate's own: right or wrong as it would be.

A run counts once it has ended before the case began. **A case of the search never reads what a held-out run left**,
though that be older. What a step asks must follow from the run's input; a step that asks something else begins empty.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from redecode.optimizer.caching import CachedStep, Setting
from redecode.optimizer.caching.calls import digest
from redecode.optimizer.caching.steps import Elsewhere
from redecode.optimizer.conversations import before
from redecode.optimizer.evaluation.states import schema_of, state_of
from redecode.optimizer.inputs import as_given
from redecode.optimizer.spec import Case
from redecode.tracer import plain

MOST = 5_000
"""Recorded runs before which the past is not looked at: the newest."""


@dataclass(frozen=True, slots=True)
class _Asks:
    """What a recorded run would ask a step's cache."""

    run_id: str
    tenant: str
    text: str
    begun_ns: int
    ended_ns: int


class Past:
    """The recorded past of an agent.

    Args:
        runs: its recorded runs, as cases.
        steps: the cached steps.
        graph: whose state they are given.
    """

    def __init__(self, runs: Sequence[Case], steps: Sequence[CachedStep], graph: Any = None) -> None:
        ordered = sorted(runs, key=lambda c: (c.started_ns, c.id))[-MOST:]
        self.cases: Mapping[str, Case] = {c.id: c for c in ordered}
        self.steps = tuple(steps)
        self._states = {c.id: _states(graph, c) for c in ordered}
        self._unasked: dict[str, list[str]] = {step.name: [] for step in steps}
        self._asks = {step.name: [a for c in ordered if (a := self._ask(step, c)) is not None] for step in steps}
        self._likeness: dict[str, Any] = {}
        self._found: dict[tuple[str, Setting, frozenset[str], str], dict[str, str]] = {}

    def source(
        self, step: CachedStep, setting: Setting, case: str, withheld: Collection[str], scopes: Sequence[str] = ()
    ) -> str | None:
        """The run whose input a case's run would find answered, if there is one.

        Args:
            withheld: runs that leave nothing.
            scopes: of the runs (`scopes`).
        """
        out = frozenset() if case in withheld else frozenset(withheld)
        key = (step.name, setting, out, digest(list(scopes)))
        if key not in self._found:
            self._found[key] = self._replayed(step, setting, out, scopes)
        return self._found[key].get(case)

    def scopes(self, step: CachedStep, context: Callable[[Case], Any], *, each: bool) -> list[str]:
        """What else must be equal for a hit, of each run that asks the step; nothing where it is the same of all.

        Args:
            context: of a run.
            each: whether runs bring contexts of their own.
        """
        if not step.scoped and not each:
            return []
        return [self._scope(step, a.run_id, context) for a in self._asks[step.name]]

    def unknown(self) -> list[str]:
        """Of each step that asks what some inputs do not tell, that it does."""
        out = []
        for name, errors in self._unasked.items():
            if errors:
                all_ = len(errors) + len(self._asks[name])
                why, _ = Counter(errors).most_common(1)[0]
                out.append(
                    f"cached step {name}: what it asks does not follow from the input of {len(errors)} of {all_} "
                    f"recorded runs ({why}): they find nothing in a cache, and leave nothing"
                )
        return out

    def _ask(self, step: CachedStep, case: Case) -> _Asks | None:
        if case.error is not None:
            return None
        failed: Exception | None = None
        for state in self._states[case.id]:
            try:
                text, tenant = step.text(state), str(step.tenant(state))
            except Exception as error:  # the step asks of a state that the input alone does not make
                failed = failed or error
                continue
            ended = case.started_ns + round((case.duration_s or 0.0) * 1e9)
            return _Asks(case.id, tenant, text, case.started_ns, ended)
        self._unasked[step.name].append(f"{type(failed).__name__}: {failed}"[:120])
        return None

    def _scope(self, step: CachedStep, case: str, context: Callable[[Case], Any]) -> str:
        for state in self._states[case]:
            with suppress(Exception):  # as in `_ask`
                return digest(plain(step.scope_of(state, context(self.cases[case]))))
        return case  # nobody knows, so nothing is found

    def _replayed(
        self, step: CachedStep, setting: Setting, out: frozenset[str], scopes: Sequence[str]
    ) -> dict[str, str]:
        """Run → the one that left what it finds."""
        asks = self._asks[step.name]
        alike = self._alike(step) if setting.kind == "semantic" else None
        entries: list[int] = []
        found: dict[str, str] = {}
        for n, ask in enumerate(asks):
            if ask.run_id in out:
                continue
            best, most = -1, 0.0
            for m in entries:
                there = asks[m]
                old = step.ttl_s is not None and ask.begun_ns - there.ended_ns > step.ttl_s * 1e9
                if scopes and scopes[m] != scopes[n]:
                    continue
                if there.tenant != ask.tenant or there.ended_ns > ask.begun_ns or old:
                    continue
                if alike is None:
                    likeness = float(there.text == ask.text)
                else:
                    likeness = float(alike[n, m]) if alike[n, m] >= setting.threshold - 1e-5 else 0.0
                if likeness > most:
                    best, most = m, likeness
            if best >= 0:
                found[ask.run_id] = asks[best].run_id
            else:
                entries.append(n)
        return found

    def _alike(self, step: CachedStep) -> Any:
        if step.name not in self._likeness:
            rows = step.vectors.of([a.text for a in self._asks[step.name]])
            self._likeness[step.name] = rows @ rows.T if len(rows) else np.zeros((0, 0))
        return self._likeness[step.name]


def _states(graph: Any, case: Case) -> tuple[Any, ...]:
    """What a step may be given of an input: the state, or, of a graph that has none, the input itself."""
    known = None if case.history is None else before(graph, case)
    try:
        return state_of(graph, as_given(graph, case.input), known), case.input
    except Exception:  # whatever somebody's reducers and checks do
        return (case.input,)


@dataclass(slots=True)
class Warming:
    """Fills the caches of one process's evaluations.

    Args:
        runs, steps: as `Past` takes them.
    """

    runs: Sequence[Case]
    steps: Sequence[CachedStep]
    _pasts: dict[Any, Past] = field(default_factory=dict)
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="redecode-caches-")
    )
    _warm: set[str] = field(default_factory=set)

    def wanted(
        self,
        graph: Any,
        values: Mapping[str, Any],
        context: Callable[[Case], Any],
        cases: Sequence[Case],
        withheld: Collection[str],
    ) -> tuple[dict[str, dict[str, str]], list[Case]]:
        """Case → step → the run it reads from; and the runs to run first.

        Args:
            graph: the candidate's.
            context: of a case.

        Raises:
            CachingError: the context does not say what its caches are.
        """
        read: dict[str, dict[str, str]] = {}
        first: dict[str, Case] = {}
        schema = schema_of(graph)
        if schema not in self._pasts:
            self._pasts[schema] = Past(self.runs, self.steps, graph)
        past = self._pasts[schema]
        for step in self.steps:
            setting = step.setting(context(cases[0]))
            if setting.kind == "none":
                continue
            scopes = past.scopes(step, context, each=any(case.context for case in cases))
            for case in cases:
                source = past.source(step, setting, case.id, withheld, scopes)
                if source is not None:
                    read.setdefault(case.id, {})[step.name] = place = _place(values, source)
                    if place not in self._warm:
                        first[place] = past.cases[source]
        return read, list(first.values())

    def warmed(self, values: Mapping[str, Any], source: Case) -> None:
        """A run that was to be made first has been."""
        self._warm.add(_place(values, source.id))

    def of_source(self, values: Mapping[str, Any], source: str) -> Elsewhere:
        """Where a run that is made first keeps its answers."""
        return Elsewhere(self._path, _place(values, source))

    def of_case(self, token: str, read: Mapping[str, str]) -> Elsewhere:
        """Where a case's run reads, and keeps, in a place of its own."""
        return Elsewhere(self._path, token, read)

    @property
    def _path(self) -> Path:
        return Path(self._folder.name) / "answers.sqlite"

    def close(self) -> None:
        """Forget all."""
        self._folder.cleanup()


def _place(values: Mapping[str, Any], source: str) -> str:
    return digest([dict(values), source])
