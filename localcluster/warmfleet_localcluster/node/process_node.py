"""The process node: a kubelet for any Kubernetes API whose containers are local processes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from warmfleet_runtime.clock import Clock
from warmfleet_runtime.kubeclient import Event, KubeClient, Object
from warmfleet_runtime.resources import LEASES, NAMESPACES, NODES, PODS
from warmfleet_runtime.rest import ApiError

from warmfleet_localcluster.node.access import ApiAccess
from warmfleet_localcluster.node.addresses import AddressPool
from warmfleet_localcluster.node.environment import base_environment
from warmfleet_localcluster.node.objects import LEASE_NAMESPACE, lease_object, node_object, node_status
from warmfleet_localcluster.node.pod import PodRunner
from warmfleet_localcluster.node.process import Reaper
from warmfleet_localcluster.node.runtime import Runtime
from warmfleet_localcluster.node.settings import ImageMap, NodeShape, Settings

_LOG = logging.getLogger(__name__)
_STATUS_EVERY = 6
"""Node statuses are renewed once in so many lease heartbeats."""


_KEPT_LOGS = 500
"""Logs of so many ended pods can still be read."""


class ProcessNode:
    """Registers Node objects and runs the pods bound to them. An async context manager.

    Args:
        client: Connection to the API; stays open.
        clock: Logical time of probes, grace periods and back-offs.
        shapes: Nodes to register at the start.
        images: What to run for an image.
        settings: Addresses and limits.
        delete_nodes: Remove the Node objects and their pods on `stop`.
    """

    def __init__(
        self,
        client: KubeClient,
        clock: Clock,
        shapes: Sequence[NodeShape],
        images: ImageMap,
        *,
        settings: Settings | None = None,
        delete_nodes: bool = True,
    ) -> None:
        self._client, self._clock, self._shapes, self._images = client, clock, shapes, images
        self._settings = settings or Settings()
        self._delete_nodes = delete_nodes
        self._nodes: dict[str, NodeShape] = {}
        self._uids: dict[str, str] = {}
        self._pods: dict[str, PodRunner] = {}
        self._finished: dict[tuple[str, str], PodRunner] = {}
        self._keys, self._indexes = itertools.count(1), {shape.name: itertools.count() for shape in shapes}
        self._tasks: list[asyncio.Task[None]] = []
        self._background: set[asyncio.Task[None]] = set()
        self._runtime: Runtime | None = None

    async def __aenter__(self) -> ProcessNode:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def names(self) -> list[str]:
        """Names of the registered nodes."""
        return sorted(self._nodes)

    async def start(self) -> None:
        """Register the nodes and begin to run pods."""
        disk, memory = _folders()
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._runtime = Runtime(
            client=self._client,
            clock=self._clock,
            images=self._images,
            settings=self._settings,
            access=ApiAccess(self._client, tokens=self._settings.service_account_tokens),
            addresses=AddressPool(self._settings.addresses),
            http=aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)),
            reaper=Reaper([disk, memory]),
            disk=disk,
            memory=memory,
            env=base_environment(),
        )
        for shape in self._shapes:
            for _ in range(shape.count):
                await self._register(self._name(shape), shape)
        self._tasks = [asyncio.create_task(work()) for work in (self._watch_pods, self._watch_nodes, self._beat)]

    async def stop(self) -> None:
        """End all pods at once, remove what was registered and delete the node's files."""
        runtime = self._runtime
        if runtime is None:
            return
        self._runtime = None
        for task in [*self._tasks, *self._background]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._background, return_exceptions=True)
        runners = list(self._pods.values())
        await asyncio.gather(*(runner.destroy() for runner in runners))
        if self._delete_nodes:
            await self._deregister(runners)
        runtime.close()
        await runtime.http.close()
        await runtime.reaper.finish()

    # -- what tests and demos do to nodes --------------------------------------------------------------------

    async def cordon(self, name: str, *, unschedulable: bool = True) -> None:
        """Set (or lift) `spec.unschedulable`."""
        await self._client.patch(NODES, name, {"spec": {"unschedulable": unschedulable or None}})

    async def taint(self, name: str, key: str, value: str = "", effect: str = "NoSchedule") -> None:
        """Add a taint, replacing one with the same key and effect."""
        node = await self._client.get(NODES, name)
        kept = [t for t in node["spec"].get("taints") or [] if (t["key"], t["effect"]) != (key, effect)]
        taints = [*kept, {"key": key, "value": value, "effect": effect}]
        await self._client.patch(NODES, name, {"spec": {"taints": taints}})

    def logs(self, namespace: str, pod: str, container: str) -> str:
        """Output of a container of a pod that runs, or of the last one of that name that ran.

        Raises:
            KeyError: There was no such pod or container.
        """
        for runner in self._pods.values():
            metadata = runner.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, pod):
                return runner.log(container)
        return self._finished[namespace, pod].log(container)

    def processes(self, node: str | None = None) -> list[int]:
        """Process ids of the running containers, of one node or of all."""
        return [pid for r in self._pods.values() if node in {None, r.node} for pid in r.pids]

    # -- nodes -----------------------------------------------------------------------------------------------

    def _name(self, shape: NodeShape) -> str:
        return f"{shape.name}-{next(self._indexes.setdefault(shape.name, itertools.count()))}"

    async def _register(self, name: str, shape: NodeShape) -> None:
        body = node_object(name, shape, host_ip=self._settings.host_ip, now=self._clock.wall())
        try:
            node = await self._client.create(NODES, body)
        except ApiError as error:
            if error.status != 409:
                raise
            fresh = {"taints": None, "unschedulable": None} | body["spec"]  # nothing stays of an earlier life
            node = await self._client.patch(NODES, name, {"metadata": body["metadata"], "spec": fresh})
        self._uids[name] = node["metadata"]["uid"]
        self._nodes[name] = shape
        await self._report_node(name)
        await self._renew_lease(name)

    async def _report_node(self, name: str) -> None:
        status = node_status(name, self._nodes[name], host_ip=self._settings.host_ip, now=self._clock.wall())
        await self._client.patch(NODES, name, {"status": status}, subresource="status", how="strategic")

    async def _renew_lease(self, name: str) -> None:
        lease = lease_object(name, self._clock.wall(), self._uids[name])
        try:
            await self._client.patch(LEASES, name, lease, LEASE_NAMESPACE)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._create_lease(lease)

    async def _create_lease(self, lease: Object) -> None:
        try:
            await self._client.create(LEASES, lease)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._client.create(NAMESPACES, {"metadata": {"name": LEASE_NAMESPACE}})
            await self._client.create(LEASES, lease)

    async def _beat(self) -> None:
        """Heartbeats in real time: whoever watches them measures real seconds."""
        for beat in itertools.count(1):
            await asyncio.sleep(self._settings.heartbeat)
            for name in self.names:
                try:
                    await self._renew_lease(name)
                    if beat % _STATUS_EVERY == 0:
                        await self._report_node(name)
                except (ApiError, OSError, aiohttp.ClientError) as error:
                    _LOG.warning("heartbeat of node %s: %r", name, error)

    async def _watch_nodes(self) -> None:
        async for event in self._client.follow(NODES):
            name = event.object.get("metadata", {}).get("name")
            if event.type == "DELETED" and event.object["metadata"]["uid"] == self._uids.get(name):
                self._nodes.pop(name, None)
                self._spawn(self._evict([r for r in self._pods.values() if r.node == name], name))

    async def _evict(self, runners: list[PodRunner], node: str) -> None:
        """The pods of a removed node end with it, and their objects too (as the pod garbage collector does)."""
        for runner in runners:
            self._forget(runner)
        await asyncio.gather(*(runner.destroy() for runner in runners))
        bound = await self._client.list(PODS, fieldSelector=f"spec.nodeName={node}")
        for pod in bound["items"]:
            await self._delete_pod(pod)

    async def _deregister(self, runners: list[PodRunner]) -> None:
        try:
            async with asyncio.timeout(10):
                for runner in runners:
                    await self._delete_pod(runner.pod)
                for name in self._nodes:
                    await self._ignore_missing(self._client.delete(NODES, name, uid=self._uids[name]))
        except (ApiError, OSError, aiohttp.ClientError) as error:
            _LOG.info("the nodes stay registered, the API is not there: %r", error)

    async def _delete_pod(self, pod: Object) -> None:
        metadata = pod["metadata"]
        await self._ignore_missing(
            self._client.delete(PODS, metadata["name"], metadata["namespace"], grace_seconds=0, uid=metadata["uid"])
        )

    @staticmethod
    async def _ignore_missing(call: Awaitable[object]) -> None:
        try:
            await call
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    # -- pods ------------------------------------------------------------------------------------------------

    async def _watch_pods(self) -> None:
        async for event in self._client.follow(PODS):
            if event.type != "SYNCED":
                self._pod_event(event)

    def _pod_event(self, event: Event) -> None:
        pod = event.object
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
        runner = self._pods.get(uid)
        if event.type == "DELETED":
            if runner is not None:
                self._forget(runner)
                self._spawn(runner.destroy())
        elif runner is not None:
            runner.update(pod)
        elif node in self._nodes:
            self._run_pod(pod)

    def _run_pod(self, pod: Object) -> None:
        if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"} or self._runtime is None:
            if pod["metadata"].get("deletionTimestamp"):
                self._spawn(self._delete_pod(pod))
            return
        try:
            shape = self._nodes[pod["spec"]["nodeName"]]
            runner = PodRunner(pod, self._runtime, str(next(self._keys)), shape.env)
        except (KeyError, RuntimeError) as error:
            _LOG.error("pod %s cannot be run: %r", pod["metadata"]["name"], error)
            return
        self._pods[runner.uid] = runner
        if pod["metadata"].get("deletionTimestamp"):
            runner.update(pod)
        else:
            runner.start()

    def _forget(self, runner: PodRunner) -> None:
        self._pods.pop(runner.uid, None)
        metadata = runner.pod["metadata"]
        key = metadata["namespace"], metadata["name"]
        if key not in self._finished and len(self._finished) >= _KEPT_LOGS:
            shutil.rmtree(self._finished.pop(next(iter(self._finished))).logs, ignore_errors=True)
        self._finished[key] = runner

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(_log_failure)


def _folders() -> tuple[Path, Path]:
    """Private folders on disk and in memory; short names, for the paths of Unix sockets."""
    shared = Path("/dev/shm")  # noqa: S108 - the file system in memory; the folder in it is private
    disk = Path(tempfile.mkdtemp(prefix="wf-"))
    return disk, Path(tempfile.mkdtemp(prefix="wf-", dir=shared if shared.is_dir() else None))


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("a node's task failed", exc_info=error)
