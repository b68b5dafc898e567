"""A published dataset: what lies where in it.

    DEST/_redecode.json                                      what this is, and the version of its form
    DEST/<table>/day=2026-11-21/agent=<name>/<part>.parquet  a row says its part, too
    DEST/_publishers/<store>/<day>.json                      what that store has published (`manifest`)

A part is some runs of one store, of one day and agent: a file in each table's folder that has rows of them, all of the
same name. Every run is in one part of a store, and its rows lie together.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b

import orjson

from redecode.tracer.errors import StoreError, StoreVersion
from redecode.tracer.store import parquet, queries
from redecode.tracer.store.places import MARKER, LocalPlace, RemotePlace

VERSION = 1
Place = LocalPlace | RemotePlace

_RUNS = f"""
    SELECT r.* RENAME (agent AS agent_name), h.host, n.spans FROM ({parquet.TABLES["runs"]}) r
    LEFT JOIN (SELECT run_id, count(*) AS spans FROM ({parquet.TABLES["spans"]}) GROUP BY run_id) n USING (run_id)
    LEFT JOIN (
        SELECT run_id, any_value(host) AS host FROM ({queries.RUNS}) JOIN processes USING (journal) GROUP BY run_id
    ) h USING (run_id)
"""
TABLES = {
    "spans": (parquet.TABLES["spans"], "run_id, start_ns, span_id"),
    "decodes": (parquet.TABLES["decodes"], "run_id, sent_ns, span_id"),
    "decode_choices": (parquet.TABLES["decode_choices"], "run_id, span_id, index"),
    "tool_steps": (parquet.TABLES["tool_steps"], "run_id, span_id"),
    "edges": (parquet.TABLES["edges"], "run_id, dst, src, kind"),
    "losses": ("SELECT run_id, events, why FROM losses SEMI JOIN picked_runs USING (run_id)", "run_id"),
    "engines": (parquet.TABLES["engines"], "engine_id"),
    "runs": (_RUNS, "run_id"),
}
"""What is published, in this order, and how it is sorted: what an export has of the runs in `picked_runs`, losses too.

`runs` is last: what is in it is there whole. A run has its agent's name (as a partition's it may be cut, or missing),
the host that recorded it, and the number of its spans. Prompts go out whole, for readers who have no blocks to join:
beside each other, prompts that begin alike take no more room compressed than their blocks do.
"""
SHARED = {"engines"}
"""Tables whose rows belong to no single run: once in every part that needs them."""
# What Hive escapes in the name of a partition, as DuckDB, Arrow and Spark undo it.
_ESCAPED = set("\"#%'*/:=?\\{}[]^\x7f") | {chr(code) for code in range(32)}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_LONGEST = 200


def day_of(time_ns: int) -> str:
    """The UTC day of a time."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).date().isoformat()


def folder_of(day: str, agent: str | None) -> str:
    """The folder of a partition, below its table's.

    An agent's name too long for a file system is cut, and told from others by a digest.
    """
    name = "".join(map(_escaped, agent or "")) or _NO_VALUE
    if len(name.encode()) > _LONGEST:
        digest = blake2b(name.encode(), digest_size=8).hexdigest()
        name, whole = "", agent or ""
        for character in whole:
            if len((name + _escaped(character)).encode()) > _LONGEST - 2 * 8 - 1:
                break
            name += _escaped(character)
        name += f"~{digest}"
    return f"day={day}/agent={name}"


def _escaped(character: str) -> str:
    return f"%{ord(character):02X}" if character in _ESCAPED else character


def file_of(table: str, folder: str, part: str) -> str:
    """The name of a part's file in a table."""
    return f"{table}/{folder}/{part}.parquet"


def check(place: Place) -> bool:
    """Whether there is a dataset, and one this redecode can read.

    Raises:
        StoreVersion: a newer redecode has made it.
        StoreError: its marker is damaged.
    """
    marker = place.read(MARKER)
    if marker is None:
        return False
    try:
        version = int(orjson.loads(marker)["redecode_dataset"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place.url}/{MARKER} is not the marker of a published dataset") from error
    if version > VERSION:
        raise StoreVersion(f"{place.url} is a dataset of version {version}, this redecode knows {VERSION}; upgrade it")
    return True
