"""The store: a directory with `runs.duckdb`, the spool, a lock and a format marker.

`Store` opens it (draining the spool first) and reads runs. `publish_runs` puts them into a dataset of Parquet files
that many stores share and `Dataset` reads; `open_store` opens whichever lies somewhere. It is the only place that
speaks DuckDB.
"""

from redecode.tracer.store.dataset import Dataset, ReadableStore, open_store
from redecode.tracer.store.overview import RunColumns
from redecode.tracer.store.publish import Published, publish_runs
from redecode.tracer.store.queries import RecordedRun
from redecode.tracer.store.sql import Answer, BadQuery
from redecode.tracer.store.store import Store
from redecode.tracer.store.structures import CallTimes, RunStructure

__all__ = [
    "Answer",
    "BadQuery",
    "CallTimes",
    "Dataset",
    "Published",
    "ReadableStore",
    "RecordedRun",
    "RunColumns",
    "RunStructure",
    "Store",
    "open_store",
    "publish_runs",
]
