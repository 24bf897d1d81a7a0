"""Who gives way to another fleet.

::

    wanted   = accelerators that the fleet is short of, on the type that is cheapest for it, then on the next
    coming   = accelerators of that type whose workers are on their way out already
    given    = wanted - coming, from the lowest priority up, by name among equals
    then       for what the reactive rule would ask for too, from fleets of the same priority what they hold beyond that
               which the reactive rule would keep, from whom has most of it in proportion

A fleet gives down to its minimum, and below it only to one of higher priority that is below its own. Its workers drain
first, so what it gives comes free later; until then it is counted as coming, and nothing is asked for twice.

A margin against what may come must not starve the demand that is there: of two fleets on one pool the one that fears
most would hold workers for days while requests of the other time out. Between what is asked for (demand / 0.85) and
what is kept (demand / 0.70) lies the band of the reactive rule, so nothing goes to and fro.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.mix.growth import Growth, Short
from warmfleet_operator.planning.mix.stock import Stock


def give_way(winner: Growth, others: Sequence[Growth], stock: Stock) -> list[Growth]:
    """Let fleets of lower priority, and of the same, give what ``winner`` is short of.

    Args:
        winner: The fleet that is short.
        others: Fleets of no higher priority.
        stock: What is free and what comes free.

    Returns:
        Those that give something.
    """
    if winner.short is not Short.STOCK:
        return []
    losers: list[Growth] = []
    missing, urgent, fewer = winner.deficit, winner.urgent, winner.floor - winner.total
    order = sorted(others, key=lambda g: (g.priority, -g.beyond / (g.kept or 1.0), g.key))
    for offer in sorted(winner.open(), key=lambda o: winner.cost(o) / (o.rate or 1e-9)):
        count = max(math.ceil(missing / offer.rate) if offer.rate else 0, fewer)
        if count <= 0 or not stock.limited(offer, winner.key.namespace):
            continue
        rooms = [count, winner.most - winner.total]
        if offer.maximum is not None:
            rooms.append(offer.maximum - winner.counts.get(offer.variant, 0))
        wanted = min(rooms) * offer.accelerators
        left = stock.claim(offer, winner.key.namespace, wanted)
        pressing = math.ceil(urgent / offer.rate) * offer.accelerators if offer.rate else 0
        for other in order:
            asked = left if other.priority < winner.priority else min(left, pressing - (wanted - left))
            if asked <= 0:
                break
            got = _give(other, winner, offer, asked, stock)
            left -= got
            if got:
                losers.append(other)
        gained = (wanted - max(0, left)) // offer.accelerators * (offer.rate or 0.0)
        missing, urgent = missing - gained, urgent - gained
        fewer -= (wanted - max(0, left)) // offer.accelerators
    return losers


def _give(other: Growth, winner: Growth, offer: Offer, wanted: int, stock: Stock) -> int:
    """Accelerators that one fleet gives."""
    kind = offer.instance_type
    share = (kind, winner.key.namespace)
    own = stock.free.get(share, offer.accelerators) < offer.accelerators
    if own and other.key.namespace != winner.key.namespace:
        return 0  # the namespace's share is used up: another namespace's accelerators do not help
    equal = other.priority == winner.priority
    desperate = winner.total < winner.floor and not equal
    got = 0
    for theirs in other.offers:
        if theirs.instance_type != kind:
            continue
        name = theirs.variant
        spare = other.total - (0 if desperate else other.floor)
        least = 0 if desperate else other.floors.get(name, 0)
        free = other.movable.get(name, 0) - other.given.get(name, 0)
        count = min(spare, other.counts.get(name, 0) - least, free, math.ceil((wanted - got) / theirs.accelerators))
        if equal:  # no more than what the reactive rule would let go
            count = min(count, int(other.beyond / theirs.rate) if theirs.rate else 0)
        if count > 0:
            other.give(name, count)
            other.levelled |= equal
            got += count * theirs.accelerators
    return got
