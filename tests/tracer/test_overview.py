"""All runs of a store as columns, and questions in SQL: both read, neither changes anything."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from openai import OpenAI

from redecode import tracer
from redecode.tracer import Store
from redecode.tracer import conventions as c
from redecode.tracer.store import BadQuery


@pytest.fixture
def filled(recording: Path) -> Store:
    """Two runs, one of which failed."""
    with tracer.run("caller", attributes={c.RUN_INPUT: c.to_json("x" * 500)}):
        pass
    with pytest.raises(ValueError, match="broken"), tracer.run("failer"):
        raise ValueError("broken")
    return Store(recording)


def test_columns_say_what_the_list_of_runs_says(filled: Store, serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(lambda _: "hello")
    with tracer.run("with a call"), OpenAI(base_url=server.base_url, api_key="none") as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    opened = tracer.run("still at it")
    with opened:
        columns = filled.run_columns()
        runs = filled.runs()
    assert columns.run_id == [run.run_id for run in runs]
    assert columns.status == [run.status for run in runs]
    assert sorted(columns.status) == ["error", "ok", "ok", "open"]
    for name in ("agent", "started_ns", "ended_ns", "decodes", "tokens", "slo_s", "source_run_id", "lost"):
        assert getattr(columns, name) == [getattr(run, name) for run in runs], name
    assert columns.fidelity == [None if run.fidelity is None else run.fidelity.value for run in runs]
    assert sum(columns.decodes) == 1
    at = columns.agent.index("caller")
    assert len(columns.input[at] or "") == 160
    assert "broken" in (columns.error[columns.agent.index("failer")] or "")


def test_an_empty_store_has_empty_columns(tmp_path: Path) -> None:
    columns = Store(tmp_path / "empty").run_columns()
    assert len(columns) == 0
    assert columns.agent == []


def test_a_question_in_sql_is_answered(filled: Store) -> None:
    answer = filled.ask("SELECT agent, count(*) AS n FROM runs GROUP BY agent ORDER BY agent")
    assert answer.rows() == [{"agent": "caller", "n": 1}, {"agent": "failer", "n": 1}]
    assert answer.csv() == b"agent,n\r\ncaller,1\r\nfailer,1\r\n"
    assert answer.parquet()[:4] == b"PAR1"
    assert not answer.cut


def test_an_answer_is_cut_at_the_limit(filled: Store) -> None:
    answer = filled.ask("SELECT * FROM range(50) ORDER BY 1 DESC", limit=7)
    assert (len(answer), answer.cut) == (7, True)
    assert answer.rows()[0] == {"range": 49}


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("DELETE FROM runs", "only be read"),
        ("CREATE TABLE store.x (a INT)", "only be read"),
        ("COPY runs TO 'out.csv'", "only be read"),
        ("ATTACH 'other.duckdb'", "only be read"),
        ("SET memory_limit = '1GB'", "only be read"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("", "one statement"),
        ("SELECT * FROM read_text('secret.txt')", "disabled"),
        ("SELECT nothing FROM runs", "nothing"),
        ("hello", "syntax"),
    ],
)
def test_what_is_no_question_to_the_store_is_refused(
    filled: Store, sql: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.txt").write_text("secret")
    with pytest.raises(BadQuery, match=why):
        filled.ask(sql)
    assert len(filled.runs()) == 2
    assert not Path("out.csv").exists()


def test_a_question_that_never_ends_is_stopped(filled: Store) -> None:
    with pytest.raises(BadQuery, match=r"stopped after 0\.2 s"):
        filled.ask("SELECT sum(a.range * b.range % 7) FROM range(10000000) a, range(10000000) b", timeout_s=0.2)


def test_questions_and_lists_at_the_same_time_do_not_hurt_each_other(filled: Store) -> None:
    wrong: list[object] = []

    def work(n: int) -> None:
        for _ in range(5):
            found = len(filled.ask("FROM runs")) if n % 2 else len(filled.run_columns())
            if found != 2:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
