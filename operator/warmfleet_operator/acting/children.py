"""Router, Service, accounts and disruption budget of a deployment: applied when they differ, left alone otherwise.

Each child carries the hash of what was applied. The operator keeps hash and generation of what it wrote; every few
minutes it reads the children again, so that a deleted or hand-edited one is brought back. An object of the same name
that belongs to somebody else is never taken over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from warmfleet_contracts import labels
from warmfleet_contracts.reasons import Reason
from warmfleet_runtime import resources
from warmfleet_runtime.resources import Resource

from warmfleet_operator.acting.rest import share_of
from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.settings import Settings
from warmfleet_operator.specs.common import SPEC_HASH, Object, short_hash
from warmfleet_operator.specs.disruption import disruption_budget, min_available
from warmfleet_operator.specs.routing import router_name, routing_children
from warmfleet_operator.state import parse
from warmfleet_operator.state.decisions import Problem
from warmfleet_operator.state.records import DeploymentRecord, Key, WorkerRecord

_LOG = logging.getLogger(__name__)
_BY_KIND = {
    resource.kind: resource
    for resource in (
        resources.SERVICES,
        resources.SERVICE_ACCOUNTS,
        resources.CONFIG_MAPS,
        resources.DEPLOYMENTS,
        resources.DISRUPTION_BUDGETS,
        resources.ROLES,
        resources.ROLE_BINDINGS,
    )
}
"""Kinds that a deployment's children may have."""
VERIFY_SECONDS = 300.0
"""Logical seconds after which the children are read again; half as long for some, so that not all fall due at once."""

_Name = tuple[str, str]


@dataclass(slots=True)
class _Known:
    hash: str
    generation: int
    checked: float


def wanted_children(
    record: DeploymentRecord, settings: Settings, desired: int, workers: Sequence[WorkerRecord], now: float
) -> list[Object]:
    """All children but the worker pods, in the order in which they are applied."""
    if record.spec is None:
        return []
    budget = disruption_budget(record, min_available(desired, workers, now))
    return routing_children(record, record.spec, settings) + ([budget] if budget is not None else [])


def possible_children(record: DeploymentRecord) -> list[_Name]:
    """(kind, name) of every child that a deployment may ever have had."""
    router = router_name(record)
    named = [(kind, router) for kind in ("Deployment", "RoleBinding", "Role", "ServiceAccount")]
    return [*named, ("Service", record.key.name), ("PodDisruptionBudget", record.key.name)]


class ChildrenKeeper:
    """Keeps the children of all deployments as they should be.

    Args:
        api: Guarded client.
    """

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._known: dict[Key, dict[_Name, _Known | None]] = {}

    async def keep(self, record: DeploymentRecord, children: Sequence[Object], now: float) -> tuple[Problem, ...]:
        """Apply what differs, delete what is no longer wanted.

        Returns:
            Names that are taken by objects of somebody else.

        Raises:
            KubeError: The API server refused, or could not be reached.
        """
        known = self._known.setdefault(record.key, {})
        problems: list[Problem] = []
        for child in children:
            name = (child["kind"], child["metadata"]["name"])
            if not await self._apply(record, child, known, name, now):
                text = f"{name[0]} {name[1]} exists and does not belong to this LLMDeployment; rename or delete it"
                problems.append(Problem(Reason.OPERATOR_ERROR, text))
        wanted = {(c["kind"], c["metadata"]["name"]) for c in children}
        for name in possible_children(record):
            if name not in wanted and known.get(name, _UNKNOWN) is not None:
                await self._remove(record, name)
                known[name] = None
        return tuple(problems)

    def forget(self, key: Key) -> None:
        """The deployment is gone."""
        self._known.pop(key, None)

    async def _apply(
        self, record: DeploymentRecord, child: Object, known: dict[_Name, _Known | None], name: _Name, now: float
    ) -> bool:
        digest = short_hash(child, 16)
        before = known.get(name)
        patience = VERIFY_SECONDS * (1 + share_of(record.key)) / 2
        if before is not None and before.hash == digest and now - before.checked < patience:
            return True
        resource = _BY_KIND[name[0]]
        live = await self._read(resource, record.key.namespace, name[1])
        if live is not None:
            if not _owned(live, record):
                return False
            generation = _generation(live)
            same = parse.texts(live["metadata"].get("annotations")).get(SPEC_HASH) == digest
            if same and (before is None or before.generation == generation):
                known[name] = _Known(digest, generation, now)
                return True
        meta = {**child["metadata"], "annotations": {SPEC_HASH: digest}}
        answer = await self._api.patch(
            resource,
            name[1],
            {**child, "metadata": meta},
            record.key.namespace,
            how="apply",
            field_manager=labels.FIELD_MANAGER,
        )
        known[name] = _Known(digest, _generation(answer), now)
        _LOG.info("applied", extra={"kind": name[0], "object": name[1], "namespace": record.key.namespace})
        return True

    async def _remove(self, record: DeploymentRecord, name: _Name) -> None:
        resource = _BY_KIND[name[0]]
        live = await self._read(resource, record.key.namespace, name[1])
        if live is None or not _owned(live, record):
            return
        await self._api.delete(resource, name[1], record.key.namespace, uid=live["metadata"]["uid"])
        _LOG.info("deleted", extra={"kind": name[0], "object": name[1], "namespace": record.key.namespace})

    async def _read(self, resource: Resource, namespace: str, name: str) -> Object | None:
        try:
            return await self._api.get(resource, name, namespace)
        except KubeError as error:
            if error.status == 404:
                return None
            raise


_UNKNOWN = _Known("", 0, 0.0)


def _owned(live: Object, record: DeploymentRecord) -> bool:
    owners = parse.items(parse.mapping(live.get("metadata")).get("ownerReferences"))
    return any(owner.get("uid") == record.uid for owner in owners)


def _generation(live: Object) -> int:
    return parse.whole(parse.mapping(live.get("metadata")).get("generation"))
