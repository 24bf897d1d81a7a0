"""What one fleet buys, and in which order.

::

    cost_v   = price * (1 + startup / 1 h) + shadow(type) * accelerators      0 shadow while nothing is short
    buy        what variants[].min asks for, then ``cover`` of what is missing, then the cheapest until scaling.min
    steady_v = rate * (1 - 30 % if the type is spot)      still carries the demand of now when spot capacity is taken;
               nothing of a spot rate, and 1 - maxSpotShare of the need, where scaling.maxSpotShare is set
    room       variants[].max, scaling.max, scaling.budget, limits of InstanceTypes, failed starts, stock-outs

A worker is paid for while it starts, and an hour is what a bought one serves at least: so the start-up is part of the
price. Workers that run are kept whatever they cost: what becomes of a dear mix is ``swap``'s. Ties go to the order of
the spec, so equal optima do not alternate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from warmfleet_operator.planning.blend import SLACK
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.mix.cover import MANY, NODES, Item, answers, cover
from warmfleet_operator.planning.mix.stock import Slot, Stock
from warmfleet_operator.state.records import Key

SERVES = 3600.0
"""Seconds that a bought worker is expected to serve, over which its start-up is spread."""
UNPRICED = 1e6
"""$/h of a worker whose price is unknown: bought last."""


class Short(StrEnum):
    """What stopped a fleet from growing."""

    STOCK = "stock"
    """Accelerator limits."""
    MAX = "max"
    """scaling.max or variants[].max."""
    BUDGET = "budget"
    """scaling.budget."""
    BLOCKED = "blocked"
    """No variant can be bought now: stock-out."""
    GATE = "gate"
    """Failed starts: the next attempt waits."""


def price(offer: Offer) -> float:
    """$/h of one worker."""
    return UNPRICED if offer.price is None else offer.price


def steady(offer: Offer, rate: float) -> float:
    """Requests/s of one worker that are counted on when spot capacity is reclaimed."""
    return rate * (1.0 - offer.lost) if offer.spot else rate


def with_start(offer: Offer) -> float:
    """$/h of one worker that has yet to start."""
    return price(offer) * (1.0 + offer.startup / SERVES)


class Saved(NamedTuple):
    """What a fleet was before it bought."""

    counts: dict[str, int]
    deficit: float
    firm: float
    spent: float
    added: dict[str, int]
    short: Short | None


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
        spare: Requests/s that are there beyond the need.
        plain: Of ``need``, what the reactive rule would ask for too, requests/s; None for all of it.
        kept: What the reactive rule would not let go, requests/s; None where nothing is held beyond it.
        firm: Requests/s that are missing for the demand of now when spot capacity is reclaimed.
        allowance: Most workers that may be bought now; None when unbounded.
        priority: Value of its PriorityClass.
        budget: Most $/h; None when unbounded.
        spent: $/h of all its pods, those on their way out among them.
        movable: Workers by variant that may have to give way to another fleet.
        given: Workers by variant that give way.
        levelled: Whether some of them give way to a fleet of the same priority.
        added: Bought workers by variant.
        short: Why it stopped before it had enough; None when it has enough.
        error: An error in the planner itself; None as it should be.
        reserve: Whether it wants more for that reason alone.
        swapped: Whether it bought for the sake of a cheaper mix alone.
        shadow: What an accelerator is worth beside its price, $/h, by limit.
        nodes: Nodes of the search, at most.
    """

    key: Key
    offers: tuple[Offer, ...]
    counts: dict[str, int]
    need: float
    deficit: float
    floor: int
    most: int
    floors: Mapping[str, int]
    spare: float = 0.0
    plain: float | None = None
    kept: float | None = None
    firm: float = 0.0
    closed: frozenset[str] = frozenset()
    allowance: int | None = None
    priority: int = 0
    budget: float | None = None
    spent: float = 0.0
    movable: Mapping[str, int] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    levelled: bool = False
    added: dict[str, int] = field(default_factory=dict)
    short: Short | None = None
    error: Exception | None = None
    reserve: bool = False
    swapped: bool = False
    shadow: Mapping[Slot, float] = field(default_factory=dict)
    nodes: int = NODES
    _queue: list[tuple[Offer, int]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Workers that stay or were bought."""
        return sum(self.counts.values())

    @property
    def lacks(self) -> bool:
        """Whether capacity is missing."""
        slack = SLACK * max(1.0, self.need)
        return self.deficit > slack or self.firm > slack

    @property
    def urgent(self) -> float:
        """Requests/s that are missing of what the reactive rule would ask for too."""
        margin = 0.0 if self.plain is None else max(0.0, self.need - self.plain)
        missing = self.deficit - margin
        return missing if missing > SLACK * max(1.0, self.need) else 0.0

    @property
    def beyond(self) -> float:
        """Requests/s that are there beyond what the reactive rule would keep."""
        return 0.0 if self.kept is None else max(0.0, self.need + self.spare - self.deficit - self.kept)

    @property
    def wanting(self) -> bool:
        """Whether it would buy more."""
        if self.lacks or self.total < self.floor:
            return True
        return any(self.counts.get(name, 0) < least for name, least in self.floors.items()) and self.total < self.most

    def credit(self, variant: str, rate: float, count: int = 1) -> None:
        """More workers of the variant will be there."""
        self.counts[variant] = self.counts.get(variant, 0) + count
        self.deficit = max(0.0, self.deficit - rate * count)
        if self.firm > 0:
            offer = next(o for o in self.offers if o.variant == variant)
            self.firm = max(0.0, self.firm - steady(offer, rate) * count)

    def has_room(self, variant: str, maximum: int | None) -> bool:
        """Whether one more worker of the variant stays within the maxima."""
        return self.total < self.most and (maximum is None or self.counts.get(variant, 0) < maximum)

    def affords(self, offer: Offer) -> bool:
        """Whether one more worker of it stays within the budget."""
        return self.budget is None or self.spent + price(offer) <= self.budget * (1.0 + SLACK)

    def rank(self) -> tuple[int, int, float, Key]:
        """Who is served first: the lowest."""
        if self.total < self.floor:
            return -self.priority, 0, self.total / self.floor, self.key
        if urgent := self.urgent:
            return -self.priority, 1, 1.0 - urgent / (self.plain or self.need), self.key
        return -self.priority, 2, 1.0 - self.deficit / self.need if self.need > 0 else 1.0, self.key

    def step(self, stock: Stock, *, bulk: bool = False) -> bool:
        """Buy one worker, or as many of the same as are wanted; False when nothing (more) can be bought."""
        left = MANY if self.allowance is None else self.allowance - sum(self.added.values())
        if left <= 0:
            self.short = Short.GATE
            return False
        picked = self._pick(stock)
        if picked is None:
            return False
        offer, count = picked
        # Two variants may share a limit or a budget, each of which the search has seen as its own.
        count = min(count, left, max(1, self._room(offer, stock))) if bulk else 1
        self.buy(offer, count, stock)
        if self._queue and self._queue[0][0] is offer:
            rest = self._queue[0][1] - count
            self._queue[:1] = [(offer, rest)] if rest > 0 else []
        return True

    def buy(self, offer: Offer, count: int, stock: Stock) -> None:
        """Take workers from the stock."""
        stock.take(offer, self.key.namespace, count)
        self.added[offer.variant] = self.added.get(offer.variant, 0) + count
        self.spent += price(offer) * count
        self.credit(offer.variant, offer.rate or 0.0, count)

    def limited(self, stock: Stock) -> bool:
        """Whether others may want the same accelerators."""
        return any(stock.limited(offer, self.key.namespace) for offer in self.offers)

    def open(self) -> list[Offer]:
        """What may be bought by the fleet's own bounds."""
        return [
            o
            for o in self.offers
            if o.buy
            and o.instance_type not in self.closed
            and self.has_room(o.variant, o.maximum)
            and (self.budget is None or self.affords(o))
        ]

    def _pick(self, stock: Stock) -> tuple[Offer, int] | None:
        free = [o for o in self.open() if stock.has(o, self.key.namespace)]
        if not free:
            self.short = self._obstacle()
            return None
        if self.floors:
            owed = [o for o in free if self.counts.get(o.variant, 0) < self.floors.get(o.variant, 0)]
            if owed:
                return owed[0], 1
        if useful := [o for o in free if self._helps(o)]:
            return self._next(useful, stock)
        if self.total < self.floor:
            return min(free, key=lambda o: price(o) + self._worth(o)), 1
        # Only a variant's own minimum is open, or what is not spot, and it cannot be bought now.
        self.short = Short.STOCK
        return None

    def _helps(self, offer: Offer) -> bool:
        """Whether one more worker of it carries something of what is missing."""
        slack = SLACK * max(1.0, self.need)
        rate = offer.rate or 0.0
        return rate > 0 and (self.deficit > slack or (self.firm > slack and steady(offer, rate) > 0))

    def _obstacle(self) -> Short:
        """Why nothing can be bought."""
        roomy = [o for o in self.offers if o.buy and self.has_room(o.variant, o.maximum)]
        if not roomy:
            return Short.MAX
        payable = [o for o in roomy if self.affords(o)]
        if not payable:
            return Short.BUDGET
        return Short.STOCK if any(o.instance_type not in self.closed for o in payable) else Short.BLOCKED

    def _next(self, free: Sequence[Offer], stock: Stock) -> tuple[Offer, int]:
        """The head of the purchases that were planned, planned anew where it cannot be bought any more."""
        if self._queue and any(o is self._queue[0][0] for o in free):
            return self._queue[0]
        found = cover(
            [self._item(o, stock) for o in free],
            self.deficit,
            steady=self.firm,
            slots=self.most - self.total,
            nodes=self.nodes,
        )
        planned = sorted(
            ((o, n) for o, n in zip(free, found, strict=True) if n),
            key=lambda pair: self.cost(pair[0]) / (pair[0].rate or 1.0),
        )
        if not planned:  # less than rounding is missing
            return min(free, key=self.cost), 1
        self._queue = planned
        return planned[0]

    def alternatives(self, stock: Stock, *, within: float, most: int) -> list[dict[str, int]]:
        """Several good purchases by variant, the best first; none where more than capacity is asked for."""
        owed = any(self.counts.get(name, 0) < least for name, least in self.floors.items())
        free = [o for o in self.open() if o.rate and stock.has(o, self.key.namespace)]
        if owed or self.allowance is not None or self.budget is not None or not free:
            return []
        found = answers(
            [self._item(o, stock) for o in free],
            self.deficit,
            steady=self.firm,
            slots=self.most - self.total,
            nodes=self.nodes,
            within=within,
            most=most,
        )
        return [
            {o.variant: n for o, n in zip(free, one, strict=True) if n}
            for one in found
            if self.total + sum(one) >= self.floor
        ]

    def _item(self, offer: Offer, stock: Stock) -> Item:
        rate = offer.rate or 0.0
        return Item(rate, self.cost(offer), self._room(offer, stock), steady(offer, rate))

    def _room(self, offer: Offer, stock: Stock) -> int:
        """Most workers of it that may be bought now."""
        rooms = [self.most - self.total]
        if offer.maximum is not None:
            rooms.append(offer.maximum - self.counts.get(offer.variant, 0))
        if (room := stock.room(offer, self.key.namespace)) is not None:
            rooms.append(room)
        if self.budget is not None and price(offer) > 0:
            rooms.append(int((self.budget * (1.0 + SLACK) - self.spent) / price(offer)))
        return min(rooms)

    def cost(self, offer: Offer) -> float:
        """$/h of one more worker as the choice sees it."""
        return with_start(offer) + self._worth(offer)

    def _worth(self, offer: Offer) -> float:
        if not self.shadow:
            return 0.0
        slots: tuple[Slot, Slot] = ((offer.instance_type, None), (offer.instance_type, self.key.namespace))
        return sum(self.shadow.get(slot, 0.0) for slot in slots) * offer.accelerators

    def give(self, variant: str, count: int) -> None:
        """Workers of the variant leave for the sake of another fleet."""
        offer = next(o for o in self.offers if o.variant == variant)
        lost = (offer.rate or 0.0) * count
        self.counts[variant] -= count
        self.given[variant] = self.given.get(variant, 0) + count
        used = min(self.spare, lost)
        self.spare -= used
        self.deficit = min(self.need, self.deficit + lost - used)

    def snapshot(self) -> Saved:
        """What :meth:`restore` takes."""
        return Saved(dict(self.counts), self.deficit, self.firm, self.spent, dict(self.added), self.short)

    def restore(self, saved: Saved, stock: Stock) -> None:
        """Be as before: what was bought since goes back into the stock."""
        for offer in self.offers:
            bought = self.added.get(offer.variant, 0) - saved.added.get(offer.variant, 0)
            if bought:
                stock.take(offer, self.key.namespace, -bought)
        self.counts, self.added = dict(saved.counts), dict(saved.added)
        self.deficit, self.firm, self.spent = saved.deficit, saved.firm, saved.spent
        self.short = saved.short
        self._queue = []
