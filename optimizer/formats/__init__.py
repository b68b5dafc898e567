"""Message formats: how a record is asked for and written, and how an answer is read back, mended, or asked for again.

form.py        what all formats can do: `render`, `instructions`, `parse` (strict), `read` (mends, never guesses)
json_format.py, yaml_format.py, xml_format.py, text_format.py, table_format.py, slot_format.py   the formats
json_repairs.py, yaml_repairs.py, xml_repairs.py, value_repairs.py, wrapping.py, inner_quotes.py   what is forgiven
shapes.py, scalars.py, layout.py, errors.py   what they are made of
misread.py     what pydantic would take for a value that nobody meant
endings.py     whether an answer is whole, by its provider's word for how it ended
reask.py       asking again, a bounded number of times
faults.py      faults made on purpose, and what came of reading them
forced.py      which tokens of an answer its structure determines
tokens.py      counting tokens as an engine does; languages.py: the same said in other languages

docs/formats.md has the measured tables. The agents' own four formats (`agents/extraction/formats.py`) are what the
bundled FM was trained on; these here are for any model and any record.
"""

from redecode.optimizer.formats.answers import REPAIRS, Answers, Repair
from redecode.optimizer.formats.errors import CannotExpress, FormatError, MalformedAnswer, UnknownFormat
from redecode.optimizer.formats.form import Format, Mended, Reading, model_of
from redecode.optimizer.formats.json_format import Json
from redecode.optimizer.formats.named import FORMATS, FormatName, format_named, formats_for
from redecode.optimizer.formats.slot_format import Slot, Slots, fill
from redecode.optimizer.formats.table_format import Csv, Markdown
from redecode.optimizer.formats.text_format import Text
from redecode.optimizer.formats.xml_format import Xml
from redecode.optimizer.formats.yaml_format import Yaml

__all__ = [
    "FORMATS",
    "REPAIRS",
    "Answers",
    "CannotExpress",
    "Csv",
    "Format",
    "FormatError",
    "FormatName",
    "Json",
    "MalformedAnswer",
    "Markdown",
    "Mended",
    "Reading",
    "Repair",
    "Slot",
    "Slots",
    "Text",
    "UnknownFormat",
    "Xml",
    "Yaml",
    "fill",
    "format_named",
    "formats_for",
    "model_of",
]
