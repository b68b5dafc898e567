"""What a cache would have been asked: the recorded FM calls and tool calls of a store, in order of time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from redecode.replay.analysis import RunActivities, activities_of
from redecode.replay.analysis.errors import AnalysisError
from redecode.replay.comparison.changes import TRACERS_OWN
from redecode.tracer import REDACTED, Decode, Run, Span, SpanKind, ToolStep

if TYPE_CHECKING:
    from redecode.tracer import ReadableStore, RecordedRun

_PLACES = re.compile(r"@\d+|\[[^\]]*\]|#\d+")
_AT_ONCE = 100
_NOT_SAID = ("finish_reason", "reasoning_content", "reasoning", "annotations", "audio", "output")
_TEXTS = ("content", "text", "output", "summary", "thinking", "reasoning", "reasoning_content", "refusal", "name")
"""Of a message or a part of one: what is said in words."""
_CALLING = ("tool_calls", "function_call", "arguments", "input")
_IDLE = frozenset(
    {"role", "type", "id", "call_id", "tool_call_id", "tool_use_id", "status", "index", "finish_reason"}
    | {"cache_control", "annotations", "signature", "encrypted_content"}
)
"""Tells calls apart that ask the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that a cache could have answered.

    Attributes:
        node: where in the agent, without supersteps and counts: the same step of any run.
        tenant: whose; answers never go from one to another.
        scope: digest of all that must be equal for two calls to be comparable: model, tools, sampling without the seed,
            and `parts`.
        exact: digest of all that it asks, with the seed if the caller set one; `prompt`: without it (empty: the same).
        parts: digest of the parts of its messages that are no text (pictures, sound, files); empty if there are none.
        text: what is compared by meaning.
        answer: what came back, canonical.
        prompt_ids: for the prefix cache.
        never: why it must not be cached, if it must not.
    """

    kind: Literal["fm", "tool"]
    agent: str
    node: str
    run_id: str
    span_id: str
    tenant: str
    scope: str
    exact: str
    text: str
    answer: str
    sent_ns: int
    done_ns: int
    prompt: str = ""
    parts: str = ""
    model: str = ""
    samples: bool = False
    tokens: int = 0
    prompt_ids: tuple[int, ...] | None = None
    cached_tokens: int | None = None
    never: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """Calls in order of time, and the runs they are of (those that can be analysed).

    Attributes:
        withheld: calls whose content was not recorded, or not as it was; `failed`: calls that came to an error.
    """

    calls: list[Call]
    runs: dict[str, RunActivities]
    withheld: int
    failed: int


def label(name: str) -> Callable[[Run], str]:
    """Tenants by a label of their runs."""
    return lambda run: str(run.labels.get(name, ""))


def recorded_calls(
    store: ReadableStore, *, run_ids: Iterable[str] | None = None, tenant: Callable[[Run], str] | None = None
) -> Recorded:
    """The calls of a store's own runs (replays are none).

    Args:
        run_ids: of these runs alone.
        tenant: whose a run is; by default all are the same one's.
    """
    calls: list[Call] = []
    cuts: dict[str, RunActivities] = {}
    withheld = failed = 0
    wanted = None if run_ids is None else list(run_ids)
    own = [run.run_id for run in store.runs(run_ids=wanted) if run.source_run_id is None]
    for loaded in _loaded(store, own):
        run = loaded.run
        with suppress(AnalysisError):  # its calls count all the same, its seconds cannot
            cuts[run.run_id] = activities_of(loaded)
        whose = "" if tenant is None else tenant(run)
        for call in _calls(loaded, whose):
            if call is None:
                withheld += 1
            elif call.answer == "":
                failed += 1
            else:
                calls.append(call)
    calls.sort(key=lambda c: (c.sent_ns, c.span_id))
    return Recorded(calls, cuts, withheld, failed)


def _loaded(store: ReadableStore, run_ids: Sequence[str]) -> Iterator[RecordedRun]:
    """Runs, whole, some at a time."""
    for at in range(0, len(run_ids), _AT_ONCE):
        yield from store.load_many(run_ids[at : at + _AT_ONCE])


def _calls(loaded: RecordedRun, tenant: str) -> Iterable[Call | None]:
    node_of = _nodes(loaded)
    effects: dict[str, str] = {}
    for tool in loaded.tools:
        if tool.side_effect is not False and tool.span_id in node_of:
            what = "has effects" if tool.side_effect else "does not say that it has none"
            effects.setdefault(node_of[tool.span_id], f"its tool '{tool.tool}' {what}")
    for decode in loaded.decodes:
        call = _of_decode(loaded.run, decode, tenant)
        never = effects.get(node_of.get(decode.span_id, ""))
        yield replace(call, never=never) if call is not None and never is not None else call
    spans = {span.span_id: span for span in loaded.spans}
    for step in loaded.tools:
        yield _of_tool(loaded.run, step, tenant, spans.get(step.span_id))


def _nodes(loaded: RecordedRun) -> dict[str, str]:
    """The node that a span is in: the nearest one above."""
    spans = {span.span_id: span for span in loaded.spans}
    out = {}
    for span_id in spans:
        at: str | None = span_id
        while at is not None and at in spans and spans[at].kind is not SpanKind.NODE:
            at = spans[at].parent_span_id
        if at is not None:
            out[span_id] = at
    return out


def _of_decode(run: Run, decode: Decode, tenant: str) -> Call | None:
    if decode.messages is None or decode.redacted:  # what a rule took out made calls equal that were not
        return None
    sampling = {k: v for k, v in decode.sampling.items() if k not in TRACERS_OWN and k != "seed"}
    shown = unsaid(decode.messages)
    scope = digest([decode.model, decode.tool_definitions, sampling, shown])
    seed = decode.seed if decode.seed_source == "caller" else None
    done = decode.done_ns
    failed = decode.error is not None or done is None or not decode.output
    return Call(
        kind="fm",
        agent=run.agent,
        node=_PLACES.sub("", decode.step_key),
        run_id=run.run_id,
        span_id=decode.span_id,
        tenant=tenant,
        scope=scope,
        exact=digest([scope, decode.messages, seed]),
        prompt=digest([scope, decode.messages]),
        parts=digest(shown) if shown else "",
        text=said(decode.messages),
        answer="" if failed else _answer(decode.output),
        sent_ns=decode.sent_ns,
        done_ns=done if done is not None else decode.sent_ns,
        model=decode.model,
        samples=bool(sampling.get("temperature", 1.0)) and seed is None,
        tokens=decode.output_tokens or 0,
        prompt_ids=decode.prompt_ids,
        cached_tokens=decode.cached_tokens,
    )


def _of_tool(run: Run, step: ToolStep, tenant: str, span: Span | None) -> Call | None:
    if span is not None and span.attributes.get(REDACTED):
        return None
    start, end = (0, None) if span is None else (span.start_ns, span.end_ns)
    never = {True: "it has effects", None: "it does not say that it has none", False: None}[step.side_effect]
    failed = step.error is not None or end is None
    return Call(
        kind="tool",
        agent=run.agent,
        node=_PLACES.sub("", step.step_key),
        run_id=run.run_id,
        span_id=step.span_id,
        tenant=tenant,
        scope=digest([step.tool]),
        exact=digest([step.tool, step.arguments]),
        text=f"{step.tool} {_canonical(step.arguments)}",
        answer="" if failed else _canonical([step.result]),
        sent_ns=start,
        done_ns=end or start,
        never=never,
    )


def said(messages: Any) -> str:
    """What messages say, as one text."""
    return "\n".join(" ".join(_parted(m)[0]) for m in (messages if isinstance(messages, list) else [messages]))


def unsaid(messages: Any) -> list[Any]:
    """What of messages `said` leaves out, in order: pictures, sound, files, and what nobody knows."""
    return _parted(messages)[1]


def shown(state: Any) -> list[Any]:
    """Likewise of the messages anywhere in a node's state, given as plain data."""
    if isinstance(state, list):
        # A list with a text part in it is the content of a message, wherever it stands.
        if any(isinstance(part, dict) and part.get("type") in ("text", "input_text") for part in state):
            return unsaid(state)
        return [part for item in state for part in shown(item)]
    if not isinstance(state, dict):
        return []
    content = state.get("content")
    own = unsaid(content) if isinstance(content, list) else []
    return own + [part for key, value in state.items() if key != "content" or not own for part in shown(value)]


def _parted(item: Any) -> tuple[list[str], list[Any]]:
    """What an item of a conversation says in words, and the rest of it."""
    if isinstance(item, list):
        both = [_parted(part) for part in item]
        return [text for texts, _ in both for text in texts], [part for _, rest in both for part in rest]
    if not isinstance(item, dict):
        return ([] if item is None or item == "" else [str(item)]), []
    texts, rest = _parted([item.get(key) for key in _TEXTS])
    texts += [_canonical(item[key]) for key in _CALLING if item.get(key)]
    known = (*_TEXTS, *_CALLING, *_IDLE)
    own = {key: value for key, value in item.items() if key not in known and value not in (None, "", [], {})}
    return texts, [*rest, own] if own else rest


def _answer(output: Any) -> str:
    """An answer without what differs from one call to the next though it says the same."""
    out = []
    for message in output if isinstance(output, list) else [output]:
        if not isinstance(message, dict):
            out.append(message)
            continue
        kept = {k: v for k, v in message.items() if k not in _NOT_SAID and v not in (None, [])}
        if "tool_calls" in kept:
            kept["tool_calls"] = [
                (c.get("function") or c.get("custom") or c) if isinstance(c, dict) else c for c in kept["tool_calls"]
            ]
        if isinstance(audio := message.get("audio"), dict):  # its id and its end are another each time
            kept["audio"] = audio.get("transcript") or audio.get("data")
        if not kept.keys() - {"role"} and message.get("output"):  # items of a response that nobody has read
            kept["output"] = _parted(message["output"])
        out.append(kept)
    return _canonical(out)


def digest(value: Any) -> str:
    """The same for equal values, in any process."""
    return hashlib.blake2b(_canonical(value).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
