"""The graph an agent is, as a run went through it: its nodes with their times, and what led from one to the next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from redecode.dashboards.words import duration, visible
from redecode.replay import RunAnalysis
from redecode.tracer import EdgeKind, Provenance, RecordedRun, Span, SpanKind

_LEADS = (EdgeKind.DATA, EdgeKind.BARRIER, EdgeKind.RETRY, EdgeKind.RETURN)
"""What leads from one node to another; of several between the same two the first counts."""
START, END = "start", "end"


@dataclass(frozen=True, slots=True)
class FlowNode:
    """A node of the graph, all its tasks together.

    Attributes:
        longest_ns: of its tasks; `total_ns` their sum, `path_ns` what of the critical path passed in them.
    """

    name: str
    graph: str
    tasks: int
    failed: int
    total_ns: int
    longest_ns: int
    path_ns: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Nodes in the order they first ran; edges (from, to) → how often, between their names, `START` and `END`."""

    nodes: dict[str, FlowNode]
    edges: dict[tuple[str, str], int]


def flow_of(recorded: RecordedRun, analysis: RunAnalysis | None) -> Flow:
    """The graph of a run; empty if it has no nodes."""
    spans = {s.span_id: s for s in recorded.spans}
    tasks = [s for s in recorded.spans if s.kind is SpanKind.NODE]
    names = {s.span_id: _name(s, spans) for s in tasks}
    on_path = _path_times(analysis, spans, names)
    nodes: dict[str, FlowNode] = {}
    for name in dict.fromkeys(names[s.span_id] for s in tasks):
        mine = [s for s in tasks if names[s.span_id] == name]
        times = [s.duration_ns or 0 for s in mine]
        failed = sum(s.status == "error" for s in mine)
        graph, _, _ = name.rpartition("/")
        nodes[name] = FlowNode(name, graph, len(mine), failed, sum(times), max(times), on_path[name])
    leads: dict[tuple[str, str], tuple[int, int]] = {}  # pair of tasks → rank of what leads
    for edge in recorded.edges:
        held = edge.provenance is not Provenance.DECLARED  # a declared read led nowhere in this run
        if held and edge.src in names and edge.dst in names and edge.kind in _LEADS:
            rank = _LEADS.index(edge.kind)
            known = leads.get((edge.src, edge.dst))
            leads[edge.src, edge.dst] = (min(rank, known[0]) if known else rank, 0)
    by_data = {dst for (_, dst), (rank, _) in leads.items() if rank == 0}
    edges: Counter[tuple[str, str]] = Counter()
    led, leading = set[str](), set[str]()
    for (src, dst), (rank, _) in leads.items():
        if rank == _LEADS.index(EdgeKind.BARRIER) and dst in by_data:
            continue  # a barrier is who else was waited for, not what led here
        edges[names[src], names[dst]] += 1
        led.add(dst)
        leading.add(src)
    for span_id, name in names.items():
        if span_id not in led:
            edges[START, name] += 1
        if span_id not in leading:
            edges[name, END] += 1
    return Flow(nodes, dict(edges))


def _name(span: Span, spans: dict[str, Span]) -> str:
    """A node's name, behind those of the subgraphs it is in."""
    parts, at = [span.name], span.parent_span_id
    seen = {span.span_id}
    while at is not None and at in spans and at not in seen:
        seen.add(at)
        if spans[at].kind is SpanKind.GRAPH:
            parts.append(spans[at].name)
        at = spans[at].parent_span_id
    return "/".join(reversed(parts))


def _path_times(analysis: RunAnalysis | None, spans: dict[str, Span], names: dict[str, str]) -> Counter[str]:
    out: Counter[str] = Counter()
    for segment in analysis.critical_path if analysis else ():
        if segment.gap:
            continue
        at: str | None = segment.activity.span_id
        seen = set[str]()
        while at is not None and at in spans and at not in names and at not in seen:
            seen.add(at)
            at = spans[at].parent_span_id
        if at in names:
            out[names[at]] += segment.duration_ns
    return out


def to_dot(flow: Flow, *, dark: bool) -> str:
    """As Graphviz reads it; every name is a quoted string, never markup."""
    ink, paper, accent = ("#e7e5e4", "#1e232b", "#fb923c") if dark else ("#1c1917", "#f5f5f4", "#c2410c")
    most = max((n.path_ns for n in flow.nodes.values()), default=0)
    lines = [
        "digraph {",
        f'rankdir=LR; bgcolor="transparent"; node [shape=box, style="rounded,filled", fontname="sans-serif", '
        f'fontsize=11, fillcolor="{paper}", color="{ink}", fontcolor="{ink}"];',
        f'edge [color="{ink}", fontcolor="{ink}", fontsize=9, fontname="sans-serif", arrowsize=0.7];',
    ]
    ids = {name: f"n{n}" for n, name in enumerate(flow.nodes)} | {START: "s", END: "e"}
    for end, word in ((START, "start"), (END, "end")):
        lines.append(f'{ids[end]} [label="{word}", shape=oval, penwidth=0.8];')
    for name, node in flow.nodes.items():
        told = [
            visible(name)[:60],
            f"{node.tasks} × , {duration(node.total_ns)}" if node.tasks > 1 else duration(node.total_ns),
        ]
        if node.path_ns:
            told.append(f"critical path {duration(node.path_ns)}")
        if node.failed:
            told.append(f"✗ {node.failed} failed")
        width = 1 + (3 * node.path_ns / most if most else 0)
        colour = accent if node.path_ns else ink
        lines.append(f'{ids[name]} [label={_quoted(told)}, color="{colour}", penwidth={width:.2f}];')
    for (src, dst), n in flow.edges.items():
        if src in ids and dst in ids:
            label = f' [label="{n} ×"]' if n > 1 else ""
            lines.append(f"{ids[src]} -> {ids[dst]}{label};")
    return "\n".join([*lines, "}"])


def _quoted(lines: list[str]) -> str:
    told = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for line in lines)
    return f'"{told}"'
