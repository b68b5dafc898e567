"""What FM calls cost, as a screen says it: USD where every price is known, else engine seconds, named so."""

from __future__ import annotations

from redecode.dashboards.words import DASH, seconds, visible
from redecode.replay.prices import Cost, usd

WHERE = "a table for each model in prices.toml of the store, or redecode dashboard --prices FILE"


def named(cost: Cost) -> tuple[str, str, str]:
    """What it is called, what it comes to, and how it is known."""
    if not cost.calls:
        return "Cost", DASH, "It called no FM."
    if cost.usd is None:
        missing = visible(", ".join(cost.unpriced))[:200]
        return "Engine seconds", seconds(cost.engine_s), f"No price of {missing} is known: {WHERE}."
    less = f" {cost.uncounted} calls whose tokens are not known are not counted." if cost.uncounted else ""
    return "Cost", usd(cost.usd), f"Of {cost.calls} FM calls, {seconds(cost.engine_s)} of engine.{less}"


def listed(cost: Cost | None, *, priced: bool) -> str:
    """In a list whose column is in USD, or else in engine seconds."""
    if cost is None or not cost.calls or (priced and cost.usd is None):
        return DASH
    return usd(cost.usd).removesuffix(" USD") if priced and cost.usd is not None else seconds(cost.engine_s)
