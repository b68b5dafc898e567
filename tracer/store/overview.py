"""Every run of a store at once, as columns: what a list of a hundred thousand runs is sorted and filtered by."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import duckdb

from redecode.tracer.records import Fidelity, Run
from redecode.tracer.store.queries import RUNS

EXCERPT = 160
"""Characters of inputs and errors that are kept."""


@dataclass(frozen=True, slots=True)
class RunColumns:
    """One entry per run in each column, newest run first; the names are those of `Run`.

    Attributes:
        input, error: their first 160 characters (of an input: of its JSON).
    """

    run_id: list[str]
    agent: list[str]
    agent_version: list[str | None]
    status: list[str]
    started_ns: list[int]
    ended_ns: list[int | None]
    fidelity: list[str | None]
    replay_mode: list[str | None]
    source_run_id: list[str | None]
    conversation_id: list[str | None]
    slo_s: list[float | None]
    decodes: list[int]
    tools: list[int]
    tokens: list[int]
    prompt_tokens: list[int]
    lost: list[int]
    input: list[str | None]
    error: list[str | None]

    def __len__(self) -> int:
        return len(self.run_id)


_NAMES = tuple(f.name for f in fields(RunColumns))
_RANKS = [f.value for f in Fidelity]


def run_columns(connection: duckdb.DuckDBPyConnection) -> RunColumns:
    """All runs, open ones too, by one query and Arrow: a hundred thousand rows one by one take Python a second."""
    query = f"""
        WITH r AS ({RUNS}), d AS (
            SELECT run_id, count(*) AS decodes, sum(output_tokens)::BIGINT AS tokens,
                   sum(input_tokens)::BIGINT AS prompt_tokens, min(list_position({_RANKS}, fidelity)) AS rank
            FROM decodes GROUP BY run_id
        ), t AS (SELECT run_id, count(*) AS tools FROM tool_steps GROUP BY run_id),
        l AS (SELECT run_id, sum(events)::BIGINT AS lost FROM losses GROUP BY run_id),
        told AS (
            SELECT run_id, coalesce(agent, '') AS agent, agent_version, status, started_ns, ended_ns,
                   {_RANKS}[rank] AS fidelity, replay_mode, source_run_id, conversation_id, slo_s,
                   coalesce(decodes, 0) AS decodes, coalesce(tools, 0) AS tools, coalesce(tokens, 0) AS tokens,
                   coalesce(prompt_tokens, 0) AS prompt_tokens, coalesce(lost, 0) AS lost,
                   left(input, {EXCERPT}) AS input, left(error, {EXCERPT}) AS error
            FROM r LEFT JOIN d USING (run_id) LEFT JOIN t USING (run_id) LEFT JOIN l USING (run_id)
        )
        SELECT {", ".join(_NAMES)} FROM told ORDER BY started_ns DESC, run_id
    """
    table = connection.sql(query).to_arrow_table()
    return RunColumns(**{name: table[name].to_pylist() for name in _NAMES})


def labelled(connection: duckdb.DuckDBPyConnection, name: str, value: str) -> set[str]:
    """Ids of the runs with a label of this name (or, in a label that is a table, under this dotted path) and value."""
    whole, path = f"$.{_quoted(name)}", "$." + ".".join(_quoted(part) for part in name.split("."))
    query = f"""
        WITH r AS ({RUNS}) SELECT run_id FROM r
        WHERE coalesce(json_extract_string(labels, ?), json_extract_string(labels, ?)) = ?
    """
    return {row[0] for row in connection.execute(query, [whole, path, value]).fetchall()}


def _quoted(key: str) -> str:
    return '"' + key.replace('"', "") + '"'


def columns_of(runs: list[Run]) -> RunColumns:
    """The same of runs at hand."""

    def short(value: Any) -> str | None:
        return None if value is None else str(value)[:EXCERPT]

    columns: dict[str, list[Any]] = {name: [getattr(run, name) for run in runs] for name in _NAMES}
    columns["input"] = [short(run.input) for run in runs]
    columns["error"] = [short(run.error) for run in runs]
    columns["fidelity"] = [None if run.fidelity is None else run.fidelity.value for run in runs]
    return RunColumns(**columns)
