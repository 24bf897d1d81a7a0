"""Who leaves: the shipped planner, asked with the telemetry that agents would send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from warmfleet_contracts.agent import Phase
from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec
from warmfleet_contracts.traces import IntArray
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state.memory import PlannerMemory
from warmfleet_operator.state.records import (
    Demand,
    DeploymentRecord,
    FleetSnapshot,
    InstanceTypeRecord,
    Key,
    WorkerPhase,
    WorkerRecord,
    WorkerTelemetry,
)

from warmfleet_simulation.requests.arrays import SERVING, State
from warmfleet_simulation.requests.value import evicted_after

_BOOT = 10_000.0
"""The operator's clock never starts at 0."""
_KEY = Key("default", "fleet")


class Planner:
    """The planner, with its memory, of a fleet with a fixed number of replicas.

    Args:
        handover: Strategy: none, store, migrate or replay.
    """

    def __init__(self, handover: str) -> None:
        self._cache = _CACHES[handover]
        self._memory = PlannerMemory()
        self._generation = 1

    def leaving(
        self, state: State, here: Sequence[int], since: Mapping[int, float], hot: IntArray, wanted: int, now: float
    ) -> list[int]:
        """The workers that leave.

        Args:
            state: The fleet.
            here: Workers that serve or start.
            since: When each was created, seconds.
            hot: Hot tokens by worker that no other holds, shape (W,).
            wanted: Workers that stay.
            now: Seconds.

        Raises:
            AssertionError: The planner let another number go.
        """
        self._generation += 1
        records = tuple(_record(state, w, since[w]) for w in here)
        telemetry = {
            record.uid: WorkerTelemetry(
                at=_BOOT + now,
                phase=Phase.SERVING,
                running=int(state.size[w]),
                waiting=int(state.load[w] - state.size[w]),
                hot_tokens=int(hot[w]),
                evicted_after=evicted_after(state, w, now),
            )
            for w, record in zip(here, records, strict=True)
        }
        snapshot = FleetSnapshot(
            deployments={_KEY: _deployment(wanted, self._generation, self._cache)},
            instance_types={"gpu": _INSTANCE_TYPE},
            workers=records,
            telemetry=telemetry,
            demand={_KEY: Demand(at=_BOOT + now, arrivals=1.0, queue=0, sources=("router",))},
        )
        decided, self._memory = plan(snapshot, self._memory, _BOOT + now)
        names = {victim.uid for victim in decided.deployments[_KEY].victims}
        chosen = [w for w, record in zip(here, records, strict=True) if record.uid in names]
        if len(chosen) != len(here) - wanted:
            raise AssertionError(f"the planner let {len(chosen)} go: {decided.deployments[_KEY].message}")
        return chosen


def _record(state: State, w: int, since: float) -> WorkerRecord:
    serving = state.phase[w] == SERVING
    name = f"fleet-{w:03d}-{since:06.0f}"
    return WorkerRecord(
        key=Key("default", name),
        uid=name,
        resource_version="1",
        deployment="fleet",
        variant="gpu",
        instance_type="gpu",
        revision="1",
        phase=WorkerPhase.READY if serving else WorkerPhase.STARTING,
        accelerators=1,
        first_seen=_BOOT + since,
        first_ready=_BOOT + since if serving else None,
        node=name,
        routed=True,
    )


def _deployment(replicas: int, generation: int, cache: Mapping[str, object]) -> DeploymentRecord:
    spec = LLMDeploymentSpec.model_validate(
        {
            "model": {"name": "model", "source": {"hostPath": {"path": "/models"}}},
            "engine": {"image": "simulated"},
            "variants": [{"name": "gpu", "instanceType": "gpu", "performance": {"requestsPerSecond": 1.0}}],
            "replicas": replicas,
            "kvCache": cache,
        }
    )
    return DeploymentRecord(_KEY, _KEY.name, generation, str(generation), spec)


_TIERS = ({"medium": "cpu", "size": "64Gi"}, {"medium": "fs", "size": "1Ti", "claimName": "store"})
_CACHES: Mapping[str, Mapping[str, object]] = {
    "none": {},
    "store": {"handover": ["store"], "tiers": _TIERS},
    "migrate": {"handover": ["migrate"]},
    "replay": {"handover": ["replay"]},
}
"""What a deployment says that hands over like that."""
_INSTANCE_TYPE = InstanceTypeRecord(
    "gpu",
    "gpu",
    1,
    InstanceTypeSpec.model_validate({"accelerator": {"name": "gpu", "count": 1}, "price": {"onDemand": 1.0}}),
)
