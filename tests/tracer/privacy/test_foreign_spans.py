"""The spans of other tracers, and exported ones of ours, under the same policy as those recorded here."""

from __future__ import annotations

import json
from pathlib import Path

from redecode.tracer import Fidelity, Store
from redecode.tracer import conventions as c
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.privacy import SpanPrivacy
from redecode.tracer.privacy.redaction import Privacy
from redecode.tracer.privacy.rules import Rules
from tests.tracer.privacy.support import MAIL, by, record

OTHERS = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "m",
    "llm.token_count.prompt": 12,
    "llm.input_messages.0.message.content": MAIL,
    "llm.invocation_parameters": json.dumps({"temperature": 0.5, "stop": [MAIL], "model": "m"}),
    "input.value": json.dumps({"messages": [{"content": MAIL}]}),
    "output.value": json.dumps({"text": MAIL, "logprobs": {"content": [{"token": "ada."}, {"token": "love"}]}}),
    "metadata": json.dumps({"langgraph_node": "ask", "langgraph_step": 1, "customer": MAIL}),
    "customer.name": MAIL,
    "llm.headers": "{'authorization': 'Bearer planted'}",
    "traceloop.association.properties.langgraph_node": "ask",
    "traceloop.association.properties.customer": MAIL,
}


def theirs() -> OtlpSpan:
    return OtlpSpan(
        run="a" * 32, span="b" * 16, name=f"ask {MAIL}", start_ns=5, end_ns=9, status="error", error=f"no {MAIL}",
        resource={"service.name": "app", "process.command_line": f"app {MAIL}"}, attributes=dict(OTHERS),
        events=[("exception", 6, {"exception.type": "ValueError", "exception.message": MAIL}),
                ("gen_ai.content.completion.chunk", 7, {"content": "ada.love"})],
        links=[("c" * 32, "d" * 16, {"why": MAIL})],
    )  # fmt: skip


def test_spans_of_other_tracers_keep_their_structure_alone() -> None:
    (kept,) = SpanPrivacy(Privacy(content=False), lambda *_: None).spans([theirs()])
    text = kept.payload().decode()
    assert kept.name == f"ask {MAIL}"  # names are structure; patterns take them out
    assert MAIL not in text.replace(kept.name, "")
    assert "planted" not in text
    assert "ada.love" not in text.replace(kept.name, "")
    assert kept.attributes == {
        "openinference.span.kind": "LLM", "llm.model_name": "m", "llm.token_count.prompt": 12,
        "llm.invocation_parameters": '{"temperature":0.5}', "metadata": '{"langgraph_node":"ask","langgraph_step":1}',
        "traceloop.association.properties.langgraph_node": "ask", "redecode.redacted": ["content"],
    }  # fmt: skip
    assert (kept.status, kept.error, kept.resource) == ("error", None, {"service.name": "app"})
    assert kept.events[0] == ("exception", 6, {"exception.type": "ValueError"})
    assert kept.links == [("c" * 32, "d" * 16, {})]


def test_spans_of_other_tracers_are_redacted_wherever_the_text_is() -> None:
    (kept,) = SpanPrivacy(by("patterns"), lambda *_: None).spans([theirs()])
    text = kept.payload().decode()
    assert MAIL not in text
    assert "ada.love" not in text  # neither in pieces
    assert '"love"' not in text
    assert json.loads(kept.attributes["input.value"]) == {"messages": [{"content": "[email]"}]}
    assert json.loads(kept.attributes["metadata"])["langgraph_node"] == "ask"
    assert set(kept.attributes[c.REDACTED]) == {"email", "authorization"}


def test_a_failing_function_costs_a_foreign_span_its_content() -> None:
    def fails(name: str, text: str) -> str:
        raise ValueError(text)

    lost: list[tuple[str | None, str]] = []
    (kept,) = SpanPrivacy(by("email", fails), lambda *loss: lost.append(loss)).spans([theirs()])
    assert MAIL not in kept.payload().decode()
    assert lost == [("a" * 32, "redaction by fails failed: ValueError")]


def test_a_run_derived_from_them_says_that_it_is_not_whole(store: Path) -> None:
    from redecode.tracer.spool import JournalWriter

    Store(store)
    journal = JournalWriter(store / "spool", "collector", lambda: {"t": "process", "argv": []})
    for span in SpanPrivacy(Privacy(content=False), journal.lose).spans([theirs()]):
        journal.append(span.payload(), span.run)
    journal.close()
    recorded = Store(store).load("a" * 32)
    (decode,) = recorded.decodes
    assert (decode.fidelity, decode.redacted, decode.input_tokens) == (Fidelity.STRUCTURE, ("content",), 12)
    assert decode.messages is None


def test_an_exported_run_of_ours_is_treated_like_one_recorded_here(store: Path, tmp_path: Path) -> None:
    from redecode.tracer.export.otlp import otlp_spans
    from redecode.tracer.foreign import derive

    recorded = record(store, None, MAIL)
    key = b"a key"
    for privacy in (Privacy(content=False, hash_key=key), Privacy(rules=Rules(["email"]), hash_key=key)):
        spans = SpanPrivacy(privacy, lambda *_: None).spans(otlp_spans(recorded))
        assert MAIL not in b"".join(s.payload() for s in spans).decode()
        (event,) = [e for e in derive(spans) if e.kind == "decode"]
        assert not any(Privacy.spells(name) for name in event.attributes)
        assert event.attributes[c.FIDELITY] == "structure"
        direct = record(tmp_path / f"{privacy.content}", privacy, MAIL).decodes[0]
        assert event.attributes[c.PROMPT_HASHES] == b"".join(direct.prompt_hashes or ())
