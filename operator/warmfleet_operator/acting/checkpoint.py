"""Keeps the planner's memory over restarts: one small ConfigMap per LLMDeployment, owned by it.

Written at most every few minutes, on a graceful stop, and only when something changed that a restart must not forget;
an idle fleet causes no writes. What is not yet written when the process dies costs patience, not workers: without a
memory the planner takes what is there as what was wanted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from warmfleet_contracts import labels
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.resources import CONFIG_MAPS

from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.specs.common import Object, metadata
from warmfleet_operator.state import checkpoint, parse
from warmfleet_operator.state.memory import DeploymentMemory, PlannerMemory
from warmfleet_operator.state.records import DeploymentRecord, FleetSnapshot, Key

_LOG = logging.getLogger(__name__)
COMPONENT = "memory"
_FIELD = "memory.json"
_SELECTOR = f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE},{labels.COMPONENT}={COMPONENT}"
_TEMPLATE = "template.json"
_MAX_BYTES = 256 * 1024


def map_name(deployment: str) -> str:
    """Name of a deployment's ConfigMap."""
    return f"{deployment}-memory"


def essence(memory: DeploymentMemory) -> tuple[Any, ...]:
    """What must not be forgotten: decisions and what was learned, without times that move with every tick."""
    return (
        memory.uid,
        memory.generation,
        tuple(sorted(memory.desired.items())),
        memory.planned,
        memory.panic_until,
        tuple(sorted((name, known.attempts) for name, known in memory.failures.items())),
        tuple(sorted(memory.avoid)),
        tuple(sorted((name, known.applied) for name, known in memory.learned.items())),
        revisions_of(memory),
    )


def starts(memory: DeploymentMemory) -> tuple[Any, ...]:
    """What was learned of starts: written along with the rest, and when the process stops, but no reason to write."""
    return tuple(sorted((name, len(times), times[-1][1]) for name, times in memory.startups.items() if times))


def revisions_of(memory: DeploymentMemory) -> tuple[Any, ...]:
    """What is known of templates: written at once, because a rollback depends on it."""
    return tuple(sorted(memory.rollout.good_revisions.items())), memory.rollout.rejected


class Checkpoints:
    """Reads and writes checkpoints.

    Args:
        api: Guarded client.
        clock: Ages and intervals.
        interval: Least logical seconds between two writes for the same deployment.
        namespace: Where deployments are; empty: all namespaces.
    """

    def __init__(self, api: KubeApi, clock: Clock, interval: float, namespace: str = "") -> None:
        self._api, self._clock, self._interval = api, clock, interval
        self._namespace = namespace or None
        self._saved: dict[Key, tuple[tuple[Any, ...], tuple[Any, ...], float]] = {}

    async def load(self, snapshot: FleetSnapshot) -> PlannerMemory:
        """The memory that earlier processes left, of deployments that still exist.

        Raises:
            KubeError: It could not be read.
        """
        now = self._clock.now()
        found: dict[Key, DeploymentMemory] = {}
        for body in await self._api.list(CONFIG_MAPS, self._namespace, label_selector=_SELECTOR):
            found.update(self._read(body, now))
        kept = {
            key: memory
            for key, memory in found.items()
            if (record := snapshot.deployments.get(key)) is not None and record.uid == memory.uid
        }
        self._saved = {key: (essence(memory), starts(memory), now) for key, memory in kept.items()}
        _LOG.info("memory loaded", extra={"deployments": len(kept)})
        return PlannerMemory(kept)

    def _read(self, body: Mapping[str, Any], now: float) -> Mapping[Key, DeploymentMemory]:
        meta = parse.mapping(body.get("metadata"))
        name = parse.texts(meta.get("labels")).get(labels.DEPLOYMENT, "")
        text = parse.text(parse.mapping(body.get("data")).get(_FIELD))
        try:
            if len(text) > _MAX_BYTES:
                raise ValueError(f"longer than {_MAX_BYTES} characters")
            found = checkpoint.load(json.loads(text), now)
            kept = parse.text(parse.mapping(body.get("data")).get(_TEMPLATE))
            template = json.loads(kept) if kept and len(kept) <= _MAX_BYTES else None
            return {Key(parse.text(meta.get("namespace")), name): checkpoint.with_template(found, template)}
        except (ValueError, RecursionError, checkpoint.CheckpointError) as error:
            _LOG.warning("checkpoint cannot be read and is ignored: %s", error, extra={"checkpoint": meta.get("name")})
            return {}

    async def save(self, snapshot: FleetSnapshot, memory: PlannerMemory, *, final: bool = False) -> None:
        """Write what has changed and is due; with ``final`` what has changed, due or not.

        Raises:
            KubeError: It could not be written.
        """
        now = self._clock.now()
        self._saved = {key: value for key, value in self._saved.items() if key in snapshot.deployments}
        for key, mine in memory.deployments.items():
            record = snapshot.deployments.get(key)
            if record is None or record.deleting or record.namespace_terminating or record.spec is None:
                continue
            before, begun, at = self._saved.get(key, (None, (), None))
            due = final or at is None or now - at >= self._interval
            urgent = before is not None and before[-1] != revisions_of(mine)
            changed = before != essence(mine) or (final and begun != starts(mine))
            if (due or urgent) and changed:
                await self._write(record, mine, now)

    async def _write(self, record: DeploymentRecord, mine: DeploymentMemory, now: float) -> None:
        data = {_FIELD: json.dumps(checkpoint.dump(mine, now), separators=(",", ":"))}
        template = checkpoint.template(mine)
        if template is not None:
            data[_TEMPLATE] = json.dumps(template, separators=(",", ":"))
        body: Object = {
            "apiVersion": CONFIG_MAPS.api,
            "kind": CONFIG_MAPS.kind,
            "metadata": metadata(record, map_name(record.key.name), COMPONENT),
            "data": data,
        }
        try:
            await self._api.patch(
                CONFIG_MAPS,
                map_name(record.key.name),
                body,
                record.key.namespace,
                how="apply",
                field_manager=labels.FIELD_MANAGER,
            )
        except KubeError as error:
            if error.status not in (403, 404, 409):
                raise
            _LOG.warning("checkpoint not written: %s", error)
        self._saved[record.key] = (essence(mine), starts(mine), now)
