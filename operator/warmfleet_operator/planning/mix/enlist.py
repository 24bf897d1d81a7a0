"""What a fleet brings to the sharing out, from who is there.

::

    spent    = sum of prices over all pods, those on their way out among them
    spare    = capacity - need.up;   firm = need.firm - steady capacity      (ready and starting, where spot is in it)
    movable  = unprotected workers by variant, none while scale-in is paused
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from warmfleet_operator.planning.blend import Need
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.mix.growth import Growth, price, steady
from warmfleet_operator.planning.roster import Roster


def enlist(
    growth: Growth,
    people: Roster,
    need: Need | None,
    *,
    priority: int,
    budget: float | None,
    paused: bool,
) -> None:
    """Complete a fleet's purchases.

    Args:
        growth: The fleet.
        people: Its workers.
        need: Its need; None while unknown, or for a fixed number of workers.
        priority: Value of its PriorityClass.
        budget: Most $/h.
        paused: Whether nobody may be chosen to leave.
    """
    offers = {offer.variant: offer for offer in growth.offers}
    growth.priority, growth.budget = priority, budget
    if budget is not None:
        retiring = [r.worker.variant for r in people.retiring]
        names = [w.variant for w in (*people.kept, *people.draining)] + retiring
        growth.spent = sum(price(offers[name]) for name in names if name in offers)
    if not paused:
        growth.movable = count([w.variant for w in people.kept if not w.protected])
    if need is None:
        return
    there = [offers[w.variant] for w in (*people.ready, *people.starting)]
    growth.spare = max(0.0, sum(o.rate or 0.0 for o in there) - need.up)
    growth.plain, growth.kept = need.plain, need.kept
    if any(o.spot for o in growth.offers):
        growth.firm = max(0.0, need.firm - sum(steady(o, o.rate or 0.0) for o in there))
        growth.reserve = growth.firm > 0 and growth.deficit == 0


def count(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs."""
    out: dict[str, int] = {}
    for name in names:
        out[name] = out.get(name, 0) + 1
    return out


def running_cost(counts: Mapping[str, int], offers: Mapping[str, Offer]) -> float:
    """$/h of workers by variant; those of unknown price cost nothing."""
    return sum((offers[name].price or 0.0) * n for name, n in counts.items() if name in offers)
