"""Creating, replacing and patching: versions, conflicts, names, dry runs, refusals."""

from __future__ import annotations

import pytest

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


async def test_create_stamps_the_metadata_only_a_server_may_write(client, config_map):
    sent = config_map("a", {"k": "v"}, uid="mine", resourceVersion="77", creationTimestamp="2001-01-01T00:00:00Z")
    item = await client.made(MAPS, sent)
    meta = item["metadata"]
    assert meta["uid"] != "mine"
    assert meta["creationTimestamp"] > "2020"
    assert meta["namespace"] == "default"
    again = await client.made(MAPS, config_map("b"))
    assert int(again["metadata"]["resourceVersion"]) > int(meta["resourceVersion"])


async def test_second_create_of_a_name_is_a_conflict(client, config_map):
    await client.made(MAPS, config_map("a"))
    code, status = await client.post(MAPS, config_map("a"))
    assert (code, status["reason"]) == (409, "AlreadyExists")
    assert status["message"] == 'configmaps "a" already exists'


async def test_generate_name_adds_a_suffix(client, config_map):
    item = await client.made(MAPS, config_map("", generateName="cache-"))
    name = item["metadata"]["name"]
    assert name.startswith("cache-")
    assert len(name) == len("cache-") + 5


async def test_dry_run_answers_but_keeps_nothing(client, config_map):
    code, item = await client.post(f"{MAPS}?dryRun=All", config_map("a"))
    assert code == 201
    assert item["metadata"]["uid"]
    assert (await client.get(f"{MAPS}/a"))[0] == 404


async def test_stale_resource_version_is_refused(client, config_map):
    old = await client.made(MAPS, config_map("a"))
    code, new = await client.put(f"{MAPS}/a", {**old, "data": {"k": "1"}})
    assert code == 200
    code, status = await client.put(f"{MAPS}/a", {**old, "data": {"k": "2"}})
    assert (code, status["reason"]) == (409, "Conflict")
    assert (await client.get(f"{MAPS}/a"))[1] == new


async def test_write_without_a_change_keeps_the_resource_version(client, config_map):
    old = await client.made(MAPS, config_map("a", {"k": "v"}))
    _, same = await client.patch(f"{MAPS}/a", {"data": {"k": "v"}})
    assert same == old


async def test_generation_follows_the_spec_and_status_stands_apart(client, pod):
    await client.made(PODS, pod("p", node="n1"))
    _, after_status = await client.patch(f"{PODS}/p/status", {"status": {"phase": "Running"}, "spec": {"x": 1}})
    assert after_status["metadata"]["generation"] == 1
    assert after_status["status"]["phase"] == "Running"
    assert "x" not in after_status["spec"]
    _, after_spec = await client.patch(
        f"{PODS}/p", {"spec": {"activeDeadlineSeconds": 5}, "status": {"phase": "Failed"}}
    )
    assert after_spec["metadata"]["generation"] == 2
    assert after_spec["status"]["phase"] == "Running"


async def test_pod_spec_is_immutable_but_for_a_few_fields(client, pod):
    await client.made(PODS, pod("p"))
    code, status = await client.patch(f"{PODS}/p", {"spec": {"hostname": "x"}})
    assert code == 422
    assert "pod updates may not change fields" in status["message"]


async def test_json_patch_and_its_failed_test(client, config_map):
    await client.made(MAPS, config_map("a", {"k": "v"}))
    media = "application/json-patch+json"
    code, item = await client.patch(f"{MAPS}/a", [{"op": "replace", "path": "/data/k", "value": "w"}], media)
    assert (code, item["data"]) == (200, {"k": "w"})
    code, status = await client.patch(f"{MAPS}/a", [{"op": "test", "path": "/data/k", "value": "v"}], media)
    assert (code, status["reason"]) == (422, "Invalid")


async def test_merge_patch_removes_with_null(client, config_map):
    await client.made(MAPS, config_map("a", {"k": "v", "l": "w"}))
    _, item = await client.patch(f"{MAPS}/a", {"data": {"k": None}})
    assert item["data"] == {"l": "w"}


async def test_strategic_patch_merges_lists_by_key_and_deletes_on_demand(client, pod):
    first = pod("p")
    first["spec"]["containers"].append({"name": "side", "image": "agent:1"})
    await client.made(PODS, first)
    media = "application/strategic-merge-patch+json"
    change = {"spec": {"containers": [{"name": "side", "image": "agent:2"}]}}
    _, item = await client.patch(f"{PODS}/p", change, media)
    assert [c["image"] for c in item["spec"]["containers"]] == ["engine:1", "agent:2"]
    finalizers = {"metadata": {"finalizers": ["a/x", "a/y"]}}
    await client.patch(f"{PODS}/p", finalizers, media)
    gone = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/x"]}}
    _, item = await client.patch(f"{PODS}/p", gone, media)
    assert item["metadata"]["finalizers"] == ["a/y"]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"metadata": {"name": "Bad_Name"}}, 422, "metadata.name: Invalid value"),
        ({"metadata": {"name": "ok", "labels": {"a": 5}}}, 400, "metadata.labels[a] must be a string"),
        ({"metadata": {"name": "ok", "labels": {"a": "x" * 64}}}, 422, "must be no more than 63 bytes"),
        ({"metadata": {"name": "ok", "namespace": "other"}}, 400, "does not match the namespace"),
        ({"metadata": {"name": "ok"}, "spec": {"containers": []}}, 422, "spec.containers: Required value"),
        ({"metadata": {"name": "ok"}, "kind": "Service"}, 400, "expected v1, Kind=Pod"),
        ({"metadata": {}}, 422, "name or generateName is required"),
    ],
)
async def test_bad_pods_are_refused_with_the_field_named(client, pod, change, code, message):
    answer, status = await client.post(PODS, {**pod("ok"), **change})
    assert answer == code
    assert message in status["message"]


async def test_garbage_and_unknown_paths_are_refused_as_status_objects(client):
    async with client.session.post(client.url + MAPS, data=b"{nope") as response:
        assert response.status == 400
        assert (await response.json())["kind"] == "Status"
    for path in ("/api/v1/nothing", "/apis/none.dev/v1/x", "/api/v2/pods", "/nowhere"):
        assert (await client.get(path))[0] == 404
    assert (await client.call("PUT", MAPS, {}))[0] == 405


async def test_unknown_namespace_and_priority_class_are_refused(client, config_map, pod):
    code, status = await client.post("/api/v1/namespaces/none/configmaps", config_map("a"))
    assert (code, status["message"]) == (404, 'namespaces "none" not found')
    wrong = pod("p")
    wrong["spec"]["priorityClassName"] = "golden"
    code, status = await client.post(PODS, wrong)
    assert code == 403
    assert "no PriorityClass with name golden was found" in status["message"]


async def test_secret_string_data_is_encoded(client):
    body = {"metadata": {"name": "s"}, "stringData": {"token": "hello"}}
    item = await client.made("/api/v1/namespaces/default/secrets", body)
    assert item["data"] == {"token": "aGVsbG8="}
    assert "stringData" not in item


async def test_binding_token_and_access_review(client, pod):
    await client.made(PODS, pod("p"))
    binding = {"target": {"kind": "Node", "name": "n1"}}
    assert (await client.post(f"{PODS}/p/binding", binding))[0] == 201
    assert (await client.get(f"{PODS}/p"))[1]["spec"]["nodeName"] == "n1"
    assert (await client.post(f"{PODS}/p/binding", binding))[0] == 409
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await client.made(accounts, {"metadata": {"name": "sa"}})
    token = await client.made(f"{accounts}/sa/token", {"spec": {"expirationSeconds": 600}})
    assert len(token["status"]["token"]) > 30
    review = await client.made("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": {}})
    assert review["status"]["allowed"] is True


async def test_both_event_kinds_share_their_objects(client):
    body = {
        "metadata": {"name": "e"},
        "regarding": {"kind": "Pod", "name": "p"},
        "note": "scaled",
        "reason": "Scaled",
        "type": "Normal",
    }
    await client.made("/apis/events.k8s.io/v1/namespaces/default/events", body)
    core = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp"
    _, listed = await client.get(core)
    assert [e["message"] for e in listed["items"]] == ["scaled"]
    _, again = await client.get("/apis/events.k8s.io/v1/namespaces/default/events/e")
    assert (again["note"], again["regarding"]["name"]) == ("scaled", "p")
