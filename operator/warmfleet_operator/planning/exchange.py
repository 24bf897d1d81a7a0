"""When a fleet that has all it needs buys a cheaper mix.

::

    quiet    everything known and wanted is there, serves and stays; no panic, no failed starts, no other change
    exchange when ``mix.swap`` has found the same to be worth it for the whole hold, while quiet

What was bought so has twice its start-up time to serve before it may be cancelled as superfluous.
"""

from __future__ import annotations

from warmfleet_operator.planning import demand
from warmfleet_operator.planning.draft import Draft
from warmfleet_operator.planning.mix import Stock
from warmfleet_operator.planning.mix.swap import buy, cheaper
from warmfleet_operator.state.memory import evolve

_PATIENCE = 2.0


def exchange(draft: Draft, stock: Stock, now: float) -> None:
    """Let one fleet buy what makes dearer workers superfluous; its memory is brought up to date."""
    memory, growth = draft.memory, draft.growth
    if memory.swap_until is not None and now >= memory.swap_until:
        memory = evolve(memory, swap_until=None)
    found: dict[str, int] = {}
    if draft.need is not None and memory.swap_until is None and _quiet(draft, now):
        serving: dict[str, int] = {}
        for worker in draft.roster.ready:
            serving[worker.variant] = serving.get(worker.variant, 0) + 1
        found = cheaper(growth, serving, draft.need, draft.hold, stock)
    since = memory.cheaper_since if memory.cheaper_since is not None else now
    if not found:
        memory = evolve(memory, cheaper_since=None) if memory.cheaper_since is not None else memory
    elif now - since < draft.hold:
        memory = evolve(memory, cheaper_since=since)
    elif buy(growth, found, stock):
        growth.swapped = True
        longest = max(draft.offers[name].startup for name in found)
        memory = evolve(memory, cheaper_since=None, swap_until=now + _PATIENCE * longest)
    draft.memory = memory


def _quiet(draft: Draft, now: float) -> bool:
    growth, people, memory = draft.growth, draft.roster, draft.memory
    if draft.fixed or len(draft.offers) < 2 or draft.traffic.grade is not demand.Grade.COMPLETE:
        return False
    if growth.wanting or growth.added or growth.given or draft.cancels or draft.pauses.creates or draft.pauses.victims:
        return False
    if people.retiring or people.draining or len(people.kept) > len(people.ready):
        return False
    return growth.allowance is None and (memory.panic_until is None or now >= memory.panic_until)
