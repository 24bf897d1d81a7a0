"""What one more accelerator of a scarce type would be worth: the dual prices of the limits.

::

    unit(f, v)  = cost_v / rate_fv                 $ per hour and request/s        use(f, v) = accelerators_v / rate_fv
    fleet f     takes the v with the least  unit + use * sum of shadow over the limits that hold for v
    limit k     shadow_k = the least price at which the fleets that still prefer k fit into what is free      in turn

The relaxation of the whole purchase (workers may be divided) has one row per fleet and one per limit; these are the
prices of the latter, found by coordinate ascent of the dual. With a fleet's price for a limit at which it would rather
take something else, a limit's price is found by sorting the fleets once. Serving nothing costs ``UNSERVED`` times the
dearest offer and more for a higher priority, so that prices stay finite where there is not enough for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from warmfleet_operator.planning.mix.growth import Growth, with_start
from warmfleet_operator.planning.mix.stock import Slot, Stock

SWEEPS = 40
"""Rounds over all limits, at most."""
UNSERVED = 10.0
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_TOLERANCE = 1e-9


def shadow_prices(growths: Sequence[Growth], stock: Stock) -> tuple[dict[Slot, float], list[float]]:
    """What is scarce, and how much each fleet would miss it.

    Args:
        growths: Fleets that want to buy.
        stock: What is free.

    Returns:
        $/h and accelerator by limit, above 0 only; and by fleet the highest price of an accelerator at which it would
        still not take something else: of fleets that are indifferent at the shadow price, this says who comes first.
    """
    table = _Table(growths, stock)
    for _ in range(SWEEPS):
        before = table.price.copy()
        for k in table.tight():
            table.settle(k)
        if np.allclose(before, table.price, rtol=_TOLERANCE, atol=_TOLERANCE):
            break
    return {slot: float(p) for slot, p in zip(table.slots, table.price, strict=False) if p > 0}, table.keen()


class _Table:
    """Offers as arrays of shape (fleets, offers); a limit that does not hold is the last, of price 0."""

    def __init__(self, growths: Sequence[Growth], stock: Stock) -> None:
        self.slots: list[Slot] = sorted(stock.free, key=lambda s: (s[0], s[1] is not None, s[1] or ""))
        index = {slot: k for k, slot in enumerate(self.slots)}
        nothing = len(self.slots)
        wide = max((len(g.offers) for g in growths), default=0)
        shape = (len(growths), wide + 1)
        self.unit: _Floats = np.full(shape, np.inf)
        self.use: _Floats = np.zeros(shape)
        self.global_: _Ints = np.full(shape, nothing, dtype=np.int64)
        self.share: _Ints = np.full(shape, nothing, dtype=np.int64)
        self.need: _Floats = np.array([g.deficit for g in growths], dtype=np.float64)
        for f, growth in enumerate(growths):
            for v, offer in enumerate(growth.open()):
                if not offer.rate:
                    continue
                self.unit[f, v] = with_start(offer) / offer.rate
                self.use[f, v] = offer.accelerators / offer.rate
                self.global_[f, v] = index.get((offer.instance_type, None), nothing)
                self.share[f, v] = index.get((offer.instance_type, growth.key.namespace), nothing)
        finite = self.unit[np.isfinite(self.unit)]
        dearest = float(finite.max()) if finite.size else 1.0
        steps = {p: i for i, p in enumerate(sorted({g.priority for g in growths}))}
        self.unit[:, wide] = [UNSERVED * max(dearest, 1e-6) * (1.0 + steps[g.priority]) for g in growths]
        self.price: _Floats = np.zeros(nothing + 1)
        self.free: _Floats = np.array([max(0, stock.free[s]) for s in self.slots], dtype=np.float64)

    def _total(self) -> _Floats:
        return np.asarray(self.unit + self.use * (self.price[self.global_] + self.price[self.share]), dtype=np.float64)

    def tight(self) -> list[int]:
        """Limits that have a price, or of which more is wanted than there is."""
        rows = np.arange(len(self.need))
        best = self._total().argmin(axis=1)
        amount = self.need * self.use[rows, best]
        wanted = np.zeros(len(self.price))
        np.add.at(wanted, self.global_[rows, best], amount)
        np.add.at(wanted, self.share[rows, best], amount)
        over = (wanted[:-1] > self.free * (1 + _TOLERANCE)) | (self.price[:-1] > 0)
        return [int(k) for k in np.flatnonzero(over)]

    def _leave(self, k: int) -> _Floats:
        """By fleet and offer the rise of a limit's price at which the fleet would rather take something else."""
        total = self._total()
        inside = ((self.global_ == k) | (self.share == k)) & np.isfinite(self.unit)
        outside = np.where(inside, np.inf, total).min(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(inside, (outside[:, None] - total) / self.use, -np.inf)

    def keen(self) -> list[float]:
        """By fleet how far the dearest of the priced limits is below what it would pay."""
        found = np.full(len(self.need), -np.inf)
        for k in np.flatnonzero(self.price[:-1] > 0):
            found = np.maximum(found, self._leave(int(k)).max(axis=1))
        return [float(x) for x in found]

    def settle(self, k: int) -> None:
        """The price of one limit, the others' given."""
        self.price[k] = 0.0
        leave = self._leave(k)
        choice = leave.argmax(axis=1)
        rows = np.arange(len(self.need))
        limit, amount = leave[rows, choice], self.need * self.use[rows, choice]
        order = np.argsort(-limit, kind="stable")
        order = order[limit[order] > 0]
        if not order.size:
            return
        fits = np.cumsum(amount[order]) <= self.free[k] * (1 + _TOLERANCE)
        if not fits.all():
            self.price[k] = limit[order[int(np.argmin(fits))]]
