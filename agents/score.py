"""How good an answer was: exact match, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """Which fields were right; `error` says why there was no answer to compare at all."""

    fields: Mapping[str, bool]
    error: str | None = None

    @property
    def exact(self) -> bool:
        """Whether everything was right."""
        return all(self.fields.values())

    @property
    def share(self) -> float:
        """The share of fields that were right, 0 to 1."""
        return sum(self.fields.values()) / len(self.fields)
