"""Who gives way to a fleet of higher priority.

::

    wanted   = accelerators that the fleet is short of, on the type that is cheapest for it, then on the next
    coming   = accelerators of that type whose workers are on their way out already
    given    = wanted - coming, from the lowest priority up, by name among equals

A fleet gives down to its minimum, and below it only to one that is below its own. Its workers drain first, so what it
gives comes free later; until then it is counted as coming, and nothing is asked for twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.mix.growth import Growth, Short
from warmfleet_operator.planning.mix.stock import Stock


def give_way(winner: Growth, others: Sequence[Growth], stock: Stock) -> list[Growth]:
    """Let fleets of lower priority give what ``winner`` is short of.

    Args:
        winner: The fleet that is short.
        others: Fleets of lower priority.
        stock: What is free and what comes free.

    Returns:
        Those that give something.
    """
    if winner.short is not Short.STOCK:
        return []
    losers: list[Growth] = []
    missing, fewer = winner.deficit, winner.floor - winner.total
    for offer in sorted(winner.open(), key=lambda o: winner.cost(o) / (o.rate or 1e-9)):
        count = max(math.ceil(missing / offer.rate) if offer.rate else 0, fewer)
        if count <= 0 or not stock.limited(offer, winner.key.namespace):
            continue
        rooms = [count, winner.most - winner.total]
        if offer.maximum is not None:
            rooms.append(offer.maximum - winner.counts.get(offer.variant, 0))
        wanted = min(rooms) * offer.accelerators
        left = stock.claim(offer, winner.key.namespace, wanted)
        for other in sorted(others, key=lambda g: (g.priority, g.key)):
            if left <= 0:
                break
            got = _give(other, winner, offer, left, stock)
            left -= got
            if got:
                losers.append(other)
        gained = (wanted - max(0, left)) // offer.accelerators
        missing -= gained * (offer.rate or 0.0)
        fewer -= gained
    return losers


def _give(other: Growth, winner: Growth, offer: Offer, wanted: int, stock: Stock) -> int:
    """Accelerators that one fleet gives."""
    kind = offer.instance_type
    share = (kind, winner.key.namespace)
    own = stock.free.get(share, offer.accelerators) < offer.accelerators
    if own and other.key.namespace != winner.key.namespace:
        return 0  # the namespace's share is used up: another namespace's accelerators do not help
    desperate = winner.total < winner.floor
    got = 0
    for theirs in other.offers:
        if theirs.instance_type != kind:
            continue
        name = theirs.variant
        spare = other.total - (0 if desperate else other.floor)
        least = 0 if desperate else other.floors.get(name, 0)
        free = other.movable.get(name, 0) - other.given.get(name, 0)
        count = min(spare, other.counts.get(name, 0) - least, free, math.ceil((wanted - got) / theirs.accelerators))
        if count > 0:
            other.give(name, count)
            got += count * theirs.accelerators
    return got
