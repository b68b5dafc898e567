"""The spans of one trace as a tree with one run at its top, whatever came of it so far.

A trace may arrive in any order, twice, and never whole: a root that is still open has not been sent, a parent may
live in a process that is not traced, ids may lie. Times are never moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from redecode.tracer import conventions as c
from redecode.tracer.foreign import engine, genai, openinference
from redecode.tracer.foreign.folding import fold
from redecode.tracer.foreign.nodes import Node
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.own import read_own
from redecode.tracer.foreign.reading import Reading, Role
from redecode.tracer.records import SpanKind

_SERVER, _CONSUMER = 2, 5  # OTLP kinds whose parent is in another process
_LEAVES = frozenset({Role.DECODE, Role.TOOL, Role.RETRIEVAL, Role.PARSE, Role.ENGINE})


def read(span: OtlpSpan) -> Reading:
    """What a span says, by the conventions it follows."""
    if engine.is_engine_span(span):
        return engine.read(span)
    if openinference.is_openinference(span):
        return openinference.read(span)
    if genai.is_genai(span):
        return genai.read(span)
    return Reading(role=Role.PLAIN, name=span.name, attributes={**span.attributes, "otel.scope": span.scope})


def build(spans: Iterable[OtlpSpan]) -> Node | None:
    """The tree of one trace; `None` of a trace without an agent (an engine's own)."""
    nodes = {span.span: Node(span=span, reading=read(span), own=read_own(span)) for span in _unique(spans)}
    if all(engine.is_from_engine(node.span) for node in nodes.values()):
        return None
    tops = _link(nodes)
    root = _root(nodes, tops)
    for top in tops:
        if top is not root:
            top.parent = root
            root.children.append(top)
    for node in [root, *nodes.values()]:
        node.children.sort(key=lambda child: child.order)
    fold(root)
    return root


def _unique(spans: Iterable[OtlpSpan]) -> list[OtlpSpan]:
    """Each span once: of those with one id, the one that knows most."""
    best: dict[str, OtlpSpan] = {}
    for span in spans:
        other = best.get(span.span)
        if other is None or _knows(other) < _knows(span):
            best[span.span] = span
    return list(best.values())


def _knows(span: OtlpSpan) -> tuple[bool, int, int, bytes]:
    ended = span.end_ns is not None and span.attributes.get(c.OPEN) is not True
    return ended, span.end_ns or 0, len(span.attributes), span.payload()


def _link(nodes: dict[str, Node]) -> list[Node]:
    """Join parents and children; returns the spans without a parent here, in order. Cycles are cut."""
    tops = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent or "")
        if parent is None:
            tops.append(node)
        else:
            node.parent = parent
            parent.children.append(node)
    seen = {id(below) for top in tops for below in top.walk()}
    if len(seen) < len(nodes):
        for node in sorted(nodes.values(), key=lambda n: n.order):
            if id(node) not in seen:
                assert node.parent is not None
                node.parent.children.remove(node)
                node.parent = None
                tops.append(node)
                seen |= {id(below) for below in node.walk()}
    for top in tops:
        remote = top.span.remote_parent or top.span.kind in (_SERVER, _CONSUMER)
        top.missing = None if remote else top.span.parent
    return sorted(tops, key=lambda n: n.order)


def _root(nodes: dict[str, Node], tops: list[Node]) -> Node:
    """The run: the one span at the top or, where there is not exactly one that can be it, one made for them."""
    runs = [top for top in tops if top.own is not None and top.own.kind == SpanKind.RUN]
    roots = runs or [top for top in tops if top.missing is None]
    if len(roots) == 1 and (runs or (roots[0].own is None and roots[0].reading.role not in _LEAVES)):
        return roots[0]
    first = (roots or tops)[0]
    ends = [root.span.end_ns for root in roots]
    run = first.span.run
    # An open run takes the id that its children give their parent, so that it stays itself when it arrives.
    span_id = None if roots else first.missing
    failed = next((root.span for root in roots if root.span.status == "error"), None)
    made = OtlpSpan(
        run=run,
        span=span_id if span_id and span_id not in nodes else hashlib.blake2b(run.encode(), digest_size=8).hexdigest(),
        start_ns=(roots or tops)[0].span.start_ns,
        end_ns=max(end for end in ends if end is not None) if roots and None not in ends else None,
        status="error" if failed else "unset",
        error=failed.error if failed else None,
        attributes=failed.attributes if failed else {},
        events=failed.events if failed else [],
        resource=first.span.resource,
    )
    reading = Reading(role=Role.AGENT, name=first.reading.name, agent=first.reading.agent if roots else None)
    return Node(span=made, reading=reading, made=True)
