"""Questions of one's own, in SQL; nothing can be changed, and nothing but the store read."""

import streamlit as st

from redecode.dashboards import shell
from redecode.dashboards.words import plain
from redecode.tracer.store import BadQuery

EXAMPLES = {
    "Runs by agent": "SELECT agent, count(*) AS runs,\n"
    "       round(quantile_disc((ended_ns - started_ns) / 1e9, 0.5), 3) AS p50_s,\n"
    "       round(quantile_disc((ended_ns - started_ns) / 1e9, 0.95), 3) AS p95_s\n"
    "FROM runs WHERE source_run_id IS NULL GROUP BY agent ORDER BY p95_s DESC",
    "Slowest steps": "SELECT step_key, kind, count(*) AS n, round(avg(end_ns - start_ns) / 1e6, 1) AS mean_ms,\n"
    "       round(max(end_ns - start_ns) / 1e6, 1) AS worst_ms\n"
    "FROM spans WHERE kind IN ('decode', 'tool') GROUP BY ALL ORDER BY mean_ms DESC LIMIT 50",
    "Tools that failed": "SELECT tool, count(*) AS calls, count(error) AS failed, any_value(error) AS one_error\n"
    "FROM tool_steps GROUP BY tool ORDER BY failed DESC",
    "Prefix cache": "SELECT model, sum(input_tokens) AS prompt_tokens, sum(cached_tokens) AS from_cache,\n"
    "       round(sum(cached_tokens) / sum(input_tokens), 3) AS part\n"
    "FROM decodes GROUP BY model",
    "Rare tokens": "SELECT run_id, step_key, list_min(logprobs) AS least_likely, len(sampled_ids) AS tokens\n"
    "FROM decodes WHERE logprobs IS NOT NULL ORDER BY least_likely LIMIT 50",
    "Tables and columns": "SELECT table_name, string_agg(column_name || ' ' || data_type, ', ') AS columns\n"
    "FROM duckdb_columns() WHERE database_name = 'store' GROUP BY table_name ORDER BY table_name",
}


def _take(name: str) -> None:
    st.session_state["sql"] = EXAMPLES[name]


def show() -> None:
    """Draw it."""
    here = shell.current()
    with st.container(horizontal=True, gap="small"):
        for name in EXAMPLES:
            st.button(name, on_click=_take, args=(name,))
    sql = st.text_area(
        "SQL", value=EXAMPLES["Runs by agent"], key="sql", bind="query-params", height=150,
        help="DuckDB's SQL: one statement. Times are ns since 1970, UTC. Ctrl+Enter runs it.",
    )  # fmt: skip
    if not sql or not sql.strip():
        st.info("Write a SELECT, or take one of the examples.")
        return
    try:
        with st.spinner("Asking…", show_time=True):
            answer = here.ask(sql)
    except BadQuery as error:
        st.error(plain(str(error), 2000), title="The store cannot answer that", icon=":material/error:")
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(f"{len(answer):,} rows{', and more: only the first are shown' if answer.cut else ''}")
        st.download_button("CSV", answer.csv, "answer.csv", "text/csv", on_click="ignore", icon=":material/download:")
        st.download_button(
            "Parquet", answer.parquet, "answer.parquet", "application/vnd.apache.parquet", on_click="ignore",
            icon=":material/download:",
        )  # fmt: skip
    if len(answer):
        st.dataframe(answer.table, hide_index=True, height=min(40 + 35 * len(answer), 520), alt="The answer")
    else:
        st.info("No rows.")


shell.page(show)
