"""Content off: structure, lengths, block hashes and times are written, and nothing of what was said."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

from redecode.tracer import Fidelity, Recorder, SpanKind, Store
from redecode.tracer import conventions as c
from redecode.tracer.privacy.redaction import Privacy
from tests.tracer.privacy.support import bytes_of, record


def test_without_content_structure_lengths_hashes_and_times_stay(store: Path) -> None:
    recorded = record(store, Privacy(content=False), "a very private remark")
    (decode,), (tool,) = recorded.decodes, recorded.tools
    assert [s.step_key for s in recorded.spans] == ["run", "run/chat", "run/tool:look"]
    assert len(recorded.edges) > 2
    assert (decode.model, decode.seed, decode.finish_reason, decode.sampling) == ("m", 7, "stop", {"temperature": 0.5})
    assert (decode.input_tokens, decode.output_tokens, decode.token_times_ns) == (40, 2, (1000, 2000))
    assert (decode.fidelity, decode.redacted, recorded.run.fidelity) == (Fidelity.STRUCTURE, ("content",), "structure")
    assert decode.prompt_hashes is not None
    assert len(decode.prompt_hashes) == 40 // 16
    gone = (
        decode.messages, decode.output, decode.tool_definitions, decode.prompt_ids, decode.sampled_ids,
        decode.logprobs, decode.digest, recorded.run.input, recorded.run.output, tool.arguments, tool.result,
    )  # fmt: skip
    assert gone == (None,) * len(gone)
    assert (tool.tool, tool.error) == ("look", "ValueError")


def test_without_content_no_byte_of_it_is_on_the_disk(store: Path, tmp_path: Path) -> None:
    ids = array("i", range(1000, 1040)).tobytes()
    record(tmp_path / "with", None, "a very private remark")
    assert b"private remark" in bytes_of(tmp_path / "with")
    recorder = Recorder(store, privacy=Privacy(content=False))
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: c.to_json("a very private remark")})
    span = recorder.start(SpanKind.DECODE, "chat m", run, "chat", attributes={c.PROMPT_IDS: ids})
    recorder.end(span, attributes={c.SAMPLED_IDS + ".1": ids, c.LOGPROBS + ".1": ids}, error="what a private remark")
    journal = bytes_of(store)  # nothing has been drained yet: this is what the journal got
    assert span.span_id.encode() in journal
    assert b"private remark" not in journal
    assert ids[:64] not in journal
    recorder.end(run)
    recorder.close()
    Store(store).drain()
    assert b"private remark" not in bytes_of(store)


def test_the_live_span_stays_whole(store: Path) -> None:
    recorder = Recorder(store, privacy=Privacy(content=False))
    heard: list[Any] = []
    recorder.listeners.append(heard.append)
    run = recorder.start_run("agent", attributes={c.RUN_INPUT: c.to_json({"a": 1})})
    recorder.end(run, attributes={c.RUN_OUTPUT: '"answer"'})
    recorder.close()
    assert run.run_input == {"a": 1}  # a playback is matched by it
    assert run.event.attributes[c.RUN_OUTPUT] == '"answer"'
    (written,) = heard  # what is forwarded elsewhere is what was written
    assert c.RUN_OUTPUT not in written.attributes


def test_prompt_hashes_show_shared_beginnings_and_cannot_be_tried_out(store: Path, tmp_path: Path) -> None:
    one, longer, other = tuple(range(64)), tuple(range(80)), (*range(32), *range(900, 932))

    def hashes(key: bytes | None, prompt: tuple[int, ...]) -> tuple[bytes, ...]:
        privacy = Privacy(content=False, hash_key=key)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        found = record(path, privacy, prompt_ids=prompt).decodes[0].prompt_hashes
        assert found is not None
        return found

    key = b"shared by the processes of one team"
    assert hashes(key, one) == hashes(key, longer)[:4]
    assert hashes(key, one)[:2] == hashes(key, other)[:2]
    assert hashes(key, one)[2:] != hashes(key, other)[2:]
    assert not set(hashes(None, one)) & set(hashes(None, one))  # every process has a key of its own
    with_content = record(store, None, prompt_ids=one)
    assert with_content.decodes[0].prompt_hashes is None
    assert with_content.decodes[0].prompt_ids == one
