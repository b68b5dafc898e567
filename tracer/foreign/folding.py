"""One span where a tracer, or two of them, made several of one graph or one FM call.

OpenLLMetry makes two spans of a graph. Instrumentations of LangChain and of the client library beneath it both
report an FM call, and so does the engine that answers it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from redecode.tracer import conventions as c
from redecode.tracer.foreign.engine import engine_split
from redecode.tracer.foreign.nodes import Node
from redecode.tracer.foreign.reading import Role
from redecode.tracer.records import JsonObject, SpanKind

_SEED = (c.REQUEST_SEED, c.SEED_SOURCE, c.SAMPLING, c.FIDELITY)


def fold(root: Node) -> None:
    """Take the doubles out of a tree; what they alone know goes to the span that stays."""
    nodes = list(root.walk())
    gone = _wrappers(nodes) | _inner_decodes(nodes)
    gone.discard(id(root))
    if not gone:
        return
    for node in nodes:
        while node.parent is not None and id(node.parent) in gone:  # parents come first: one step at most
            node.parent = node.parent.parent
        node.children = []
    for node in nodes:
        if node.parent is not None and id(node) not in gone:
            node.parent.children.append(node)
    for node in nodes:
        node.children.sort(key=lambda child: child.order)


def _wrappers(nodes: list[Node]) -> set[int]:
    """OpenLLMetry's second span of a graph: around the outermost graph's other one, beside that of inner graphs."""
    graphs: dict[tuple[int, str], list[Node]] = {}
    for node in nodes:
        if node.reading.transparent:
            graphs.setdefault((id(node.parent), node.reading.name), []).append(node)
    gone: set[int] = set()
    for wrapper in nodes:
        if not wrapper.reading.wraps:
            continue
        within = graphs.get((id(wrapper), wrapper.reading.name))
        if within:
            inner = within[0]
            wrapper.reading.given, wrapper.reading.task = inner.reading.given, inner.reading.task
            wrapper.reading.conversation = wrapper.reading.conversation or inner.reading.conversation
            gone.add(id(inner))
        elif not wrapper.children:
            beside = graphs.get((id(wrapper.parent), wrapper.reading.name), [])
            at = bisect_left(beside, wrapper.span.start_ns, key=lambda n: n.span.start_ns)
            end = wrapper.span.end_ns
            if at < len(beside) and (end is None or beside[at].span.start_ns <= end):
                gone.add(id(wrapper))
    return gone


def _inner_decodes(nodes: list[Node]) -> set[int]:
    """Decodes, and the engine's requests, below a decode: the same FM call, or attempts at it."""
    outer: dict[int, Node] = {}
    inner: dict[int, list[Node]] = {}
    gone: set[int] = set()
    for node in nodes:
        above = outer.get(id(node.parent))
        if above is not None:
            outer[id(node)] = above
            if node.own is None and node.reading.role in (Role.DECODE, Role.ENGINE):
                inner.setdefault(id(above), []).append(node)
                gone.add(id(node))
        elif _is_decode(node):
            outer[id(node)] = node
    for node in nodes:
        if id(node) in inner:
            _fill(node, inner[id(node)])
    return gone


def _is_decode(node: Node) -> bool:
    return node.reading.role is Role.DECODE if node.own is None else node.own.kind == SpanKind.DECODE


def _fill(decode: Node, inner: list[Node]) -> None:
    """What the outer account does not know; of several attempts the one that ended last counts."""
    inner.sort(key=lambda n: (n.span.end_ns or 0, n.order), reverse=True)
    if decode.own is not None:
        for node in inner:
            if node.reading.role is Role.ENGINE:
                _add(decode.own.attributes, engine_split(node.span))
        return
    known = decode.reading.attributes
    for node in inner:
        said = node.reading.attributes
        if c.REQUEST_SEED in said and c.REQUEST_SEED not in known:
            known.update({name: said[name] for name in _SEED if name in said})
        _add(known, said)
    attempts = Counter(n.span.scope for n in inner if n.reading.role is Role.DECODE)
    if attempts and max(attempts.values()) > 1:
        known[c.RETRIES] = max(attempts.values()) - 1


def _add(known: JsonObject, more: JsonObject) -> None:
    for name, value in more.items():
        known.setdefault(name, value)
