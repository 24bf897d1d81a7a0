"""Few fleets: who gives whom a scarce worker, so that both together pay less.

::

    choices_f  the purchases of fleet f within 6 % of its best at the shadow prices, and at none
    move       one fleet, or two at once, to other choices that fit the limits and cost less; the best move of the first
               pair that has one, until there is none

With thousands of fleets the shadow prices alone come close; with ten, whole workers leave gaps that no price closes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from warmfleet_operator.planning.mix.growth import Growth, Saved, with_start
from warmfleet_operator.planning.mix.stock import Slot, Stock

WITHIN = 0.06
CHOICES = 24
MOVES = 200
"""Moves, at most."""
_EPS = 1e-9
_Floats = npt.NDArray[np.float64]


def trade(growths: Sequence[Growth], before: Sequence[Saved], stock: Stock, prices: Mapping[Slot, float]) -> None:
    """Change the purchases of all fleets for cheaper ones that fit the limits as well.

    Args:
        growths: Fleets that have bought what they want.
        before: What they were before.
        stock: What is free after it.
        prices: Shadow prices.
    """
    now = [g.snapshot() for g in growths]
    slots = sorted(prices, key=lambda s: (s[0], s[1] or ""))
    table = _Table(growths, slots)
    for growth, saved in zip(growths, before, strict=True):
        growth.restore(saved, stock)
    free = np.array([stock.free[slot] for slot in slots], dtype=np.float64)
    for f, growth in enumerate(growths):
        for shadow in (prices, {}):
            growth.shadow = shadow
            for choice in growth.alternatives(stock, within=WITHIN, most=CHOICES):
                table.add(f, choice)
    chosen = table.search(free)
    for f, (growth, saved) in enumerate(zip(growths, now, strict=True)):
        if chosen[f] == 0:
            growth.restore(saved, stock)
        else:
            wanted = table.choices[f][chosen[f]]
            for offer in growth.offers:
                if wanted.get(offer.variant):
                    growth.buy(offer, wanted[offer.variant], stock)


class _Table:
    """Choices of every fleet, the purchase that it has made first, with their costs and what they use."""

    def __init__(self, growths: Sequence[Growth], slots: Sequence[Slot]) -> None:
        self._growths, self._slots = growths, slots
        self.choices: list[list[dict[str, int]]] = [[dict(g.added)] for g in growths]

    def add(self, fleet: int, choice: dict[str, int]) -> None:
        """One more choice of a fleet."""
        if choice not in self.choices[fleet]:
            self.choices[fleet].append(choice)

    def _cost(self, fleet: int, choice: Mapping[str, int]) -> float:
        return sum(with_start(o) * choice.get(o.variant, 0) for o in self._growths[fleet].offers)

    def _use(self, fleet: int, choice: Mapping[str, int]) -> list[float]:
        growth = self._growths[fleet]
        return [
            float(
                sum(
                    choice.get(o.variant, 0) * o.accelerators
                    for o in growth.offers
                    if o.instance_type == kind and namespace in (None, growth.key.namespace)
                )
            )
            for kind, namespace in self._slots
        ]

    def search(self, free: _Floats) -> list[int]:
        """The choice of every fleet."""
        fleets = range(len(self.choices))
        costs = [np.array([self._cost(f, c) for c in self.choices[f]]) for f in fleets]
        uses = [np.array([self._use(f, c) for c in self.choices[f]]).reshape(len(costs[f]), -1) for f in fleets]
        chosen = [0] * len(self.choices)
        room = free - sum((uses[f][0] for f in fleets), np.zeros(len(self._slots)))
        pairs = [(f, g) for f in fleets for g in fleets if f < g] or [(0, 0)]
        moves, calm = 0, 0
        while calm < len(pairs) and moves < MOVES:
            f, g = pairs[(moves + calm) % len(pairs)]
            calm += 1
            cost = costs[f][:, None] + costs[g][None, :] - costs[f][chosen[f]] - costs[g][chosen[g]]
            left = room + uses[f][chosen[f]] + uses[g][chosen[g]]
            fits = (uses[f][:, None, :] + uses[g][None, :, :] <= left + _EPS).all(axis=2)
            cost = np.where(fits, cost, 0.0)
            if f == g:
                continue
            best = int(cost.argmin())
            i, j = divmod(best, cost.shape[1])
            if cost[i, j] < -1e-6:
                chosen[f], chosen[g] = i, j
                room = left - uses[f][i] - uses[g][j]
                moves, calm = moves + 1, 0
        return chosen
