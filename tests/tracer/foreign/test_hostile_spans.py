"""Spans that are valid OTLP and mean nonsense, or harm: whatever they say, the store that has them can be read."""

from __future__ import annotations

import ast
import base64
import json
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.tracer import SpanKind, Store
from redecode.tracer import conventions as c
from redecode.tracer.foreign import OtlpSpan
from redecode.tracer.spool import JournalWriter, unique_name

HERE = "cd" * 16
MOST = (1 << 63) - 1
OURS = [value for name, value in vars(c).items() if name.isupper() and isinstance(value, str) and "." in value]
_journals = count(1)


def texts_in(module: str) -> Iterator[str]:
    """Names that a dialect knows: the string constants of its source."""
    for node in ast.walk(ast.parse(Path(module).read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value[:40]:
            yield node.value


@pytest.fixture(scope="module")
def names() -> list[str]:
    """Attributes that somebody reads: ours, and those of every dialect."""
    from redecode.tracer.foreign import engine, genai, openinference

    of_dialects = [text for module in (engine, genai, openinference) for text in texts_in(str(module.__file__))]
    theirs = [name for name in of_dialects if " " not in name and len(name) < 60]
    assert len(theirs) > 50
    numbered = ["llm.input_messages.0.message.role", "gen_ai.prompt.0.content", "llm.request.functions.0.name"]
    return sorted({*OURS, *theirs, *numbered, "metadata", "input.value", "output.value"})


def odd_value(rng: random.Random) -> Any:
    return rng.choice([
        None, True, 0, -1, 5, MOST, -MOST - 1, 1 << 62, 0.5, 1e308, "NaN", "", "x", "\0", "5", "-5", "{", "{}", "[]",
        "[[]]", "null", '"x"', "[1, null]", '{"a": []}', '[{"role": 5}]', '[{"role": "user", "content": [null]}]',
        '{"langgraph_node": "n", "langgraph_step": 9e99, "langgraph_path": [[[]]]}', "text", "engine", "run", "decode",
        '{"langgraph_node": "n", "langgraph_step": 1, "langgraph_path": ["__pregel_pull", "n"]}', "chat", "CHAIN",
        "LLM", "TOOL", "invoke_agent", "execute_tool", [], [1, "a", None], [[1], {}], {}, {"a": {"b": [1]}},
        base64.b64encode(rng.randbytes(rng.choice([3, 4, 8, 64]))).decode(), HERE, "ab" * 16, "x" * 3000, "a/b#1@2[3]",
        '[["0000000000000001", "return", "recorded"]]', '[["x", "join", "time"], ["x", "join", "time"]]',
    ])  # fmt: skip


def hostile_run(number: int, rng: random.Random, names: list[str]) -> list[OtlpSpan]:
    """Some spans of one trace, each with attributes of which some claim to be ours."""
    spans = []
    for n in range(1, rng.randint(2, 7)):
        attributes = {rng.choice(names): odd_value(rng) for _ in range(rng.randrange(12))}
        if rng.random() < 0.7:  # as ours, or one of a dialect
            kind = rng.choice(list(SpanKind)).value
            attributes |= rng.choice([
                {c.KIND: kind, c.STEP_KEY: rng.choice(["run", "run/x", ""])},
                {c.KIND: "decode", c.STEP_KEY: "run/chat", c.SENT_NS: rng.choice([0, 5, MOST]), c.REQUEST_MODEL: "m"},
                {"gen_ai.operation.name": "chat"}, {"openinference.span.kind": "LLM"}, {"traceloop.span.kind": "task"},
            ])  # fmt: skip
        if rng.random() < 0.3:
            attributes[rng.choice([c.INPUT_TOKENS, c.OUTPUT_TOKENS])] = rng.choice([MOST, 1 << 62, -MOST])
        start = rng.choice([1, 5, 1000, MOST - 1])
        spans.append(OtlpSpan(
            run=f"{number:032x}", span=f"{n:016x}", parent=rng.choice([None, f"{rng.randint(1, 9):016x}"]),
            name=rng.choice(["", "x", "\0", "é" * 500]), kind=rng.randrange(7), start_ns=start,
            end_ns=rng.choice([None, start, start + 1, MOST]), status=rng.choice(["ok", "error", "unset"]),
            error=rng.choice([None, "", "e\0"]), scope=rng.choice(["", "redecode", "vllm.x"]), attributes=attributes,
            events=[(rng.choice(["exception", "gen_ai.choice", "x"]), rng.choice([0, MOST]), attributes)],
            resource={rng.choice(names): odd_value(rng)},
        ))  # fmt: skip
    return spans


def write_down(store: Path, spans: list[OtlpSpan]) -> None:
    journal = JournalWriter(store / "spool", unique_name(next(_journals)), lambda: {"t": "process", "argv": []})
    journal.commit([span.payload() for span in spans])
    journal.close()


def honest() -> OtlpSpan:
    return OtlpSpan(
        run=HERE, span="1" * 16, name="agent", start_ns=10, end_ns=20, scope="s",
        attributes={"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "honest"},
    )  # fmt: skip


def answers(store: Path, *verb: str, may_refuse: bool = False) -> None:
    done = CliRunner().invoke(app, [*verb, "--store", str(store)])
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{verb}: {done.exception!r}"
    assert done.exit_code == 0 or (may_refuse and done.exit_code == 2), done.output[-500:]


@pytest.mark.parametrize("seed", range(2))
def test_whatever_spans_say_the_store_can_be_read(store: Path, names: list[str], seed: int) -> None:
    rng = random.Random(seed)
    sent = [hostile_run(number, rng, names) for number in range(1, 61)]
    for at in range(0, len(sent), 20):
        write_down(store, [span for run in sent[at : at + 20] for span in run])
    write_down(store, [honest()])
    opened = Store(store)
    runs = {run.run_id: run for run in opened.runs()}
    assert runs[HERE].agent == "honest"
    assert len(runs) > 40  # the rest are an engine's own traces
    decodes = 0
    for run_id, run in runs.items():
        loaded = opened.load(run_id)
        ids = [span.span_id for span in loaded.spans]
        assert len(ids) == len(set(ids))
        assert {span.parent_span_id for span in loaded.spans} <= {None, *ids}
        assert run.tokens >= 0
        decodes += len(loaded.decodes)
    assert decodes > 20
    assert opened.health().corrupt == []
    answers(store, "runs")
    answers(store, "doctor")


def test_what_such_runs_hold_can_be_shown_and_exported(store: Path, names: list[str], tmp_path: Path) -> None:
    rng = random.Random("shown")
    for number in range(1, 21):
        write_down(store, hostile_run(number, rng, names))
    for run in Store(store).runs():
        answers(store, "show", run.run_id)
    for form in ("otlp", "perfetto", "parquet", "mooncake"):  # the last needs a call with token ids
        answers(store, "export", "--all", "--format", form, "-o", str(tmp_path / form), may_refuse=form == "mooncake")
    json.loads((tmp_path / "perfetto").read_bytes())


def test_a_trace_deeper_than_the_stack_is_a_run_that_can_be_shown(store: Path) -> None:
    deep = [
        OtlpSpan(
            run=HERE, span=f"{n + 1:016x}", parent=f"{n:016x}" if n else None, name=f"n{n}", start_ns=10 + n,
            end_ns=10_000 - n, scope="s",
        )
        for n in range(2000)
    ]  # fmt: skip
    write_down(store, deep)
    done = CliRunner().invoke(app, ["show", HERE, "--all", "--store", str(store)])
    assert done.exit_code == 0, repr(done.exception)
    tree = [line for line in done.output.splitlines() if line.lstrip().startswith("└─")]
    assert len(tree) == 1999
    assert tree[0].startswith("└─ span:n1")
    assert all(len(line) < 300 for line in tree)
