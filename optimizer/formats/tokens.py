"""Counting tokens as an engine does: with the tokenizer of the model that is served, never by a table."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from redecode.optimizer.formats.errors import FormatError


class TokenizerUnusable(FormatError):
    """There is no tokenizer, or it does not answer."""


class Counts(Protocol):
    """Counts tokens. `name`: of what tokenizer."""

    name: str

    def count(self, text: str) -> int:
        """Tokens of a text, without any that begin or end a prompt."""


class FileTokens:
    """A `tokenizer.json`, as it lies beside a model's weights.

    Args:
        path: of the file, or of the folder it is in.

    Raises:
        TokenizerUnusable: there is none, or the library `tokenizers` is not installed.
    """

    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise TokenizerUnusable(
                "reading a tokenizer needs the library 'tokenizers' (it comes with vLLM)"
            ) from error
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
            decoder = json.loads(file.read_text(encoding="utf-8")).get("decoder") or {}
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerUnusable(f"{file} is not a tokenizer: {error}") from error
        self._byte_level = "ByteLevel" in json.dumps(decoder)
        self.name = f"{file.parent.name}/{file.name}"

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        """Ids of a text's tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def spelled(self, ids: Iterable[int]) -> list[bytes]:
        """What each token says, UTF-8; a token may be part of a character."""
        return [self._bytes(str(self._tokenizer.id_to_token(i) or "")) for i in ids]

    def _bytes(self, token: str) -> bytes:
        letters = _byte_letters()
        if self._byte_level and all(ch in letters for ch in token):
            return bytes(letters[ch] for ch in token)
        if token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:-1])
        return token.replace("▁", " ").encode()


@cache
def _byte_letters() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(b): b for b in plain}
    for n, byte in enumerate(b for b in range(256) if b not in plain):
        letters[chr(256 + n)] = byte
    return letters


class EngineTokens:
    """A running vLLM's own tokenizer (`POST /tokenize`)."""

    def __init__(self, base_url: str, model: str, *, timeout_s: float = 30.0) -> None:
        self._url = base_url.rstrip("/").removesuffix("/v1") + "/tokenize"
        self._model, self._timeout_s = model, timeout_s
        self.name = f"{model}, asked of its engine"

    def count(self, text: str) -> int:
        """Tokens of a text.

        Raises:
            TokenizerUnusable: no engine answers there, or it cannot count.
        """
        body = json.dumps({"model": self._model, "prompt": text, "add_special_tokens": False}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                return int(json.load(answer)["count"])
        except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError) as error:
            raise TokenizerUnusable(f"{self._url} does not count tokens: {error}") from error


def mean_count(counts: Counts, texts: Sequence[str]) -> float:
    """Mean tokens of texts."""
    return sum(counts.count(text) for text in texts) / len(texts)
