"""Which machine is taken, and what is told of it, on an API that keeps what it is given."""

from __future__ import annotations

import asyncio
from typing import Any

from warmfleet_cli.demo.fault import TAINT, choose, take_machine
from warmfleet_contracts import labels
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.resources import NODES, PODS
from warmfleet_runtime.rest import ApiError

Pod = dict[str, Any]


def pod(name: str, *, variant: str = "l40s", ready: bool = True, draining: bool = False, born: int = 1) -> Pod:
    annotations = {labels.DRAINING: "NodeLeaving"} if draining else {}
    meta = {"name": name, "uid": f"uid-{name}", "labels": {labels.VARIANT: variant}, "annotations": annotations}
    meta["creationTimestamp"] = f"2026-01-01T00:00:0{born}Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": meta, "spec": {"nodeName": f"node-of-{name}"}, "status": {"conditions": conditions}}


def test_the_machine_of_the_oldest_worker_that_serves_alone_is_taken() -> None:
    pods = [
        pod("a", variant="a100", born=0),
        pod("b", born=3),
        pod("c", born=2),
        pod("d", born=1, ready=False),
        pod("e", born=1, draining=True),
    ]
    taken = choose(pods, "l40s")
    assert taken is not None
    assert (taken.node, taken.worker) == ("node-of-c", "c")
    assert choose([pods[0]], "l40s") is None


class Api:
    """As much of a cluster as the fault touches."""

    def __init__(self, pods: list[Pod]) -> None:
        self.pods = pods
        self.nodes: dict[str, dict[str, Any]] = {p["spec"]["nodeName"]: {"spec": {}} for p in pods}

    async def list(self, resource: object, namespace: str, **selectors: str) -> dict[str, Any]:
        assert resource is PODS
        return {"items": list(self.pods)}

    async def get(self, resource: object, name: str) -> dict[str, Any]:
        assert resource is NODES
        return self.nodes[name]

    async def patch(self, resource: object, name: str, body: dict[str, Any]) -> None:
        assert resource is NODES
        self.nodes[name]["spec"] |= body["spec"]

    async def delete(self, resource: object, name: str) -> None:
        assert resource is NODES
        if self.nodes.pop(name, None) is None:
            raise ApiError(404, "NotFound", "gone", "DELETE nodes")


async def test_what_becomes_of_it_is_told_in_order_and_the_machine_goes_last() -> None:
    api, notes = Api([pod("old"), pod("other", variant="a100")]), list[str]()
    clock = ScaledClock(40.0)
    task = asyncio.create_task(
        take_machine(api, "chat", "default", variant="l40s", clock=clock, note=notes.append)  # type: ignore[arg-type]
    )
    await asyncio.sleep(0.4)
    assert api.nodes["node-of-old"]["spec"]["taints"] == [TAINT]
    api.pods = [pod("old", draining=True, ready=False), pod("new", ready=False), api.pods[1]]
    await asyncio.sleep(0.4)
    assert "node-of-old" in api.nodes, "a machine goes when its worker has left"
    api.pods = [pod("new"), api.pods[2]]
    await asyncio.wait_for(task, 10)
    assert "node-of-old" not in api.nodes
    assert [note.split(" (")[0] for note in notes] == [
        f"machine node-of-old is taken away (taint {TAINT['key']}); old serves on it".split(" (")[0],
        "new is created in its place",
        "old drains: it takes no new requests, finishes its streams, hands over",
        "new serves",
        "old has left, the machine is gone",
    ]
