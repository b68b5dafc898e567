"""The one noun of the task: a contact, and the names of its fields.

Kept apart from everything else so that the generator, the graphs and the scorers share it
without importing each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from typing_extensions import TypeIs

Field = Literal["name", "email", "address"]
FIELDS: tuple[Field, ...] = ("name", "email", "address")


def is_field(name: str) -> TypeIs[Field]:
    """Tell a field's name from other words."""
    return name in FIELDS


@dataclass(frozen=True, slots=True)
class Contact:
    """The person an article names as the one to ask, with the ways to reach them."""

    name: str
    email: str
    address: str

    def value(self, field: Field) -> str:
        """Return one field by name."""
        return {"name": self.name, "email": self.email, "address": self.address}[field]

    def replaced(self, field: Field, value: str) -> Contact:
        """Return a copy with one field changed."""
        values = {f: self.value(f) for f in FIELDS}
        values[field] = value
        return Contact(**values)
