"""What FM calls cost: prices by model, kept beside a store's runs, or else the engine's seconds.

`STORE/prices.toml` has a table for each model, USD per million tokens:

    [redecode-fm-s]
    input = 0.10
    output = 0.40
    cached = 0.05    # of the prompt, from the prefix cache; as `input` if it is not said
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from redecode.tracer import Decode, RedecodeError
from redecode.tracer.store import CallTimes

FILE = "prices.toml"


class BadPrices(RedecodeError):
    """A file of prices cannot be read; names the place in it."""


class Price(BaseModel):
    """Of a million tokens, USD; cached ones cost as much as others if not said otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    def usd(self, input_tokens: int, output_tokens: int, cached_tokens: int) -> float:
        """Of so many tokens; cached ones are among those of the input."""
        cached = self.input if self.cached is None else self.cached
        fresh = input_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * cached + output_tokens * self.output) / 1e6


_FILE = TypeAdapter(dict[str, Price])


@dataclass(frozen=True, slots=True)
class Cost:
    """Of FM calls together, as if an engine had answered each.

    Attributes:
        usd: `None` if a model has no price.
        engine_s: prefill and decode where the engine told them, else sent → done.
        unpriced: models without a price.
        uncounted: calls whose tokens are not known; `usd` lacks them.
    """

    usd: float | None
    engine_s: float
    calls: int = 0
    unpriced: tuple[str, ...] = ()
    uncounted: int = 0


def cost_of(calls: Iterable[Decode | CallTimes], prices: Mapping[str, Price]) -> Cost:
    """What these calls cost."""
    usd, engine_ns, number, uncounted, unpriced = 0.0, 0, 0, 0, set[str]()
    for call in calls:
        number += 1
        if call.prefill_ns is not None and call.decode_ns is not None:
            engine_ns += call.prefill_ns + call.decode_ns
        elif call.done_ns is not None:
            engine_ns += call.done_ns - call.sent_ns
        price = prices.get(call.model)
        if price is None:
            unpriced.add(call.model)
        elif call.input_tokens is None or call.output_tokens is None:
            uncounted += 1
        else:
            usd += price.usd(call.input_tokens, call.output_tokens, call.cached_tokens or 0)
    return Cost(None if unpriced else usd, engine_ns / 1e9, number, tuple(sorted(unpriced)), uncounted)


def usd(value: float) -> str:
    """An amount as a person reads it: two digits that count, and cents at least."""
    if value == 0 or value >= 0.1:
        return f"{value:,.2f} USD"
    digits = 1 - math.floor(math.log10(value))
    return f"{value:.{digits}f} USD"


def read_prices(path: Path) -> dict[str, Price]:
    """Model → price, of a file.

    Raises:
        BadPrices: it cannot be read, or is no table of prices.
    """
    try:
        return _FILE.validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadPrices(f"prices {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadPrices(f"prices {path} are no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadPrices(
            f"prices {path}: {place}: {first['msg']}; want a table for each model, "
            "USD per million tokens: [MODEL] input = 0.1, output = 0.4, and cached = 0.05 if that is less"
        ) from error


def prices_of(store: Path) -> dict[str, Price]:
    """Those kept in a store's folder; empty if there are none.

    Raises:
        BadPrices: as `read_prices`.
    """
    path = store / FILE
    return read_prices(path) if path.is_file() else {}
