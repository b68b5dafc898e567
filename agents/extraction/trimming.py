"""A prompt compressed by plain code: an article without the sentences that cannot have what is asked for.

A name, an email address and a postal address have two capitalised words in a row, an `@`, or a number before a
capitalised word. A sentence without any of these is left out; nothing is changed within one. If that leaves nothing
the article stays whole.
"""

from __future__ import annotations

import re
from typing import Literal

Reading = Literal["whole", "trimmed"]
_SENTENCES = re.compile(r"(?<=[.!?])(?<!\W[A-Z]\.)\s+(?=[A-Z])")  # not behind an initial
_TELLS = re.compile(r"@|\d+ [A-Z]|\b[A-Z][\w'-]+ [A-Z]")


def trimmed(article: str) -> str:
    """Return the sentences that may have a name, an email address or a postal address."""
    kept = [s for s in _SENTENCES.split(article) if _TELLS.search(s)]
    return " ".join(kept) or article
