"""Which of the workers that serve are kept when fewer would do.

::

    kept     = cheapest whole numbers of what is there that carry need.down, and need.firm without the spot share
    surplus  = there - kept, by variant, the dearest per request first

With one variant this is the count alone. With several, who leaves decides what the fleet costs: the choice within a
variant stays with ``victims`` (lowest cache value first), the choice between variants is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from warmfleet_operator.planning.blend import Need
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.mix.cover import Item, cover
from warmfleet_operator.planning.mix.growth import price, steady

_T = TypeVar("_T")


def surplus(
    free: Mapping[str, int],
    bound: Mapping[str, int],
    offers: Mapping[str, Offer],
    rates: Mapping[str, float],
    need: Need,
) -> dict[str, int]:
    """Workers by variant that may leave.

    Args:
        free: Serving workers by variant that may be chosen.
        bound: Serving workers by variant that may not.
        offers: Variants by name.
        rates: Requests/s of one worker by variant.
        need: What must be carried.
    """
    names = [name for name in offers if free.get(name)]
    firm = need.firm if any(offers[name].spot for name in (*names, *bound)) else 0.0
    left = need.down - sum(rates[name] * count for name, count in bound.items())
    firm -= sum(steady(offers[name], rates[name]) * count for name, count in bound.items())
    serving = [name for name in names if rates[name] > 0]
    items = [Item(rates[name], price(offers[name]), free[name], steady(offers[name], rates[name])) for name in serving]
    kept = dict(zip(serving, cover(items, left, steady=firm), strict=True))
    return {name: free[name] - kept.get(name, 0) for name in names}


def dearest_first(
    picks: Sequence[_T],
    spare: Mapping[str, int],
    offers: Mapping[str, Offer],
    rates: Mapping[str, float],
    variant: Callable[[_T], str],
) -> list[_T]:
    """Of every variant as many as are spare, variants in order of price per request, the dearest first."""

    def unit(name: str) -> float:
        return price(offers[name]) / rates[name] if rates[name] > 0 else float("inf")

    left, out = dict(spare), []
    for pick in picks:
        if left.get(variant(pick), 0) > 0:
            left[variant(pick)] -= 1
            out.append(pick)
    return sorted(out, key=lambda pick: -unit(variant(pick)))
