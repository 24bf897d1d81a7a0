"""Whether a cheaper mix is worth the change.

::

    keep_v   price * (1 - startup / 1 h)              what runs; letting it go loses what its cache saves
    buy_v    price * (1 + (startup + hold) / 1 h)     what is bought is paid for while it starts and both are there
    swap     if  cost(cheapest of keep and buy) < cost(cheapest of keep alone)  at need.down, throughout the hold

Both sides are measured at the same need, so a falling demand is no reason to swap, and between equal optima the cost of
the change decides for what is there. The need is the one that must stay met when workers leave: else the dearer ones
could not go. New workers start before old ones leave: a swap only buys, and once what it bought
serves, ``keep`` finds the dearer ones superfluous. One swap at a time, of a quarter of the fleet at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from warmfleet_operator.planning.blend import Need
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.mix.cover import Item, cover
from warmfleet_operator.planning.mix.growth import SERVES, Growth, price, steady
from warmfleet_operator.planning.mix.stock import Stock

_SHARE = 4
_LEAST = 1e-3
"""Relative saving below which rounding decides."""


def cheaper(growth: Growth, serving: Mapping[str, int], need: Need, hold: float, stock: Stock) -> dict[str, int]:
    """What to buy by variant so that dearer workers may leave; empty when nothing is worth it.

    Args:
        growth: The fleet; it has all that it needs.
        serving: Workers by variant that serve.
        need: What it needs.
        hold: Seconds for which old and new workers are there together, beside the start-up.
        stock: What is free.
    """
    offers = {o.variant: o for o in growth.offers}
    kept = [(offers[name], count) for name, count in serving.items() if offers[name].rate]
    batch = max(1, math.ceil(growth.total / _SHARE))
    new = [o for o in growth.open() if o.rate]
    if not new or not kept:
        return {}
    keep = [_item(o, price(o) * max(0.0, 1.0 - o.startup / SERVES), n) for o, n in kept]
    buy = []
    for offer in new:
        rooms = [batch, growth.most - growth.total]
        if offer.maximum is not None:
            rooms.append(offer.maximum - growth.counts.get(offer.variant, 0))
        if (room := stock.room(offer, growth.key.namespace)) is not None:
            rooms.append(room)
        cost = price(offer) * (1.0 + (offer.startup + hold) / SERVES)
        buy.append(_item(offer, cost, min(rooms)))
    firm = need.firm if any(o.spot for o in growth.offers) else 0.0
    alone = cover(keep, need.down, steady=firm, nodes=growth.nodes)
    both = cover([*keep, *buy], need.down, steady=firm, nodes=growth.nodes)
    usual = sum(i.cost * n for i, n in zip(keep, alone, strict=True))
    better = sum(i.cost * n for i, n in zip([*keep, *buy], both, strict=True))
    if better >= usual * (1.0 - _LEAST):
        return {}
    return {o.variant: n for o, n in zip(new, both[len(keep) :], strict=True) if n}


def _item(offer: Offer, cost: float, most: int) -> Item:
    rate = offer.rate or 0.0
    return Item(rate, cost, most, steady(offer, rate))


def buy(growth: Growth, wanted: Mapping[str, int], stock: Stock) -> bool:
    """Buy all of it, or nothing."""
    before = growth.snapshot()
    for offer in growth.offers:
        for _ in range(wanted.get(offer.variant, 0)):
            if offer not in growth.open() or not stock.has(offer, growth.key.namespace):
                growth.restore(before, stock)
                return False
            growth.buy(offer, 1, stock)
    return True
