"""Python's garbage collector, set for processes that keep a large state for long and replace it piece by piece.

The state (objects of the cluster, plans) is made of trees: reference counts free it. The collector only has to find the
few cycles, and by default it looks through everything that is young after every 700 allocations.
"""

from __future__ import annotations

import gc

YOUNG = 50_000
"""Allocations, less deallocations, between two looks at the youngest objects."""


def settle() -> None:
    """Leave what was imported alone for good, and look at young objects less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
