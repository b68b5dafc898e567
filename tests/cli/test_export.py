"""`redecode export` and `redecode import`: out of one store and into another, and one line when it cannot be."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.tracer import RecordedRun, Recorder, Store
from redecode.tracer.export.spans import span_events
from redecode.tracer.foreign.own import read_own
from tests.tracer.export.conftest import Answer, Backend
from tests.tracer.export.conftest import backend as backend
from tests.tracer.export.test_mooncake import react


def redecode(*arguments: str, stdin: bytes = b"", environ: dict[str, str] | None = None) -> Result:
    """The command, in this process: starting another takes longer than what it does."""
    env: dict[str, str | None] = {k: None for k in os.environ if k == "REDECODE_STORE" or k.startswith("OTEL_")}
    return CliRunner().invoke(app, arguments, input=stdin, env={**env, **(environ or {})})


def program(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command as a user runs it."""
    command = [sys.executable, "-m", "redecode.cli", *arguments]
    return subprocess.run(command, capture_output=True, check=False, input=stdin)


ONE, TWO = "ab" * 16, "cd" * 16


@pytest.fixture
def two_runs(store: Path) -> Path:
    recorder = Recorder(store)
    for run_id in (ONE, TWO):
        run = react(run_id=run_id).build()
        for event in span_events(run):
            recorder.journal.append(event.payload())
    recorder.journal.write({"t": "engine", "id": "e1", "info": {"device": "cpu"}})
    recorder.close()
    return store


def loaded(store: Path, run_id: str = ONE) -> RecordedRun:
    run = Store(store, create=False).load(run_id)
    run.edges.sort(key=str)
    return run


@pytest.mark.parametrize("way", ["json", "protobuf", "json.gz", "stdin"])
def test_out_and_in_again(two_runs: Path, tmp_path: Path, way: str) -> None:
    other, file = tmp_path / "other", tmp_path / f"runs.{way}"
    options = ["--encoding", "protobuf"] if way == "protobuf" else []
    if way == "stdin":
        out = program("export", "--all", "--format", "otlp", "--store", str(two_runs))
        assert (out.returncode, b"Traceback" in out.stderr) == (0, False)  # it may say that it takes a second
        assert len(out.stdout.splitlines()) == 2
        back = program("import", "-", "--store", str(other), stdin=out.stdout)
        assert back.returncode == 0
        assert b"imported 2 runs (16 spans)" in back.stderr
    else:
        done = redecode("export", "--all", "--format", "otlp", "-o", str(file), *options, "--store", str(two_runs))
        assert done.exit_code == 0, done.stderr
        assert file.stat().st_mode & 0o777 == 0o600
        if way == "json.gz":
            file.write_bytes(gzip.compress(file.read_bytes()))
        done = redecode("import", str(file), "--store", str(other))
        assert done.exit_code == 0, done.stderr
        assert "imported 2 runs (16 spans)" in done.stderr
    for run_id in (ONE, TWO):
        assert loaded(other, run_id) == loaded(two_runs, run_id)
    assert Store(other).engine("e1") == {"device": "cpu"}


def test_a_second_import_changes_nothing(two_runs: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "runs.json", tmp_path / "other"
    for run_id in (ONE, TWO):
        done = redecode("export", run_id, "--format", "otlp", "-o", str(file), "--force", "--store", str(two_runs))
        assert done.exit_code == 0
        assert redecode("import", str(file), "--store", str(other)).exit_code == 0
    done = redecode("import", str(file), "--store", str(other), "--json")
    assert json.loads(done.stdout) == {"runs": [], "spans": 0, "present": [TWO], "no_run": [], "rejected": []}
    assert loaded(other) == loaded(two_runs)
    done = redecode("import", str(file), "--store", str(two_runs))
    assert "1 that are there already were left as they are" in done.stderr
    assert len(Store(two_runs).runs()) == 2


def test_perfetto_and_mooncake_and_parquet(two_runs: Path, tmp_path: Path) -> None:
    done = redecode("export", "ab", "--format", "perfetto", "--store", str(two_runs))
    document = json.loads(done.stdout)
    assert document["otherData"]["runs"] == [ONE]
    done = redecode("export", "--last", "2", "--format", "mooncake", "--block-tokens", "16", "--store", str(two_runs))
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["input_length"] for row in rows] == [40, 40, 70, 70]
    assert rows[0]["hash_ids"] == rows[1]["hash_ids"]
    done = redecode("export", "ab", "--format", "mooncake", "--rows", "plain", "--store", str(two_runs))
    assert set(json.loads(done.stdout.splitlines()[0])) == {"timestamp", "input_length", "output_length", "hash_ids"}
    out = str(tmp_path / "tables")
    done = redecode("export", "--all", "--format", "parquet", "-o", out, "--json", "--store", str(two_runs))
    assert json.loads(done.stdout)["rows"]["spans"] == 16
    assert len(pq.read_table(tmp_path / "tables" / "decodes.parquet")) == 4


def test_json_is_alone_on_stdout(two_runs: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "f")
    done = redecode("export", "ab", "--format", "otlp", "-o", file, "--json", "--store", str(two_runs))
    assert json.loads(done.stdout) == {"runs": [ONE], "format": "otlp", "output": file, "to": None, "spans": 8}
    assert done.stderr == ""


def test_to_a_backend(two_runs: Path, backend: Backend) -> None:
    done = redecode("export", "--all", "--to", backend.url, "--header", "x-key=1", "--store", str(two_runs))
    assert done.exit_code == 0, done.stderr
    assert f"sent 2 runs to {backend.url}/v1/traces" in done.stderr
    assert backend.requests[0][1]["x-key"] == "1"
    assert len(backend.spans) == 16
    own = [read_own(span) for span in backend.spans]
    assert {event.step_key for event in own if event} == {s.step_key for s in loaded(two_runs).spans}
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=two%20words"}
    assert redecode("export", "ab", "--to", "env", "--store", str(two_runs), environ=env).exit_code == 0
    assert backend.requests[-1][1]["x-key"] == "two words"


def test_a_backend_that_rejects_or_is_away(two_runs: Path, backend: Backend) -> None:
    backend.answers = [Answer(), Answer(400, {"content-type": "text/plain"}, b"bad key")]
    done = redecode("export", "--all", "--to", backend.url, "--store", str(two_runs))
    assert done.exit_code == 2
    words = f"redecode: {backend.url}/v1/traces answers 400: bad key (1 of 2 runs were sent before)"
    assert done.stderr.strip() == words
    url = backend.url
    backend.close()
    done = redecode("export", "ab", "--to", url, "--patience", "0.1", "--store", str(two_runs))
    assert done.exit_code == 2
    assert "cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_file_is_not_overwritten_unasked(two_runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text("precious")
    done = redecode("export", "ab", "--format", "perfetto", "-o", str(file), "--store", str(two_runs))
    assert done.exit_code == 2
    assert "is there already; --force replaces it" in done.stderr
    assert file.read_text() == "precious"
    done = redecode("export", "ab", "--format", "perfetto", "-o", str(file), "--force", "--store", str(two_runs))
    assert done.exit_code == 0
    assert json.loads(file.read_text())["traceEvents"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ab"], "--format otlp|perfetto|parquet|mooncake"),
        (["--format", "otlp"], "name the runs to export"),
        (["ab", "--all", "--format", "otlp"], "name the runs to export"),
        (["ffff", "--format", "otlp"], "no run starts with 'ffff'"),
        (["ab", "--format", "parquet"], "name a --output for parquet"),
        (["ab", "--format", "otlp", "--encoding", "protobuf"], "name a --output for protobuf"),
        (["ab", "--format", "otlp", "--json"], "--json needs stdout for itself"),
        (["ab", "--format", "perfetto", "--block-tokens", "4"], "--block-tokens goes with --format mooncake"),
        (["ab", "--format", "perfetto", "--to", "http://h"], "--to goes with --format otlp"),
        (["ab", "--format", "otlp", "--header", "a=b"], "go with --to"),
        (["ab", "--to", "http://h", "-o", "x"], "either --to or --output"),
        (["ab", "--to", "somewhere"], "'somewhere' is no URL"),
        (["ab", "--to", "env"], "is not set"),
        (["ab", "--to", "http://h", "--header", "secret"], "want KEY=VALUE"),
        (["ab", "--format", "otlp", "-o", "/no/such/folder/x"], "cannot write /no/such/folder/x"),
        (["ab", "--format", "parquet", "-o", "/proc/x/y"], "cannot write /proc/x/y"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_and_exit_2(two_runs: Path, arguments: list[str], words: str) -> None:
    done = redecode("export", *arguments, "--store", str(two_runs))
    assert done.exit_code == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "cannot read"),
        (b"", "is empty"),
        (b"hello", "holds no OTLP traces"),
        (b'{"runs": []}', "holds no OTLP traces"),
        (b'{"resourceSpans": []}\n{"resourceSpans"', "holds no OTLP traces"),
        (b"[1]", "holds no OTLP traces"),
        (b"\x1f\x8bnot gzip", "no whole gzip"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, data: bytes | None, words: str) -> None:
    file = tmp_path / "file"
    if data is not None:
        file.write_bytes(data)
    done = redecode("import", str(file), "--store", str(tmp_path / "store"))
    assert done.exit_code == 2
    assert words in done.stderr
    assert str(file) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_spans_that_are_none_are_told(tmp_path: Path) -> None:
    good = {"traceId": "ab" * 16, "spanId": "cd" * 8, "name": "agent", "startTimeUnixNano": "5", "endTimeUnixNano": "9"}
    kind = [{"key": "gen_ai.operation.name", "value": {"stringValue": "invoke_agent"}}]
    spans = [{**good, "attributes": kind}, {**good, "spanId": "00" * 8}]
    file = tmp_path / "file"
    file.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"scope": {"name": "x"}, "spans": spans}]}]}))
    done = redecode("import", str(file), "--store", str(tmp_path / "store"))
    assert done.exit_code == 0
    assert "left out span 'agent': span id" in done.stderr
    assert "imported 1 run (1 spans)" in done.stderr
