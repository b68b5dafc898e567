"""A record being written, and which of its characters the structure alone determines.

A character is **forced** when every record of the shape whose text begins with the characters before it goes on with
the same character. So a field's name is forced, and the quote that opens a text; what is in the quotes is not, nor the
quote that closes it (the text might go on), nor whether a list goes on or ends.
"""

from __future__ import annotations

from collections.abc import Iterable


class Layout:
    """Text with a mark on each character: forced, or not."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._forced: list[bool] = []
        self._choice = False
        self._others: list[str] = []

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self._parts)

    @property
    def forced(self) -> tuple[bool, ...]:
        """For each character of `text`."""
        return tuple(self._forced)

    @property
    def ends_forced(self) -> bool:
        """Whether nothing can follow."""
        return not self._choice

    def fixed(self, text: str) -> None:
        """What the structure says; its first character is a choice if the value before could have gone on."""
        if not text:
            return
        forced, others = [not self._choice] + [True] * (len(text) - 1), self._others
        for at, ch in enumerate(text):
            forced[at] = forced[at] and all(other[at : at + 1] in ("", ch) for other in others)
            others = [other for other in others if other[at : at + 1] == ch]
        self._write(text, forced)
        self._others = [other[len(text) :] for other in others]
        self._choice = False

    def free(self, text: str, *, goes_on: bool = True) -> None:
        """A value. `goes_on`: it might have; otherwise its last character says that it is over."""
        self._write(text, [False] * len(text))
        self._choice = goes_on

    def choice(self) -> None:
        """Here something else could follow."""
        self._choice = True

    def other(self, text: str) -> None:
        """What could stand in place of what the structure says next; where they part is a choice."""
        self._others.append(text)

    def one_of(self, text: str, forms: Iterable[str]) -> None:
        """One of so many texts: forced from where no other is left."""
        left, forced = set(forms), []
        for at, ch in enumerate(text):
            left = {form for form in left if form.startswith(text[:at])}
            forced.append(all(len(form) > at and form[at] == ch for form in left))
        if self._choice and forced:
            forced[0] = False
        self._write(text, forced)
        self._choice = any(form != text and form.startswith(text) for form in left)

    def _write(self, text: str, forced: list[bool]) -> None:
        self._parts.append(text)
        self._others = []
        self._forced += forced
