"""The drawer: one step of a run, with all that was recorded of it. What models and tools said is drawn as text only."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import streamlit as st

from redecode.dashboards.data import LoadedRun
from redecode.dashboards.gains import gain_ns
from redecode.dashboards.words import DASH, duration, plain, signed, visible
from redecode.replay.analysis.model import ActivityAnalysis
from redecode.tracer import Decode, Span, ToolStep

_MOST_TEXT = 200_000
_MOST_MESSAGES = 60


def drawer(loaded: LoadedRun, span_id: str) -> None:
    """Draw a step."""
    span = next((s for s in loaded.recorded.spans if s.span_id == span_id), None)
    if span is None:
        st.info("Click another, or press j.", title="That step is not in this run", icon=":material/search_off:")
        return
    decode = next((d for d in loaded.recorded.decodes if d.span_id == span_id), None)
    tool = next((t for t in loaded.recorded.tools if t.span_id == span_id), None)
    name = decode.model if decode is not None and decode.model else tool.tool if tool is not None else span.name
    st.markdown(f"##### {plain(name or span.kind.value, 80)}")
    st.caption(f"{span.kind.value} · {plain(span.step_key or '(the run)', 300)}")
    if span.error:
        st.error(plain(span.error, 1000), icon=":material/error:")
    _times(loaded, span)
    if decode is not None:
        _decode(decode)
    if tool is not None:
        _tool(tool)
    if decode is None and tool is None and span.parent_span_id is None:
        _text("Input", loaded.run.input)
        _text("Output", loaded.run.output)
    _edges(loaded, span)
    if span.attributes:
        with st.expander("Attributes"):
            _block(span.attributes)


def _times(loaded: LoadedRun, span: Span) -> None:
    rows = [a for a in loaded.analysis.activities if a.activity.span_id == span.span_id] if loaded.analysis else []
    last = _last(loaded, span, rows)
    with st.container(horizontal=True, gap="small"):
        st.metric("took", duration(span.duration_ns), width=105)
        if last is not None:
            st.metric("total float", duration(last.total_float_ns), width=115, help=_FLOAT)
        if rows:
            st.metric("drag", duration(gain_ns(loaded, rows)), width=105, help=_DRAG)
        burns = [r.burn_ns for r in rows if r.burn_ns is not None]
        if burns:
            st.metric("burn", signed(sum(burns)), width=115, help="actual − latency budget (its share of the SLO)")
    parts = [r for r in rows if r.duration_ns and r.activity.part]
    if len(parts) > 1:
        st.dataframe(
            {
                "part": [visible(r.activity.part) for r in parts],
                "took": [duration(r.duration_ns) for r in parts],
                "float": [duration(r.total_float_ns) for r in parts],
                "drag": [duration(r.drag_ns) for r in parts],
            },
            hide_index=True,
            alt="The parts of this step",
        )


_FLOAT = "How much later it may finish and the run ends no later. 0: it is critical."
_DRAG = (
    "What the run gains if this took no time. A critical step beside another equally long branch has 0: "
    "speeding it up alone gains nothing. Drags of its parts do not add up."
)


def _last(loaded: LoadedRun, span: Span, rows: list[ActivityAnalysis]) -> ActivityAnalysis | None:
    if loaded.cut is None or loaded.analysis is None or span.span_id not in loaded.cut.ends:
        return None
    end = loaded.cut.ends[span.span_id][1]
    return next((r for r in rows if r.id == end), None)


def _decode(decode: Decode) -> None:
    given = decode.redacted
    if given:
        st.warning(f"Taken out when it was recorded: {plain(', '.join(given))}", icon=":material/visibility_off:")
    _text("Answer", decode.output, expanded=True)
    messages = decode.messages if isinstance(decode.messages, list) else None
    if messages is not None:
        with st.expander(f"Prompt: {len(messages)} messages"):
            for message in messages[:_MOST_MESSAGES]:
                message = message if isinstance(message, dict) else {"content": message}
                role = message.get("role", "?")
                st.caption(plain(str(role), 40))
                content = message.get("content")
                extra = {k: v for k, v in message.items() if k not in ("role", "content")}
                if content is not None or not extra:
                    _block(content)
                if extra:
                    _block(extra)
            if len(messages) > _MOST_MESSAGES:
                st.caption(f"and {len(messages) - _MOST_MESSAGES} more: `redecode show RUN --json` has all")
    elif decode.messages is not None:
        _text("Prompt", decode.messages)
    if decode.tool_definitions:
        _text("Tools it was offered", decode.tool_definitions)
    with st.expander(f"Sampling: seed {decode.seed if decode.seed is not None else DASH}"):
        who = {"tracer": "chosen by the tracer", "caller": "the caller's"}.get(decode.seed_source or "", "")
        st.dataframe(
            _two_columns(
                {
                    "seed": f"{decode.seed} {who}".strip() if decode.seed is not None else DASH,
                    **{k: json.dumps(v) for k, v in decode.sampling.items()},
                    "finish reason": decode.finish_reason or DASH,
                    "prompt tokens": decode.input_tokens,
                    "of them from the prefix cache": decode.cached_tokens,
                    "sampled tokens": decode.output_tokens,
                    "fidelity": decode.fidelity.value,
                    "fingerprint": decode.fingerprint or DASH,
                    "engine": decode.base_url or DASH,
                    "request": decode.request_id or DASH,
                }
            ),
            hide_index=True,
            alt="Sampling parameters",
        )
    _tokens(decode)


def _tokens(decode: Decode) -> None:
    ids = decode.sampled_ids
    if not ids:
        st.caption("Token ids were not recorded: the engine does not give them (fidelity below `tokens`).")
        return
    times = decode.token_times_ns
    with st.expander(f"Tokens: {len(ids)} sampled"):
        columns: dict[str, list[Any]] = {"n": list(range(len(ids))), "id": list(ids)}
        if decode.logprobs is not None and len(decode.logprobs) == len(ids):
            columns["logprob"] = list(decode.logprobs)
            columns["p"] = [math.exp(min(0.0, x)) for x in decode.logprobs]
        if times is not None and len(times) == len(ids):
            columns["after sent, ms"] = [t / 1e6 for t in times]
            columns["gap, ms"] = [None, *((b - a) / 1e6 for a, b in pairwise(times))]
        number = st.column_config.NumberColumn
        st.dataframe(
            columns, hide_index=True, height=260, alt="Tokens",
            column_config={
                "logprob": number(format="%.3f"), "p": number(format="%.3f"),
                "after sent, ms": number(format="%.2f"), "gap, ms": number(format="%.2f"),
            },
        )  # fmt: skip
        if decode.token_time_source is not None:
            st.caption(f"Times from: {decode.token_time_source.value}")


def _tool(tool: ToolStep) -> None:
    if tool.side_effect is not None:
        st.caption("declared to have a side effect" if tool.side_effect else "declared to have no side effect")
    _text("Arguments", tool.arguments, expanded=True)
    _text("Result", tool.result, expanded=True)
    if tool.error:
        _text("Error", tool.error, expanded=True)


def _edges(loaded: LoadedRun, span: Span) -> None:
    names = {s.span_id: s.step_key or s.name for s in loaded.recorded.spans}
    rows = [(e, "in", e.src) for e in loaded.recorded.edges if e.dst == span.span_id]
    rows += [(e, "out", e.dst) for e in loaded.recorded.edges if e.src == span.span_id]
    if not rows:
        return
    with st.expander(f"Edges: {sum(r[1] == 'in' for r in rows)} in, {sum(r[1] == 'out' for r in rows)} out"):
        st.dataframe(
            {
                "": [side for _, side, _ in rows],
                "kind": [e.kind.value for e, _, _ in rows],
                "step": [visible(names.get(other, other)) for _, _, other in rows],
                "known": [e.provenance.value for e, _, _ in rows],
            },
            hide_index=True,
            alt="Edges in and out",
        )


def _two_columns(values: dict[str, Any]) -> dict[str, list[str]]:
    kept = {k: v for k, v in values.items() if v is not None}
    return {"": [visible(str(k)) for k in kept], "value": [visible(str(v))[:500] for v in kept.values()]}


def _text(title: str, value: Any, *, expanded: bool = False) -> None:
    if value is None:
        return
    with st.expander(title, expanded=expanded):
        _block(value)


def _block(value: Any) -> None:
    """A value as text, never as markup."""
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False, default=str)
    text = visible(text)
    cut = len(text) > _MOST_TEXT
    st.code(text[:_MOST_TEXT] or "(empty)", language=None, wrap_lines=True)
    if cut:
        st.caption(f"The first {_MOST_TEXT:,} of {len(text):,} characters")
