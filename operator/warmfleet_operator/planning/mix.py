"""Which variants are bought (greedy).

::

    best    = min  price / rate                              over variants with room
    cover   = min  price  over variants with rate >= deficit and price < ceil(deficit / rate_best) * price_best
    buy       cover if there is one, else best;  deficit -= rate;  until deficit <= 0
    then      the cheapest worker, until scaling.min is there

``cover`` is the granularity: the last worker may be of a smaller, cheaper variant. Room is what variants[].max,
scaling.max and the InstanceType's limits leave. Ties go to the order of the spec, so equal optima do not alternate, and
what runs is kept: nothing is replaced for the sake of price alone.

Accelerators are shared by all deployments. Every pod holds its own until it is gone, so a limit is never exceeded by a
fleet that grows before another has finished to shrink; a limit that was lowered stops purchases and kills nothing. When
they run short they go, worker by worker, to the fleet that is furthest from its minimum, then to the one that is
furthest from its need, then by name: deterministic, and blind to the order of the input.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from warmfleet_operator.planning.blend import SLACK
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.state.records import InstanceTypeRecord, Key, WorkerRecord


class Short(StrEnum):
    """What stopped a fleet from growing."""

    STOCK = "stock"
    """Accelerator limits."""
    MAX = "max"
    """scaling.max or variants[].max."""
    BLOCKED = "blocked"
    """No variant can be bought now: stock-out."""
    GATE = "gate"
    """Failed starts: the next attempt waits."""


class Stock:
    """Accelerators that are still free under the limits of the InstanceTypes. Changed by :meth:`take` alone."""

    def __init__(self, types: Mapping[str, InstanceTypeRecord], workers: Iterable[WorkerRecord]) -> None:
        self._free: dict[str, int] = {}
        self._shares: dict[tuple[str, str], int] = {}
        for name, record in types.items():
            if record.spec is None:
                continue
            limit = record.spec.limit
            if limit.accelerators is not None:
                self._free[name] = limit.accelerators
            for share in limit.namespaces:
                self._shares[name, share.namespace] = share.accelerators
        for worker in workers:
            self._use(worker.instance_type, worker.key.namespace, max(1, worker.accelerators))

    def limited(self, offer: Offer, namespace: str) -> bool:
        """Whether any limit holds for the offer."""
        return offer.instance_type in self._free or (offer.instance_type, namespace) in self._shares

    def has(self, offer: Offer, namespace: str) -> bool:
        """Whether one more worker fits the limits."""
        free = self._free.get(offer.instance_type, offer.accelerators)
        share = self._shares.get((offer.instance_type, namespace), offer.accelerators)
        return min(free, share) >= offer.accelerators

    def take(self, offer: Offer, namespace: str) -> None:
        """One more worker holds its accelerators."""
        self._use(offer.instance_type, namespace, offer.accelerators)

    def _use(self, instance_type: str, namespace: str, accelerators: int) -> None:
        if instance_type in self._free:
            self._free[instance_type] -= accelerators
        if (instance_type, namespace) in self._shares:
            self._shares[instance_type, namespace] -= accelerators


@dataclass(slots=True)
class Growth:
    """What one deployment would still buy; changed while the stock is shared out.

    Attributes:
        key: The deployment.
        offers: Variants in the order of the spec.
        closed: InstanceTypes on which nothing is created now: their pods find no node.
        counts: Workers by variant that stay or were bought.
        need: Capacity wanted, requests/s.
        deficit: Of this, what is missing, requests/s.
        floor: Fewest workers.
        most: Most workers.
        floors: Fewest workers by variant.
        allowance: Most workers that may be bought now; None when unbounded.
        added: Bought workers by variant.
        short: Why it stopped before it had enough; None when it has enough.
        error: An error in the planner itself; None as it should be.
    """

    key: Key
    offers: tuple[Offer, ...]
    counts: dict[str, int]
    need: float
    deficit: float
    floor: int
    most: int
    floors: Mapping[str, int]
    closed: frozenset[str] = frozenset()
    allowance: int | None = None
    added: dict[str, int] = field(default_factory=dict)
    short: Short | None = None
    error: Exception | None = None

    @property
    def total(self) -> int:
        """Workers that stay or were bought."""
        return sum(self.counts.values())

    @property
    def wanting(self) -> bool:
        """Whether it would buy more."""
        if self.deficit > SLACK * max(1.0, self.need) or self.total < self.floor:
            return True
        return any(self.counts.get(name, 0) < least for name, least in self.floors.items()) and self.total < self.most

    def credit(self, variant: str, rate: float) -> None:
        """One more worker of the variant will be there."""
        self.counts[variant] = self.counts.get(variant, 0) + 1
        self.deficit = max(0.0, self.deficit - rate)

    def has_room(self, variant: str, maximum: int | None) -> bool:
        """Whether one more worker of the variant stays within the maxima."""
        return self.total < self.most and (maximum is None or self.counts.get(variant, 0) < maximum)

    def rank(self) -> tuple[int, float, Key]:
        """Who is served first: the lowest."""
        if self.total < self.floor:
            return 0, self.total / self.floor, self.key
        return 1, 1.0 - self.deficit / self.need if self.need > 0 else 1.0, self.key

    def step(self, stock: Stock) -> bool:
        """Buy one worker; False when nothing (more) can be bought."""
        if self.allowance is not None and sum(self.added.values()) >= self.allowance:
            self.short = Short.GATE
            return False
        offer = self._pick(stock)
        if offer is None:
            return False
        stock.take(offer, self.key.namespace)
        self.added[offer.variant] = self.added.get(offer.variant, 0) + 1
        self.credit(offer.variant, offer.rate or 0.0)
        return True

    def limited(self, stock: Stock) -> bool:
        """Whether others may want the same accelerators."""
        return any(stock.limited(offer, self.key.namespace) for offer in self.offers)

    def _pick(self, stock: Stock) -> Offer | None:
        buyable = [o for o in self.offers if o.buy]
        roomy = [o for o in buyable if self.has_room(o.variant, o.maximum)]
        open_ = [o for o in roomy if o.instance_type not in self.closed]
        free = [o for o in open_ if stock.has(o, self.key.namespace)]
        if not free:
            self.short = Short.STOCK if open_ else Short.BLOCKED if roomy else Short.MAX
            return None
        owed = [o for o in free if self.counts.get(o.variant, 0) < self.floors.get(o.variant, 0)]
        if owed:
            return owed[0]
        rated = [o for o in free if o.rate]
        if self.deficit > 0 and rated:
            return choose(rated, self.deficit)
        if self.total < self.floor:
            return min(free, key=lambda o: math.inf if o.price is None else o.price)
        # Only a variant's own minimum is open, and it cannot be bought now.
        self.short = Short.STOCK
        return None


def choose(offers: list[Offer], deficit: float) -> Offer:
    """The variant to buy next for a deficit in requests/s; all offers have a rate."""
    best = min(offers, key=lambda o: _price(o) / _rate(o))
    bill = math.ceil(deficit / _rate(best) * (1.0 - SLACK)) * _price(best)
    covering = [o for o in offers if _rate(o) >= deficit * (1.0 - SLACK) and _price(o) < bill]
    return min(covering, key=_price) if covering else best


def share_out(growths: Iterable[Growth], stock: Stock) -> None:
    """Let all deployments buy; see the module's docstring for who comes first."""
    queue: list[tuple[tuple[int, float, Key], Growth]] = []
    for growth in sorted(growths, key=lambda g: g.key):
        if growth.limited(stock):
            if growth.wanting:
                heapq.heappush(queue, (growth.rank(), growth))
            continue
        while growth.wanting and _step(growth, stock):
            pass
    while queue:
        _, growth = heapq.heappop(queue)
        if _step(growth, stock) and growth.wanting:
            heapq.heappush(queue, (growth.rank(), growth))


def _step(growth: Growth, stock: Stock) -> bool:
    try:
        return growth.step(stock)
    except Exception as error:  # noqa: BLE001 - one deployment must not keep the others from being planned
        growth.error = error
        return False


def _price(offer: Offer) -> float:
    return math.inf if offer.price is None else offer.price


def _rate(offer: Offer) -> float:
    return offer.rate or 0.0
