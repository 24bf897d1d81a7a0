"""Accelerators that are still free.

::

    free(type)            = limit.accelerators - accelerators of all pods of the type
    free(type, namespace) = the namespace's limit - accelerators of its pods of the type
    leaving(type, ...)    = accelerators of pods that are on their way out: they come free, but not yet

Every pod holds its own until it is gone, so a limit is never exceeded by a fleet that grows before another has finished
to shrink; a limit that was lowered stops purchases and kills nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.state.records import InstanceTypeRecord, WorkerRecord

Slot = tuple[str, str | None]
"""InstanceType and namespace; None for the limit over all namespaces."""


class Stock:
    """Accelerators under the limits of the InstanceTypes.

    Attributes:
        free: Accelerators by limit; absent where there is no limit.
        leaving: Accelerators that come free by themselves, by limit.
    """

    def __init__(self, types: Mapping[str, InstanceTypeRecord], workers: Iterable[WorkerRecord]) -> None:
        self.free: dict[Slot, int] = {}
        self.leaving: dict[Slot, int] = {}
        for name, record in types.items():
            if record.spec is None:
                continue
            limit = record.spec.limit
            if limit.accelerators is not None:
                self.free[name, None] = limit.accelerators
            for share in limit.namespaces:
                self.free[name, share.namespace] = share.accelerators
        if not self.free:
            return
        for worker in workers:
            held = max(1, worker.accelerators)
            for slot in self.slots(worker.instance_type, worker.key.namespace):
                self.free[slot] -= held
                if worker.leaving:
                    self.leaving[slot] = self.leaving.get(slot, 0) + held

    def slots(self, instance_type: str, namespace: str) -> list[Slot]:
        """The limits that hold for a type in a namespace."""
        both: tuple[Slot, Slot] = ((instance_type, None), (instance_type, namespace))
        return [slot for slot in both if slot in self.free]

    def limited(self, offer: Offer, namespace: str) -> bool:
        """Whether any limit holds for the offer."""
        return (offer.instance_type, None) in self.free or (offer.instance_type, namespace) in self.free

    def room(self, offer: Offer, namespace: str) -> int | None:
        """How many more workers fit the limits; None without any limit."""
        free = self.free.get((offer.instance_type, None))
        share = self.free.get((offer.instance_type, namespace))
        if free is None and share is None:
            return None
        least = min(x for x in (free, share) if x is not None)
        return max(0, least // offer.accelerators)

    def has(self, offer: Offer, namespace: str) -> bool:
        """Whether one more worker fits the limits."""
        room = self.room(offer, namespace)
        return room is None or room > 0

    def take(self, offer: Offer, namespace: str, count: int = 1) -> None:
        """More workers hold their accelerators; fewer when ``count`` is negative."""
        for slot in self.slots(offer.instance_type, namespace):
            self.free[slot] -= offer.accelerators * count

    def claim(self, offer: Offer, namespace: str, accelerators: int) -> int:
        """Reserve accelerators that come free by themselves; how many of those asked for do not."""
        slots = self.slots(offer.instance_type, namespace)
        coming = min((max(0, self.free[s]) + self.leaving.get(s, 0) for s in slots), default=0)
        got = min(accelerators, coming)
        for slot in slots:
            self.leaving[slot] = self.leaving.get(slot, 0) - got
        return accelerators - got
