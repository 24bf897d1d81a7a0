"""Pod status from container states: pure functions with the kubelet's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

Json = dict[str, Any]


class Kind(Enum):
    """The part a container plays in its pod."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass(slots=True)
class ContainerState:
    """What a status says of one container. `state` and `last` are ContainerState objects of the API."""

    name: str
    image: str
    kind: Kind
    state: Json
    last: Json = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restarts: int = 0
    pid: int | None = None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last run, None while it runs or before the first."""
        ended = self.state.get("terminated") or (None if "running" in self.state else self.last.get("terminated"))
        return None if ended is None else int(ended["exitCode"])

    def as_status(self) -> Json:
        """The API's ContainerStatus."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": "" if self.pid is None else f"local://{self.image}",
            "containerID": "" if self.pid is None else f"process://{self.pid}-{self.restarts}",
            "state": self.state,
            "lastState": self.last,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
        }


def kind_of(container: Mapping[str, Any], *, init: bool) -> Kind:
    """INIT, SIDECAR (an init container that always restarts) or MAIN."""
    if not init:
        return Kind.MAIN
    return Kind.SIDECAR if container.get("restartPolicy") == "Always" else Kind.INIT


def phase(states: Sequence[ContainerState], restart_policy: str, *, ended: bool) -> str:
    """The pod's phase.

    Args:
        states: All containers.
        restart_policy: The pod's.
        ended: Nothing will be started any more.
    """
    inits = [state for state in states if state.kind is Kind.INIT]
    mains = [state for state in states if state.kind is Kind.MAIN]
    if any(state.exit_code != 0 for state in inits):
        failed = restart_policy == "Never" and any(state.exit_code not in {0, None} for state in inits)
        return "Failed" if failed or ended else "Pending"
    codes = [state.exit_code for state in mains]
    if ended or (restart_policy != "Always" and all("terminated" in state.state for state in mains)):
        if not ended and any("running" in state.state for state in states if state.kind is Kind.SIDECAR):
            return "Running"
        if all(code == 0 for code in codes):
            return "Succeeded"
        return "Failed" if ended or restart_policy == "Never" else "Running"
    if all("waiting" in state.state and not state.last for state in mains):
        return "Pending"
    fresh = any("waiting" in state.state and not state.last for state in mains)
    return "Pending" if fresh else "Running"


def conditions(
    states: Sequence[ContainerState],
    current: Mapping[str, str],
    gates: Sequence[str],
    *,
    sandbox: bool,
    ended: str | None,
) -> list[Json]:
    """The kubelet's pod conditions, without times.

    Args:
        states: All containers.
        current: Status of conditions written by others, for readiness gates.
        gates: Condition types of the pod's readiness gates.
        sandbox: Address and volumes are there.
        ended: Final phase, if the pod has ended.
    """
    serving = [state for state in states if state.kind is not Kind.INIT]
    unready = [state.name for state in serving if not state.ready]
    not_initialized = [
        state.name
        for state in states
        if (state.kind is Kind.INIT and state.exit_code != 0) or (state.kind is Kind.SIDECAR and not state.started)
    ]
    started = any("running" in s.state or s.exit_code is not None for s in states if s.kind is Kind.MAIN)
    closed_gates = [gate for gate in gates if current.get(gate) != "True"]
    containers = _containers_ready(unready, ended)
    ready = dict(containers, type="Ready")
    if containers["status"] == "True" and closed_gates:
        message = f'the status of pod readiness gate "{closed_gates[0]}" is not "True"'
        ready = _condition("Ready", "ReadinessGatesNotReady", message)
    initialized = _condition("Initialized")
    if not_initialized and not started and ended != "Succeeded":
        message = f"containers with incomplete status: [{' '.join(not_initialized)}]"
        initialized = _condition("Initialized", "ContainersNotInitialized", message)
    prepared = _condition("PodReadyToStartContainers")
    if not sandbox:
        prepared = {"type": "PodReadyToStartContainers", "status": "False"}
    return [prepared, initialized, ready, containers, _condition("PodScheduled")]


def _containers_ready(unready: Sequence[str], ended: str | None) -> Json:
    if ended is not None:
        return _condition("ContainersReady", "PodCompleted" if ended == "Succeeded" else "PodFailed")
    if unready:
        message = f"containers with unready status: [{' '.join(unready)}]"
        return _condition("ContainersReady", "ContainersNotReady", message)
    return _condition("ContainersReady")


def _condition(kind: str, reason: str | None = None, message: str | None = None) -> Json:
    if reason is None:
        return {"type": kind, "status": "True"}
    return {"type": kind, "status": "False", "reason": reason} | ({"message": message} if message else {})


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as the API's Time."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp(fresh: list[Json], before: Sequence[Mapping[str, Any]], now: str) -> list[Json]:
    """Give conditions their lastTransitionTime, kept from `before` where the status did not change.

    A reason or message that is gone becomes the empty string: a strategic merge would otherwise keep the old one.
    """
    old = {condition["type"]: condition for condition in before}
    for condition in fresh:
        previous = old.get(condition["type"])
        same = previous is not None and previous["status"] == condition["status"]
        for text in ("reason", "message"):
            if previous and previous.get(text) and text not in condition:
                condition[text] = ""
        condition["lastTransitionTime"] = previous["lastTransitionTime"] if previous and same else now
    return fresh
