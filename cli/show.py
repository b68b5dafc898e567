"""`redecode show RUN`: one run as a tree on a common time axis, its critical path marked."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, print_json, seconds, store_to_read
from redecode.cli.runs import run_json
from redecode.replay.analysis import PathSegment, analyze_recorded
from redecode.replay.withheld import said_of
from redecode.tracer import ANSWERED_BY, REPLAY_OPTIONS, Decode, RecordedRun, Span, SpanKind

_BAR = 40
_LABEL = 52


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode show 3f2a")(show)


def show(
    run: Annotated[str, typer.Argument(help="Run id, or enough of its beginning.")],
    *,
    decodes: Annotated[bool, typer.Option("--decodes", help="Also what each FM call was asked and answered.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one run: its steps, their times, and the critical path as far as the recorded edges give it."""
    with errors_in_one_line():
        recorded = store_to_read(store).load(run)
        path = analyze_recorded(recorded).critical_path
    if as_json:
        print_json(_json(recorded, path))
        return
    console = Console(width=None if Console().is_terminal else 200, highlight=False)
    for text in _head(recorded, path):
        console.print(text, markup=False)
    for row in _tree(recorded, path):
        console.print(row, no_wrap=True, overflow="ellipsis")
    for text in _where_time_went(path, recorded):
        console.print(text, markup=False)
    if decodes:
        for row in _conversations(recorded):
            console.print(row)


def _json(recorded: RecordedRun, path: tuple[PathSegment, ...]) -> dict[str, Any]:
    return {
        "run": {
            **run_json(recorded.run),
            "input": recorded.run.input,
            "output": recorded.run.output,
            "kept_out": said_of(recorded),
        },
        "spans": [
            {
                "span_id": s.span_id,
                "parent_span_id": s.parent_span_id,
                "kind": s.kind,
                "name": s.name,
                "step_key": s.step_key,
                "start_ns": s.start_ns,
                "end_ns": s.end_ns,
                "status": s.status,
                "error": s.error,
                "answered_by": s.attributes.get(ANSWERED_BY),
            }
            for s in recorded.spans
        ],
        "edges": [{"src": e.src, "dst": e.dst, "kind": e.kind, "provenance": e.provenance} for e in recorded.edges],
        "critical_path": _critical_spans(path),
        "critical_segments": [
            {"span_id": s.activity.span_id, "work": not s.gap, "start_ns": s.start_ns, "end_ns": s.end_ns} for s in path
        ],
        "decodes": [_decode_json(d) for d in recorded.decodes],
        "tools": [
            {
                "span_id": t.span_id,
                "tool": t.tool,
                "call_id": t.call_id,
                "arguments": t.arguments,
                "result": t.result,
                "error": t.error,
            }
            for t in recorded.tools
        ],
    }


def _critical_spans(path: tuple[PathSegment, ...]) -> list[str]:
    return list(dict.fromkeys(s.activity.span_id for s in path if not s.gap))


def _decode_json(d: Decode) -> dict[str, Any]:
    plain = (
        "span_id", "step_key", "model", "fidelity", "seed", "seed_source", "sampling", "fingerprint", "engine_id",
        "finish_reason", "stream", "prompt_ids", "sampled_ids", "logprobs", "token_times_ns", "token_time_source",
        "chunk_times_ns", "chunk_tokens", "batch_rows", "input_tokens", "output_tokens", "cached_tokens", "queue_ns",
        "prefill_ns", "decode_ns", "sent_ns", "first_chunk_ns", "done_ns", "messages", "tool_definitions", "output",
        "error",
    )  # fmt: skip
    hashes = None if d.prompt_hashes is None else [h.hex() for h in d.prompt_hashes]
    more = {"redacted": list(d.redacted), "prompt_hashes": hashes}
    return {**{k: getattr(d, k) for k in plain}, **more, "ttft_ns": d.ttft_ns, "tpot_ns": d.tpot_ns, "e2e_ns": d.e2e_ns}


def _head(recorded: RecordedRun, path: tuple[PathSegment, ...]) -> list[str]:
    run = recorded.run
    work = sum(s.duration_ns for s in path if not s.gap) / 1e9
    gaps = sum(s.duration_ns for s in path if s.gap) / 1e9
    lines = [
        f"run {run.run_id}  {run.agent}  {run.status}  {seconds(run.duration_s)}  fidelity {run.fidelity or '-'}",
        f"critical path (●): work {seconds(work)}, gaps {seconds(gaps)}",
    ]
    if run.source_run_id:
        lines.insert(1, f"{run.replay_mode} replay of {run.source_run_id}")
    lines[2:2] = _forked(recorded)
    if run.slo_s is not None and run.duration_s is not None:
        lines.append(f"SLO {seconds(run.slo_s)}: headroom {seconds(run.slo_s - run.duration_s)}")
    if run.error:
        lines.append(f"error: {run.error}")
    if (kept_out := said_of(recorded)) is not None:
        lines.append(kept_out)
    if run.lost:
        lines.append(f"incomplete: {run.lost} events of this run could not be recorded (redecode doctor says why)")
    return lines


def _forked(recorded: RecordedRun) -> list[str]:
    """Of a fork: where it went live, and with what changed."""
    options = next((s.attributes[REPLAY_OPTIONS] for s in recorded.spans if REPLAY_OPTIONS in s.attributes), None)
    if options is None:
        return []
    told = json.loads(options)
    changes = [f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in told.items() if k != "until" and v]
    return [f"live from {told['until']} on{': ' + ', '.join(changes) if changes else ''}"]


def _tree(recorded: RecordedRun, path: tuple[PathSegment, ...]) -> list[Text]:
    children: dict[str | None, list[Span]] = {}
    for span in recorded.spans:
        children.setdefault(span.parent_span_id, []).append(span)
    critical = set(_critical_spans(path))
    decodes = {d.span_id: d for d in recorded.decodes}
    begin = recorded.run.started_ns
    end = max((s.end_ns or s.start_ns for s in recorded.spans), default=begin)
    lines: list[Text] = []
    waiting = [(root, "", "") for root in reversed(children.get(None, []))]
    while waiting:  # runs of others may be of any depth
        span, prefix, branch = waiting.pop()
        label = Text(prefix + branch)
        label.append(_title(span), style="bold" if span.span_id in critical else "")
        label.truncate(_LABEL, overflow="ellipsis", pad=True)
        mark = "●" if span.span_id in critical else " "
        label.append(f" {mark} {seconds((span.start_ns - begin) / 1e9):>10} ", style="dim")
        duration = "open" if span.duration_ns is None else seconds(span.duration_ns / 1e9)
        label.append(f"{duration:>10} ")
        label.append(_bar(span, begin, end), style="red" if span.span_id in critical else "cyan")
        label.append(" " + _detail(span, decodes.get(span.span_id)), style="dim")
        lines.append(label)
        below = (prefix + {"": "", "└─ ": "   ", "├─ ": "│  "}[branch])[:_LABEL]
        branches = ["├─ "] * (len(children.get(span.span_id, [])) - 1) + ["└─ "]
        under = zip(children.get(span.span_id, []), branches, strict=False)
        waiting += reversed([(child, below, mark) for child, mark in under])
    return lines


def _title(span: Span) -> str:
    if span.kind is SpanKind.NODE:
        return span.step_key.rsplit("/", 1)[-1]
    return span.name


def _bar(span: Span, begin: int, end: int) -> str:
    width = max(end - begin, 1)
    # Clocks of other machines differ: a span may lie outside its run.
    left = max(0, min(_BAR - 1, (span.start_ns - begin) * _BAR // width))
    right = min(_BAR, max(left + 1, ((span.end_ns or end) - begin) * _BAR // width))
    return " " * left + ("━" if span.end_ns is not None else "╍") * (right - left) + " " * (_BAR - right)


def _detail(span: Span, decode: Decode | None) -> str:
    by = span.attributes.get(ANSWERED_BY)
    whose = {"live": "live: ", "recording": "played: "}.get(str(by), "")
    if span.status == "error":
        return f"{whose}error: {span.error}"
    if decode is None:
        return whose.removesuffix(": ")
    ttft = seconds(None if decode.ttft_ns is None else decode.ttft_ns / 1e9)
    tpot = seconds(None if decode.tpot_ns is None else decode.tpot_ns / 1e9)
    source = f" ({decode.token_time_source})" if decode.token_time_source else ""
    return f"{whose}{decode.input_tokens or '?'}→{decode.output_tokens or '?'} tokens, TTFT {ttft}, TPOT {tpot}{source}"


def _where_time_went(path: tuple[PathSegment, ...], recorded: RecordedRun) -> list[str]:
    """The longest stretches of the critical path."""
    spans = {s.span_id: s for s in recorded.spans}
    total = sum(s.duration_ns for s in path)
    if not total:
        return []
    spent: dict[tuple[str, bool], int] = {}
    for segment in path:
        key = segment.activity.span_id, not segment.gap
        spent[key] = spent.get(key, 0) + segment.duration_ns
    top = sorted(spent.items(), key=lambda item: -item[1])[:5]
    lines = ["on the critical path, longest first:"]
    for (span_id, work), duration in top:
        what = spans[span_id].step_key + ("" if work else "  (gap before it, or its end: framework)")
        lines.append(f"  {duration / total:>5.0%}  {seconds(duration / 1e9):>10}  {what}")
    return lines


def _conversations(recorded: RecordedRun) -> list[Text]:
    lines = []
    for decode in recorded.decodes:
        lines.append(Text(f"\n{decode.step_key}  seed {decode.seed} ({decode.seed_source or 'none'})", style="bold"))
        for message in decode.messages if isinstance(decode.messages, list) else [decode.messages]:
            lines.append(Text(f"  > {message}"))
        lines.append(Text(f"  < {decode.output}"))
    return lines
