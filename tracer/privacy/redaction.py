"""What of an event may be written down: with content off only its structure, with rules what they leave of it.

Applied to a copy, right before the journal: the live span stays whole, and nothing that was taken out ever touches
the disk. What a span lost is named in its `redecode.redacted`. A decode whose text was touched loses its token ids and
logprobs too, which would spell the text out, and keeps its prompt's block hashes, made with a key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.blocks import split
from redecode.tracer.errors import RedecodeError
from redecode.tracer.events import SpanEvent
from redecode.tracer.privacy.rules import Rule, Rules, failure, unspelled
from redecode.tracer.records import Fidelity, JsonObject

WITHHELD = "content"
"""Among the names in `redecode.redacted`: nothing of the content was recorded."""
UNREAD = "unread-tokens"
"""Likewise: token ids were left out because there was no text of them to look at."""
CONTENT_ENV, REDACT_ENV, HASH_KEY_ENV = "REDECODE_CONTENT", "REDECODE_REDACT", "REDECODE_HASH_KEY"

# What tells nothing of what was said. An attribute that stands in none of these sets is content.
MACHINE = frozenset(
    {
        c.OPERATION, c.PROVIDER, c.REQUEST_MODEL, c.REQUEST_SEED, c.REQUEST_STREAM, c.RESPONSE_ID, c.FINISH_REASONS,
        c.TIME_TO_FIRST_CHUNK, c.INPUT_TOKENS, c.OUTPUT_TOKENS, c.CACHED_TOKENS, c.FINGERPRINT, c.KIND, c.SOURCE_RUN,
        c.REPLAY_MODE, c.SOURCE_SPAN, c.SLO, c.SIDE_EFFECT, c.ERROR_CLASS, c.FIDELITY, c.CHOICES, c.EDGES, c.OPEN,
        c.BASE_URL, c.REQUEST_ID, c.ENGINE, c.SEED_SOURCE, c.SENT_NS, c.FIRST_CHUNK_NS, c.DONE_NS, c.CHUNK_GAPS,
        c.CHUNK_TOKENS, c.TOKEN_GAPS, c.BATCH_ROWS, c.TOKEN_TIME_SOURCE, c.QUEUE_NS, c.PREFILL_NS, c.DECODE_NS,
        c.PROMPT_HASHES, c.REDACTED, c.AGENT_VERSION, c.TOOL_CALL_ID, c.SUPERSTEP, c.LEFT_BY, c.INTERRUPTED,
        c.HTTP_STATUS, c.EMBEDDING_DIMENSIONS, c.FIDELITY_LIMIT, c.RETRIES, c.EMBEDDED,
        c.ATTEMPTS, c.ANSWERED_BY,
    }
)  # fmt: skip
# Structure too, but people chose the words: patterns look at them.
NAMES = frozenset({c.AGENT_NAME, c.CONVERSATION, c.LABELS, c.TOOL_NAME, c.NODE, c.TRIGGERS, c.STEP_KEY})
_JSON_NAMES = frozenset({c.LABELS, c.TRIGGERS})
_SPELLING = frozenset({c.PROMPT_IDS, c.SAMPLED_IDS, c.LOGPROBS, c.DIGEST})
_JSON = frozenset(
    {
        c.INPUT_MESSAGES, c.OUTPUT_MESSAGES, c.TOOL_DEFINITIONS, c.TOOL_ARGUMENTS, c.TOOL_RESULT, c.RUN_INPUT,
        c.RUN_OUTPUT, c.SAMPLING, c.USAGE, c.ANSWER_EXTRAS, c.ERROR_ANSWER, c.LANGCHAIN_ANSWER, c.TOOL_OUTPUT,
        c.REPLAY_OPTIONS,
        c.RUN_BESIDES,
        c.OVERRIDDEN,
    }
)  # fmt: skip
# Sampling parameters whose texts are choices from a list.
_ENUMERATED = frozenset({"reasoning_effort", "service_tier", "verbosity"})
_OWN_ERRORS = frozenset({c.CUT_SHORT, "stream dropped before its end"})

Lose = Callable[[str], None]
"""Counts a loss, with the reason."""


class Privacy:
    """What may be recorded.

    Args:
        content: whether what was said may be: messages, arguments, results, errors' words, token ids, logprobs.
        rules: what to take out of what may be (and of names); `None` for nothing.
        hash_key: keys the hashes of prompts whose ids are withheld. Equal prompts have equal hashes under equal
            keys; without the key nobody can try out what a prompt was. By default of this process alone.
    """

    def __init__(self, *, content: bool = True, rules: Rules | None = None, hash_key: bytes | None = None) -> None:
        self.content, self.rules = content, rules
        self._plain_rules = None if rules is None else rules.without_functions()
        self._hash_key = hashlib.blake2b(hash_key or os.urandom(32), digest_size=32).digest()

    def span(self, event: SpanEvent, lose: Lose) -> SpanEvent:
        """What may be written of a span: another one, or the same if nothing had to go.

        Args:
            lose: told when a user's rule failed; the span is then written without its content.
        """
        if self.content and self.rules is not None:
            try:
                return self._redacted(event, self.rules)
            except Exception as error:
                lose(failure(error))
        return self._structure(event, self._plain_rules)

    def _redacted(self, event: SpanEvent, rules: Rules) -> SpanEvent:
        found: set[str] = set()
        attributes: JsonObject = {}
        for name, value in event.attributes.items():
            attributes[name] = redacted_attribute(rules, name, value, found)
        error = None if event.error is None else rules.text("error", event.error, found)
        name, step_key = rules.label(event.name, found), rules.label(event.step_key, found)
        if event.kind == "decode" and not found and _is_unread(event.attributes):
            found.add(UNREAD)
        if not found:
            return event
        if event.kind == "decode":
            self._without_tokens(attributes)
        attributes = {n: unspelled(v) if isinstance(v, str) and n in _JSON else v for n, v in attributes.items()}
        attributes[c.REDACTED] = sorted(found)
        return replace(event, attributes=attributes, error=error, name=name, step_key=step_key)

    def _structure(self, event: SpanEvent, rules: Rules | None) -> SpanEvent:
        attributes, gone = structure(event.attributes)
        error = event.error
        if error is not None and error not in _OWN_ERRORS:
            kind = str(event.attributes.get(c.ERROR_CLASS, "")).rpartition(":")[2]
            error, gone = kind or "error", True
            attributes[c.ERROR_TYPE] = error
        if event.kind == "decode":
            attributes |= self.lengths(event.attributes)
            if gone and c.FIDELITY in attributes:
                attributes[c.FIDELITY] = Fidelity.STRUCTURE.value
        found = {WITHHELD} if gone else set()
        name, step_key = event.name, event.step_key
        if rules is not None:
            attributes = {n: redacted_attribute(rules, n, v, found) for n, v in attributes.items()}
            name, step_key = rules.label(name, found), rules.label(step_key, found)
        if found:
            attributes[c.REDACTED] = sorted(found)
        return replace(event, attributes=attributes, error=error, name=name, step_key=step_key)

    def _without_tokens(self, attributes: JsonObject) -> None:
        """Take out of a decode what would spell its text."""
        lengths = self.lengths(attributes)
        for name in [n for n in attributes if self.spells(n)]:
            del attributes[name]
        attributes |= lengths
        if c.FIDELITY in attributes:
            attributes[c.FIDELITY] = Fidelity.STRUCTURE.value

    @staticmethod
    def spells(name: str) -> bool:
        """Whether this attribute names tokens, of any choice."""
        base, _, choice = name.rpartition(".")
        return name in _SPELLING or (base in _SPELLING and choice.isdecimal())

    def lengths(self, attributes: Mapping[str, Any]) -> JsonObject:
        """What stays of token ids: how many there were, and the hashes of the prompt's blocks."""
        out: JsonObject = {}
        for ids, count in ((c.PROMPT_IDS, c.INPUT_TOKENS), (c.SAMPLED_IDS, c.OUTPUT_TOKENS)):
            if ids in attributes and attributes.get(count) is None:
                out[count] = len(attributes[ids]) // 4
        if c.PROMPT_IDS in attributes:
            blocks, _ = split(attributes[c.PROMPT_IDS], self._hash_key)
            out[c.PROMPT_HASHES] = b"".join(name for name, _ in blocks)
        return out


def structure(attributes: Mapping[str, Any]) -> tuple[JsonObject, bool]:
    """Attributes that are structure, and whether there were others."""
    kept: JsonObject = {}
    gone = False
    for name, value in attributes.items():
        if name in MACHINE or name in NAMES:
            kept[name] = value
        elif name == c.SAMPLING:
            kept[name] = c.to_json(plain_sampling(_parsed(value)))
        elif name == c.USAGE:
            kept[name] = c.to_json(_numbers(_parsed(value), 0))
        elif name != c.ERROR_TYPE:
            gone = True
    return kept, gone


def plain_sampling(given: Any) -> JsonObject:
    """Sampling parameters that hold no text: numbers, switches, choices from a list."""
    if not isinstance(given, dict):
        return {}
    return {
        k: v
        for k, v in given.items()
        if v is None or isinstance(v, bool | int | float) or (k in _ENUMERATED and isinstance(v, str))
    }


def redacted_attribute(rules: Rules, name: str, value: Any, found: set[str]) -> Any:
    """One attribute as the rules leave it.

    Raises:
        RuleFailed: a user's function did.
    """
    if name in MACHINE or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        if name in _JSON_NAMES:
            return rules.without_functions().json(name, value, found)
        if name in NAMES:
            return rules.label(value, found)
        if name in _JSON:
            return rules.json(name, value, found)
    return rules.value(name, value, found)


def _is_unread(attributes: Mapping[str, Any]) -> bool:
    """Whether a decode has token ids whose text no rule has seen: a prompt given as ids, an answer nobody parsed."""
    if c.PROMPT_IDS not in attributes and c.SAMPLED_IDS not in attributes:
        return False
    asked, answered = _parsed(attributes.get(c.INPUT_MESSAGES)), _parsed(attributes.get(c.OUTPUT_MESSAGES))
    return not _has_text(asked) or (bool(attributes.get(c.SAMPLED_IDS)) and not _says(answered))


def _has_text(asked: Any) -> bool:
    return isinstance(asked, str) or (
        isinstance(asked, list) and all(isinstance(item, dict | str) for item in asked) and bool(asked)
    )


def _says(answered: Any) -> bool:
    return isinstance(answered, list) and any(
        isinstance(m, dict) and any(m.get(k) for k in ("content", "reasoning", "tool_calls")) for m in answered
    )


def _parsed(text: Any) -> Any:
    try:
        return orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:
        return None


def _numbers(value: Any, depth: int) -> Any:
    if isinstance(value, dict) and depth < 5:
        return {k: _numbers(v, depth + 1) for k, v in value.items() if isinstance(v, bool | int | float | dict)}
    return value if isinstance(value, bool | int | float) else None


def asked_privacy(
    *,
    content: bool | None = None,
    redact: Rule | bool | Iterable[Rule] | None = None,
    env: Mapping[str, str] = os.environ,
) -> Privacy | None:
    """The privacy that was asked for, in arguments or else in the environment; `None` if none was.

    Args:
        content: `None` leaves it to `$REDECODE_CONTENT` (`off` or `on`).
        redact: `True` is every built-in pattern; see `Rule` for the rest; `None` leaves it to `$REDECODE_REDACT`.

    Raises:
        RedecodeError: a setting is not one.
    """
    if content is None:
        words = env.get(CONTENT_ENV, "").strip().lower()
        if words not in {"", "on", "off", "1", "0", "true", "false", "yes", "no"}:
            raise RedecodeError(f"{CONTENT_ENV}={words}: want on or off")
        content = words not in {"off", "0", "false", "no"}
    if redact is None:
        redact = env.get(REDACT_ENV) or None
    wanted: list[Rule] = []
    if redact is True:
        wanted = ["patterns"]
    elif isinstance(redact, str | tuple) or callable(redact):
        wanted = [redact]
    elif redact:
        wanted = list(redact)
    rules = Rules(wanted) if wanted else None
    if content and rules is None:
        return None
    key = env.get(HASH_KEY_ENV)
    return Privacy(content=content, rules=rules, hash_key=key.encode() if key else None)
