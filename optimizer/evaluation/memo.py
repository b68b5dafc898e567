"""The memo: FM calls of earlier candidates answer equal calls of later ones, in the time they took then.

A call is known again by its engine, model, messages, tools and sampling parameters. One that draws at random without a
seed of its caller's is known only at the same step of the same case: so each case has one draw, the same for all
candidates, and different cases have different ones. An answer that ended by itself is the answer under any limit on its
tokens that it stays below and that the engine takes: a lower one, or one that its context has room for, as far as it
says. A call that has ever failed is known ask by ask, and fails again (`failures`). Only decodes of evaluations count,
since those of the recorded runs had another load around them. The store is the memo: nothing is kept besides, and what
is forgotten there is forgotten here.

The first calls of each model at each address in a process always go to the engine: they tell which one is there.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from redecode.optimizer.cases import MODE, STUDY, of_runs
from redecode.optimizer.evaluation.calls import (
    Known,
    engine_of,
    known_of,
    named,
    possible_names,
    recorded_name,
    times_s,
)
from redecode.optimizer.evaluation.failures import Ask, Asks, as_raised, fails_again
from redecode.optimizer.evaluation.prefixes import SHARED, Prefixes, salted
from redecode.optimizer.spec import Case
from redecode.replay import ReplayDivergence
from redecode.replay.comparison.divergence import diverged
from redecode.replay.program.answers import answer, tool_answer
from redecode.tracer import (
    ANSWERED_BY,
    SOURCE_SPAN,
    Dependency,
    FmRequest,
    Live,
    LiveSpan,
    Played,
    RecordedRun,
    Span,
    SpanEvent,
    Store,
    ToolStep,
    plain,
)
from redecode.tracer import conventions as c

RECORDING, LIVE, STAND_IN = "recording", "live", "stand-in"
FIRST = "first"
"""A label, under `tune`, of a process's first run, whose calls wait for what is imported and connected."""
ASKED = "redecode.tune.asked"
"""Of a decode: how often its run had asked the same before, and the call's name."""
_QUERY = f"""
    SELECT d.run_id, d.span_id, d.step_key, d.model, d.base_url, d.fingerprint, d.engine_id, d.seed_source, d.sampling,
           d.messages, d.tool_definitions, d.stream, d.sent_ns, d.first_chunk_ns, d.done_ns, d.output, d.sampled_ids,
           d.logprobs, d.prompt_tail, d.chunk_gaps_us, d.chunk_tokens, d.fidelity, d.finish_reason, d.output_tokens,
           d.input_tokens, d.cached_tokens, d.error,
           (SELECT max(TRY_CAST(e.info->>'max_model_len' AS BIGINT)) FROM engines e WHERE e.engine_id = d.engine_id)
               - d.input_tokens AS room,
           s.attributes, s.name, s.start_ns, s.end_ns,
           (SELECT flatten(list(b.tokens ORDER BY u.at))
            FROM (SELECT unnest(d.prompt_blocks) AS hash, generate_subscripts(d.prompt_blocks, 1) AS at) u
            JOIN prompt_blocks b USING (hash)) AS prompt_body,
           (SELECT list({{{{'ids': x.sampled_ids, 'logprobs': x.logprobs}}}} ORDER BY x.index)
            FROM decode_choices x WHERE x.run_id = d.run_id AND x.span_id = d.span_id) AS more_choices,
           coalesce(r.labels, b.attributes->>'$."{c.LABELS}"')->>'$.{MODE}.case' AS case_id,
           coalesce(r.labels, b.attributes->>'$."{c.LABELS}"')->>'$.{MODE}.load' AS load
    FROM decodes d LEFT JOIN runs r USING (run_id)
    LEFT JOIN span_starts b ON r.run_id IS NULL AND b.run_id = d.run_id AND b.kind = 'run'
    JOIN spans s ON s.run_id = d.run_id AND s.span_id = d.span_id
    WHERE (d.output IS NOT NULL OR d.error IS NOT NULL) AND d.messages IS NOT NULL AND d.sent_ns > {{after}}
      AND s.attributes->>'$."{c.ANSWERED_BY}"' = '{LIVE}'
      AND coalesce(r.replay_mode, b.attributes->>'$."{c.REPLAY_MODE}"', '{MODE}') = '{MODE}'
      AND (coalesce(r.labels, b.attributes->>'$."{c.LABELS}"')->>'$.{MODE}.{FIRST}') IS NULL
    ORDER BY d.sent_ns
"""
_BY_ITSELF = ("stop", "tool_calls", "function_call")


Answers = Callable[[str, Any, Case], Any]
"""A spec's `stand_in`."""


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made under a limit.

    Attributes:
        limit: tokens; `None`: none was set, or it is in the call's name.
        tokens: of its answer where that ended by itself, else `None`.
        room: tokens that the engine's context has for the answer, if that is known.
    """

    limit: int | None
    tokens: int | None
    room: int | None
    known: Known

    def answers(self, limit: int | None) -> bool:
        """Whether a call with this limit, and like it otherwise, gets the same answer."""
        if self.limit == limit:
            return True
        if self.tokens is None or limit is None:  # without one the engine has a limit of its own
            return False
        lower = self.limit is not None and limit < self.limit
        return self.tokens < limit and (lower or (self.room is not None and limit <= self.room))


@dataclass(slots=True)
class _Call:
    """What is known of one call: its answers, the first under each limit, and what came of its asks."""

    made: list[Made] = field(default_factory=list)
    asks: Asks = field(default_factory=Asks)


@dataclass(slots=True)
class Memo:
    """Calls already made, from a store.

    Args:
        load: how many runs there are at a time in this evaluation, which times depend on.

    Attributes:
        _there: the engine that answered last, by address and model: a failure does not say whose it is.
        _of_nobody: failures before any such answer.
    """

    store: Store
    load: str
    _known: defaultdict[tuple[str, str], _Call] = field(default_factory=lambda: defaultdict(_Call))
    _there: dict[tuple[str, str], str] = field(default_factory=dict)
    _of_nobody: defaultdict[tuple[str, str], list[tuple[str, Ask, Known]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _latest: int = 0

    def refresh(self) -> int:
        """Learn what was recorded since the last time; returns how many calls are known."""
        for row in self.store.rows(_QUERY.format(after=self._latest)):
            self._latest = max(self._latest, row["sent_ns"])
            if row["case_id"] is None or row["load"] != self.load:
                continue
            nth, _, name = str((c.from_json(row["attributes"]) or {}).get(ASKED) or "0").partition(" ")
            if row["error"] is None:
                self._answered(row, int(nth))
            else:
                self._failed(row, int(nth), name)
        return len(self._known)

    def _answered(self, row: Mapping[str, Any], nth: int) -> None:
        engine = engine_of(row["engine_id"], row["base_url"], row["fingerprint"])
        where = row["base_url"], row["model"]
        self._there[where] = engine
        for name, ask, failure in self._of_nobody.pop(where, ()):
            self._learn_failure(engine, name, ask, failure)
        name, limit = recorded_name(row)
        call = self._known[engine, name]
        call.asks.learn(Ask(row["case_id"], nth, limit), None)
        if all(m.limit != limit for m in call.made):
            by_itself = row["finish_reason"] in _BY_ITSELF and not row["more_choices"]
            tokens = row["output_tokens"] if by_itself else None
            call.made.append(Made(limit, tokens, row["room"], known_of(row)))

    def _failed(self, row: Mapping[str, Any], nth: int, name: str) -> None:
        # Its name was kept; one that is not that of what is stored (a secret was taken out of it) no answer has either.
        limits = dict(possible_names(row))
        if name not in limits:
            return
        failure = known_of(row)
        if fails_again(failure) is None:
            return
        where, ask = (row["base_url"], row["model"]), Ask(row["case_id"], nth, limits[name])
        engine = self._there.get(where)
        if row["engine_id"] is not None or row["fingerprint"] is not None:
            engine = engine_of(row["engine_id"], row["base_url"], row["fingerprint"])
        if engine is None:
            self._of_nobody[where].append((name, ask, failure))
        else:
            self._learn_failure(engine, name, ask, failure)

    def _learn_failure(self, engine: str, name: str, ask: Ask, failure: Known) -> None:
        asks = self._known[engine, name].asks
        asks.learn(ask, failure)
        asks.lost = asks.lost or not fails_again(failure)

    def find(self, engine: str, name: str, ask: Ask) -> Known | None:
        """The decode and span that answer an ask of a call, if one does; they may be a failure's."""
        call = self._known.get((engine, name))
        if call is None:
            return None
        if not call.asks.lost and (failure := call.asks.failure(ask)) is not None:
            return failure
        if call.asks.is_open(ask):
            return None
        # The very same limit first.
        made = sorted(call.made, key=lambda m: m.limit != ask.limit)
        return next((m.known for m in made if m.answers(ask.limit)), None)


@dataclass(frozen=True, slots=True)
class Source:
    """What a case's recorded run has for the tools of a candidate's run.

    Attributes:
        tools: its tool calls with their spans, in order of their begin.
        case: itself, for a spec's `stand_in`, if that is kept.
    """

    tools: Sequence[tuple[ToolStep, Span]]
    case: Case | None = None

    @property
    def usual_s(self) -> float:
        """What its tools took, in the middle."""
        waits = [span.duration_ns or 0 for _, span in self.tools]
        return median(waits) / 1e9 if waits else 0.0


class Sources:
    """What recorded runs got from their tools, read before the runs of a block begin.

    Reading a run takes as long as many a call: read when a tool is asked, it would be in the latency of whichever
    candidate comes first, the incumbent, and of all the runs beside it.

    Args:
        cases: whether the runs are kept as cases, besides what their tools answered.
        keeps: those of so many cases, asked for last, and at least a block's.
    """

    def __init__(self, store: Store, *, cases: bool = True, keeps: int = 1_000) -> None:
        self._store, self._cases, self._keeps = store, cases, keeps
        self._known: dict[str, Source] = {}
        self._lock = threading.Lock()

    def read(self, cases: Sequence[str]) -> None:
        """Have these at hand; only runs that called a tool are read whole, and only their tool calls are kept."""
        with self._lock:
            known = {case: self._known.pop(case) for case in cases if case in self._known}
            new = [case for case in dict.fromkeys(cases) if case not in known]
            runs = self._store.runs(run_ids=new, besides=self._cases) if new else []
            asking = [run.run_id for run in runs if run.tools]
            whole = {r.run.run_id: r for r in self._store.load_many(asking)} if asking else {}
            for run in runs:
                case = of_runs([run])[0] if self._cases else None
                known[run.run_id] = Source(_tools_of(whole.get(run.run_id)), case)
            for old in list(self._known)[: max(0, len(self._known) + len(known) - self._keeps)]:
                del self._known[old]
            self._known |= known

    def of(self, case: str) -> Source | None:
        """Of one case; `None` if the store has it no more."""
        found = self._known.get(case)
        if found is None:  # a run that fills a cache, beside every clock
            self.read([case])
            found = self._known.get(case)
        return found


def _tools_of(recorded: RecordedRun | None) -> list[tuple[ToolStep, Span]]:
    if recorded is None:
        return []
    spans = {span.span_id: span for span in recorded.spans}
    found = [(tool, spans[tool.span_id]) for tool in recorded.tools if tool.span_id in spans]
    return sorted(found, key=lambda pair: pair[1].start_ns)


class Evaluator:
    """Answers the calls of candidates' runs: FM calls from the memo, tools as recorded (a `tracer.Player`).

    Args:
        memo: `None`: every FM call goes to the engine.
        live_tools: tools that may really run.
        sources: what tools answered in the cases' recorded runs.
        stand_in: as `Spec.stand_in`.

    Attributes:
        refused: why the first tool call that may not run was refused; the study cannot go on without it.
    """

    def __init__(
        self, memo: Memo | None, live_tools: Collection[str], sources: Sources, stand_in: Answers | None = None
    ) -> None:
        self._memo, self._live_tools, self._sources, self._stand_in = memo, set(live_tools), sources, stand_in
        self._engines: dict[tuple[str | None, str], str] = {}
        self._vllms: set[tuple[str | None, str]] = set()
        self._prefixes = Prefixes()
        self._taken: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()
        self.refused: str | None = None

    def decode(self, span: LiveSpan, request: FmRequest) -> Played | Live:
        """From the memo, in the time it took, also what failed; else live."""
        case, lane = self._marked(span), lane_of(span)
        where = (request.base_url, request.model)
        engine = self._engines.get(where)
        if lane is not None:
            span.set({SHARED: self._prefixes.share(lane, request)})
        found = None
        if case is not None:
            name, limit = named(request, f"{case} {span.step_key}")
            nth = self._asked_before(span.root.run_id, f"{request.base_url} {name}")
            span.set({ASKED: f"{nth} {name}"})
            if self._memo is not None and engine is not None:
                found = self._memo.find(engine, name, Ask(case, nth, limit))
        if found is None:
            span.set({ANSWERED_BY: LIVE})
            return Live(change=partial(salted, lane)) if lane is not None and where in self._vllms else Live()
        decode, there = found
        # What was paid for then, also where this stream is not read to its end, which would tell it.
        counts = {c.INPUT_TOKENS: decode.input_tokens, c.OUTPUT_TOKENS: decode.output_tokens}
        counts[c.CACHED_TOKENS] = decode.cached_tokens
        told = {name: count for name, count in counts.items() if count is not None}
        span.set({ANSWERED_BY: RECORDING, SOURCE_SPAN: there.span_id, **told})
        wait_s, chunks_s = times_s(found)
        patience = partial(self.unmade, span, "the recorded answer to this call was cut short")
        return as_raised(answer(decode, request.path, there, wait_s=wait_s, chunks_s=chunks_s, patience=patience))

    def model(self, span: LiveSpan, request: FmRequest) -> Played | Live | None:
        """Live: the OpenAI client beneath asks again; a model without one is not in the memo."""
        return Live()

    def tool(self, span: LiveSpan, name: str, arguments: Any) -> Played | Live:
        """Live if it may; else what the case's recorded run got for the same arguments.

        Raises:
            ReplayDivergence: that run asked the tool something else.
        """
        if name in self._live_tools:
            return Live()
        case = case_of(span)
        if case is None:
            raise self._refuse(span, f"tool {name} is called outside of a case")
        source = self._sources.of(case)
        if source is None:
            raise self._refuse(span, f"tool {name} is called, and run {case[:12]} is in the store no more")
        asked = plain(arguments)
        same = [pair for pair in source.tools if pair[0].tool == name and pair[0].arguments == asked]
        nth = self._asked_before(span.root.run_id, f"{name} {json.dumps(asked, sort_keys=True, default=str)}")
        if not same and (answered := self._stood_in(name, asked, source)) is not None:
            span.set({ANSWERED_BY: STAND_IN})
            return answered
        if not same:
            raise self._refuse(span, f"tool {name} is asked what run {case[:12]} had not asked it: {asked!r:.200}")
        # Of calls side by side the place in the run tells which is which; their order is their threads'.
        here = (pair for pair in same if pair[0].step_key == span.step_key)
        chosen, then = next(here, same[min(nth, len(same) - 1)])
        span.set({ANSWERED_BY: RECORDING, SOURCE_SPAN: then.span_id})
        return tool_answer(chosen, then, wait_s=(then.duration_ns or 0) / 1e9)

    def _asked_before(self, run_id: str, what: str) -> int:
        """How often a run has asked a tool or an FM that; counts this time."""
        with self._lock:
            counts = self._taken.setdefault(run_id, Counter())
            counts[what] += 1
            return counts[what] - 1

    def _stood_in(self, name: str, asked: Any, source: Source) -> Played | None:
        """What the spec says for a tool that the recorded run had not asked that."""
        if self._stand_in is None or source.case is None:
            return None
        try:
            value = self._stand_in(name, asked, source.case)
        except LookupError:
            return None
        return Played(value=value, wait_s=source.usual_s)

    def retrieval(self, span: LiveSpan, query: str) -> Played | Live:
        """Live: it reads."""
        return Live()

    def context(self, graph: LiveSpan, step_key: str, edges: list[Dependency], context: Any) -> Any:
        """Its own; a run says whose input it has before it does anything, since a cache may answer all of it."""
        self._marked(graph)
        return context

    def _marked(self, span: LiveSpan) -> str | None:
        """The case whose input a span's run has, which the run then says of itself."""
        case = case_of(span)
        if case is not None and c.SOURCE_RUN not in span.root.event.attributes:
            span.root.replays(case, MODE)
        return case

    def ended(self, event: SpanEvent) -> None:
        """A live decode says which engine its model is on; of a run that is over nothing is kept."""
        a = event.attributes
        if event.kind == "run":
            with self._lock:
                self._taken.pop(event.run, None)
        if event.kind == "decode" and a.get(ANSWERED_BY) == LIVE:
            engine = engine_of(a.get(c.ENGINE), a.get(c.BASE_URL), a.get(c.FINGERPRINT))
            where = a.get(c.BASE_URL), str(a.get(c.REQUEST_MODEL))
            if event.status == "ok":
                self._engines[where] = engine
            elif c.HTTP_STATUS in a:  # it is there, and may have no more to say of itself than that
                self._engines.setdefault(where, engine)
            if event.status == "ok" and a.get(c.PROVIDER) == "vllm":
                self._vllms.add(where)

    def other(self, span: LiveSpan | None, what: str) -> None:
        """Live."""

    def unmade(self, span: LiveSpan | None, what: str) -> BaseException:
        """What to raise where the recorded answer cannot be made again here."""
        return self._refuse(span, what)

    def _refuse(self, span: LiveSpan | None, what: str) -> ReplayDivergence:
        key = span.step_key if span is not None else "outside any step"
        error = diverged(what, run_id="", step_key=key, way_out="to let a tool run: --live-tool NAME")
        self.refused = self.refused or f"{what} (at {key}); to let it really run: --live-tool NAME"
        return error


def case_of(span: LiveSpan) -> str | None:
    """The case that a span's run is of."""
    return _marks(span).get("case")


def lane_of(span: LiveSpan) -> str | None:
    """The candidate that a span's run is of, and what for: a process's first run asks what the next one does."""
    marks = _marks(span)
    names = [str(marks[name]) for name in (STUDY, "trial", "lane", FIRST) if name in marks]
    return "/".join(names) if "case" in marks else None


def _marks(span: LiveSpan) -> Mapping[str, Any]:
    labels = c.from_json(span.root.event.attributes.get(c.LABELS)) or {}
    found: Mapping[str, Any] = labels.get(MODE) or {}
    return found
