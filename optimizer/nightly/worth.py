"""The nightly report's part on fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redecode.optimizer.nightly.config import WorthSection
from redecode.optimizer.worth import Assumptions, Ways, lines, volume_of, worth
from redecode.optimizer.worth.telling import headline
from redecode.replay.prices import Price
from redecode.tracer import Store

_DAY_S = 86400.0
_WAYS = Ways(
    calls_per_day="say it with calls_per_day in [worth]",
    price="say it in [prices.{model}], in the spec, or in the store's prices.toml",
)


def worth_of(
    store: Store, asked: WorthSection, agents: Sequence[str], prices: Mapping[str, Price], *, now_ns: int
) -> dict[str, Any]:
    """What `redecode worth` says, as data.

    Args:
        prices: those of the study.

    Raises:
        VolumeError: too little was recorded, or a model has no price.
    """
    wanted = {asked.agent} if asked.agent is not None else set(agents)
    since = now_ns - int(asked.look_back * 1e9)
    runs = [r for r in store.runs() if r.agent in wanted and r.started_ns >= since]
    volume = volume_of(
        store,
        runs,
        now_ns=now_ns,
        nodes=() if asked.node is None else (asked.node,),
        calls_per_day=asked.calls_per_day,
        ways=_WAYS,
    )
    found = worth(
        volume,
        Assumptions(
            prices=prices,
            train_cost=asked.train_cost,
            tuned=asked.tuned_price,
            retrain_days=None if asked.retrain is None else asked.retrain / _DAY_S,
            hosting=asked.hosting,
            keep_tokens=asked.keep_tokens,
            horizon_days=asked.horizon / _DAY_S,
        ),
        ways=_WAYS,
    )
    return {"words": headline(found), "lines": list(lines(found)), "worth": found.to_json()}
