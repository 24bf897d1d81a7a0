"""Writes whose result has not been seen yet.

A watch lags behind writes. The answer of a successful write is fed into the store at once, so what remains unknown are
requests without an answer: a create that timed out may or may not have happened. Until its pod shows up, or until
:data:`EXPIRY` has passed, such a pod counts as there, so that nothing is created twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Set
from dataclasses import replace

from warmfleet_operator.state.records import Key, WorkerPhase, WorkerRecord

EXPIRY = 60.0
"""Logical seconds after which an unseen create is given up; its name is deterministic, so that a late success
collides with the next attempt instead of doubling it."""


class Expectations:
    """Pods that were asked for and not seen yet. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._creates: dict[Key, tuple[WorkerRecord, float]] = {}

    def creating(self, worker: WorkerRecord, now: float) -> None:
        """A create request is about to be sent."""
        with self._lock:
            self._creates[worker.key] = (replace(worker, phase=WorkerPhase.UNSCHEDULED), now + EXPIRY)

    def settled(self, key: Key) -> None:
        """The create was answered: the pod is in the store, or the API server refused it."""
        with self._lock:
            self._creates.pop(key, None)

    def unseen(self, seen: Set[Key], now: float) -> tuple[WorkerRecord, ...]:
        """Records of the pods that may be there although no watch has shown them."""
        with self._lock:
            gone = [key for key, (_, until) in self._creates.items() if key in seen or now >= until]
            for key in gone:
                del self._creates[key]
            return tuple(record for record, _ in self._creates.values())

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop expectations of deployments that are gone."""
        with self._lock:
            for deployment in keys:
                for key in [k for k, (w, _) in self._creates.items() if w.deployment_key == deployment]:
                    del self._creates[key]
