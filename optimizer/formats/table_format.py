"""Tables: the names once, a row for each record of a list; for flat records only."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from redecode.optimizer.formats.errors import MalformedAnswer, short
from redecode.optimizer.formats.form import FENCE, PROSE, Format, Mended
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.scalars import Scalar, Tree, in_place, quoted, stands_bare, word
from redecode.optimizer.formats.shapes import NULLS, Items, Leaf, Record, why_not
from redecode.optimizer.formats.value_repairs import ITSELF, bare, itself
from redecode.optimizer.formats.wrapping import out_of_fence


def row_shape(shape: Record) -> tuple[str | None, Record] | None:
    """What a row is: a record of the one list there is (and that list's name), or the whole, if it is flat."""
    members = list(shape.fields.items())
    if len(members) == 1 and isinstance(members[0][1].shape, Items) and not members[0][1].shape.nullable:
        item = members[0][1].shape.item
        if isinstance(item, Record) and not item.nullable:
            return (members[0][0], item) if why_not(item, (Record,)) is None and _flat(item) else None
    return (None, shape) if not shape.open and _flat(shape) else None


def _flat(shape: Record) -> bool:
    return all(isinstance(m.shape, Leaf) for m in shape.fields.values())


class Table(Format):
    """What tables have in common: the first line names the columns, in any order."""

    def unfit(self, shape: Record) -> str | None:
        """One list of flat records, or one flat record."""
        if row_shape(shape) is None:
            return "a table holds one list of flat records, or one flat record"
        return None

    @abstractmethod
    def _row(self, line: str, steps: dict[str, None] | None) -> list[Scalar]:
        """The cells of a line. `steps`: `None` if nothing is mended."""

    @abstractmethod
    def _lines(self, text: str, columns: set[str], steps: dict[str, None] | None) -> list[str]:
        """The lines that are rows, names first."""

    def tree(self, text: str, shape: Record) -> Tree:
        """Names, then rows that have a cell for each."""
        return self._rows(text, shape, None)

    def mend(self, text: str, shape: Record) -> Mended:
        """Words before the table, a fence around it; names in other cases."""
        steps: dict[str, None] = {}
        inner, fenced = out_of_fence(text)
        if fenced:
            steps[FENCE] = None
        return Mended(self._rows(inner, shape, steps), tuple(steps))

    def _rows(self, text: str, shape: Record, steps: dict[str, None] | None) -> Tree:
        found = row_shape(shape)
        assert found is not None
        name, row = found
        lines = self._lines(text, {n.lower() for n in row.fields}, steps)
        if not lines:
            raise MalformedAnswer(f"there is no table in it: {short(text)}")
        names = [cell.text for cell in self._row(lines[0], steps)]
        if steps is not None and any(n not in row.fields for n in names):
            known = {n.lower(): n for n in row.fields}
            names = [known.get(n.lower(), n) for n in names]
            steps["small and capital letters"] = None
        if len(set(names)) < len(names):
            raise MalformedAnswer("a column is there twice")
        records = []
        for line in lines[1:]:
            cells = self._row(line, steps)
            if len(cells) != len(names):
                raise MalformedAnswer(
                    f"a row of {len(cells)} cells where there are {len(names)} columns: {short(line)}"
                )
            records.append(dict(zip(names, cells, strict=True)))
        if name is not None:
            if unknown := [n for n in names if n not in row.fields]:
                raise MalformedAnswer(f"a column {short(unknown[0])} that is unknown")
            return {name: records}
        if len(records) != 1:
            raise MalformedAnswer(f"{len(records)} rows where there is one record")
        return records[0]


class Markdown(Table):
    """A table with pipes."""

    name = "markdown"
    title = "a Markdown table"
    rules = "Write a | in a value as \\|, and a value with a line break in double quotes, the break as \\n."

    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """Without padding."""
        out = Layout()
        found = row_shape(shape)
        assert found is not None
        name, row = found
        out.fixed("|" + "|".join(f" {_cell(n)} " for n in row.fields) + "|\n|" + "---|" * len(row.fields))
        for record in [data] if name is None else data[name]:
            if name is not None:
                out.choice()
            out.fixed("\n|")
            for n, member in row.fields.items():
                out.fixed(" ")
                assert isinstance(member.shape, Leaf)
                value = record[n]
                if isinstance(value, str):
                    out.free(_cell(value))
                else:
                    out.free(word(value))
                out.fixed(" |")
        if name is not None:
            out.choice()
        return out

    def _lines(self, text: str, columns: set[str], steps: dict[str, None] | None) -> list[str]:
        lines = [line.strip() for line in text.strip("\n").split("\n")]
        if steps is not None:
            while lines and not {c.text.lower() for c in _cells(lines[0], {})} <= columns:
                steps[PROSE] = None
                lines.pop(0)
            self._without_words_behind(lines, steps)
            if any(not (line.startswith("|") and line.endswith("|")) for line in lines):
                steps["no outer pipes"] = None
        if len(lines) < 2 or not re.fullmatch(r"\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?", lines[1]):
            if steps is None or not lines:
                raise MalformedAnswer("a table without a line below its names")
            steps["a table without a line below its names"] = None
            return lines
        return [lines[0], *lines[2:]]

    @staticmethod
    def _without_words_behind(lines: list[str], steps: dict[str, None]) -> None:
        """Words behind an empty line are none of the table's, if every row of it is closed and none has a pipe."""
        if "" not in lines:
            return
        end = lines.index("")
        closed = all(line.startswith("|") and line.endswith("|") for line in lines[:end])
        if any(lines[end:]):
            if not closed or any("|" in line for line in lines[end:]):
                raise MalformedAnswer("an empty line in a table")
            steps[PROSE] = None
        del lines[end:]

    def _row(self, line: str, steps: dict[str, None] | None) -> list[Scalar]:
        return _cells(line, steps)


def _cell(text: str) -> str:
    """A text in a cell."""
    return (text if stands_bare(text) else quoted(text)).replace("|", "\\|")


def _cells(line: str, steps: dict[str, None] | None) -> list[Scalar]:
    line = line.strip()
    open_end = line.startswith("|") and not line.endswith("|")
    if not (line.startswith("|") and line.endswith("|") and len(line) > 1):
        if steps is None:
            raise MalformedAnswer(f"no row: {short(line)}")
        line = f"|{line.strip('|')}|"
    cells = [cell.strip(" ").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line[1:-1])]
    if steps is None:
        return [in_place(cell) for cell in cells]
    last = in_place(cells[-1]) if open_end else bare(cells[-1], steps)  # it may be cut off behind a quote
    return [*(bare(cell, steps) for cell in cells[:-1]), last]


class Csv(Table):
    """Comma-separated values, RFC 4180; an empty cell is null, an empty text is `""`.

    Blanks around a value are a part of it, says the RFC, and are never meant so where values that have some are written
    in quotes: taking them off is a repair.
    """

    name = "csv"
    title = "CSV with a header line"
    rules = 'Put a value with a comma or a quote in double quotes, a quote in it doubled; an empty text is "".'

    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """Quotes only where they are needed."""
        out = Layout()
        found = row_shape(shape)
        assert found is not None
        name, row = found
        out.fixed(",".join(_csv(n) for n in row.fields))
        for record in [data] if name is None else data[name]:
            if name is not None:
                out.choice()
            for n, key in enumerate(row.fields):
                out.fixed("," if n else "\n")
                value = record[key]
                nothing = "" if len(row.fields) > 1 else "null"  # a row must not be an empty line
                out.free(nothing if value is None else _csv(value) if isinstance(value, str) else word(value))
        if name is not None:
            out.choice()
        return out

    def _lines(self, text: str, columns: set[str], steps: dict[str, None] | None) -> list[str]:
        text = text.strip("\r\n")
        rows = _csv_lines(text) if steps is None else _loose_csv_lines(text)
        while steps is not None and rows and not _header(rows[0], columns):
            steps[PROSE] = None
            rows.pop(0)
        if steps is None:
            return rows
        unpadded = [
            row if '"' in row else _PADDED.sub("", row) for row in rows
        ]  # a comma in quotes may have blanks, too
        if unpadded != rows:
            steps["blanks around values taken off"] = None
        return unpadded

    def _row(self, line: str, steps: dict[str, None] | None) -> list[Scalar]:
        cells, at = [], 0
        cell = _CELL if steps is None else _LOOSE_CELL
        while True:
            match = cell.match(line, at)
            if match is None:
                raise MalformedAnswer(f"quotes that do not close: {short(line)}")
            at = match.end()
            if match[1] is not None:
                cells.append(Scalar(match[1].replace('""', '"'), quoted=True))
            else:
                cells.append(_bare_cell(match[2], steps))
            if at == len(line):
                return cells
            if line[at] != ",":
                raise MalformedAnswer(f"quotes where none belong: {short(line)}")
            at += 1


_PADDED = re.compile(r"(?:^|(?<=,)) +| +(?=,|$)")
"""Blanks around cells."""
_CELL = re.compile(r'"((?:[^"]|"")*)"|([^",]*)')
_LOOSE_CELL = re.compile(r'"((?:[^"]|"")*)"|(?!")([^,]*)')
_UP_TO_COMMA = re.compile(r'(?:"(?:[^"]|"")*")?[^,\n]*')


def _bare_cell(text: str, steps: dict[str, None] | None) -> Scalar:
    if steps is not None and ('"' in text or not stands_bare(text or "-")) and itself(text):
        steps[ITSELF] = None
        return Scalar(text)
    if '"' in text:
        raise MalformedAnswer(f"quotes where none belong: {short(text)}")
    if text and not stands_bare(text) and text.lower() not in NULLS:
        raise MalformedAnswer(f"a value that should be in quotes: {short(text)}")
    return Scalar(text)


def _header(line: str, columns: set[str]) -> bool:
    return {name.strip().strip('"').lower() for name in line.split(",")} <= columns


def _csv(text: str) -> str:
    return text if stands_bare(text) and "," not in text and '"' not in text else '"' + text.replace('"', '""') + '"'


def _csv_lines(text: str) -> list[str]:
    """Lines, but for breaks in quotes."""
    rows, begun, inside = [], 0, False
    for at, ch in enumerate(text):
        if ch == '"':
            inside = not inside
        elif ch == "\n" and not inside:
            rows.append(text[begun:at].removesuffix("\r"))
            begun = at + 1
    if inside:
        raise MalformedAnswer("quotes that do not close")
    return [*rows, text[begun:]]


def _loose_csv_lines(text: str) -> list[str]:
    """As `_csv_lines`, but a quote in a bare cell is a part of it."""
    rows, begun, at = [], 0, 0
    while True:
        match = _UP_TO_COMMA.match(text, at)
        assert match is not None
        at = match.end() + 1
        if text[match.end() : at] != ",":
            rows.append(text[begun : match.end()].removesuffix("\r"))
            begun = at
        if at > len(text):
            return rows
