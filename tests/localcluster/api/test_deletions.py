"""Deleting: grace, finalizers, preconditions, owners, namespaces, collections, evictions."""

from __future__ import annotations

import asyncio

import pytest
from warmfleet_localcluster.api import EmbeddedApi
from warmfleet_localcluster.api.embedded import WriteOptions

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
READY = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}


def owned_by(owner, **more):
    meta = owner["metadata"]
    reference = {"apiVersion": "v1", "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"], **more}
    return {"ownerReferences": [reference]}


async def test_unbound_pod_goes_at_once(client, pod):
    await client.made(PODS, pod("p"))
    await client.delete(f"{PODS}/p")
    assert (await client.get(f"{PODS}/p"))[0] == 404


async def test_bound_pod_waits_for_its_node_agent(client, pod):
    await client.made(PODS, pod("p", node="n1"))
    code, item = await client.delete(f"{PODS}/p", {"gracePeriodSeconds": 20})
    assert code == 200
    assert item["metadata"]["deletionGracePeriodSeconds"] == 20
    assert item["metadata"]["deletionTimestamp"] > item["metadata"]["creationTimestamp"]
    _, again = await client.delete(f"{PODS}/p", {"gracePeriodSeconds": 60})
    assert again == item, "a grace period can only become shorter"
    _, shorter = await client.delete(f"{PODS}/p", {"gracePeriodSeconds": 5})
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    await client.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (await client.get(f"{PODS}/p"))[0] == 404


async def test_default_grace_is_the_pods_own(client, pod):
    body = pod("p", node="n1")
    body["spec"]["terminationGracePeriodSeconds"] = 7
    await client.made(PODS, body)
    _, item = await client.delete(f"{PODS}/p")
    assert item["metadata"]["deletionGracePeriodSeconds"] == 7


async def test_finalizer_holds_an_object_and_none_can_be_added_later(client, config_map):
    await client.made(MAPS, config_map("a", finalizers=["x.dev/hold"]))
    _, item = await client.delete(f"{MAPS}/a")
    assert item["metadata"]["deletionTimestamp"]
    code, status = await client.patch(f"{MAPS}/a", {"metadata": {"finalizers": ["x.dev/hold", "x.dev/more"]}})
    assert (code, status["details"]["causes"][0]["reason"]) == (422, "FieldValueForbidden")
    await client.patch(f"{MAPS}/a", {"metadata": {"finalizers": None}})
    assert (await client.get(f"{MAPS}/a"))[0] == 404


async def test_finalized_pod_needs_both_its_agent_and_its_finalizer(client, pod):
    await client.made(PODS, pod("p", node="n1", finalizers=["x.dev/hold"]))
    await client.delete(f"{PODS}/p")
    await client.patch(f"{PODS}/p", {"metadata": {"finalizers": None}})
    assert (await client.get(f"{PODS}/p"))[0] == 200
    await client.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (await client.get(f"{PODS}/p"))[0] == 404


async def test_preconditions(client, config_map):
    item = await client.made(MAPS, config_map("a"))
    meta = item["metadata"]
    for wrong in ({"uid": "other"}, {"uid": meta["uid"], "resourceVersion": "1"}):
        code, status = await client.delete(f"{MAPS}/a", {"preconditions": wrong})
        assert (code, status["reason"]) == (409, "Conflict")
    right = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    assert (await client.delete(f"{MAPS}/a?dryRun=All", {"preconditions": right}))[0] == 200
    code, status = await client.delete(f"{MAPS}/a", {"preconditions": right})
    assert (code, status["status"]) == (200, "Success")
    assert (await client.get(f"{MAPS}/a"))[0] == 404


async def test_dependents_follow_their_last_owner(client, config_map):
    one, two = await client.made(MAPS, config_map("one")), await client.made(MAPS, config_map("two"))
    owners = owned_by(one)["ownerReferences"] + owned_by(two)["ownerReferences"]
    await client.made(MAPS, config_map("child", ownerReferences=owners))
    await client.made(MAPS, config_map("grandchild", **owned_by((await client.get(f"{MAPS}/child"))[1])))
    await client.delete(f"{MAPS}/one")
    await asyncio.sleep(0.02)
    code, child = await client.get(f"{MAPS}/child")
    assert code == 200
    assert [o["name"] for o in child["metadata"]["ownerReferences"]] == ["two"]
    await client.delete(f"{MAPS}/two")
    assert await client.gone(f"{MAPS}/child")
    assert await client.gone(f"{MAPS}/grandchild")


async def test_dependent_of_an_owner_that_never_was_is_collected(client, config_map):
    ghost = {"kind": "ConfigMap", "metadata": {"name": "ghost", "uid": "0000"}}
    await client.made(MAPS, config_map("child", **owned_by(ghost)))
    assert await client.gone(f"{MAPS}/child")


async def test_orphan_keeps_the_dependents(client, config_map):
    owner = await client.made(MAPS, config_map("owner"))
    await client.made(MAPS, config_map("child", **owned_by(owner)))
    await client.delete(f"{MAPS}/owner", {"propagationPolicy": "Orphan"})
    assert await client.gone(f"{MAPS}/owner")
    _, child = await client.get(f"{MAPS}/child")
    assert "ownerReferences" not in child["metadata"]


async def test_foreground_owner_goes_after_its_blocking_dependents(client, config_map):
    owner = await client.made(MAPS, config_map("owner"))
    held = owned_by(owner, blockOwnerDeletion=True)
    await client.made(MAPS, config_map("child", finalizers=["x.dev/hold"], **held))
    await client.delete(f"{MAPS}/owner", {"propagationPolicy": "Foreground"})
    await asyncio.sleep(0.02)
    assert (await client.get(f"{MAPS}/child"))[1]["metadata"]["deletionTimestamp"]
    assert (await client.get(f"{MAPS}/owner"))[0] == 200
    _, child = await client.get(f"{MAPS}/child")
    left = [f for f in child["metadata"]["finalizers"] if f == "foregroundDeletion"]
    await client.patch(f"{MAPS}/child", {"metadata": {"finalizers": left or None}})
    assert await client.gone(f"{MAPS}/child")
    assert await client.gone(f"{MAPS}/owner")


async def test_namespace_takes_its_contents_gracefully_along(client, config_map, pod):
    await client.made("/api/v1/namespaces", {"metadata": {"name": "team"}})
    inside = "/api/v1/namespaces/team"
    await client.made(f"{inside}/configmaps", config_map("a"))
    await client.made(f"{inside}/pods", pod("p", node="n1"))
    await client.delete(inside)
    assert await client.gone(f"{inside}/configmaps/a")
    _, namespace = await client.get(inside)
    assert namespace["status"]["phase"] == "Terminating"
    assert (await client.get(f"{inside}/pods/p"))[1]["metadata"]["deletionGracePeriodSeconds"] == 30
    code, status = await client.post(f"{inside}/configmaps", config_map("late"))
    assert (code, status["reason"]) == (403, "Forbidden")
    assert "because it is being terminated" in status["message"]
    await client.delete(f"{inside}/pods/p", {"gracePeriodSeconds": 0})
    assert await client.gone(inside)


async def test_default_namespace_stays(client):
    assert (await client.delete("/api/v1/namespaces/default"))[0] == 403


async def test_delete_collection_by_label(client, config_map):
    for name, app in (("a", "x"), ("b", "x"), ("c", "y")):
        await client.made(MAPS, config_map(name, labels={"app": app}))
    code, deleted = await client.delete(f"{MAPS}?labelSelector=app%3Dx")
    assert (code, len(deleted["items"])) == (200, 2)
    assert [i["metadata"]["name"] for i in (await client.get(MAPS))[1]["items"]] == ["c"]


async def budgeted(client, pod, ready: int, **budget):
    await client.made(BUDGETS, {"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, **budget}})
    for index in range(3):
        await client.made(PODS, pod(f"p{index}", node="n1", labels={"a": "b"}))
        state = READY if index < ready else {"status": {"phase": "Running"}}
        await client.patch(f"{PODS}/p{index}/status", state)


async def evict(client, name):
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    return await client.post(f"{PODS}/{name}/eviction", body)


async def test_eviction_respects_an_integer_budget(client, pod):
    await budgeted(client, pod, 3, minAvailable=2)
    body = {"metadata": {"name": "p0"}}
    assert (await client.post(f"{PODS}/p0/eviction?dryRun=All", body))[0] == 201
    assert "deletionTimestamp" not in (await client.get(f"{PODS}/p0"))[1]["metadata"]
    assert (await evict(client, "p0"))[0] == 201
    assert (await client.get(f"{PODS}/p0"))[1]["metadata"]["deletionTimestamp"]
    code, status = await evict(client, "p1")
    assert (code, status["reason"]) == (429, "TooManyRequests")
    assert status["details"]["causes"][0]["message"].endswith("needs 2 healthy pods and has 2 currently")
    assert (await evict(client, "p0"))[0] == 201, "a pod that is leaving already may be evicted again"


@pytest.mark.parametrize(("policy", "code"), [({}, 429), ({"unhealthyPodEvictionPolicy": "AlwaysAllow"}, 201)])
async def test_eviction_of_an_unhealthy_pod_is_a_matter_of_policy(client, pod, policy, code):
    await budgeted(client, pod, 1, minAvailable=2, **policy)
    assert (await evict(client, "p2"))[0] == code


async def test_percentage_without_a_controller_blocks_every_eviction(client, pod):
    await budgeted(client, pod, 3, maxUnavailable="50%")
    assert (await evict(client, "p0"))[0] == 429


def test_without_a_loop_background_work_waits_for_settle(config_map):
    api = EmbeddedApi()
    maps = api.registry.named("configmaps")
    ghost = {"kind": "ConfigMap", "metadata": {"name": "ghost", "uid": "0000"}}
    api.create(maps, "default", config_map("child", **owned_by(ghost)), WriteOptions())
    assert len(api.objects(maps, "default")) == 1
    api.settle()
    assert api.objects(maps, "default") == []
