"""From the spans of another tracer to the spans we would have recorded: pure, and the same in any order of arrival.

| of the trace                                    | becomes                                                     |
|-------------------------------------------------|-------------------------------------------------------------|
| its root                                        | the run; an open one is made while the root has not come    |
| a chain whose LangGraph task is not its parent's| a node, with the step key of a run we record                |
| what has nodes below it, other agents           | a graph                                                     |
| another chain of LangChain's                    | a node `chain:NAME` that no step key below it mentions      |
| an FM call                                      | a decode, fidelity `text` or `seeded`                       |
| any other span                                  | a node `span:NAME`                                          |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redecode.tracer import conventions as c
from redecode.tracer.events import SpanEdge, SpanEvent
from redecode.tracer.foreign import messages as m
from redecode.tracer.foreign.edges import edges_below
from redecode.tracer.foreign.nodes import Node
from redecode.tracer.foreign.openinference import is_openinference, state_given
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.reading import Role, as_json, known, read_error, text, words
from redecode.tracer.foreign.tree import build
from redecode.tracer.records import JsonObject, SpanKind

SCOPE = "redecode.foreign.scope"  # the instrumentation a span is from
MISSING_PARENT = "redecode.foreign.missing_parent"  # the parent it names, which has not come
_LEAVES = {
    Role.DECODE: SpanKind.DECODE,
    Role.ENGINE: SpanKind.DECODE,
    Role.TOOL: SpanKind.TOOL,
    Role.RETRIEVAL: SpanKind.RETRIEVAL,
    Role.PARSE: SpanKind.PARSE,
}
_MAX_NAME = 200  # of a name in a step key
_MAX_KEY = 2000  # beyond, what is deeper is only counted: a trace of any depth must not fill the memory


def derive(spans: Iterable[OtlpSpan]) -> list[SpanEvent]:
    """The spans of one trace in our terms, parents first; none for a trace without an agent (an engine's own).

    Args:
        spans: all of the trace that has come, in any order, any of them more than once.

    Raises:
        ValueError: they are of several traces.
    """
    spans = list(spans)
    if len({span.run for span in spans}) > 1:
        raise ValueError("spans of several traces")
    root = build(spans) if spans else None
    return _Derivation(root).events() if root is not None else []


class _Derivation:
    """One tree on its way to events."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._nodes = list(root.walk())
        self._tasks: set[int] = set()  # nodes of LangGraph's
        self._scheduled: dict[int, list[Node]] = {}  # parent → those of them that a superstep started
        self._kinds: dict[int, SpanKind] = {}
        for node in self._nodes:  # parents come first: the task around a node is known
            self._kinds[id(node)] = self._kind(node)
        for node in self._nodes:  # a chain is a graph if LangGraph scheduled nodes below it
            chain = self._kinds[id(node)] is SpanKind.NODE and id(node) not in self._tasks and node.own is None
            if chain and id(node) in self._scheduled:
                self._kinds[id(node)] = SpanKind.GRAPH
        self._agent_node = next((n for n in self._nodes if self._is_agent(n)), None)
        self._agent = self._agent_name()

    def events(self) -> list[SpanEvent]:
        """Every span as it would have been written at its end (or, open, at its start)."""
        places = self._match_tool_calls()
        keys = self._step_keys(places)
        edges: dict[str, list[SpanEdge]] = {}
        for node in self._nodes:
            if node.children and not all(child.own for child in node.children):
                for span, more in edges_below(node, self._scheduled.get(id(node), [])).items():
                    edges[span] = edges.get(span, []) + more
        return [self._event(node, keys[id(node)], edges.get(node.span.span, [])) for node in self._nodes]

    def _event(self, node: Node, key: str, edges: list[SpanEdge]) -> SpanEvent:
        span, kind = node.span, self._kinds[id(node)]
        parent = node.parent.span.span if node.parent is not None else None
        if node.own is not None:
            node.own.parent, node.own.kind = parent, kind.value
            return node.own
        status, error, attributes = read_error(span)
        if node.reading.failed is not None and status == "ok":
            status, error = "error", node.reading.failed[:2000]
        attributes |= self._attributes(node, kind)
        if c.REDACTED in attributes:
            attributes[c.REDACTED] = words(attributes[c.REDACTED])
        if not node.made:
            attributes[SCOPE] = f"{span.scope} {span.scope_version}".strip()
        if node.missing is not None:
            attributes[MISSING_PARENT] = node.missing
        host = text(span.resource.get(c.HOST))
        if host != text(self._root.span.resource.get(c.HOST)):
            attributes[c.HOST] = host
        return SpanEvent(
            run=span.run,
            span=span.span,
            parent=parent,
            kind=kind.value,
            name=self._name(node, kind),
            step_key=key,
            start_ns=span.start_ns,
            end_ns=span.end_ns,
            status=status,
            error=error,
            attributes=known(attributes),
            edges=edges,
        )

    # -- what each is --

    def _kind(self, node: Node) -> SpanKind:
        if node.own is not None:
            nested = node is not self._root and node.own.kind == SpanKind.RUN
            return SpanKind.GRAPH if nested else SpanKind(node.own.kind)
        if node is self._root:
            return SpanKind.RUN
        role, task = node.reading.role, node.reading.task
        if role in _LEAVES:
            return _LEAVES[role]
        if role is Role.CHAIN and task is not None and node.reading.name == task.node:
            above = node.parent
            while above is not None and above.reading.task is None:
                above = above.parent
            if above is None or above.reading.task is None or above.reading.task.ns != task.ns:
                self._tasks.add(id(node))
                if not task.called:
                    self._scheduled.setdefault(id(node.parent), []).append(node)
                return SpanKind.NODE
        return SpanKind.GRAPH if role is Role.AGENT else SpanKind.NODE

    def _is_agent(self, node: Node) -> bool:
        """Whether the run is named after this one: the topmost that is more than any span."""
        if node.own is not None:
            return node.own.kind == SpanKind.RUN
        role, graph = node.reading.role, self._kinds[id(node)] is SpanKind.GRAPH
        return not node.made and (role is Role.AGENT or graph or (role is Role.CHAIN and node is self._root))

    def _agent_name(self) -> str:
        spans = [node.span for node in self._nodes if not node.made]
        candidates = [
            self._agent_node.reading.agent if self._agent_node is not None else None,
            self._root.reading.agent if self._root.made else None,
            *(text(span.attributes.get("traceloop.workflow.name")) for span in spans[:1]),
            *(name for name in (text(span.resource.get("service.name")) for span in spans[:1]) if _telling(name)),
        ]
        return next((name for name in candidates if name), self._root.reading.name)

    def _name(self, node: Node, kind: SpanKind) -> str:
        name = node.reading.name
        match kind:
            case SpanKind.RUN:
                plain = node.reading.role is Role.PLAIN and not node.made
                return node.span.name if plain else f"invoke_agent {self._agent}"
            case SpanKind.GRAPH:
                return f"invoke_workflow {name}"
            case SpanKind.TOOL:
                return f"execute_tool {name}"
            case SpanKind.RETRIEVAL:
                return f"retrieval {name}"
        return name

    def _attributes(self, node: Node, kind: SpanKind) -> JsonObject:
        task = node.reading.task
        if kind is SpanKind.RUN:
            plain = node.reading.role is Role.PLAIN and not node.made
            own = {k: v for k, v in node.reading.attributes.items() if k not in c.COLUMNS} if plain else {}
            return {**own, **self._run_attributes()}
        if id(node) in self._tasks and task is not None:
            return {
                c.NODE: task.node,
                c.SUPERSTEP: task.step,
                c.TRIGGERS: c.to_json(task.triggers),
            }
        return node.reading.attributes

    def _run_attributes(self) -> JsonObject:
        given, came = self._put_in_and_came_out()
        own: JsonObject = next((n.reading.labels for n in self._nodes if n.reading.labels), {})
        spans = [node.span for node in self._nodes if not node.made]
        scopes = sorted({f"{span.scope} {span.scope_version}".strip() for span in spans if span.scope})
        labels = {"traced_by": ", ".join(scopes), "service": text(self._root.span.resource.get("service.name"))}
        return {
            c.AGENT_NAME: self._agent,
            c.AGENT_VERSION: text(self._root.span.attributes.get(c.AGENT_VERSION))
            or text(self._root.span.resource.get("service.version")),
            c.CONVERSATION: next((n.reading.conversation for n in self._nodes if n.reading.conversation), None),
            c.RUN_INPUT: None if given is None else c.to_json(given),
            c.RUN_OUTPUT: None if came is None else c.to_json(came),
            c.LABELS: c.to_json({**own, **{k: v for k, v in labels.items() if v and _telling(v)}}),
        }

    def _put_in_and_came_out(self) -> tuple[Any, Any]:
        if self._agent_node is None:
            return None, None
        given, came = self._agent_node.reading.given
        if is_openinference(self._agent_node.span):
            steps = [n for n in self._nodes if n is not self._agent_node and n.reading.role in (Role.CHAIN, Role.PARSE)]
            given = state_given(given, came, [n.reading.given[1] for n in steps])
        return given, came

    # -- which is which, from run to run --

    def _match_tool_calls(self) -> dict[int, int]:
        """Node → place of the tool among the calls that a decode before it had asked for.

        Also fills in arguments that the tool's own span has not whole.
        """
        happened = []
        for node in self._nodes:
            kind = self._kinds[id(node)]
            if kind is SpanKind.DECODE and node.span.end_ns is not None:
                happened.append((node.span.end_ns, 0, node.order, node))
            elif kind is SpanKind.TOOL and node.own is None:
                happened.append((node.span.start_ns, 1, node.order, node))
        asked: dict[str, tuple[int, JsonObject]] = {}
        taken: dict[int, int] = {}
        done: set[str] = set()
        for _, tool, _, node in sorted(happened, key=lambda item: item[:3]):
            attributes = node.reading.attributes
            if not tool:
                output = c.from_json(attributes.get(c.OUTPUT_MESSAGES))
                for place, call in enumerate(m.called_tools(output)):
                    if (call_id := text(call.get("id"))) is not None:
                        asked[call_id] = place, call
                        done.discard(call_id)
                continue
            call_id = text(attributes.get(c.TOOL_CALL_ID))
            if call_id is None or call_id not in asked:
                continue
            place, call = asked[call_id]
            if call_id not in done:  # a second attempt has no place, as in a run we record
                taken[id(node)] = place
                done.add(call_id)
            if not str(attributes.get(c.TOOL_ARGUMENTS, "")).startswith("{"):
                function = call.get("function")
                arguments = as_json(function.get("arguments")) if isinstance(function, dict) else None
                attributes.update(known({c.TOOL_ARGUMENTS: arguments}))
        return taken

    def _step_keys(self, places: dict[int, int]) -> dict[int, str]:
        keys: dict[int, str] = {}
        used = {node.own.step_key for node in self._nodes if node.own is not None}
        counts: dict[str, int] = {}
        around: dict[int, str] = {}  # the key that those below a node continue
        for node in self._nodes:
            above = around.get(id(node.parent), "")
            if node.own is not None:
                key = node.own.step_key
            else:
                base = f"{above}/{self._step(node, places)}" if above else "run"
                n = counts.get(base, 0)
                key = f"{base}#{n}" if n else base
                while key in used:
                    n += 1
                    key = f"{base}#{n}"
                counts[base] = n + 1
                used.add(key)
            keys[id(node)] = key
            chain = node.reading.transparent and id(node) not in self._tasks
            transparent = chain and node.own is None and self._kinds[id(node)] is SpanKind.NODE
            around[id(node)] = above if transparent or len(key) > _MAX_KEY else key
        return keys

    def _step(self, node: Node, places: dict[int, int]) -> str:
        kind, task = self._kinds[id(node)], node.reading.task
        name = node.reading.name[:_MAX_NAME].replace("/", "|")  # a slash parts steps
        if id(node) in self._tasks and task is not None:
            return task.step_key.replace("/", "|")
        match kind:
            case SpanKind.DECODE:
                return "chat"
            case SpanKind.TOOL:
                place = places.get(id(node))
                return f"tool:{name}" if place is None else f"tool:{place}:{name}"
            case SpanKind.GRAPH | SpanKind.RETRIEVAL | SpanKind.PARSE:
                return f"{kind.value}:{name}"
        return f"chain:{name}" if node.reading.transparent else f"span:{name}"


def _telling(name: str | None) -> bool:
    return name is not None and not name.startswith("unknown_service")
