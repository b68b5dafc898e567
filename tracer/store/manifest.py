"""What a store has published of one day: read to know what is new, and to finish what was interrupted.

A manifest is written before the files it plans and after them. It lies in the dataset, not in the store: so it tells
of this dataset wherever that is moved, is gone with it, and knows more than a store restored from yesterday.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import orjson

from redecode.tracer.errors import StoreError
from redecode.tracer.store.layout import Place

FOLDER = "_publishers"
REMOVED = "removed"
"""For a digest: the run's partition was removed from the dataset, and it is not to come back."""


@dataclass(slots=True)
class Part:
    """Some runs of one day and agent.

    Attributes:
        folder: its partition.
        runs: run id → digest of how many rows of it were published, or `REMOVED`.
        pending: runs that a publishing set out to put in (again), and has not finished.
        bytes: of its files.
    """

    name: str
    folder: str
    runs: dict[str, str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    bytes: int = 0


@dataclass(slots=True)
class Manifest:
    """The parts of one store and day."""

    store: str
    day: str
    parts: list[Part] = field(default_factory=list)

    def new_part(self, folder: str) -> Part:
        """One more; no other part of any store has its name."""
        part = Part(f"{self.store}-{self.day.replace('-', '')}-{len(self.parts) + 1:04d}", folder)
        self.parts.append(part)
        return part

    def write(self, place: Place) -> None:
        """Put it in the dataset."""
        document = orjson.dumps({"parts": [asdict(part) for part in self.parts]})
        place.write(f"{FOLDER}/{self.store}/{self.day}.json", document)


def read_manifests(place: Place, store: str) -> dict[str, Manifest]:
    """Every manifest of a store, by day.

    Raises:
        StoreError: one is damaged.
    """
    names = [name for name in place.names(f"{FOLDER}/{store}") if name.endswith(".json")]
    found = {}
    for name, data in zip(names, place.read_all(names), strict=True):
        day = name.rpartition("/")[2].removesuffix(".json")
        try:
            found[day] = Manifest(store, day, [Part(**part) for part in orjson.loads(data)["parts"]])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{place.url}/{name} is damaged; without it (remove it) that day's runs are published again"
            ) from error
    return found


def publishers(place: Place) -> list[str]:
    """The stores that have published."""
    return sorted({name.split("/")[1] for name in place.names(FOLDER)})
