"""The token that opens ``/metrics``: one Secret in the operator's own namespace, for whoever scrapes.

The installation brings the Secret empty, so that it goes with it and no manifest holds a token; the leader fills it and
rotates it by age. Every replica reads it. Agents are told the tokens' digests, through the Secret with their key. A
token is replaced by hand by removing the Secret's items.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from warmfleet_contracts import bearer
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.resources import SECRETS

from warmfleet_operator.adapters import keysecret
from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.adapters.lease import NotLeaderError
from warmfleet_operator.specs.common import Object

_LOG = logging.getLogger(__name__)
PERIOD_SECONDS = 60.0
"""Logical seconds between two readings of the Secret; sooner where keys are rotated more often than that."""
_IMPATIENT_SECONDS = 5.0
"""The same while no token is known."""


class MetricsKey:
    """Tokens that open ``/metrics``.

    Args:
        api: Guarded client.
        clock: Time.
        namespace: The operator's own.
        leads: Whether this process may write.
        rotation: When the token is replaced.
    """

    def __init__(
        self, api: KubeApi, clock: Clock, *, namespace: str, leads: Callable[[], bool], rotation: keysecret.Rotation
    ) -> None:
        self._api, self._clock, self._namespace, self._leads = api, clock, namespace, leads
        self._rotation = rotation
        self._known: tuple[str, ...] = ()
        self._problem = ""

    def tokens(self) -> tuple[str, ...]:
        """Those that are taken now; none before the Secret was read."""
        return self._known

    def digests(self) -> tuple[str, ...] | None:
        """What agents are told; None before the Secret was read."""
        return tuple(map(bearer.digest, self._known)) or None

    async def run(self) -> None:
        """Read, fill and rotate the Secret for ever."""
        period = min(PERIOD_SECONDS, self._rotation.seconds / 2) if self._rotation.seconds > 0 else PERIOD_SECONDS
        while True:
            await self.look()
            await self._clock.sleep(period if self._known else _IMPATIENT_SECONDS)

    async def look(self) -> None:
        """Do it once; what cannot be read or written stays as it was, and that is said once."""
        problem = ""
        try:
            live = await self._api.get(SECRETS, bearer.METRICS_SECRET_NAME, self._namespace)
            if self._leads() and self._wanting(live):
                live = await self._filled(live)
            self._known = keysecret.keys(live) or self._known
        except KubeError as error:
            problem = f"{error.status}: {error}"
            if problem != self._problem:
                _LOG.error("token of the metrics: %s", error)
        except NotLeaderError:
            _LOG.info("token of the metrics: another replica leads now")
        self._problem = problem

    def _wanting(self, live: Object) -> bool:
        return not keysecret.keys(live) or self._rotation.due(keysecret.rotated(live))

    async def _filled(self, live: Object) -> Object:
        meta = {name: live["metadata"].get(name) for name in ("uid", "resourceVersion")}
        changes = {
            "metadata": {**meta, "annotations": self._rotation.stamp()},
            "data": self._rotation.data(keysecret.keys(live)[:1] or self._known[:1]),
        }
        return await self._api.patch(SECRETS, bearer.METRICS_SECRET_NAME, changes, self._namespace)
