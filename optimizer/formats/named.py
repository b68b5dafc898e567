"""Formats by the names that knobs have for them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from redecode.optimizer.formats.errors import UnknownFormat
from redecode.optimizer.formats.form import Format
from redecode.optimizer.formats.json_format import Json
from redecode.optimizer.formats.slot_format import Slots
from redecode.optimizer.formats.table_format import Csv, Markdown
from redecode.optimizer.formats.text_format import Text
from redecode.optimizer.formats.xml_format import Xml
from redecode.optimizer.formats.yaml_format import Yaml

FormatName = Literal["json", "yaml", "xml", "text", "markdown", "csv", "slots"]
FORMATS: dict[str, Format] = {f.name: f for f in (Json(), Yaml(), Xml(), Text(), Markdown(), Csv(), Slots())}
"""Every format, by the name that a knob has for it."""


def format_named(name: str) -> Format:
    """The format of a name.

    Raises:
        UnknownFormat: there is none.
    """
    if name not in FORMATS:
        raise UnknownFormat(f"no format called {name!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[name]


def formats_for(model: type[BaseModel]) -> tuple[str, ...]:
    """Names of the formats that can express every record of a model: the choices of its knob."""
    return tuple(name for name, form in FORMATS.items() if form.fits(model))
