"""The cluster that `bench/scale.py` measures on: a real control plane, kwok's nodes, fleets that already serve.

The pods are built by the operator's own builders, under the names it would give them, and bound to their nodes at once;
kwok plays the kubelets. So the operator meets fleets that look as if it had made them. Most are copies of one that took
this way (`scale_fill.py`). Controllers that only write endpoints are off: their work for a thousand Services is none of
the operator's, and would be most of the load of the first minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "controlplane"), str(Path(__file__).resolve().parent)]

from binaries import resolve  # noqa: E402
from cluster import ControlPlane  # noqa: E402
from scale_fill import put, siblings, twins  # noqa: E402
from warmfleet_contracts.api import InstanceTypeSpec  # noqa: E402
from warmfleet_operator.settings import Settings  # noqa: E402
from warmfleet_operator.specs.worker import WorkerTemplate, worker_name, worker_pod  # noqa: E402
from warmfleet_operator.state.parse import deployment_from  # noqa: E402
from warmfleet_runtime.kubeclient import KubeClient  # noqa: E402
from warmfleet_runtime.resources import (  # noqa: E402  # noqa: E402
    CLUSTER_ROLE_BINDINGS,
    INSTANCE_TYPES,
    LLM_DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    Resource,
)
from warmfleet_runtime.rest import ApiError  # noqa: E402

Json = dict[str, Any]
KINDS_OF_NODES, TEAMS, GPUS_PER_NODE = 12, 20, 32
OPERATOR = "warmfleet-operator"
POOL = "bench.warmfleet.dev/pool"
_PARALLEL, _BATCH = 48, 50
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_AUDIT_POLICY = f"""
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  users: [{OPERATOR}]
- level: None
"""
_TICKS = os.sysconf("SC_CLK_TCK")
_OFF = ("-endpoints-controller", "-endpointslice-controller", "-endpointslice-mirroring-controller")


def instance_type(index: int) -> Json:
    """One of twelve types; those with even numbers are cheap and hold the workers."""
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "InstanceType",
        "metadata": {"name": f"type-{index:02d}"},
        "spec": {
            "accelerator": {"name": "H100-SXM", "count": 1},
            "nodeSelector": {POOL: f"type-{index:02d}"},
            "price": {"onDemand": 3.0 if index % 2 == 0 else 9.0},
            "startup": {"p50": "30s", "p90": "60s"},
            "limit": {"accelerators": 20_000},
        },
    }


def team(index: int) -> str:
    """Namespace of a fleet."""
    return f"team-{index % TEAMS:02d}"


def fleet(index: int, workers: int) -> Json:
    """One autoscaled LLMDeployment; its two variants are on neighbouring types."""
    pair = 2 * (index % (KINDS_OF_NODES // 2))
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": f"fleet-{index:04d}", "namespace": team(index)},
        "spec": {
            "model": {
                "name": "meta-llama/Llama-3.1-8B-Instruct",
                "source": {"hf": {"repo": "meta-llama/Llama-3.1-8B-Instruct"}},
                "maxModelLen": 16384,
            },
            "engine": {"image": "vllm/vllm-openai:v0.32.0"},
            "variants": [
                {"name": "a", "instanceType": f"type-{pair:02d}"},
                {"name": "b", "instanceType": f"type-{pair + 1:02d}"},
            ],
            "slo": {"ttft": "2s", "tpot": "50ms", "attainment": 0.99},
            "scaling": {"min": workers, "max": 2 * workers + 1},
            "routing": {"mode": "service"},
        },
    }


def node(index: int) -> Json:
    """A node that kwok plays; five of six are of a type that holds the workers."""
    kind = index % KINDS_OF_NODES
    pool = f"type-{kind:02d}"
    resources = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": str(GPUS_PER_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": f"node-{index:04d}",
            "labels": {POOL: pool, "topology.kubernetes.io/zone": f"zone-{index % 3}"},
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "status": {"capacity": resources, "allocatable": resources},
    }


class Cluster:
    """A control plane with nodes, and fleets that are added step by step.

    Args:
        nodes: How many nodes.
        workers: Workers of each fleet.
        scratch: Folder for the audit log.
    """

    def __init__(self, nodes: int, workers: int, scratch: Path) -> None:
        policy = scratch / "audit-policy.yaml"
        policy.write_text(_AUDIT_POLICY)
        self.audit = scratch / "audit.log"
        patient = "--node-monitor-grace-period=3h"
        self.plane = ControlPlane(
            resolve(build=False),
            crds=ROOT / "crds",
            extra_flags={
                "kube-apiserver": [f"--audit-policy-file={policy}", f"--audit-log-path={self.audit}"],
                "kube-controller-manager": [patient, f"--controllers=*,{','.join(_OFF)}"],
                # No heartbeats: of 2,000 nodes they are most of the load. Pods need more addresses than a slot has.
                "kwok": ["--node-lease-duration-seconds=0", "--cidr=10.244.128.1/17"],
            },
        )
        self._nodes, self.workers = nodes, workers
        self.fleets = 0
        self._addresses = itertools.count()
        self._specs = {f"type-{i:02d}": InstanceTypeSpec.model_validate(instance_type(i)["spec"]) for i in range(12)}
        self._free = {f"type-{i:02d}": self._slots(i) for i in range(12)}

    def _slots(self, kind: int) -> list[str]:
        mine = [f"node-{n:04d}" for n in range(kind, self._nodes, KINDS_OF_NODES)]
        return [name for _ in range(GPUS_PER_NODE - 8) for name in mine]  # eight stay free for what the operator adds

    async def __aenter__(self) -> Cluster:
        await asyncio.to_thread(self.plane.start)
        self.kube = await KubeClient.from_kubeconfig(self.plane.kubeconfig)
        self.kubeconfig = self.plane.kubeconfig_for(user=OPERATOR)
        await asyncio.to_thread(self.plane.start_kwok)
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}
        await self.kube.create(
            CLUSTER_ROLE_BINDINGS, {"metadata": {"name": OPERATOR}, "roleRef": role, "subjects": [subject]}
        )
        await self._all(NAMESPACES, ({"metadata": {"name": team(i)}} for i in range(TEAMS)))
        await self._all(INSTANCE_TYPES, (instance_type(i) for i in range(KINDS_OF_NODES)))
        await self._all(NODES, [node(0)])
        first = await self._until(NODES, node(0)["metadata"]["name"], None, _is_usable)
        await put(twins(first, (node(i) for i in range(1, self._nodes))))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kube.close()
        await asyncio.to_thread(self.plane.stop)

    async def grow(self, fleets: int) -> None:
        """Add fleets until there are so many; returns when all their workers are ready.

        Raises:
            TimeoutError: kwok does not get them ready.
        """
        while self.fleets < fleets:
            batch = range(self.fleets, min(fleets, self.fleets + _BATCH))
            made = await self._all(LLM_DEPLOYMENTS, (fleet(i, self.workers) for i in batch))
            built = [list(self._pods(body)) for body in made]
            await self._all(PODS, (pods[0] for pods in built))
            copies = await asyncio.gather(*map(self._copies, built))
            await put(itertools.chain.from_iterable(copies))
            self.fleets = batch.stop
        async with asyncio.timeout(300):
            while await self._count() < self.fleets * self.workers:  # noqa: ASYNC110 - the API server is another process
                await asyncio.sleep(0.5)

    async def _copies(self, pods: list[Json]) -> list[tuple[str, Json]]:
        """The other pods of a fleet, as the first has become."""
        meta = pods[0]["metadata"]
        first = await self._until(PODS, meta["name"], meta["namespace"], _is_ready)
        found = list(siblings(first, (pod["metadata"]["name"] for pod in pods[1:]), self._addresses))
        for (_, twin), pod in zip(found, pods[1:], strict=True):
            twin["spec"]["nodeName"] = pod["spec"]["nodeName"]
        return found

    async def _until(self, resource: Resource, name: str, namespace: str | None, check: Callable[[Json], bool]) -> Json:
        async with asyncio.timeout(300):
            while not check(found := await self.kube.get(resource, name, namespace)):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.3)
        return found

    async def _count(self) -> int:
        """Pods that the API server knows."""
        page = await self.kube._call("GET", PODS.path(None), {"limit": "1"})  # noqa: SLF001
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)

    def _pods(self, body: Json) -> Iterable[Json]:
        record = deployment_from(body, None, 0.0)
        if record is None or record.spec is None:
            raise AssertionError(f"not a fleet: {body}")
        variant = record.spec.variants[0]
        itype = self._specs[variant.instance_type]
        template = WorkerTemplate(record, record.spec, variant, itype, Settings())
        free = self._free[variant.instance_type]
        for ordinal in range(self.workers):
            pod = worker_pod(template, worker_name(record, variant.name, ordinal))
            pod["spec"]["nodeName"] = free.pop()
            yield pod

    async def _all(self, resource: Resource, bodies: Iterable[Json]) -> list[Json]:
        gate = asyncio.Semaphore(_PARALLEL)

        async def one(body: Json) -> Json:
            async with gate:
                for attempt in range(5):
                    try:
                        return await self.kube.create(resource, body)
                    except ApiError as error:
                        if error.status not in (429, 500, 503) or attempt == 4:
                            raise
                        await asyncio.sleep(1.0 + attempt)
            raise AssertionError("unreachable")

        return list(await asyncio.gather(*(one(body) for body in bodies)))

    async def addresses(self, index: int) -> list[str]:
        """Addresses of a fleet's workers."""
        selector = f"warmfleet.dev/deployment=fleet-{index:04d}"
        pods = (await self.kube.list(PODS, team(index), labelSelector=selector))["items"]
        return [pod["status"]["podIP"] for pod in pods if pod.get("status", {}).get("podIP")]

    def etcd_puts(self) -> float:
        """Keys that etcd has written since it began."""
        return scrape("http://127.0.0.1:2379/metrics", ("etcd_mvcc_put_total",)).get("etcd_mvcc_put_total", 0.0)


def _is_ready(body: Json) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _is_usable(body: Json) -> bool:
    """Whether a node is ready and the node controller has noticed: until then it keeps its workers away by a taint."""
    return _is_ready(body) and not body["spec"].get("taints")


class AuditLog:
    """What the API server says the operator asked, from where it was last read.

    Args:
        path: The log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def requests(self) -> Counter[tuple[str, str]]:
        """(verb, resource) of all requests since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._at)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        found: Counter[tuple[str, str]] = Counter()
        for line in whole.splitlines():
            entry = json.loads(line)
            what = entry.get("objectRef") or {}
            name = "/".join(filter(None, (what.get("resource", ""), what.get("subresource"))))
            found[entry["verb"], name] += 1
        return found


def writes(requests: Counter[tuple[str, str]]) -> int:
    """Writes, the Lease excluded."""
    return sum(n for (verb, resource), n in requests.items() if verb in _WRITES and resource != "leases")


def scrape(url: str, names: Sequence[str] = (), timeout: float = 10.0) -> dict[str, float]:
    """Samples of an exposition by name and labels as written; {} when there is no answer."""
    query = "&".join(f"name[]={name}" for name in names)
    try:
        with urllib.request.urlopen(f"{url}?{query}" if query else url, timeout=timeout) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#") and (not names or line.startswith(tuple(names))):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children use.

    Attributes:
        rss_mb: Resident now.
        peak_mb: Most that was ever resident at once (sum over the processes).
        cpu_s: CPU seconds so far.
    """

    rss_mb: float
    peak_mb: float
    cpu_s: float


def usage(pid: int) -> Usage:
    """Of a process with all its descendants; zeros when it is gone."""
    total = [0.0, 0.0, 0.0]
    for one in _family(pid):
        try:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines() if ":" in line
            )
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total[0] += int(status.get("VmRSS", "0 kB").split()[0]) / 1024
        total[1] += int(status.get("VmHWM", "0 kB").split()[0]) / 1024
        total[2] += (int(fields[11]) + int(fields[12])) / _TICKS
    return Usage(*(round(value, 1) for value in total))


def _family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += children.get(one, [])
    return found
