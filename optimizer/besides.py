"""What a recorded run's graph was given besides its input, and what of it a case gives every candidate again.

Fields of a context are of two kinds: the configuration's, which a study is about, and the request's: a tenant, a user.
What is searched, and what somebody says (a spec, the configuration in use, --fix), is the configuration's. Of the rest
what has no default, or was not the same in all runs, is the request's, and each case has its own. What LangGraph calls
configurable is the request's, but for conversations and checkpoints, which are not recorded. So are the limits that its
config had, but for those that are the graph's own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.inputs import value_of
from redecode.optimizer.knobs import label
from redecode.optimizer.spec import Case, Spec
from redecode.tracer import plain


def of_requests(cases: Sequence[Case], spec: Spec, said: Collection[str]) -> tuple[str, ...]:
    """Fields of the context that each case brings itself.

    Args:
        cases: with all that was recorded of their contexts.
        said: fields of which it is known what a candidate has.
    """
    found = []
    for name, field in spec.fields().items():
        recorded = {_text(c.context[name]) for c in cases if name in c.context}
        if name not in said and recorded and (len(recorded) > 1 or not field.has_default):
            found.append(name)
    return tuple(found)


def contexts(spec: Spec, own: Mapping[str, Any], names: Collection[str]) -> Callable[[Case], Any]:
    """Case → the context of a candidate's run on it; one for all that bring the same.

    Args:
        own: the candidate's values.
        names: what cases bring.
    """
    fields = spec.fields()
    made: dict[str, Any] = {}

    def of(case: Case) -> Any:
        brought = {n: v for n, v in case.context.items() if n in names and n in fields and n not in own}
        key = _text(brought)
        if key not in made:
            given = {n: value_of(fields[n].type, v) for n, v in brought.items()}
            made[key] = spec.context_of({**given, **own}, given.keys())
        return made[key]

    return of


def refused(case: Case, contexts_of: Callable[[Case], Any]) -> str | None:
    """Why the graph cannot be given what a case brings."""
    try:
        contexts_of(case)
    except BadSpec as error:
        why, _, _ = str(error).partition(", not ")  # the value is another one each time
        return f"whose context cannot be made again ({why}; --fix NAME=VALUE gives all the same)"
    return None


def within_limits(case: Case, graph: Any) -> Case:
    """The case with the limits that were the request's: what this graph was given by `with_config` a candidate has."""
    own = getattr(graph, "config", None) or {}
    return replace(case, limits={name: limit for name, limit in case.limits.items() if own.get(name) != limit})


def checkpointer_of(graph: Any) -> Any:
    """What keeps the conversations of a graph; `None` if nothing does."""
    found = getattr(graph, "checkpointer", None)
    return None if found is False else found


def told(
    cases: Sequence[Case],
    spec: Spec,
    names: Collection[str],
    values: Mapping[str, Any],
    searched: Collection[str] = (),
) -> Iterator[str]:
    """What a user should know of it.

    Args:
        cases: with all that was recorded of their contexts.
        values: of the configuration in use.
    """
    if names:
        yield f"each run brings its own {', '.join(names)} in its context: candidates get what it got, but for --fix"
    if keys := sorted({key for c in cases for key in c.configurable}):
        yield f"each run brings its own configurable {', '.join(keys)}: candidates get what it got"
    if limits := sorted({name for c in cases for name in c.limits}):
        yield f"runs that were given a {' or '.join(limits)} are evaluated with the same"
    lost = Counter(name for c in cases for name in c.left_out if name not in values)
    for name, count in sorted(lost.items()):
        yield (
            f"what {count} of {len(cases)} runs had as {name} in their context could not be recorded (no plain data, "
            "or like a key): candidates have its default"
        )
    for name, field in spec.fields().items():
        recorded = {_text(c.context[name]) for c in cases if name in c.context}
        if len(recorded) > 1 and name in searched:
            yield (
                f"runs were recorded with {len(recorded)} values of {name}, which is searched here, so a candidate "
                "has one for all (if it is the request's, mark it with Fixed(), or name the knobs: each has its own)"
            )
        if name in names or len(recorded) != 1 or not all(name in c.context for c in cases):
            continue
        was, said = next(iter(recorded)), values.get(name, field.default if field.has_default else None)
        now = _text(plain(spec.own({name: said})[name]))  # as the record has it
        if was != now:
            had, has = (label(json.loads(text)) for text in (was, now))
            yield (
                f"all runs were recorded with {name}={had}, and {has} is taken to be in use "
                "(--incumbent and --fix say otherwise)"
            )


def same(cases: Iterable[Case], names: Collection[str]) -> list[Case]:
    """The cases, each with what it brings alone."""
    return [replace(case, context={n: v for n, v in case.context.items() if n in names}) for case in cases]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
