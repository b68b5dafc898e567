"""What-if on FM calls: fewer of the recorded tokens forced, or a step answered from a cache and its calls not made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from redecode.replay.closed_loop.scaling import Scaling, names_of, unknown_step
from redecode.replay.errors import ReplayError
from redecode.tracer import Decode, Span

if TYPE_CHECKING:
    from redecode.replay.closed_loop.plan import Plan


@dataclass(frozen=True, slots=True)
class Alterations:
    """How a forced replay departs from the recording.

    Attributes:
        shorter: step → so many tokens at the end of its FM calls are not made.
        cached: steps that take no time, with all below them: their FM calls are not made.
    """

    shorter: Mapping[str, int] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.shorter or self.cached)

    def applied(self, plan: Plan) -> Plan:
        """The plan of a run, so altered.

        Raises:
            UnknownStep: no step is called that, or `shorter` names one that is no FM call with tokens.
            ReplayError: a call has not so many tokens, or none would be left to make.
        """
        if not self:
            return plan
        gone = self._gone(plan.graph.spans)
        decodes = {span_id: d for span_id, d in plan.decodes.items() if span_id not in gone}
        for step, tokens in self.shorter.items():
            meant = [i for i in decodes if step in names_of(plan.graph.spans[i])]
            if not meant:
                calls = {name for i in decodes for name in names_of(plan.graph.spans[i])}
                raise unknown_step(f"no FM call '{step}' in run {plan.recorded.run.run_id[:12]}", step, calls)
            for span_id in meant:
                decodes[span_id] = _cut(decodes[span_id], tokens)
        if not decodes:
            raise ReplayError("with these steps cached no FM call is left; nothing would run on the engine")
        return replace(plan, decodes=decodes)

    def scaling(self, scaling: Scaling) -> Scaling:
        """The scaling of waits that goes with it: a cached step's own are at once."""
        return replace(scaling, steps={**scaling.steps, **dict.fromkeys(self.cached, 0.0)}) if self.cached else scaling

    def _gone(self, spans: Mapping[str, Span]) -> set[str]:
        """The spans of cached steps and of all below them."""
        gone: set[str] = set()
        for step in self.cached:
            meant = {i for i, span in spans.items() if step in names_of(span)}
            if not meant:
                known = {name for span in spans.values() for name in names_of(span)}
                raise unknown_step(f"no step '{step}' in these runs", step, known)
            gone |= meant
        for span_id in spans:
            path: list[str] = []
            at: str | None = span_id
            while at is not None and at in spans and at not in gone and at not in path:
                path.append(at)
                at = spans[at].parent_span_id
            if at in gone:
                gone.update(path)
        return gone


def _cut(decode: Decode, tokens: int) -> Decode:
    made = decode.sampled_ids or ()
    if not 0 <= tokens < len(made):
        raise ReplayError(
            f"{decode.step_key} made {len(made)} tokens: it can be 0 to {len(made) - 1} tokens shorter, not {tokens}"
        )
    left = len(made) - tokens
    logprobs = None if decode.logprobs is None else decode.logprobs[:left]
    # Its words, its digest and why it ended are those of the whole.
    return replace(decode, sampled_ids=made[:left], logprobs=logprobs, output=None, finish_reason="length", digest=None)
