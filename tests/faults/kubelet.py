"""The kubelets and the scheduler of a broken cluster: each worker pod lives as its machine, image and agent let it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from parts import POOL, Agent, Json, Node
from warmfleet_contracts import labels
from warmfleet_localcluster.api.subresources import bind

if TYPE_CHECKING:
    from faultworld import FaultWorld

START_SECONDS = 20.0
"""From a node to a ready engine, logical seconds."""
_ENGINE_RESTARTED = "engine restarted"
_POLL = 0.1


class Kubelet:
    """Plays everything that happens to pods on machines.

    Args:
        world: Their cluster.
    """

    def __init__(self, world: FaultWorld) -> None:
        self._world = world
        self._restarting: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def tend(self) -> None:
        """Gives every new worker pod its life, and every router its pod."""
        for pod in self._world.workers():
            uid = pod["metadata"]["uid"]
            if uid not in self._tasks:
                self._tasks[uid] = asyncio.create_task(self._live(pod), name=f"pod {pod['metadata']['name']}")
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and task.exception() is not None:
                task.result()

    def _find(self, uid: str) -> Json | None:
        found = self._world.api.store.by_uid(uid)
        return None if found is None else found[1]

    def _free(self, pod: Json) -> Node | None:
        pool = (pod["spec"].get("nodeSelector") or {}).get(POOL)
        if pool in self._world.stocked_out:
            return None
        taken = {p["spec"].get("nodeName") for p in self._world.workers()}
        return next(
            (
                n
                for n in self._world.nodes.values()
                if n.pool == pool and n.up and not n.taints and not n.cordoned and n.name not in taken
            ),
            None,
        )

    async def _live(self, pod: Json) -> None:
        meta = pod["metadata"]
        uid, namespace, name = meta["uid"], meta["namespace"], meta["name"]
        agent = self._world.agents[uid] = Agent(self._world.clock, uid)
        try:
            node = await self._scheduled(uid)
            if node is None:
                return
            image = next(c["image"] for c in pod["spec"]["containers"] if c["name"] == labels.ENGINE_CONTAINER)
            if image in self._world.bad_images:
                waiting = {"reason": "ImagePullBackOff", "message": f"Back-off pulling image {image}"}
                state = [{"name": "engine", "started": False, "ready": False, "state": {"waiting": waiting}}]
                self._world.patch("pods", namespace, name, {"status": {"containerStatuses": state}}, "status")
                await self._until_deleted(uid)
                return
            await agent.start()
            self.show(pod, ready=False, ip=agent.ip)
            await self._serve(uid, agent, node)
        finally:
            await agent.stop()

    async def _until_deleted(self, uid: str) -> None:
        while True:
            live = self._find(uid)
            if live is None or live["metadata"].get("deletionTimestamp"):
                self._remove(uid)
                return
            await asyncio.sleep(_POLL)

    async def _scheduled(self, uid: str) -> Node | None:
        said = False
        while (live := self._find(uid)) is not None:
            meta = live["metadata"]
            if meta.get("deletionTimestamp"):
                self._remove(uid)
                return None
            node = self._free(live)
            if node is not None:
                target = {"target": {"kind": "Node", "name": node.name}}
                bind(self._world.api, self._world.api.registry.named("pods"), meta["namespace"], meta["name"], target)
                return node
            if not said:
                said = True
                wait = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
                self._world.patch("pods", meta["namespace"], meta["name"], {"status": {"conditions": wait}}, "status")
            await asyncio.sleep(_POLL)
        return None

    async def _serve(self, uid: str, agent: Agent, node: Node) -> None:
        born, shown = self._world.clock.now(), False
        ending: float | None = None
        while (live := self._find(uid)) is not None:
            now, meta = self._world.clock.now(), live["metadata"]
            if not node.up:
                await asyncio.sleep(_POLL)
                continue
            agent.mode = self._world.modes.get(meta["namespace"], "good")
            if meta.get("deletionTimestamp"):
                agent.begin_drain()  # the engine's preStop
                ending = now if ending is None else ending
                if agent.drained or now - ending > (meta.get("deletionGracePeriodSeconds") or 30):
                    self._remove(uid)
                    return
            ready = now - born >= START_SECONDS and agent.drain_at is None and uid not in self._restarting
            if ready != shown:
                self.show(live, ready=ready, ip=agent.ip)
                shown = ready
                if ready and self._world.lost.get(uid) == _ENGINE_RESTARTED:
                    del self._world.lost[uid]  # it serves again, and may be asked about as any other
            await asyncio.sleep(_POLL)

    async def restart_engine(self, pod: Json, seconds: float) -> None:
        """The engine of a worker crashes and comes back."""
        uid = pod["metadata"]["uid"]
        self._world.lost[uid] = _ENGINE_RESTARTED
        self._restarting.add(uid)
        agent = self._world.agents.get(uid)
        if agent is not None:
            agent.finished = 0.0
        await self._world.clock.sleep(seconds)
        self._restarting.discard(uid)

    def show(self, pod: Json, *, ready: bool, ip: str = "") -> None:
        """The status of a pod, a router's too."""
        meta = pod["metadata"]
        text = "True" if ready else "False"
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": text}]
        status: Json = {"phase": "Running", "conditions": conditions}
        if ip:
            status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        if ready:
            status["containerStatuses"] = [{"name": "engine", "started": True, "ready": True}]
        self._world.patch("pods", meta["namespace"], meta["name"], {"status": status}, "status")

    def _remove(self, uid: str) -> None:
        live = self._find(uid)
        if live is not None:
            self._world.delete("pods", live["metadata"]["namespace"], live["metadata"]["name"], now=True)

    async def end(self) -> None:
        """Ends all lives."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
