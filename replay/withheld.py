"""What was kept out of a recording on purpose, and what that means for replaying it."""

from __future__ import annotations

from redecode.tracer import REDACTED, WITHHELD, Decode, RecordedRun, Span, SpanKind

_ANSWERED = frozenset({SpanKind.RUN, SpanKind.DECODE, SpanKind.TOOL, SpanKind.RETRIEVAL})


def withheld(part: Decode | Span) -> str:
    """Why a step cannot be repeated, with the way out."""
    names = part.redacted if isinstance(part, Decode) else tuple(part.attributes.get(REDACTED, ()))
    what = f"{'decode' if isinstance(part, Decode) else part.kind} {part.step_key}"
    if WITHHELD in names:
        return f"{what} was recorded without its content; record it again without --no-content (docs/privacy.md)"
    taken = ", ".join(names)
    return (
        f"{what} was redacted when it was recorded ({taken}), so what was really said is not known; record it again "
        "without that redaction (docs/privacy.md)"
    )


def first_withheld(recorded: RecordedRun) -> str | None:
    """Why a run cannot be played back: a step of which not all is there; `None` if there is none."""
    for span in recorded.spans:
        if span.kind in _ANSWERED and span.attributes.get(REDACTED):
            return withheld(span)
    return None


def said_of(recorded: RecordedRun) -> str | None:
    """For a screen: what was kept out of the run; `None` if nothing was."""
    names = {name for span in recorded.spans for name in span.attributes.get(REDACTED, ())}
    if not names:
        return None
    words = ["recorded without content"] if WITHHELD in names else []
    if more := sorted(names - {WITHHELD}):
        words.append(f"redacted: {', '.join(more)}")
    return "; ".join(words)
