"""The keys that operator and agents know each other by: one Secret per namespace with workers.

The leader makes the Secret before the first worker of a namespace and rotates it by age; every replica reads it. It is
owned by the LLMDeployments of the namespace, all of them, so that it goes with the last. While kubelets refresh their
volumes, agents may still know the key before only: it stays in the Secret, and it is tried when an agent refuses the
newest one. A Secret that a person deletes is made anew: that is how one rotates by hand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from warmfleet_contracts import bearer, labels
from warmfleet_contracts.api import API_VERSION
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.resources import SECRETS

from warmfleet_operator.adapters import keysecret
from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.specs.common import Object
from warmfleet_operator.state import parse
from warmfleet_operator.state.records import DeploymentRecord, WorkerRecord

_LOG = logging.getLogger(__name__)
VERIFY_SECONDS = 300.0
"""Logical seconds after which a Secret is read again; sooner where keys are rotated more often than that."""
_IMPATIENT_SECONDS = 10.0
"""The same after an agent has refused what was known."""
_DIGEST_ITEMS = (bearer.DIGEST_ITEM, bearer.PREVIOUS_DIGEST_ITEM)


@dataclass(slots=True)
class _Known:
    keys: tuple[str, ...] = ()
    owners: frozenset[str] = frozenset()
    made: str = ""
    digests: tuple[str, ...] = ()
    read_at: float = float("-inf")
    refused: bool = False


class AgentKeys:
    """Keys by namespace.

    Args:
        api: Guarded client.
        clock: Time.
        rotation_seconds: Age at which a key is replaced; 0: never.
        digests: What agents are told of the tokens that open their metrics; none: they are open; None: not known yet.
        make: Makes a key.
    """

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        *,
        rotation_seconds: float = 0.0,
        digests: Callable[[], tuple[str, ...] | None] = lambda: (),
        make: Callable[[], str] = keysecret.made_key,
    ) -> None:
        self._api, self._clock, self._digests = api, clock, digests
        self._rotation = keysecret.Rotation(clock, rotation_seconds, make)
        self._verify = min(VERIFY_SECONDS, rotation_seconds / 2) if rotation_seconds > 0 else VERIFY_SECONDS
        self._known: dict[str, _Known] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    def bearers(self, worker: WorkerRecord) -> tuple[str, ...]:
        """Tokens for a worker's agent, in the order in which they are tried."""
        known = self._known.get(worker.key.namespace)
        return () if known is None else tuple(bearer.bearer(key, worker.uid) for key in known.keys)

    def refused(self, namespace: str) -> None:
        """An agent took none of the tokens: the Secret may have changed."""
        self._known.setdefault(namespace, _Known()).refused = True

    async def refresh(self, namespace: str) -> None:
        """Read a namespace's Secret, unless that was done lately; what cannot be read stays as it was known."""
        if not self._due(namespace):
            return
        try:
            self._take_in(namespace, await self._read(namespace))
        except KubeError as error:
            self._known.setdefault(namespace, _Known()).read_at = self._clock.now()
            _LOG.warning("keys of agents: %s", error)

    async def ensure(self, record: DeploymentRecord) -> bool:
        """Make the Secret of a deployment's namespace, or rotate it, or note one more owner, as needed.

        The deployments of a namespace take turns: each adds itself to what the one before has written. All at once,
        one would succeed and the others meet a conflict, round after round.

        Returns:
            Whether all is as it should be; otherwise somebody else was faster, and the rest is done next time.

        Raises:
            KubeError: The API server refused, or could not be reached.
        """
        namespace = record.key.namespace
        async with self._turns.setdefault(namespace, asyncio.Lock()):
            known = self._known.get(namespace)
            if known is None or not self._current(known, record) or self._due(namespace):
                live = await self._read(namespace)
                self._take_in(namespace, live)
                known = self._known[namespace]
                if live is None:
                    live = await self._made(record, known.keys[:1])
                elif changes := self._changes(live, record):
                    live = await self._changed(namespace, changes)
                self._take_in(namespace, live)
            return self._current(self._known[namespace], record)

    async def _made(self, record: DeploymentRecord, before: tuple[str, ...]) -> Object | None:
        """The new Secret, or the one that another deployment of the namespace has just made."""
        try:
            return await self._api.create(SECRETS, self._body(record, before), record.key.namespace)
        except KubeError as error:
            if error.status != 409:
                raise
            return await self._read(record.key.namespace)

    async def _changed(self, namespace: str, changes: Object) -> Object | None:
        """The Secret with the changes, or as somebody else has just changed it: the rest is done next time."""
        try:
            return await self._api.patch(SECRETS, bearer.SECRET_NAME, changes, namespace)
        except KubeError as error:
            if error.status != 409:
                raise
            return await self._read(namespace)

    async def _read(self, namespace: str) -> Object | None:
        try:
            return await self._api.get(SECRETS, bearer.SECRET_NAME, namespace)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def _due(self, namespace: str) -> bool:
        known = self._known.get(namespace)
        if known is None:
            return True
        patience = _IMPATIENT_SECONDS if known.refused or not known.keys else self._verify
        return self._clock.now() - known.read_at >= patience

    def _current(self, known: _Known, record: DeploymentRecord) -> bool:
        """Whether nothing has to change, as far as is known: ``refresh`` reads too, and then it is not due for long."""
        told = self._digests() in (None, known.digests)
        return bool(known.keys) and record.uid in known.owners and told and not self._rotation.due(known.made)

    def _take_in(self, namespace: str, live: Object | None) -> None:
        known = self._known.setdefault(namespace, _Known())
        known.read_at, known.refused = self._clock.now(), False
        if live is None:
            known.owners = frozenset()  # the keys stay: agents know them until their volumes are refreshed
            return
        found = keysecret.keys(live)
        if found:
            known.keys = found + tuple(k for k in known.keys[:1] if k not in found)
        meta = parse.mapping(live.get("metadata"))
        known.made, known.digests = keysecret.rotated(live), _told(live)
        owners = parse.items(meta.get("ownerReferences")) if found else ()  # a broken one is mended as if it were new
        known.owners = frozenset(str(owner.get("uid")) for owner in owners)

    def _body(self, record: DeploymentRecord, before: tuple[str, ...]) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": bearer.SECRET_NAME,
                "namespace": record.key.namespace,
                "labels": {labels.MANAGED_BY: labels.MANAGED_BY_VALUE, "app.kubernetes.io/name": "warmfleet"},
                "annotations": self._rotation.stamp(),
                "ownerReferences": [_owner(record)],
            },
            "data": self._rotation.data(before) | _telling(self._digests() or ()),
        }

    def _changes(self, live: Object, record: DeploymentRecord) -> Object:
        """What must change in a Secret that is there, as a merge patch; empty when nothing must."""
        meta = parse.mapping(live.get("metadata"))
        owners = list(parse.items(meta.get("ownerReferences")))
        changed: Object = {}
        if record.uid not in {owner.get("uid") for owner in owners}:
            changed["ownerReferences"] = [*owners, _owner(record)]
        found, data, digests = keysecret.keys(live), {}, self._digests()
        if not found or self._rotation.due(keysecret.rotated(live)):
            changed["annotations"] = self._rotation.stamp()
            data = self._rotation.data(found[:1])
        if digests is not None and digests != _told(live):
            data |= dict.fromkeys(_DIGEST_ITEMS) | _telling(digests)
        if not changed and not data:
            return {}
        changed |= {"uid": meta.get("uid"), "resourceVersion": meta.get("resourceVersion")}
        return {"metadata": changed, "data": data} if data else {"metadata": changed}


def _owner(record: DeploymentRecord) -> Object:
    return {"apiVersion": API_VERSION, "kind": "LLMDeployment", "name": record.key.name, "uid": record.uid}


def _told(live: Object) -> tuple[str, ...]:
    return tuple(filter(None, (keysecret.item(live, name) for name in _DIGEST_ITEMS)))


def _telling(digests: tuple[str, ...]) -> Object:
    return keysecret.encoded(dict(zip(_DIGEST_ITEMS, digests, strict=False)))
