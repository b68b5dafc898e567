"""Caches of answers: what they would be worth on recorded runs, and caches to use once that is known.

calls.py, replayed.py   recorded calls, and a cache replayed over them in order of time
worth.py, savings.py    for each step: none, exact, semantic with a threshold, or "too few data, so many more"
keys.py                 what tells one question from another; LangGraph's key
prefixes.py             the engine's own cache of prompts: what another order would let it take over
vectors.py, intervals.py  how texts are compared, how sure a rate is
files.py                a cache in a file, shared by processes: LangGraph's node cache, exact
semantic.py             a cache around a node, by meaning, or exact
steps.py                the same with its kind and threshold as knobs of the graph's context

docs/caching.md has the measured tables. DuckDB holds the truth (the recorded calls); vectors are computed from it when
they are needed and kept in memory, searched by numpy, exactly: 100,000 of them are 150 MB, and a scan takes 6 ms.
"""

from redecode.optimizer.caching.calls import Call, Recorded, label, recorded_calls
from redecode.optimizer.caching.errors import CacheUnusable, CachingError, NeverCached, NoKey, VectorsUnusable
from redecode.optimizer.caching.files import FileCache
from redecode.optimizer.caching.keys import exact_key
from redecode.optimizer.caching.prefixes import PrefixUse, prefix_use
from redecode.optimizer.caching.replayed import Hit, exact_hits, same_answer, same_fields, semantic_hits
from redecode.optimizer.caching.savings import Savings, savings
from redecode.optimizer.caching.semantic import ExactCache, SemanticCache
from redecode.optimizer.caching.steps import CachedStep, Setting
from redecode.optimizer.caching.vectors import HashedNgrams, SentenceVectors, Vectors, best_vectors
from redecode.optimizer.caching.worth import THRESHOLDS, Level, Noise, StepWorth, Verdict, decide, worth

__all__ = [
    "THRESHOLDS",
    "CacheUnusable",
    "CachedStep",
    "CachingError",
    "Call",
    "ExactCache",
    "FileCache",
    "HashedNgrams",
    "Hit",
    "Level",
    "NeverCached",
    "NoKey",
    "Noise",
    "PrefixUse",
    "Recorded",
    "Savings",
    "SemanticCache",
    "SentenceVectors",
    "Setting",
    "StepWorth",
    "Vectors",
    "VectorsUnusable",
    "Verdict",
    "best_vectors",
    "decide",
    "exact_hits",
    "exact_key",
    "label",
    "prefix_use",
    "recorded_calls",
    "same_answer",
    "same_fields",
    "savings",
    "semantic_hits",
    "worth",
]
