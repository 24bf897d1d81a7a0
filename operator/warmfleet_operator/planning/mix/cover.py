"""One fleet by itself: the cheapest whole numbers of workers that carry a need.

::

    minimise    sum cost_v * x_v                     0 <= x_v <= most_v,  sum x_v <= slots
    subject to  sum rate_v * x_v   >= need
                sum steady_v * x_v >= steady         what is left when spot capacity is reclaimed

Depth-first branch and bound over the kinds in order of cost per request, most workers of a kind first. What is still
missing below a node costs at least ``missing * min(cost / rate)`` of the kinds that are left (the relaxation without
whole numbers); a node that cannot beat the best answer so far is left out. The first leaf is the greedy answer, so
there always is one, and the number of nodes is bounded: the answer depends on nothing but the arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

NODES = 2_000
"""Nodes that are looked at, at most."""
MANY = 1_000_000
"""More workers than any fleet has."""
_EPS = 1e-9


class Item(NamedTuple):
    """A kind of worker.

    Attributes:
        rate: Requests/s of one, above 0.
        cost: What one costs, $/h; finite, not negative.
        most: Most workers of it.
        steady: Requests/s of one that are counted on when spot capacity is reclaimed.
    """

    rate: float
    cost: float
    most: int
    steady: float


def cover(
    items: Sequence[Item],
    need: float,
    *,
    steady: float = 0.0,
    slots: int = MANY,
    nodes: int = NODES,
) -> tuple[int, ...]:
    """Workers by kind, in the order of ``items``. What cannot be carried is carried as far as it goes.

    Args:
        items: Kinds; of equally good ones the first is taken.
        need: Requests/s.
        steady: Requests/s that must be left when spot capacity is reclaimed.
        slots: Most workers of all kinds together.
        nodes: Nodes that are looked at, at most.
    """
    slack = _EPS * max(1.0, need)
    need, steady = need - slack, _within_reach(items, steady, slots) - slack
    if need <= 0 and steady <= 0:
        return (0,) * len(items)
    if len(items) == 1:
        return (min(_missing(items[0], need, steady), items[0].most, slots),)
    found = _Search(items, need, steady, slots, nodes).run()
    return found if found is not None else _fill(items, need, steady, slots)


def answers(
    items: Sequence[Item],
    need: float,
    *,
    steady: float,
    slots: int,
    nodes: int,
    within: float,
    most: int,
) -> list[tuple[int, ...]]:
    """Several good answers, the best first.

    Args:
        items: As for :func:`cover`.
        need: As there.
        steady: As there.
        slots: As there.
        nodes: As there.
        within: How much dearer than the best an answer may be, relative.
        most: Answers, at most.
    """
    if need <= 0 and steady <= 0:
        return []
    steady = _within_reach(items, steady, slots)
    search = _Search(items, need - _EPS * max(1.0, need), steady, slots, nodes, within)
    search.run()
    return search.good(most)


def _within_reach(items: Sequence[Item], steady: float, slots: int) -> float:
    """``steady``, or what all of the kinds come to where that is less: nothing more is bought for its sake."""
    if steady <= 0:
        return steady
    return min(steady, sum(item.steady * min(item.most, slots) for item in items))


def _missing(item: Item, need: float, steady: float) -> int:
    """Workers of one kind that carry what is missing."""
    count = math.ceil(need / item.rate) if need > 0 else 0
    if steady > 0 and item.steady > 0:  # of what is not counted on, no number helps
        count = max(count, math.ceil(steady / item.steady))
    return min(count, MANY)


def _fill(items: Sequence[Item], need: float, steady: float, slots: int) -> tuple[int, ...]:
    """The largest workers first: the most capacity for the slots there are."""
    out = [0] * len(items)
    for i in sorted(range(len(items)), key=lambda i: (-items[i].rate, items[i].cost, i)):
        item = items[i]
        out[i] = min(_missing(item, need, steady if item.steady > 0 else 0.0), item.most, slots)
        slots -= out[i]
        need -= out[i] * item.rate
        steady -= out[i] * item.steady
        if need <= 0 and steady <= 0:
            break
    return tuple(out)


class _Search:
    """The state of one search; kinds are in order of cost per request."""

    def __init__(
        self, items: Sequence[Item], need: float, steady: float, slots: int, nodes: int, within: float = 0.0
    ) -> None:
        self._within, self._leaves = 1.0 + within, dict[tuple[int, ...], float]()
        self._order = sorted(range(len(items)), key=lambda i: (items[i].cost / items[i].rate, -items[i].rate, i))
        self._items = [items[i] for i in self._order]
        self._need, self._steady, self._slots, self._left = need, steady, slots, nodes
        count = len(items)
        self._unit, self._firm = [math.inf] * (count + 1), [math.inf] * (count + 1)
        self._rest, self._rate = [0.0] * (count + 1), [0.0] * (count + 1)
        for i in range(count - 1, -1, -1):
            item = self._items[i]
            self._unit[i] = min(self._unit[i + 1], item.cost / item.rate)
            self._firm[i] = min(self._firm[i + 1], item.cost / item.steady if item.steady > 0 else math.inf)
            self._rest[i] = self._rest[i + 1] + item.rate * item.most
            self._rate[i] = max(self._rate[i + 1], item.rate)
        self._counts = [0] * count
        self._best: tuple[int, ...] | None = None
        self._cost = math.inf

    def run(self) -> tuple[int, ...] | None:
        """The best answer found; None when there is none that carries everything."""
        if self._rest[0] < self._need or self._slots * self._rate[0] < self._need:
            return None
        self._descend(0, self._need, self._steady, self._slots, 0.0)
        if self._best is None:
            return None
        return self._usual(self._best)

    def good(self, most: int) -> list[tuple[int, ...]]:
        """The answers found that are within the tolerance of the best."""
        found = sorted((cost, leaf) for leaf, cost in self._leaves.items() if cost <= self._cost * self._within)
        return [self._usual(leaf) for _, leaf in found[:most]]

    def _usual(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        out = [0] * len(self._items)
        for place, i in enumerate(self._order):
            out[i] = counts[place]
        return tuple(out)

    def _descend(self, at: int, need: float, steady: float, slots: int, cost: float) -> None:
        item = self._items[at]
        last = at + 1 == len(self._items)
        top = min(_missing(item, need, steady), item.most, slots)
        for count in range(top, -1, -1):
            if self._left <= 0 and self._best is not None:
                return
            self._left -= 1
            paid = cost + count * item.cost
            rest, firm = need - count * item.rate, steady - count * item.steady
            self._counts[at] = count
            if rest <= 0 and firm <= 0:
                if self._within > 1.0 and paid <= self._cost * self._within:
                    self._leaves[tuple(self._counts)] = paid
                if paid < self._cost - _EPS * max(1.0, paid):
                    self._cost, self._best = paid, tuple(self._counts)
                continue
            if rest > 0 and paid + rest * self._unit[at + 1] >= self._cost * self._within * (1.0 - _EPS):
                break  # fewer of this kind leave even more to the dearer ones
            if last or self._hopeless(at + 1, rest, firm, slots - count, paid):
                continue
            self._descend(at + 1, rest, firm, slots - count, paid)
        self._counts[at] = 0

    def _hopeless(self, at: int, rest: float, firm: float, slots: int, paid: float) -> bool:
        """Whether what is left cannot carry the rest, or not at a better price."""
        if rest > self._rest[at] or rest > slots * self._rate[at]:
            return True
        return firm > 0 and paid + firm * self._firm[at] >= self._cost * self._within * (1.0 - _EPS)
