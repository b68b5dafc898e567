"""How loaded the replicas of each model may be while few runs are late.

A replica of whose time a share is taken makes tokens at base / (1 - share) (`work.Model`); at these paces the chance is
believed that a run is in time, all its calls counted, whichever models they are of. Sought are the largest shares with
which of the runs that call a model at most `epsilon` more are late than must be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.work import Model, Speed
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import CallView

LEAST, MOST = 0.05, 0.9
_HALVINGS = 8


class Bearable:
    """Of the kinds of replicas there may be.

    Args:
        kinds: by model; "" serves any that has none of its own.
    """

    def __init__(self, kinds: Mapping[str, Sequence[Engine]], estimator: Estimator, epsilon: float) -> None:
        self._kinds, self._estimator, self._epsilon = kinds, estimator, epsilon

    def serving(self, model: str) -> str:
        """Under which model replicas are listed that its calls go to: its own, those of any, or the only one."""
        if model in self._kinds or len(self._kinds) > 1:
            return model if model in self._kinds else ""
        return next(iter(self._kinds))

    def late(self, calls: Sequence[CallView], at: Mapping[str, tuple[Model, float]]) -> float:
        """The part of runs that begin with such calls that would be late.

        Args:
            at: of each model a kind of replica, and the share of its time that is taken.
        """
        later = {}
        for name, (model, share) in at.items():
            s, pace = model.speed(1), model.base_s / max(1e-3, 1.0 - share)
            later[name] = Speed(s.call_s, s.sent_token_s, s.prompt_token_s, s.pair_s, pace)
        chances: list[float] = []
        known: dict[tuple[object, ...], float] = {}  # most calls are of few kinds
        for call in calls:
            name = self.serving(call.model)
            if call.deadline_s is not None and name in at:
                available = call.deadline_s - call.run_began_s - at[name][0].prompt_s
                belief = self._estimator.beliefs.of(call)
                key = (name, belief.key, available)
                if key not in known:
                    known[key] = self._estimator.chance(belief, later[name].output_s, later, available)
                chances.append(known[key])
        return 1.0 - sum(chances) / len(chances) if chances else 0.0

    def shares(self, calls: Mapping[str, Sequence[CallView]], usd: Mapping[str, float]) -> dict[int, float]:
        """The share of its time that may be taken of each kind of replica, by `id`; 0 of one that is too slow.

        First one share for the fastest kinds of all models; then of each model, the one that costs most first, as much
        more as the others leave; then of slower kinds what makes as few runs late in the place of the fastest.

        Args:
            calls: the first calls of runs that call a model, by model.
            usd: what the replicas of a model cost, in any unit.
        """
        models = {name: [self._estimator.model(e) for e in kinds] for name, kinds in self._kinds.items()}
        at = {name: (min(of_it, key=lambda m: m.base_s), 0.0) for name, of_it in models.items() if calls.get(name)}
        allowed = {name: self.late(calls[name], at) + self._epsilon for name in at}

        def bears(changed: Mapping[str, tuple[Model, float]]) -> bool:
            now = {**at, **changed}
            return all(self.late(calls[name], now) <= allowed[name] for name in at)

        def most(names: Sequence[str], kinds: Mapping[str, Model], low: float) -> float:
            high = MOST
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                low, high = (middle, high) if bears({n: (kinds[n], middle) for n in names}) else (low, middle)
            return low

        fastest = {name: model for name, (model, _) in at.items()}
        together = most(list(at), fastest, LEAST)
        at = {name: (model, together) for name, model in fastest.items()}
        if len(at) > 1:
            for name in sorted(at, key=lambda n: -usd.get(n, 0.0)):
                at[name] = fastest[name], most([name], fastest, together)
        out = {id(model.engine): share for model, share in at.values()}
        for name in at:
            for model in models[name]:
                if model is not fastest[name]:
                    fits = bears({name: (model, LEAST)})
                    out[id(model.engine)] = most([name], {name: model}, LEAST) if fits else 0.0
        return out
