"""The recorded runs that a playback answers from, and which of them a run of the program is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from redecode.replay.comparison.divergence import differences, diverged, same
from redecode.replay.errors import ReplayDivergence, TooLittleRecorded
from redecode.replay.withheld import first_withheld
from redecode.tracer import Decode, FmRequest, LiveSpan, RecordedRun, Span, SpanKind, ToolStep, plain


@dataclass(slots=True)
class Source:
    """One recorded run and what of it has been asked for.

    Attributes:
        decodes, tools, spans: by step key.
        taken_by: the id of the program's run that it answers.
    """

    recorded: RecordedRun
    decodes: dict[str, Decode]
    tools: dict[str, ToolStep]
    spans: dict[str, Span]
    asked: set[str] = field(default_factory=set)
    taken_by: str | None = None

    @classmethod
    def of(cls, recorded: RecordedRun) -> Source:
        """Of a recorded run.

        Raises:
            TooLittleRecorded: something was kept out of it on purpose.
        """
        if (why := first_withheld(recorded)) is not None:
            raise TooLittleRecorded(f"run {recorded.run.run_id[:12]} cannot be played back: {why}")
        return cls(
            recorded=recorded,
            decodes={d.step_key: d for d in recorded.decodes},
            tools={t.step_key: t for t in recorded.tools},
            spans={s.step_key: s for s in recorded.spans},
        )

    @property
    def run_id(self) -> str:
        """Of the recorded run."""
        return self.recorded.run.run_id

    def unasked(self) -> Iterator[str]:
        """Step keys of recorded calls that nobody asked for; what a tool called itself was answered with the tool."""
        ids = {s.span_id: s for s in self.recorded.spans}
        for key in sorted({*self.decodes, *self.tools} - self.asked):
            above, span = [], self.spans[key]
            while span.parent_span_id in ids:
                span = ids[span.parent_span_id]
                above.append(span)
            if not any(s.kind == SpanKind.TOOL and s.step_key in self.asked for s in above):
                yield key

    def why_missing(self, step_key: str) -> str | None:
        """Why the recording has no answer at a step that it may well know; `None` if it does not know it."""
        there = self.spans.get(step_key)
        if there is not None and there.end_ns is None:
            return "it was still open when its process ended"
        above = step_key
        while "/" in above:
            above = above.rpartition("/")[0]
            span = self.spans.get(above)
            if span is not None and span.kind == SpanKind.CACHE:
                return f"{above} was answered from the node cache; play back the run that had filled it, too"
        return None


class Sources:
    """All of them, each for one run of the program; oldest first among equals."""

    def __init__(self, runs: Sequence[RecordedRun]) -> None:
        self.all = [Source.of(r) for r in sorted(runs, key=lambda r: r.run.started_ns)]
        self._lock = threading.Lock()

    def taken_by(self, run_id: str) -> Source | None:
        """The source that answers a run of the program, if one does."""
        return next((s for s in self.all if s.taken_by == run_id), None)

    def find(
        self, span: LiveSpan, request: FmRequest | None, begin: Callable[[Source, LiveSpan], None]
    ) -> Source | ReplayDivergence:
        """The source of the run that a span is part of; why there is none.

        Args:
            request: what the first call of the run asks: runs that have no input are told apart by that.
            begin: called when a run of the program begins to be answered.
        """
        root = span.root
        with self._lock:
            if (known := self.taken_by(root.run_id)) is not None:
                return known
            wanted, agent = plain(root.run_input), root.name.removeprefix("invoke_agent ")
            of_agent = [s for s in self.all if s.recorded.run.agent == agent]
            free = [s for s in of_agent if s.taken_by is None]
            fitting = [s for s in free if same(s.recorded.run.input, wanted)]
            if fitting:
                source = fitting[0]
                if wanted is None and request is not None:
                    source = next((s for s in fitting if _asks(s, span.step_key, request)), source)
                source.taken_by = root.run_id
                begin(source, root)
                return source
        if not of_agent:
            agents = sorted({s.recorded.run.agent for s in self.all})
            what = f"no run of agent {agent} is being played back, only of {', '.join(agents) or 'none'}"
            return diverged(what, run_id="", step_key=span.step_key)
        if not free:
            what = f"the program runs agent {agent} more often than the {len(of_agent)} recorded runs being played back"
            return diverged(what, run_id="", step_key=span.step_key)
        closest = min(free, key=lambda s: len(differences({"input": s.recorded.run.input}, {"input": wanted})))
        return diverged(
            f"no recorded run of agent {agent} has this run's input",
            run_id=closest.run_id,
            step_key=span.step_key,
            differences=differences({"input": closest.recorded.run.input}, {"input": wanted}),
            way_out="if the program makes several runs, name all of them",
        )


def _asks(source: Source, step_key: str, request: FmRequest) -> bool:
    recorded = source.decodes.get(step_key)
    return recorded is not None and same(recorded.messages, plain(request.messages))
