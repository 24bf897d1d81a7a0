"""One pod: address and volumes, init containers and sidecars in order, main containers, and the way out."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from warmfleet_runtime.kubeclient import Object
from warmfleet_runtime.resources import PODS
from warmfleet_runtime.rest import ApiError

from warmfleet_localcluster.node.container import Container, Deadline, Sandbox
from warmfleet_localcluster.node.expand import ContainerConfigError
from warmfleet_localcluster.node.runtime import Runtime
from warmfleet_localcluster.node.status import Kind, conditions, kind_of, phase, stamp, timestamp
from warmfleet_localcluster.node.volumes import VolumeSources

_LOG = logging.getLogger(__name__)
_RETRY = 5.0
_DEFAULT_GRACE = 30


class PodRunner:
    """Runs a pod and reports its status until it ends or its object is gone.

    Args:
        pod: The pod's object, bound to a node of ours.
        runtime: The node's services.
        key: Short unique name for its directories (paths of Unix sockets are limited to 107 characters).
        env: What its node adds to the environment of containers.
    """

    def __init__(self, pod: Object, runtime: Runtime, key: str, env: Mapping[str, str] | None = None) -> None:
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.node: str = pod["spec"]["nodeName"]
        self._runtime = runtime
        self._address = runtime.addresses.acquire()
        self._directory = runtime.disk / key
        self._memory = runtime.memory / key
        self.logs = runtime.disk / "logs" / key
        own = {"HOSTNAME": pod["metadata"]["name"], "WARMFLEET_POD_IP": self._address}
        env = {**runtime.env, **(env or {}), **own}
        self._sandbox = Sandbox(pod, self.node, self._address, self._directory, self.logs, {}, env)
        self._containers = self._make_containers()
        self._ready_sandbox = False
        self._phase_final: str | None = None
        self._life: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._deadline: Deadline | None = None
        self._began = timestamp(runtime.clock.wall())
        self._dirty = asyncio.Event()
        self._dirty.set()
        self._conditions: list[dict[str, Any]] = list((pod.get("status") or {}).get("conditions") or [])
        self._sent: Object | None = None
        self._publisher = asyncio.create_task(self._publish())

    @property
    def pids(self) -> list[int]:
        """Processes of the containers that run."""
        return [c.state.pid for c in self._containers if "running" in c.state.state and c.state.pid]

    def log(self, container: str) -> str:
        """What a container has written so far, over all its runs.

        Raises:
            KeyError: The pod has no such container.
        """
        known = {c.state.name: c for c in self._containers}
        file = known[container].log
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> None:
        """Begin to run it."""
        self._life = asyncio.create_task(self._live())
        self._life.add_done_callback(_log_failure)

    def update(self, pod: Object) -> None:
        """Take a new version of the object; a deletion timestamp begins or shortens its end."""
        self.pod = pod
        metadata = pod["metadata"]
        if not metadata.get("deletionTimestamp"):
            self._dirty.set()
            return
        grace = metadata.get("deletionGracePeriodSeconds", _DEFAULT_GRACE)
        if self._deadline is None:
            self._deadline = Deadline(self._runtime, grace)
        else:
            self._deadline.shorten(grace)
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(self._deadline))
            self._leaving.add_done_callback(_log_failure)

    async def destroy(self) -> None:
        """SIGKILL everything and clean up without a report: the object is gone or the node is dead."""
        current = asyncio.current_task()
        tasks = [t for t in (self._publisher, self._leaving, self._life) if t is not None and t is not current]
        for task in tasks:
            task.cancel()
        for container in self._containers:
            container.kill()
        await asyncio.gather(
            *tasks, *(c.stop(Deadline(self._runtime, 0)) for c in self._containers), return_exceptions=True
        )
        for folder in (self._directory, self._memory):
            shutil.rmtree(folder, ignore_errors=True)
        self._runtime.addresses.release(self._address)

    # -- life ------------------------------------------------------------------------------------------------

    def _make_containers(self) -> list[Container]:
        spec = self.pod["spec"]
        listed = [(c, kind_of(c, init=True)) for c in spec.get("initContainers") or []]
        listed += [(c, Kind.MAIN) for c in spec["containers"]]
        return [Container(c, kind, self._sandbox, self._runtime, self._changed) for c, kind in listed]

    async def _live(self) -> None:
        await self._prepare()
        policy = self.pod["spec"].get("restartPolicy") or "Always"
        initialized = await self._initialize(policy)
        if initialized:
            restart = {"Always": lambda _: True, "OnFailure": lambda code: code != 0}.get(policy, lambda _: False)
            mains = [c.start(restart) for c in self._containers if c.state.kind is Kind.MAIN]
            await asyncio.wait(mains)
        grace = self.pod["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE)
        await self._stop_containers(Deadline(self._runtime, grace))
        self._finish()

    async def _prepare(self) -> None:
        """Directories, volumes and the kubeconfig; tried until they can be made."""
        runtime, pod = self._runtime, self.pod
        self._directory.mkdir(parents=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        sources = VolumeSources(
            pod,
            runtime.fetcher(pod),
            lambda audience, seconds: runtime.access.token(pod, audience=audience, seconds=seconds),
            (self._address, runtime.settings.host_ip),
            self._directory / "v",
            self._memory,
            runtime.disk / "claims",
        )
        kubeconfig = self._directory / "kubeconfig"
        while True:
            try:
                self._sandbox.volumes = await sources.build()
                extra = {"TMPDIR": str(_made(self._directory / "t"))}
                if await runtime.access.write_kubeconfig(pod, kubeconfig):
                    extra["KUBECONFIG"] = str(kubeconfig)
                self._sandbox.env = {**self._sandbox.env, **extra}
                break
            except (ContainerConfigError, ApiError, OSError, aiohttp.ClientError) as error:
                _LOG.info("pod %s: volumes are not ready: %s", pod["metadata"]["name"], error)
                for container in self._containers:
                    container.state.state = {"waiting": {"reason": "ContainerCreating", "message": str(error)}}
                self._changed()
            await runtime.pause(_RETRY)
        self._ready_sandbox = True
        self._changed()

    async def _initialize(self, policy: str) -> bool:
        for container in self._containers:
            if container.state.kind is Kind.SIDECAR:
                container.start(lambda _: True)
                await container.started.wait()
            elif container.state.kind is Kind.INIT:
                await container.start(lambda code: policy != "Never" and code != 0)
                if container.state.exit_code != 0:
                    return False
        return True

    # -- end -------------------------------------------------------------------------------------------------

    async def _leave(self, deadline: Deadline) -> None:
        """Graceful deletion: stop in order, report how it ended, remove the object."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        await self._stop_containers(deadline)
        self._finish()
        await self._flush()
        metadata = self.pod["metadata"]
        while True:
            try:
                await self._runtime.client.delete(
                    PODS, metadata["name"], metadata["namespace"], grace_seconds=0, uid=self.uid
                )
            except ApiError as error:
                if error.status in {404, 409}:
                    return
                _LOG.warning("pod %s cannot be removed yet: %s", metadata["name"], error)
            except (OSError, aiohttp.ClientError) as error:
                _LOG.warning("pod %s cannot be removed yet: %r", metadata["name"], error)
            else:
                return
            await self._runtime.pause(_RETRY)

    async def _stop_containers(self, deadline: Deadline) -> None:
        """All hooks begin at once; sidecars get SIGTERM after the main containers, the last one first."""
        mains = [c for c in self._containers if c.state.kind is not Kind.SIDECAR]
        sidecars = [c for c in self._containers if c.state.kind is Kind.SIDECAR]
        before = asyncio.gather(*(c.stop(deadline) for c in mains))
        stops: list[asyncio.Future[Any]] = [before]
        for sidecar in reversed(sidecars):
            stops.append(asyncio.ensure_future(sidecar.stop(deadline, partial(_all_done, list(stops)))))
        try:
            await asyncio.gather(*stops)
        finally:
            for stop in stops:
                stop.cancel()

    def _finish(self) -> None:
        states = [c.state for c in self._containers]
        for state in states:
            state.ready = state.kind is Kind.INIT and state.exit_code == 0
        policy = self.pod["spec"].get("restartPolicy") or "Always"
        self._phase_final = phase(states, policy, ended=True)
        self._changed()

    # -- report ----------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._dirty.set()

    def status(self) -> Object:
        """The pod's status as it should be reported now."""
        runtime, spec = self._runtime, self.pod["spec"]
        states = [c.state for c in self._containers]
        current: Mapping[str, str] = {
            c["type"]: c["status"] for c in (self.pod.get("status") or {}).get("conditions") or []
        }
        gates = [gate["conditionType"] for gate in spec.get("readinessGates") or []]
        fresh = conditions(states, current, gates, sandbox=self._ready_sandbox, ended=self._phase_final)
        self._conditions = stamp(fresh, self._conditions, timestamp(runtime.clock.wall()))
        policy = spec.get("restartPolicy") or "Always"
        status: Object = {
            "phase": self._phase_final or phase(states, policy, ended=False),
            "conditions": self._conditions,
            "hostIP": runtime.settings.host_ip,
            "hostIPs": [{"ip": runtime.settings.host_ip}],
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "startTime": self._began,
            "containerStatuses": [s.as_status() for s in states if s.kind is Kind.MAIN],
        }
        if init := [s.as_status() for s in states if s.kind is not Kind.MAIN]:
            status["initContainerStatuses"] = init
        return status

    async def _publish(self) -> None:
        while True:
            await self._dirty.wait()
            if not await self._report():
                await self._runtime.pause(1.0)

    async def _flush(self) -> None:
        """Report the last state, with some patience; the object goes away anyway."""
        self._publisher.cancel()
        await asyncio.gather(self._publisher, return_exceptions=True)
        for _ in range(3):
            if await self._report():
                return
            await self._runtime.pause(1.0)

    async def _report(self) -> bool:
        """Patch the status if it changed; whether there is nothing left to report."""
        self._dirty.clear()
        status = self.status()
        if status == self._sent:
            return True
        metadata = self.pod["metadata"]
        body = {"metadata": {"uid": self.uid}, "status": status}
        try:
            await self._runtime.client.patch(
                PODS, metadata["name"], body, metadata["namespace"], subresource="status", how="strategic"
            )
        except (ApiError, OSError, aiohttp.ClientError) as error:
            if isinstance(error, ApiError) and error.status in {404, 409}:
                return True
            _LOG.warning("status of pod %s: %r", metadata["name"], error)
            self._dirty.set()
            return False
        self._sent = status
        return True


async def _all_done(futures: list[asyncio.Future[Any]]) -> None:
    await asyncio.wait(futures)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("a pod's task failed", exc_info=error)
