"""Kubernetes events, deduplicated: the same thing about the same object is said once in two minutes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from warmfleet_contracts.api import API_VERSION
from warmfleet_contracts.reasons import EventReason
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.resources import EVENTS

from warmfleet_operator.adapters.kube import KubeApi, KubeError
from warmfleet_operator.adapters.lease import NotLeaderError
from warmfleet_operator.specs.common import Object, short_hash
from warmfleet_operator.state.records import DeploymentRecord, WorkerRecord

_LOG = logging.getLogger(__name__)
COMPONENT = "warmfleet-operator"
QUIET_SECONDS = 120.0
"""Logical seconds in which the same event is not repeated."""
_MAX_PENDING = 200

WARNINGS = frozenset(
    {
        EventReason.DRAIN_FORCED,
        EventReason.WORKER_FAILED,
        EventReason.INVALID_SPEC,
        EventReason.STALLED,
        EventReason.CREATE_FAILED,
        EventReason.ROLLED_BACK,
    }
)
"""Reasons of type Warning; all others are Normal."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The object an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


def about_deployment(record: DeploymentRecord) -> Subject:
    """An LLMDeployment as subject."""
    return Subject(API_VERSION, "LLMDeployment", record.key.namespace, record.key.name, record.uid)


def about_pod(worker: WorkerRecord) -> Subject:
    """A worker's pod as subject."""
    return Subject("v1", "Pod", worker.key.namespace, worker.key.name, worker.uid)


class EventRecorder:
    """Posts events in the background; losing one is logged and never stops anything.

    Args:
        api: Guarded client.
        clock: For dedup windows and timestamps.
        observe: Called with the reason of each posted event.
    """

    def __init__(self, api: KubeApi, clock: Clock, observe: Callable[[str], None] = lambda _: None) -> None:
        self._api, self._clock, self._observe = api, clock, observe
        self._said: dict[tuple[str, str, str], float] = {}
        self._pending: set[asyncio.Task[None]] = set()

    def emit(self, subject: Subject, reason: EventReason, message: str, *, dedupe: str = "") -> bool:
        """Say something once.

        Args:
            subject: The object.
            reason: From the fixed table.
            message: For a person.
            dedupe: What makes it different from other events with this reason about this object.

        Returns:
            Whether it was said, and not suppressed.
        """
        now, key = self._clock.now(), (subject.uid, str(reason), dedupe)
        self._said = {k: at for k, at in self._said.items() if now - at < QUIET_SECONDS}
        if key in self._said or len(self._pending) >= _MAX_PENDING:
            return False
        self._said[key] = now
        task = asyncio.get_running_loop().create_task(self._post(_event(subject, reason, message, self._stamp(), now)))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        self._observe(str(reason))
        return True

    async def flush(self) -> None:
        """Wait until everything said so far was posted or given up."""
        if self._pending:
            await asyncio.gather(*self._pending, return_exceptions=True)

    def _stamp(self) -> str:
        return self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")

    async def _post(self, body: Object) -> None:
        try:
            await self._api.create(EVENTS, body, body["metadata"]["namespace"])
        except (KubeError, NotLeaderError) as error:
            _LOG.info("event lost: %s", error, extra={"reason": body["reason"]})


def _event(subject: Subject, reason: EventReason, message: str, stamp: str, now: float) -> Object:
    namespace = subject.namespace or "default"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{subject.name[:200]}.{short_hash([subject.uid, reason, message, now], 12)}",
            "namespace": namespace,
        },
        "involvedObject": {
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "namespace": namespace,
            "name": subject.name,
            "uid": subject.uid,
        },
        "type": "Warning" if reason in WARNINGS else "Normal",
        "reason": str(reason),
        "message": message[:1024],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
