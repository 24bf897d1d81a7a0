"""The observer notices every kind of broken promise, and excuses only what it may."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from observer import Observer
from warmfleet_contracts import labels
from warmfleet_runtime.clock import ManualClock

Json = dict[str, Any]


def fleet(**spec: Any) -> Json:
    spec = {"kvCache": {"drainDeadline": "60s"}, **spec}
    return {"metadata": {"namespace": "prod", "name": "chat"}, "spec": spec}


def pod(name: str, *, ready: bool = True) -> Json:
    mine = {labels.COMPONENT: "worker", labels.DEPLOYMENT: "chat", labels.INSTANCE_TYPE: "h100", labels.REVISION: "r"}
    meta = {"namespace": "prod", "name": name, "uid": f"uid-{name}", "labels": mine}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": meta, "spec": {"nodeName": "n"}, "status": {"conditions": conditions}}


def changed(body: Json, **meta: Any) -> Json:
    body = copy.deepcopy(body)
    body["metadata"] |= meta
    return body


class Scene:
    """Three workers that serve."""

    def __init__(self) -> None:
        self.clock = ManualClock(1000.0)
        self.lost: dict[str, str] = {}
        self.drained: set[str] = set()
        self.observer = Observer(
            self.clock, excuse=self.lost.get, drained=lambda uid: uid in self.drained, limits={"h100": 4}
        )
        self.observer.saw_fleet(fleet(replicas=3))
        self.clock.advance(100.0)  # long enough ago that nothing decided before it is still on its way
        self.pods = [pod(f"w{n}") for n in range(3)]
        for one in self.pods:
            self.observer.saw_pod(one)

    @property
    def broken(self) -> list[str]:
        return [violation.promise for violation in self.observer.violations]

    def tell(self) -> Json:
        body = changed(self.pods[0], annotations={labels.DRAINING: "OldestNode"})
        self.observer.saw_pod(body)
        return body


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_quiet_fleet_breaks_nothing(scene: Scene) -> None:
    assert scene.broken == []
    assert scene.observer.checks["min serving"] == 3


def test_a_worker_that_stops_serving_below_the_minimum_is_noticed(scene: Scene) -> None:
    scene.tell()
    assert scene.broken == ["min serving"]


def test_a_smaller_spec_lowers_the_minimum(scene: Scene) -> None:
    scene.observer.saw_fleet(fleet(replicas=2))
    scene.tell()
    assert scene.broken == []


def test_a_minimum_that_was_just_raised_does_not_condemn_what_was_decided_before(scene: Scene) -> None:
    scene.observer.saw_fleet(fleet(replicas=2))
    scene.observer.saw_fleet(fleet(replicas=3))
    scene.tell()
    assert scene.broken == []
    scene.clock.advance(100.0)
    scene.observer.saw_pod(scene.pods[0])
    scene.observer.saw_pod(pod("w1", ready=False))
    assert scene.broken == ["min serving"]


def test_an_injected_loss_is_excused_and_the_next_one_is_not(scene: Scene) -> None:
    scene.lost["uid-w0"] = "node lost"
    scene.observer.saw_pod(pod("w0", ready=False))
    assert scene.broken == []
    scene.observer.saw_pod(pod("w1", ready=False))
    assert scene.broken == ["min serving"]


def test_a_serving_worker_deleted_without_a_drain_is_noticed(scene: Scene) -> None:
    scene.observer.saw_fleet(fleet(replicas=1))
    scene.observer.saw_pod(changed(scene.pods[0], deletionTimestamp="now"))
    assert scene.broken == ["drained"]
    scene.observer.saw_pod(scene.pods[1], deleted=True)
    assert scene.broken == ["drained", "drained"]


@pytest.mark.parametrize(
    ("waited", "drained", "broken"), [(5.0, False, True), (61.0, False, False), (5.0, True, False)]
)
def test_a_worker_leaves_when_its_drain_or_its_deadline_is_over(
    scene: Scene, waited: float, drained: bool, broken: bool
) -> None:
    scene.observer.saw_fleet(fleet(replicas=2))
    told = scene.tell()
    scene.clock.advance(waited)
    if drained:
        scene.drained.add("uid-w0")
    scene.observer.saw_pod(changed(told, deletionTimestamp="now"))
    assert scene.broken == (["drained"] if broken else [])


def test_a_worker_beside_enough_workers_is_noticed_and_one_in_place_of_a_lame_one_is_not(scene: Scene) -> None:
    scene.lost["uid-w0"] = "engine restarted"
    scene.observer.saw_pod(pod("w0", ready=False))
    scene.observer.saw_pod(pod("w3", ready=False))
    assert scene.broken == []
    scene.observer.saw_pod(pod("w4", ready=False))
    assert set(scene.broken) == {"once", "limits"}


def test_a_second_deletion_is_noticed(scene: Scene) -> None:
    scene.observer.deleted_twice({"a": 1, "b": 2})
    assert scene.broken == ["once"]


@pytest.mark.parametrize(("later", "broken"), [(1.0, []), (30.0, ["min serving"])])
def test_a_drain_that_was_under_way_when_the_world_took_another_worker_is_excused(
    scene: Scene, later: float, broken: list[str]
) -> None:
    scene.observer.saw_fleet(fleet(replicas=2))
    scene.clock.advance(100.0)
    scene.lost["uid-w1"] = "engine restarted"
    scene.observer.saw_pod(pod("w1", ready=False))
    scene.clock.advance(later)
    scene.tell()
    assert scene.broken == broken


@pytest.mark.parametrize(("leaving", "broken"), [(True, []), (False, ["min serving"])])
def test_a_worker_whose_machine_leaves_may_leave_while_the_world_keeps_another_from_serving(
    scene: Scene, leaving: bool, broken: list[str]
) -> None:
    scene.observer.saw_fleet(fleet(replicas=2))
    scene.clock.advance(100.0)
    scene.observer.leaving_node = lambda _: leaving
    scene.lost["uid-w1"] = "engine restarted"
    scene.observer.saw_pod(pod("w1", ready=False))
    scene.clock.advance(90.0)
    scene.tell()
    assert scene.broken == broken


def test_a_worker_that_is_told_to_leave_for_a_notice_serves_no_more_before_it_is_unready(scene: Scene) -> None:
    scene.observer.saw_fleet(fleet(replicas=2))
    scene.clock.advance(100.0)
    scene.lost["uid-w1"] = "notice of 30 s"
    scene.observer.saw_pod(changed(pod("w1"), annotations={labels.DRAINING: "NodeLeaving"}))
    scene.tell()  # decided before the notice, and under way when it came
    assert scene.broken == []
