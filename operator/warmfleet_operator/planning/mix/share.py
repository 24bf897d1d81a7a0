"""Who gets what is scarce.

::

    enough    each fleet what is cheapest for it, as long as that fits the limits
    fits      all are served in full at the least total cost: shadow prices, fleets apart, then each fleet again with
              what the others leave it
    short     worker by worker to the highest priority, then to whom is furthest from its minimum, then from what the
              reactive rule would ask for, then from its need, then by name; ``priority`` says who gives way

Deterministic, and blind to the order of the input. The work is bounded by numbers of nodes and rounds, not by seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from warmfleet_operator.planning.mix.growth import Growth, Saved, Short, with_start
from warmfleet_operator.planning.mix.priority import give_way
from warmfleet_operator.planning.mix.shadow import shadow_prices
from warmfleet_operator.planning.mix.stock import Slot, Stock
from warmfleet_operator.planning.mix.trade import trade
from warmfleet_operator.state.records import Key

ALL_NODES = 100_000
"""Nodes of all searches of one round together, at most."""
FEWEST_NODES = 60
MOST_NODES = 4_000
SMALL = 20
"""Fleets up to which several scalings of the shadow prices are tried, and fleets asked again."""
_ROUNDS = 3
_Bill = tuple[float, float]


def share_out(growths: Iterable[Growth], stock: Stock) -> None:
    """Let all deployments buy; see the module's docstring for who comes first."""
    everyone = sorted(growths, key=lambda g: g.key)
    wanting = [g for g in everyone if g.wanting]
    nodes = max(FEWEST_NODES, min(MOST_NODES, ALL_NODES // max(1, len(wanting))))
    limited: list[Growth] = []
    for growth in wanting:
        growth.nodes = nodes
        if growth.limited(stock):
            limited.append(growth)
        else:
            _fill(growth, stock)
    if limited and not _enough(limited, stock) and not _fits(limited, stock):
        _in_turn(limited, everyone, stock)


def _fill(growth: Growth, stock: Stock) -> None:
    while growth.wanting and _step(growth, stock, bulk=True):
        pass


def _step(growth: Growth, stock: Stock, *, bulk: bool = False) -> bool:
    try:
        return growth.step(stock, bulk=bulk)
    except Exception as error:  # noqa: BLE001 - one deployment must not keep the others from being planned
        growth.error = error
        return False


def _enough(growths: Sequence[Growth], stock: Stock) -> bool:
    """Buy as if there were no limits; False, and nothing is bought, when that is more than there is."""
    before = [g.snapshot() for g in growths]
    endless = Stock({}, ())
    used: dict[Slot, int] = {}
    for growth in growths:
        _fill(growth, endless)
        for offer in growth.offers:
            if count := growth.added.get(offer.variant, 0):
                for slot in stock.slots(offer.instance_type, growth.key.namespace):
                    used[slot] = used.get(slot, 0) + count * offer.accelerators
    if all(amount <= stock.free[slot] for slot, amount in used.items()):
        for slot, amount in used.items():
            stock.free[slot] -= amount
        return True
    for growth, saved in zip(growths, before, strict=True):
        growth.restore(saved, endless)
    return False


def _fits(growths: Sequence[Growth], stock: Stock) -> bool:
    """Serve all in full at the least cost; False, and nothing is bought, when there is no way found to do so."""
    before = [g.snapshot() for g in growths]
    prices, keen = shadow_prices(growths, stock)
    eager = [g for _, g in sorted(zip(keen, growths, strict=True), key=lambda pair: (-pair[0], pair[1].key))]
    usual = sorted(growths, key=Growth.rank)
    small = len(growths) <= SMALL
    best: tuple[_Bill, list[Saved]] | None = None
    ways = ((1.0, eager), (1.0, usual), (0.5, eager), (0.0, usual))
    for scale, order in ways if small else ways[:1]:
        _again(growths, before, stock, {slot: p * scale for slot, p in prices.items()})
        if not _serve(order, stock):
            continue
        if small:
            _improve(growths, before, stock)
        bill = _bill(growths)
        if best is None or bill < best[0]:
            best = bill, [g.snapshot() for g in growths]
    if best is None:
        _again(growths, before, stock, prices)
        return False
    for growth, saved in zip(growths, best[1], strict=True):
        growth.restore(saved, stock)
    if small:
        trade(growths, before, stock, prices)
    return True


def greedy(growths: Sequence[Growth], stock: Stock) -> bool:
    """The answer that is always there: each fleet in turn what is cheapest for it of what is left.

    Returns:
        Whether all are served.
    """
    return _serve(sorted(growths, key=Growth.rank), stock)


def _again(growths: Sequence[Growth], before: Sequence[Saved], stock: Stock, shadow: Mapping[Slot, float]) -> None:
    for growth, saved in zip(growths, before, strict=True):
        growth.restore(saved, stock)
        growth.shadow = shadow


def _serve(growths: Sequence[Growth], stock: Stock) -> bool:
    for growth in growths:
        _fill(growth, stock)
        if growth.short is Short.STOCK:
            return False
    return True


def _improve(growths: Sequence[Growth], before: Sequence[Saved], stock: Stock) -> None:
    """Ask each fleet again, with what the others leave it and without shadow prices."""
    for _ in range(_ROUNDS):
        changed = False
        for growth, fresh in zip(growths, before, strict=True):
            now, bill, shadow = growth.snapshot(), _bill([growth]), growth.shadow
            growth.restore(fresh, stock)
            growth.shadow = {}
            _fill(growth, stock)
            if growth.short is not Short.STOCK and _bill([growth]) < bill:
                changed = True
            else:
                growth.restore(now, stock)
            growth.shadow = shadow
        if not changed:
            return


def _bill(growths: Sequence[Growth]) -> _Bill:
    """(requests/s that are still missing, $/h), rounded so that equal answers are equal."""
    missing = sum(g.deficit for g in growths)
    cost = sum(with_start(o) * g.added.get(o.variant, 0) for g in growths for o in g.offers)
    return round(missing, 6), round(cost, 6)


def _in_turn(growths: Sequence[Growth], everyone: Sequence[Growth], stock: Stock) -> None:
    """Share out what does not suffice, the highest priority first."""
    turn = {g.key: g for g in growths}
    levels = sorted({g.priority for g in everyone}, reverse=True)
    for level in levels:
        mine = [g for g in turn.values() if g.priority == level and g.wanting]
        _by_worker(mine, stock)
        below = [g for g in everyone if g.priority < level or (g.priority == level and g.beyond > 0)]
        for growth in sorted(mine, key=Growth.rank) if below else ():
            for loser in give_way(growth, below, stock):
                turn.setdefault(loser.key, loser)


def _by_worker(growths: Sequence[Growth], stock: Stock) -> None:
    queue: list[tuple[tuple[int, int, float, Key], Growth]] = [(g.rank(), g) for g in growths]
    heapq.heapify(queue)
    while queue:
        _, growth = heapq.heappop(queue)
        if _step(growth, stock) and growth.wanting:
            heapq.heappush(queue, (growth.rank(), growth))
