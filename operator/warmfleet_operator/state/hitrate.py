"""What a scale event does to the prefix hit ratio: before against after.

::

    event   = a run of changes of the serving workers, no two further apart than the window W
    before  = hit ratio over the last W before the first change
    after   = hit ratio over the W after the last change
    kept    = after / before

Both are hits per looked-up token over the whole fleet, leavers included until they are gone. An event without traffic
before or after has no value: it is left out, not counted as zero.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from enum import StrEnum

from warmfleet_operator.state.records import Key

LEAST = 0.01
"""Hit ratio before an event below which there was nothing to lose."""


class Direction(StrEnum):
    """Which way the number of serving workers went."""

    IN = "in"
    OUT = "out"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class ScaleEvent:
    """A scale event, measured.

    Attributes:
        direction: Which way it went.
        before: Hit ratio before.
        after: Hit ratio after.
    """

    direction: Direction
    before: float
    after: float

    @property
    def kept(self) -> float | None:
        """Share of the hit ratio that is left; above 1 when it rose. None when there was none before."""
        return self.after / self.before if self.before >= LEAST else None


@dataclass(slots=True)
class _Watched:
    serving: frozenset[str]
    ratio: float | None = None
    count: int = 0
    before: float | None = None
    until: float | None = None


@dataclass(slots=True)
class HitRatioWatch:
    """Finds the scale events of all deployments.

    Attributes:
        window: Logical seconds that the hit ratio is measured over.
    """

    window: float
    _watched: dict[Key, _Watched] = field(default_factory=dict)

    def observe(self, key: Key, serving: Set[str], ratio: float | None, now: float) -> ScaleEvent | None:
        """Take in one look; the event that is over and measured with it, if any.

        Args:
            key: The deployment.
            serving: UIDs of the workers that take requests.
            ratio: Hit ratio over the last window; None while unknown.
            now: Logical seconds.
        """
        known = self._watched.get(key)
        if known is None:
            self._watched[key] = _Watched(frozenset(serving), ratio)
            return None
        if serving != known.serving:
            if known.until is None:
                known.before, known.count = known.ratio, len(known.serving)
            known.serving, known.until = frozenset(serving), now + self.window
        event = None
        if known.until is not None and now >= known.until:
            event = _measured(known, ratio)
            known.until = known.before = None
        known.ratio = ratio
        return event

    def forget(self, key: Key) -> None:
        """The deployment is gone."""
        self._watched.pop(key, None)


def _measured(known: _Watched, after: float | None) -> ScaleEvent | None:
    if known.before is None or after is None:
        return None
    more = len(known.serving) - known.count
    direction = Direction.OUT if more > 0 else Direction.IN if more < 0 else Direction.REPLACED
    return ScaleEvent(direction, known.before, after)
