"""Raw objects to records: sense from good ones, and never an exception from bad ones."""

from __future__ import annotations

from typing import Any

import pytest
from fleet import instance_type, llm_deployment
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_contracts import labels
from warmfleet_operator.state import parse
from warmfleet_operator.state.records import WorkerPhase
from warmfleet_operator.state.snapshot import FleetStore, Kind
from warmfleet_runtime.clock import ManualClock

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
# fmt: off
FIELDS = [
    "metadata", "spec", "status", "name", "namespace", "uid", "resourceVersion", "generation", "labels",
    "annotations", "deletionTimestamp", "finalizers", "conditions", "type", "reason", "containerStatuses",
    "initContainerStatuses", "state", "waiting", "started", "taints", "key", "unschedulable", "containers",
    "resources", "limits", "nodeName", "podIP", "phase", "ownerReferences"
]
# fmt: on
OBJECTS = st.recursive(
    JSON,
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=25,
)


@given(meta=OBJECTS, spec=OBJECTS, status=OBJECTS)
def test_garbage_is_never_an_exception(meta: Any, spec: Any, status: Any) -> None:
    shaped = {"name": "x", "namespace": "n", "uid": "u", **(meta if isinstance(meta, dict) else {})}
    for component in (labels.COMPONENT_WORKER, labels.COMPONENT_ROUTER, None):
        named = {**shaped, "labels": {labels.COMPONENT: component}} if component else shaped
        body = {"metadata": named, "spec": spec, "status": status}
        store = FleetStore(ManualClock())
        for kind in Kind:
            store.observe(kind, body)
            store.observe(kind, {"metadata": meta})
            store.observe(kind, meta)
        store.snapshot()


def test_a_wrong_spec_becomes_a_record_that_says_so() -> None:
    body = llm_deployment(replicas=1)
    body["metadata"] |= {"uid": "u", "generation": 3}
    body["spec"]["variants"] = "none"
    record = parse.deployment_from(body, None, 0.0)
    assert record is not None
    assert record.spec is None
    assert "variants" in (record.spec_error or "")


@pytest.mark.parametrize("levels", [30, 31, 200, 300, 900])
def test_a_template_that_is_nested_without_end_is_refused_by_name(levels: int) -> None:
    """At 255 levels and more its hash raised, so that the fleet was never seen, and a start waited for it for ever."""
    body = llm_deployment(replicas=1)
    body["metadata"] |= {"uid": "u", "generation": 3}
    inner: Any = {}
    for _ in range(levels):
        inner = {"a": inner}
    body["spec"]["engine"]["podTemplate"] = {"spec": inner}
    store = FleetStore(ManualClock())
    store.observe(Kind.DEPLOYMENT, body)
    (record,) = store.snapshot().deployments.values()
    assert (record.spec is not None) == (levels <= 30)
    expected = None if levels <= 30 else "engine.podTemplate: Value error, is nested more than 32 levels deep"
    assert (record.spec_error or "")[: len(expected or "")] == (expected or "")


def test_an_instance_type_is_read() -> None:
    body = instance_type()
    body["metadata"]["uid"] = "u"
    record = parse.instance_type_from(body)
    assert record is not None
    assert record.spec is not None
    assert record.spec.price.on_demand == 32.0


def pod(**parts: Any) -> dict[str, Any]:
    meta = {
        "name": "w",
        "namespace": "prod",
        "uid": "u1",
        "resourceVersion": "7",
        "labels": {labels.COMPONENT: labels.COMPONENT_WORKER, labels.DEPLOYMENT: "chat", labels.ROUTE: "true"},
        **parts.get("metadata", {}),
    }
    return {"metadata": meta, "spec": parts.get("spec", {}), "status": parts.get("status", {})}


def ready(status: str) -> list[dict[str, str]]:
    return [{"type": "Ready", "status": status}]


def waiting(reason: str) -> list[dict[str, Any]]:
    return [{"name": "engine", "state": {"waiting": {"reason": reason, "message": "why"}}}]


ON_NODE = {"nodeName": "n"}


@pytest.mark.parametrize(
    ("body", "phase"),
    [
        (pod(), WorkerPhase.UNSCHEDULED),
        (pod(spec=ON_NODE), WorkerPhase.STARTING),
        (pod(spec=ON_NODE, status={"conditions": ready("True")}), WorkerPhase.READY),
        (
            pod(spec=ON_NODE, status={"containerStatuses": [{"name": "engine", "started": True}]}),
            WorkerPhase.NOT_READY,
        ),
        (pod(spec=ON_NODE, status={"phase": "Failed"}), WorkerPhase.FAILED),
        (pod(spec=ON_NODE, status={"containerStatuses": waiting("ImagePullBackOff")}), WorkerPhase.FAILED),
        (pod(spec=ON_NODE, status={"containerStatuses": waiting("ErrImagePull")}), WorkerPhase.STARTING),
        (pod(spec=ON_NODE, status={"initContainerStatuses": waiting("CrashLoopBackOff")}), WorkerPhase.FAILED),
        (pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), WorkerPhase.TERMINATING),
    ],
)
def test_phases_of_a_worker(body: dict[str, Any], phase: WorkerPhase) -> None:
    record = parse.worker_from_pod(body, None, 5.0)
    assert record is not None
    assert record.phase is phase


def test_moments_are_kept_over_events() -> None:
    first = parse.worker_from_pod(pod(), None, 1.0)
    second = parse.worker_from_pod(pod(spec=ON_NODE, status={"conditions": ready("True")}), first, 2.0)
    third = parse.worker_from_pod(pod(spec=ON_NODE, status={"conditions": ready("False")}), second, 3.0)
    assert third is not None
    assert (third.first_seen, third.first_ready, third.phase) == (1.0, 2.0, WorkerPhase.NOT_READY)


def test_a_pod_without_an_owner_is_orphaned() -> None:
    owned = parse.worker_from_pod(pod(metadata={"ownerReferences": [{"kind": "LLMDeployment", "uid": "d"}]}), None, 1.0)
    left = parse.worker_from_pod(pod(metadata={"ownerReferences": []}), owned, 2.0)
    assert owned is not None
    assert left is not None
    assert (owned.orphaned, left.orphaned) == (False, True)


@pytest.mark.parametrize(
    ("body", "leaving"),
    [
        ({}, None),
        ({"spec": {"unschedulable": True}}, "cordoned"),
        ({"spec": {"taints": [{"key": "karpenter.sh/disrupted"}]}}, "taint karpenter.sh/disrupted"),
        ({"spec": {"taints": [{"key": "nvidia.com/gpu"}]}}, None),
        ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, "not ready"),
    ],
)
def test_nodes_say_when_their_pods_must_leave(body: dict[str, Any], leaving: str | None) -> None:
    record = parse.node_from({"metadata": {"name": "n", "uid": "u"}, **body}, None, 0.0)
    assert record is not None
    assert record.leaving == leaving


class TestStore:
    """Order, deletion and waking."""

    def setup_method(self) -> None:
        self.wakes = 0
        self.clock = ManualClock()
        self.store = FleetStore(self.clock, self.wake)

    def wake(self) -> None:
        self.wakes += 1

    def test_older_versions_do_not_replace_newer_ones(self) -> None:
        self.store.observe(Kind.POD, pod(metadata={"resourceVersion": "9"}, spec=ON_NODE))
        self.store.observe(Kind.POD, pod(metadata={"resourceVersion": "8"}))
        assert self.store.snapshot().workers[0].phase is WorkerPhase.STARTING

    def test_a_deleted_uid_never_comes_back_but_its_name_may(self) -> None:
        self.store.observe(Kind.POD, pod())
        self.store.observe(Kind.POD, pod(), deleted=True)
        self.store.observe(Kind.POD, pod(metadata={"resourceVersion": "99"}))
        assert self.store.snapshot().workers == ()
        self.store.observe(Kind.POD, pod(metadata={"uid": "u2"}))
        assert [w.uid for w in self.store.snapshot().workers] == ["u2"]

    def test_a_late_deletion_of_an_earlier_pod_leaves_the_new_one(self) -> None:
        self.store.observe(Kind.POD, pod(metadata={"uid": "u2"}))
        self.store.observe(Kind.POD, pod(), deleted=True)
        assert [w.uid for w in self.store.snapshot().workers] == ["u2"]

    def test_only_what_matters_wakes(self) -> None:
        body = llm_deployment(replicas=1)
        body["metadata"] |= {"uid": "u", "generation": 1, "resourceVersion": "1"}
        self.store.observe(Kind.DEPLOYMENT, body)
        assert self.wakes == 1
        again = {**body, "metadata": {**body["metadata"], "resourceVersion": "2"}, "status": {"replicas": 1}}
        self.store.observe(Kind.DEPLOYMENT, again)
        assert self.wakes == 1

    def test_a_terminating_namespace_marks_its_deployments(self) -> None:
        body = llm_deployment(replicas=1)
        body["metadata"] |= {"uid": "u", "generation": 1}
        self.store.observe(Kind.DEPLOYMENT, body)
        namespace = {"metadata": {"name": "prod", "uid": "n"}, "status": {"phase": "Terminating"}}
        self.store.observe(Kind.NAMESPACE, namespace)
        assert next(iter(self.store.snapshot().deployments.values())).namespace_terminating

    def test_a_missed_deletion_is_pruned_and_a_missed_object_noticed(self) -> None:
        self.store.observe(Kind.POD, pod())
        known = self.store.known(Kind.POD)
        self.store.prune(Kind.POD, known, "99")
        assert self.store.snapshot().workers == ()
        key = next(iter(known))
        assert self.store.behind(Kind.POD, {key: ("u3", "1")}) == {key}
        assert self.store.behind(Kind.POD, {key: ("u1", "1")}) == set()

    def test_a_list_older_than_what_is_known_says_nothing_about_what_is_gone(self) -> None:
        body = pod()
        body["metadata"]["resourceVersion"] = "50"
        self.store.observe(Kind.POD, body)
        self.store.prune(Kind.POD, self.store.known(Kind.POD), "49")
        assert len(self.store.snapshot().workers) == 1

    def test_what_an_old_list_made_forgotten_comes_back_with_its_next_change(self) -> None:
        body = pod()
        body["metadata"]["resourceVersion"] = "50"
        self.store.observe(Kind.POD, body)
        self.store.prune(Kind.POD, self.store.known(Kind.POD), "60")
        self.store.observe(Kind.POD, body)
        assert self.store.snapshot().workers == (), "a late event does not bring it back"
        self.store.observe(Kind.POD, {**body, "metadata": {**body["metadata"], "resourceVersion": "61"}})
        assert len(self.store.snapshot().workers) == 1

    def test_an_unanswered_create_counts_as_there_until_seen_or_expired(self) -> None:
        record = parse.worker_from_pod(pod(), None, 0.0)
        assert record is not None
        self.store.expectations.creating(record, self.clock.now())
        assert len(self.store.snapshot().workers) == 1
        self.store.observe(Kind.POD, pod(spec=ON_NODE))
        assert [w.phase for w in self.store.snapshot().workers] == [WorkerPhase.STARTING]
        self.store.observe(Kind.POD, pod(spec=ON_NODE), deleted=True)
        assert self.store.snapshot().workers == ()
        self.store.expectations.creating(record, self.clock.now())
        self.clock.advance(61)
        assert self.store.snapshot().workers == ()
