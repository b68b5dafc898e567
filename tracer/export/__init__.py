"""Runs out and in: pure functions from recorded runs to documents, what sends them, and what reads them back.

`otlp` is complete and comes back (`importing`); `perfetto` is for looking, `mooncake` for load generators and
simulators. `send` delivers to a backend, `forward` does so beside the recording. What each keeps and loses is in
docs/export.md. Parquet is the store's (`store/parquet.py`): only the store speaks Arrow.
"""
