"""Which replica forecasts which deployment: rendezvous hashing.

::

    owner(key) = argmax over replicas r of hash(r, key)

Every replica computes the same answer without asking anybody, and when a replica is added or removed only the keys
that it gains or held move (1/N of them).
"""

from __future__ import annotations

from hashlib import blake2b

from warmfleet_forecasting.history import Key


def owner(key: Key, replicas: int) -> int:
    """Number of the replica that forecasts ``key``."""
    return max(range(replicas), key=lambda replica: _hash(f"{replica}:{key}"))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
