"""The tables, as named migrations applied in order; each is recorded in the store, and none is ever edited.

Append-only: nothing updates a row. An open span is a row of `span_starts` with no row in `spans` yet.
No secondary indexes: DuckDB's zone maps find a run's rows, and an index would slow every append.
"""

from __future__ import annotations

STORAGE_VERSION = 1

MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "001_first_record",
        """
        CREATE TABLE processes (
            journal VARCHAR, host VARCHAR, pid BIGINT, argv VARCHAR, python VARCHAR, boot_id VARCHAR,
            wall_ns BIGINT, monotonic_ns BIGINT
        );
        CREATE TABLE journals (journal VARCHAR, read_bytes BIGINT, state VARCHAR, detail VARCHAR, at_ns BIGINT);
        CREATE TABLE losses (run_id VARCHAR, events BIGINT, why VARCHAR, journal VARCHAR);
        CREATE TABLE span_starts (
            run_id VARCHAR, span_id VARCHAR, parent_span_id VARCHAR, kind VARCHAR, name VARCHAR,
            step_key VARCHAR, start_ns BIGINT, journal VARCHAR, attributes VARCHAR, edges VARCHAR
        );
        CREATE TABLE spans (
            run_id VARCHAR, span_id VARCHAR, parent_span_id VARCHAR, kind VARCHAR, name VARCHAR,
            step_key VARCHAR, start_ns BIGINT, end_ns BIGINT, status VARCHAR, error VARCHAR,
            journal VARCHAR, attributes VARCHAR
        );
        CREATE TABLE runs (
            run_id VARCHAR, agent VARCHAR, agent_version VARCHAR, conversation_id VARCHAR, status VARCHAR,
            error VARCHAR, started_ns BIGINT, ended_ns BIGINT, source_run_id VARCHAR, replay_mode VARCHAR,
            input VARCHAR, output VARCHAR, labels VARCHAR, slo_s DOUBLE, journal VARCHAR
        );
        CREATE TABLE decodes (
            run_id VARCHAR, span_id VARCHAR, step_key VARCHAR, model VARCHAR, fidelity VARCHAR,
            sent_ns BIGINT, first_chunk_ns BIGINT, done_ns BIGINT, base_url VARCHAR, request_id VARCHAR,
            fingerprint VARCHAR, engine_id VARCHAR, seed BIGINT, seed_source VARCHAR, sampling VARCHAR,
            messages VARCHAR, tool_definitions VARCHAR, output VARCHAR, stream BOOLEAN,
            prompt_blocks BLOB[], prompt_tail INTEGER[], sampled_ids INTEGER[], logprobs FLOAT[],
            token_gaps_us INTEGER[], token_time_source VARCHAR, chunk_gaps_us INTEGER[], chunk_tokens INTEGER[],
            batch_rows INTEGER[],
            finish_reason VARCHAR, input_tokens BIGINT, output_tokens BIGINT, cached_tokens BIGINT,
            queue_ns BIGINT, prefill_ns BIGINT, decode_ns BIGINT, error VARCHAR, digest VARCHAR
        );
        CREATE TABLE decode_choices (
            run_id VARCHAR, span_id VARCHAR, index INTEGER, finish_reason VARCHAR,
            sampled_ids INTEGER[], logprobs FLOAT[]
        );
        CREATE TABLE decode_steps (
            run_id VARCHAR, span_id VARCHAR, token_gaps_us INTEGER[], batch_rows INTEGER[], same_host BOOLEAN
        );
        CREATE TABLE prompt_blocks (hash BLOB, tokens INTEGER[]);
        CREATE TABLE tool_steps (
            run_id VARCHAR, span_id VARCHAR, step_key VARCHAR, tool VARCHAR, call_id VARCHAR,
            arguments VARCHAR, result VARCHAR, error VARCHAR, side_effect BOOLEAN
        );
        CREATE TABLE edges (run_id VARCHAR, src VARCHAR, dst VARCHAR, kind VARCHAR, provenance VARCHAR);
        CREATE TABLE engines (engine_id VARCHAR, info VARCHAR);
        CREATE TABLE otlp_spans (run_id VARCHAR, span_id VARCHAR, journal VARCHAR, document VARCHAR);
        """,
    ),
    (
        "002_decode_splits",
        # What an engine's own spans say of decodes, by the decode's span; it may come before the decode does.
        """
        CREATE TABLE decode_splits (
            run_id VARCHAR, span_id VARCHAR, queue_ns BIGINT, prefill_ns BIGINT, decode_ns BIGINT
        );
        """,
    ),
)

CREATE_MIGRATIONS = "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR, applied_ns BIGINT)"
