"""Coordinated samples of block sets: small enough to publish, and comparable across workers.

::

    value(h)  = the first 64 bits of block hash h, uniform because h is a cryptographic hash; the same on every worker
    sketch_i  = (below_i, { v in S_i : v < below_i }),  below_i such that at most SIZE values remain
    unique_i ~= |S_i| * u / n,   n = values of sketch_i under  min_j below_j,   u = those of the n in no other sketch

Because all workers keep the same part of the hash space, a value under every ``below`` is either in a worker's sketch
or not in its set at all: no estimate is involved in asking who else has a block. What remains is the error of taking n
of |S_i| blocks at random, of standard deviation at most |S_i| / (2 sqrt(n)): relative to the worker's own set and not
to the union of all, which a difference of two union estimates would give. With sets of equal size n is about SIZE.

Bottom-k sampling: Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SIZE = 512
"""Most values in a sketch: a standard error of at most 2.2 % of a worker's own set; 5.5 KB as text."""
SPACE = 2**64
MAX_TEXT = 4 * -(-8 * (SIZE + 1) // 3) + 4
"""Characters of the longest sketch."""


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """A sample of one set.

    Attributes:
        values: The values below the bound.
        below: Bound of the sampled part of the hash space; :data:`SPACE` when the sample is the whole set.
    """

    values: frozenset[int]
    below: int = SPACE

    def encode(self) -> str:
        """As text: the bound less one, then the values in ascending order, 8 bytes each, in base64."""
        numbers = [self.below - 1, *sorted(self.values)]
        return base64.b64encode(struct.pack(f">{len(numbers)}Q", *numbers)).decode("ascii")


def value_of(block: bytes | int) -> int:
    """Place of a block hash in the hash space; integers are the engine's own 64-bit cut of the hash."""
    return block if isinstance(block, int) else int.from_bytes(block[:8], "big")


def sample(values: Iterable[int], below: int = SPACE) -> Sketch:
    """The sketch of a set.

    Args:
        values: Values of its blocks, of all those below ``below`` at least.
        below: Values from here on are not known completely.
    """
    lowest = sorted(v for v in set(values) if v < below)
    if len(lowest) > SIZE:
        below = lowest[SIZE]
    return Sketch(frozenset(lowest[:SIZE]), below)


def decode(text: str) -> Sketch:
    """A sketch from its text.

    Raises:
        ValueError: It is none.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a sketch is not base64") from None
    if not raw or len(raw) % 8 or len(raw) > 8 * (SIZE + 1):
        raise ValueError(f"a sketch has 1 to {SIZE + 1} numbers of 8 bytes, not {len(raw)} bytes")
    last, *values = struct.unpack(f">{len(raw) // 8}Q", raw)
    if any(v > last for v in values):
        raise ValueError("a sketch holds values outside of what it samples")
    return Sketch(frozenset(values), last + 1)


def departure_tokens(held: Mapping[str, tuple[int, Sketch]], staying: Iterable[str] = ()) -> dict[str, int]:
    """Tokens that each worker would take along, in the order in which least is lost.

    The one with the fewest unique tokens leaves first; what it shared with one other worker only is from then on
    unique to that one. So of two workers that hold the same, the first costs nothing and the second everything, and
    the figures never fall along the order of leaving: sorting by them gives that order.

    Args:
        held: Tokens and sketch by worker.
        staying: Workers that cannot leave: their blocks count as held, and they get no figure.

    Returns:
        Tokens by worker, of those that can leave.
    """
    below = min((sketch.below for _, sketch in held.values()), default=SPACE)
    mine = {name: [v for v in sketch.values if v < below] for name, (_, sketch) in held.items()}
    holders: dict[int, set[str]] = {}
    for name, values in mine.items():
        for v in values:
            holders.setdefault(v, set()).add(name)
    unique = dict.fromkeys(held, 0)
    for names in holders.values():
        if len(names) == 1:
            unique[next(iter(names))] += 1
    rest = set(held) - set(staying)
    costs: dict[str, int] = {}

    def cost(name: str) -> int:
        # Without a sample, nothing is known to be shared.
        return round(held[name][0] * unique[name] / len(mine[name])) if mine[name] else held[name][0]

    last = 0
    while rest:
        first = min(rest, key=lambda name: (cost(name), name))
        last = costs[first] = max(last, cost(first))
        rest.remove(first)
        for v in mine[first]:
            names = holders[v]
            names.discard(first)
            if len(names) == 1:
                unique[next(iter(names))] += 1
    return costs
