"""The store: a directory with `runs.duckdb`, the spool, a lock and a format marker.

`Store` opens it (draining the spool first) and reads runs. It is the only place that speaks DuckDB.
"""

from redecode.tracer.store.queries import RecordedRun
from redecode.tracer.store.store import Store

__all__ = ["RecordedRun", "Store"]
