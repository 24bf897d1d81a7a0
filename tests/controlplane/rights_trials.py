"""Runs an operator per right, each with all rights but that one, and writes down what happened.

    python rights_trials.py KUBECONFIG SHARD SHARDS

A program of its own, so that the threads and logs of dozens of operators stay out of the test process. Prints one JSON
object per trial.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
from collections.abc import Callable

from fleet_scene import SCALE, SETTINGS, Json, Scene, grant, instance_type
from kubernetes.aio import client as kube_client
from warmfleet_contracts import bearer
from warmfleet_operator import watching
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.process import OperatorProcess
from warmfleet_operator.rights import RIGHTS
from warmfleet_operator.settings import Settings
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.kubeclient import KubeClient, load_configuration
from warmfleet_runtime.resources import EVENTS, INSTANCE_TYPES, LEASES
from warmfleet_runtime.rights import Right, Scope, rules

AT_ONCE = 4
"""Operators that run side by side in this process."""
REFUSED_SECONDS = 90.0
"""Real seconds within which an operator comes to need the right it has not got; those needed last take 10 to 20."""
END_SECONDS = 60.0
"""Real seconds in which an operator that has gone blind, or cannot keep its Lease, must have ended."""
LEASE = "warmfleet-operator"


@dataclasses.dataclass(slots=True)
class Trial:
    """An operator with all rights but one, in a namespace of its own.

    Attributes:
        namespace: The namespace.
        number: Of the right it has not got, in RIGHTS; None for the control that has all.
        token: Of its account.
        refusals: Log lines and events of the operator in which the API server refuses it something.
        ended: Exit code of the process, None while it runs.
        reached: Whether the stage that needs the right was reached; None when no stage shows it.
        finished: Whether the whole scene was played.
    """

    namespace: str
    number: int | None
    token: str = ""
    refusals: list[str] = dataclasses.field(default_factory=list)
    ended: int | None = None
    reached: bool | None = None
    finished: bool = False

    @property
    def missing(self) -> Right | None:
        """The right it has not got."""
        return None if self.number is None else RIGHTS[self.number]

    @property
    def refused(self) -> bool:
        """Whether the API server has refused exactly what is missing."""
        right = self.missing
        return right is not None and any(words in line for line in list(self.refusals) for words in refusal_of(right))

    @property
    def conclusive(self) -> bool:
        """Whether it came to an end: the scene was played, or the operator was refused what is missing."""
        return self.finished if self.number is None else self.refused and (self.ended is not None or not self.must_end)

    @property
    def must_end(self) -> bool:
        """Whether the operator must end: it would be blind without the right, or cannot keep the Lease."""
        right = self.missing
        if right is None or self.clusterwide or right.resource == "configmaps":
            return False
        return right.verb in ("list", "watch", "update") and right.resource != "llmdeployments/finalizers"

    @property
    def clusterwide(self) -> bool:
        """Whether it watches all namespaces: only then are CRDs watched."""
        return self.missing is not None and self.missing.resource == "customresourcedefinitions"


def stage_without(right: Right) -> str | None:
    """What the fleet never gets to without a right; None when the process itself ends, or only the log tells."""
    known = {
        "get leases": "leads",
        "create leases": "leads",
        "llmdeployments/finalizers": "workers",
        "llmdeployments/status": "status",
        "events": "event",
        "create pods": "workers",
        "create secrets": "workers",
        "get secrets": "workers",
        "patch secrets": "rotated",
        "patch pods": "marked",
        "delete pods": "scaled in",
        "patch llmdeployments": "finalizer",
        "get pods": "role",  # granted on to the router
        "list pods": "workers",
        "list configmaps": "workers",
        "configmaps": "memory",
    }
    children = {
        "serviceaccounts": "account",
        "roles": "role",
        "rolebindings": "binding",
        "deployments": "router",
        "services": "service",
        "poddisruptionbudgets": "budget",
    }
    if right.name == bearer.METRICS_SECRET_NAME:
        return "readers"
    child = children.get(right.resource)
    if child is not None:
        return f"{child} gone" if right.verb == "delete" else child
    return known.get(f"{right.verb} {right.resource}", known.get(right.resource))


def refusal_of(right: Right) -> list[str]:
    """What the API server says when it refuses a right; any of these."""
    base, _, sub = right.resource.partition("/")
    plain = f'cannot {right.verb} resource "{right.resource}" in API group "{right.group}"'
    if sub == "finalizers":
        return ["cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"]
    if base == "pods" and right.verb == "get":
        return [plain, 'Verbs:["get"]']  # the Role for the router would grant what the operator has not got
    return [plain]


class Refusals(logging.Handler):
    """Hands log lines about an account to its trial."""

    def __init__(self, trials: list[Trial]) -> None:
        super().__init__(logging.INFO)
        self._trials = {trial.namespace: trial for trial in trials}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "forbidden" not in text.lower():
            return
        for namespace, trial in self._trials.items():
            if f":{namespace}:" in text or f"/namespaces/{namespace}/" in text:
                trial.refusals.append(text)


async def run_all(kubeconfig: str, trials: list[Trial], at_once: int) -> None:
    """Runs trials; they hold the results."""
    slots = asyncio.Semaphore(at_once)

    async def one(trial: Trial) -> None:
        async with slots:
            await _try(kubeconfig, kube, trial)

    async with await KubeClient.from_kubeconfig(kubeconfig) as kube:
        await kube.patch(INSTANCE_TYPES, "h100", instance_type(), how="apply", fieldManager="test", force="true")
        for trial in trials:
            trial.token = await grant(kube, trial.namespace, _rules(trial))
        await asyncio.sleep(1.0)  # the authorizer learns of roles by a watch
        await asyncio.gather(*map(one, trials))


def _rules(trial: Trial) -> Json:
    """The rights of a trial; those on fleets in its namespace only, or everywhere when it watches everywhere."""
    granted = [right for right in RIGHTS if right is not trial.missing]
    everywhere = {Scope.CLUSTER, Scope.FLEET} if trial.clusterwide else {Scope.CLUSTER}

    def policy(rights: list[Right]) -> list[Json]:
        return [
            {
                **{k: v for k, v in rule.items() if k != "named"},
                **({"resourceNames": [LEASE]} if "named" in rule else {}),
            }
            for rule in rules(rights)
        ]

    return {
        "cluster": policy([r for r in granted if r.scope in everywhere]),
        "namespace": policy([r for r in granted if r.scope not in everywhere]),
    }


async def _try(kubeconfig: str, kube: KubeClient, trial: Trial) -> None:
    watched = "" if trial.clusterwide else trial.namespace
    special = {"namespace": watched, "lease_namespace": trial.namespace, "identity": "trial"}
    if trial.missing is not None and (trial.missing.verb, trial.missing.resource) == ("update", "leases"):
        special |= {"lease_duration_seconds": 6}
    settings = Settings(**{**SETTINGS, **special})

    async def configure() -> kube_client.Configuration:
        configuration = await load_configuration(kubeconfig)
        configuration.cert_file = configuration.key_file = None
        configuration.api_key["BearerToken"] = f"Bearer {trial.token}"
        return configuration

    if trial.clusterwide:
        await _lead_for_ever(kube, trial.namespace)  # it must not act on the fleets of the other trials
    stop, scene = asyncio.Event(), Scene(kube, trial.namespace)
    process = OperatorProcess(settings, ScaledClock(SCALE), plan, configure)
    running = asyncio.create_task(process.run(stop))
    playing = asyncio.create_task(scene.play(_contention(trial)))
    try:
        async with asyncio.timeout(REFUSED_SECONDS):
            while not (running.done() or playing.done() or trial.refused):
                await asyncio.sleep(0.2)
                trial.refusals += await _told(kube, trial.namespace)
        if trial.must_end:
            await asyncio.wait([running], timeout=END_SECONDS)
        await asyncio.sleep(1.5)  # twenty times as long for the operator: it could have done it meanwhile
        stage = stage_without(trial.missing) if trial.missing is not None else None
        trial.reached = await scene.reached(stage) if stage is not None else None
    except TimeoutError:
        logging.getLogger(__name__).warning("%s: nothing was refused", trial.namespace)  # the test says so
    finally:
        trial.finished = playing.done() and not playing.cancelled() and playing.exception() is None
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        ended_itself = running.done()
        stop.set()
        code = await running
        trial.ended = code if ended_itself else None


def _contention(trial: Trial) -> Callable[[], bool] | None:
    """Somebody else writes too, where that is what makes the operator use the right."""
    right = trial.missing
    contended = right is not None and (right.verb, right.resource) == ("get", "llmdeployments")
    return (lambda: trial.refused) if contended else None


async def _lead_for_ever(kube: KubeClient, namespace: str) -> None:
    """Somebody holds the Lease, so that the operator watches and does not act."""
    spec = {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}
    await kube.create(LEASES, {"metadata": {"name": LEASE, "namespace": namespace}, "spec": spec})


async def _told(kube: KubeClient, namespace: str) -> list[str]:
    """Refusals that the operator tells by events."""
    return [e["message"] for e in (await kube.list(EVENTS, namespace))["items"] if "forbidden" in e.get("message", "")]


def main() -> int:
    """Runs every SHARDS-th trial, beginning with the SHARD-th."""
    kubeconfig, shard, shards = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    numbers = [n for n in range(len(RIGHTS)) if n % shards == shard]
    trials = ([Trial("trial-control", None)] if shard == 0 else []) + [Trial(f"trial-{n}", n) for n in numbers]
    # On a machine that stands still a scene may run out of time; what that leaves open is tried again, one at a time.
    again = [Trial(f"{trial.namespace}-again", trial.number) for trial in trials]
    watching._BACKOFFS = (0.2, 0.2)  # a refused watch gives up after two more attempts, not twelve
    logging.basicConfig(level=logging.INFO, handlers=[Refusals(trials + again)], force=True)
    asyncio.run(run_all(kubeconfig, trials, AT_ONCE))
    repeated = {n: second for n, (first, second) in enumerate(zip(trials, again, strict=True)) if not first.conclusive}
    asyncio.run(run_all(kubeconfig, list(repeated.values()), 1))
    for trial in (repeated.get(n, first) for n, first in enumerate(trials)):
        print(json.dumps(dataclasses.asdict(trial)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
