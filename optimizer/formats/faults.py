"""Faults made on purpose: what models do to formats, by name, applied to records whose truth is known.

A reading of a faulty text is *recovered* (the record as it was), *refused* (and asked for again), or *wrong*: a record,
but another one. A wrong reading is *undecidable* if the very text is what the format, or a fault, makes of the
record that was read: no reader could know. All other wrong readings are errors of ours, and a test counts them to none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from redecode.optimizer.formats.errors import CannotExpress, MalformedAnswer
from redecode.optimizer.formats.form import Format
from redecode.optimizer.formats.scalars import unquoted
from redecode.optimizer.formats.shapes import record_of
from redecode.optimizer.formats.slot_format import leaves_of
from redecode.optimizer.formats.value_repairs import ITSELF

Maker = Callable[[str], Iterable[str]]
_JSON = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\],:]|[^\s"{}\[\],:]+')
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
OUTCOMES = ("intact", "recovered", "refused", "undecidable", "wrong")
CUT = "cut off, and said so"


@dataclass(frozen=True, slots=True)
class Fault:
    """A faulty text. `finish_reason`: what the engine would have said."""

    kind: str
    text: str
    finish_reason: str = "stop"


def faults_of(form: Format, record: BaseModel, kinds: Iterable[str] | None = None) -> Iterator[Fault]:
    """Every fault there is for a format, at every place where it can be made; `kinds`: these alone."""
    text = form.render(record)
    makers = _ANY | _OF[form.name]
    if form.name == "slots":
        makers["names before values"] = lambda text: _named(text, record)
    for kind, make in makers.items():
        if kinds is None or kind in kinds:
            for faulty in dict.fromkeys(make(text)):
                if faulty != text:
                    yield Fault(kind, faulty)
    if kinds is None or CUT in kinds:
        for at in range(len(text)):
            yield Fault(CUT, text[:at], "length")


def outcome(form: Format, record: BaseModel, fault: Fault) -> str:
    """What becomes of a faulty text: one of `OUTCOMES`."""
    try:
        reading = form.read(fault.text, type(record), finish_reason=fault.finish_reason)
    except MalformedAnswer:
        return "refused"
    if reading.record == record:
        return "recovered" if reading.repairs else "intact"
    return "undecidable" if could_be(form, reading.record, fault) else "wrong"


def could_be(form: Format, other: BaseModel, fault: Fault) -> bool:
    """Whether the text is what another record looks like, as it should be or with the same fault."""
    try:
        proper = form.render(other)
        if fault.finish_reason == "stop" and proper.rstrip() == fault.text.rstrip():
            return True
        if _reads_as(form, fault.text, other) and _bare(proper).startswith(_bare(fault.text)):
            return True  # but for quotes and nulls that may be left out, and fields at the end that may be
        return any(f.text == fault.text for f in faults_of(form, other))
    except CannotExpress:
        return False


def _bare(text: str) -> str:
    """A text without quotes, backslashes, spaces and nulls, its numbers written in one way."""
    numbers = re.sub(r"-?[0-9][0-9.]*(?:[eE][-+]?[0-9]+)?", lambda m: _number(m[0]), text)
    return re.sub(r'["\s\\]|\bnull\b', "", numbers)


def _number(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return text


def _reads_as(form: Format, text: str, record: BaseModel) -> bool:
    """Whether a text says a record as it stands, but that quotes may be lacking."""
    try:
        reading = form.read(text, type(record))
    except MalformedAnswer:
        return False
    return reading.record == record and (not reading.repairs or ITSELF in reading.repairs)


def tally(form: Format, records: Iterable[BaseModel]) -> dict[str, Counter[str]]:
    """Outcomes by kind of fault, of all records that the format can express."""
    out: dict[str, Counter[str]] = {}
    for record in records:
        if form.fits(type(record)):
            for fault in faults_of(form, record):
                out.setdefault(fault.kind, Counter())[outcome(form, record, fault)] += 1
    return out


def naive(form: Format, fault: Fault, record: BaseModel) -> str:
    """What usual parsers make of it, with pydantic behind: json-repair for JSON, `yaml.safe_load` for YAML."""
    try:
        if form.name == "json":
            import json_repair

            found: Any = json_repair.loads(fault.text)
        else:
            import yaml  # type: ignore[import-untyped]

            try:
                found = yaml.safe_load(fault.text)
            except yaml.YAMLError:
                return "refused"
        read = type(record).model_validate(found)
    except (ValueError, TypeError, RecursionError):
        return "refused"
    return "recovered" if read == record else "wrong"


# -- any format --


def _fence(text: str) -> Iterator[str]:
    yield f"```\n{text}\n```"
    yield f"```json\n{text}\n```\n"
    yield f"Here it is:\n```\n{text}\n```\nTell me if you need more."


def _cut(text: str) -> Iterator[str]:
    return (text[:at] for at in range(len(text)))


_ANY: dict[str, Maker] = {
    "code fence": _fence,
    "code fence left open": lambda text: [f"```\n{text}"],
    "words before": lambda text: [f"Sure! Here is the record you asked for:\n{text}", f"Note: checked.\n\n{text}"],
    "words behind": lambda text: [f"{text}\n\nI hope this helps!", f"{text}\nDone: all fields found."],
    "cut off, and not said so": _cut,
}

# -- JSON --


def _tokens(text: str) -> list[str]:
    return _JSON.findall(text)


def _each(text: str, wanted: Callable[[list[str], int], bool], put: Callable[[str], str]) -> Iterator[str]:
    tokens = _tokens(text)
    for n, token in enumerate(tokens):
        if wanted(tokens, n):
            yield "".join([*tokens[:n], put(token), *tokens[n + 1 :]])


def _all(text: str, wanted: Callable[[list[str], int], bool], put: Callable[[str], str]) -> str:
    tokens = _tokens(text)
    return "".join(put(token) if wanted(tokens, n) else token for n, token in enumerate(tokens))


def _is_text(tokens: list[str], n: int) -> bool:
    return tokens[n].startswith('"')


def _is_key(tokens: list[str], n: int) -> bool:
    return _is_text(tokens, n) and tokens[n + 1 : n + 2] == [":"]


def _is_value(tokens: list[str], n: int) -> bool:
    return _is_text(tokens, n) and not _is_key(tokens, n)


def _is_end(tokens: list[str], n: int) -> bool:
    return tokens[n] in "}]" and tokens[n - 1] not in "{["


def _duplicate(text: str) -> Iterator[str]:
    found = re.match(r'\{("(?:\\.|[^"\\])*"):', text)
    if found:
        yield f"{{{found[1]}:{json.dumps('other')},{text[1:]}"
        yield f"{text[:-1]},{found[1]}:{json.dumps('other')}}}"


def _python(text: str) -> Iterator[str]:
    words = {"null": "None", "true": "True", "false": "False"}
    yield _all(text, lambda t, n: t[n] in words, words.__getitem__)


def _nesting(text: str) -> Iterator[str]:
    tokens = _tokens(text)
    for n in range(len(tokens) - 1):
        if tokens[n] in "}]" and tokens[n + 1] in "}]" and tokens[n] != tokens[n + 1]:
            yield "".join([*tokens[:n], tokens[n + 1], tokens[n], *tokens[n + 2 :]])
    yield from _each(text, lambda t, n: t[n] in "}]" and n < len(t) - 1, lambda _: "")
    yield f"{text}}}"


_JSON_FAULTS: dict[str, Maker] = {
    "trailing comma": lambda text: _each(text, _is_end, lambda t: f",{t}"),
    "single quotes": lambda text: [
        _all(text, _is_text, lambda t: "'" + t[1:-1] + "'"),
        _all(text, _is_text, lambda t: "'" + t[1:-1].replace('\\"', '"') + "'"),
    ],
    "typographic quotes": lambda text: [_all(text, _is_text, lambda t: f"“{t[1:-1]}”")],
    "names without quotes": lambda text: [_all(text, _is_key, lambda t: t[1:-1])],
    "texts without quotes": lambda text: _each(text, _is_value, lambda t: t[1:-1]),
    "missing comma": lambda text: _each(text, lambda t, n: t[n] == ",", lambda _: " "),
    "Python's words": _python,
    "comments": lambda text: [
        *_each(text, lambda t, n: t[n] == ",", lambda _: ", // found\n"),
        *_each(text, lambda t, n: t[n] == ",", lambda _: ", /* found */"),
        f"{text} # done",
    ],
    "a name twice": _duplicate,
    "wrong nesting": _nesting,
    "envelope": lambda text: [f'{{"result":{text}}}', f"[{text}]"],
    "two records": lambda text: [f"{text}\n{text}", f"[{text},{text}]"],
    "quotes not escaped": lambda text: [_all(text, _is_text, lambda t: '"' + t[1:-1].replace('\\"', '"') + '"')],
    "line breaks not escaped": lambda text: [_all(text, _is_text, lambda t: t.replace("\\n", "\n"))],
}

# -- lines: YAML and text --


def _lines(text: str, put: Callable[[str], str | None]) -> Iterator[str]:
    """Each line changed alone, then all."""
    lines = text.split("\n")
    changed = [put(line) for line in lines]
    for n, new in enumerate(changed):
        if new is not None and new != lines[n]:
            yield "\n".join([*lines[:n], new, *lines[n + 1 :]])
    yield "\n".join(line if new is None else new for line, new in zip(lines, changed, strict=True))


def _without_quotes(line: str) -> str:
    return _QUOTED.sub(lambda m: _raw(m[0]), line)


def _raw(quoted: str) -> str:
    try:
        return unquoted(quoted)
    except MalformedAnswer:
        return quoted


def _behind(what: str) -> Callable[[str], str | None]:
    return lambda line: f"{line}{what}" if re.search(r":? \S", line) else None


def _line_twice(text: str) -> Iterator[str]:
    first = text.partition(":")[0]
    yield f"{first}: other\n{text}"
    yield f"{text}\n{first}: other"


_LINES: dict[str, Maker] = {
    "no space behind a colon": lambda text: _lines(text, lambda line: re.sub(r"^([^:\"]+): ", r"\1:", line)),
    "values not quoted": lambda text: _lines(text, _without_quotes),
    "single quotes": lambda text: _lines(text, lambda line: re.sub(r'"(.*)"$', lambda m: f"'{_raw(m[0])}'", line)),
    "quotes not escaped": lambda text: _lines(text, lambda line: line.replace('\\"', '"')),
    "comma behind a value": lambda text: _lines(text, _behind(",")),
    "comments": lambda text: [*_lines(text, _behind("  # found")), f"# the record\n{text}"],
    "a name twice": _line_twice,
    "null left out": lambda text: [
        *_lines(text, lambda line: re.sub(r": null$", ":", line)),
        *_lines(text, lambda line: re.sub(r": null$", ": ", line)),
    ],
    "Python's words": lambda text: _lines(text, lambda line: re.sub(r": null$", ": None", line)),
}
_YAML: dict[str, Maker] = _LINES | {
    "tabs": lambda text: [re.sub(r"^(?:  )+", lambda m: "\t" * (len(m[0]) // 2), text, flags=re.MULTILINE)],
    "wrong nesting": lambda text: _lines(text, lambda line: line[2:] if line.startswith("  ") else None),
    "indented": lambda text: ["\n".join(f"  {line}" for line in text.split("\n"))],
    "envelope": lambda text: ["result:\n" + "\n".join(f"  {line}" for line in text.split("\n"))],
    "in JSON's braces": lambda text: ["{\n" + ",\n".join(text.split("\n")) + "\n}"],
}
_TEXT: dict[str, Maker] = _LINES | {
    "equals sign": lambda text: _lines(text, lambda line: re.sub(r"^([^:\"]+): ", r"\1 = ", line)),
    "bullets and bold": lambda text: [
        re.sub(r"^([^:\"\n]+): ", r"- \1: ", text, flags=re.MULTILINE),
        re.sub(r"^([^:\"\n]+): ", r"**\1:** ", text, flags=re.MULTILINE),
        re.sub(r"^([^:\"\n]+):", r"**\1**:", text, flags=re.MULTILINE),
    ],
    "capital letters": lambda text: [re.sub(r"^([^:\"\n]+):", lambda m: m[0].title(), text, flags=re.MULTILINE)],
}

# -- XML --


def _tags(text: str, pattern: str, put: Callable[[re.Match[str]], str]) -> Iterator[str]:
    for found in re.finditer(pattern, text):
        yield text[: found.start()] + put(found) + text[found.end() :]


def _bare_signs(text: str) -> Iterator[str]:
    yield text.replace("&amp;", "&")
    yield text.replace("&lt;", "<").replace("&gt;", ">")
    yield text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


_XML: dict[str, Maker] = {
    "< and & not escaped": _bare_signs,
    "missing closing tag": lambda text: _tags(text, r"</\w+>", lambda _: ""),
    "missing opening tag": lambda text: _tags(text, r"<\w+>", lambda _: ""),
    "wrong nesting": lambda text: _tags(text, r"(</\w+>)(</\w+>)", lambda m: m[2] + m[1]),
    "capital letters": lambda text: [re.sub(r"<(/?)(\w+)", lambda m: f"<{m[1]}{m[2].title()}", text)],
    "no outermost element": lambda text: [re.sub(r"^<\w+>|</\w+>$", "", text)],
    "a name twice": lambda text: [re.sub(r"^(<\w+><(\w+)>)", r"\1other</\2><\2>", text)],
    "comments": lambda text: [*_tags(text, r"(</\w+>)", lambda m: f"{m[1]}<!-- found -->"), f"<!-- x -->{text}"],
    "spread over lines": lambda text: [re.sub(r"><", ">\n  <", text)],
    "head": lambda text: [f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'],
}

# -- tables and slots --


def _rows(text: str, put: Callable[[str], str]) -> Iterator[str]:
    lines = text.split("\n")
    for n in range(1, len(lines)):
        yield "\n".join([*lines[:n], put(lines[n]), *lines[n + 1 :]])


_MARKDOWN: dict[str, Maker] = {
    "no line below the names": lambda text: [re.sub(r"\n\|[-|]+", "", text, count=1)],
    "no outer pipes": lambda text: ["\n".join(line.strip("|").strip() for line in text.split("\n"))],
    "null left out": lambda text: [text.replace("| null |", "|  |"), text.replace("| null |", "|  |", 1)],
    "| not escaped": lambda text: [text.replace("\\|", "|")],
    "values not quoted": lambda text: _lines(text, _without_quotes),
    "a cell less": lambda text: _rows(text, lambda line: line[: line.rstrip("|").rfind("|") + 1]),
    "capital letters": lambda text: [text.partition("\n")[0].title() + "\n" + text.partition("\n")[2]],
    "padding": lambda text: [text.replace(" |", "    |")],
}
_CSV: dict[str, Maker] = {
    "values not quoted": lambda text: [re.sub(r'"((?:[^"]|"")*)"', lambda m: m[1].replace('""', '"'), text)],
    "quotes not doubled": lambda text: [text.replace('""', '"')],
    "a cell less": lambda text: _rows(text, lambda line: line[: line.rfind(",")] if "," in line else line),
    "no names": lambda text: [text.partition("\n")[2]],
    "capital letters": lambda text: [text.partition("\n")[0].title() + "\n" + text.partition("\n")[2]],
    "space behind commas": lambda text: [text.replace(",", ", ")],
    "semicolons": lambda text: [text.replace(",", ";")],
}


def _named(text: str, record: BaseModel) -> Iterator[str]:
    names = [path[-1] for path, _ in leaves_of(record_of(type(record)))]
    lines = [f"{name}: {line}" for name, line in zip(names, text.split("\n"), strict=True)]
    yield "\n".join(lines)
    yield "\n".join(reversed(lines))


_SLOTS: dict[str, Maker] = {
    "a line less": lambda text: _rows(f"\n{text}", lambda _: ""),
    "bullets": lambda text: ["\n".join(f"- {line}" for line in text.split("\n"))],
    "empty lines": lambda text: [text.replace("\n", "\n\n")],
    "numbered": lambda text: ["\n".join(f"{n}. {line}" for n, line in enumerate(text.split("\n"), 1))],
    "values not quoted": lambda text: _lines(text, _without_quotes),
    "comma behind a value": lambda text: [text.replace("\n", ",\n")],
}
_OF: dict[str, dict[str, Maker]] = {
    "json": _JSON_FAULTS,
    "yaml": _YAML,
    "text": _TEXT,
    "xml": _XML,
    "markdown": _MARKDOWN,
    "csv": _CSV,
    "slots": _SLOTS,
}
