"""The two things the desk can ask the world: the directory of known people, and the address service.

Both are functions of a seed, so that a run can be repeated and scored, and so that a model can be trained
on the very answers it will meet. The address service stands for a remote one: it fails now and then with a
temporary error, and the same question asked again gets an answer.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

TEMPORARY_PERCENT = 30
STUBBORN_PERCENT = 5
CORRECTED_PERCENT = 35
TEMPORARY_ERROR = "temporary, try again"
NOT_FOUND = "not found"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory knows about a person."""

    email: str
    address: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The address service's answer: fine as it is (`corrected` None), or the right form of it."""

    corrected: str | None = None


class TemporaryError(Exception):
    """The address service is busy; asking again may help."""


@dataclass(frozen=True, slots=True)
class AddressService:
    """Checks postal addresses; the n-th question about one address always gets the same answer."""

    seed: int = 0

    def verify(self, address: str, attempt: int) -> Verdict:
        """Check an address; `attempt` counts from 0 and decides whether the service is busy."""
        if attempt < self._failures(address):
            raise TemporaryError(TEMPORARY_ERROR)
        if self._draw("fix", address) < CORRECTED_PERCENT:
            return Verdict(corrected=self._correct(address))
        return Verdict()

    def _failures(self, address: str) -> int:
        draw = self._draw("busy", address)
        if draw < STUBBORN_PERCENT:
            return 2
        return 1 if draw < TEMPORARY_PERCENT else 0

    def _draw(self, what: str, address: str) -> int:
        return zlib.crc32(f"{what}/{self.seed}/{address}".encode()) % 100

    def _correct(self, address: str) -> str:
        """Change one digit of the house number or the postcode, as a register would."""
        rng = random.Random(f"correct/{self.seed}/{address}")
        digits = [i for i, ch in enumerate(address) if ch.isdigit()]
        if not digits:
            return f"1 {address}"
        at = rng.choice(digits)
        new = rng.choice([d for d in "123456789" if d != address[at]])
        return address[:at] + new + address[at + 1 :]
