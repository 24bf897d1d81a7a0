"""Server-side apply: creating, adding, and removing what is no longer sent."""

from __future__ import annotations

APPLY = "application/apply-patch+yaml"
WIDGETS = "/apis/example.dev/v1/namespaces/default/widgets"
PODS = "/api/v1/namespaces/default/pods"


def config(**spec):
    return {"apiVersion": "example.dev/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}


async def apply(client, body, manager="one", path=f"{WIDGETS}/w"):
    code, item = await client.patch(f"{path}?fieldManager={manager}&force=true", body, APPLY)
    assert code in {200, 201}, item
    return code, item


async def test_apply_creates_then_changes_nothing(widgets):
    code, first = await apply(widgets, config(size="small"))
    assert code == 201
    code, second = await apply(widgets, config(size="small"))
    assert (code, second) == (200, first)


async def test_field_no_longer_sent_is_removed_but_others_stay(widgets):
    await apply(widgets, config(size="small", replicas=3, parts=[{"name": "a", "weight": 1}, {"name": "b"}]))
    await apply(widgets, config(parts=[{"name": "c"}, {"name": "a", "note": "kept"}]), manager="two")
    _, item = await apply(widgets, config(size="small", parts=[{"name": "a"}]))
    assert "replicas" not in item["spec"]
    assert item["spec"]["parts"] == [{"name": "a", "note": "kept"}, {"name": "c"}]


async def test_field_another_applier_still_sends_stays(widgets):
    await apply(widgets, config(size="small", replicas=3))
    await apply(widgets, config(replicas=3), manager="two")
    _, item = await apply(widgets, config(size="small"))
    assert item["spec"]["replicas"] == 3
    _, item = await apply(widgets, config(), manager="two")
    assert "replicas" not in item["spec"]


async def test_status_is_tracked_apart_from_the_object(widgets):
    await apply(widgets, config(size="small"))
    status = {**config(), "status": {"phase": "Up", "observedGeneration": 1}}
    del status["spec"]
    _, item = await apply(widgets, status, path=f"{WIDGETS}/w/status")
    assert item["status"] == {"phase": "Up", "observedGeneration": 1}
    status["status"] = {"phase": "Up"}
    _, item = await apply(widgets, status, path=f"{WIDGETS}/w/status")
    assert item["status"] == {"phase": "Up"}
    _, item = await apply(widgets, config(size="small"))
    assert item["status"] == {"phase": "Up"}


async def test_apply_after_recreation_starts_afresh(widgets):
    await apply(widgets, config(size="small", replicas=3))
    await widgets.delete(f"{WIDGETS}/w")
    await widgets.made(WIDGETS, config(size="small", replicas=5))
    _, item = await apply(widgets, config(size="small"))
    assert item["spec"]["replicas"] == 5


async def test_labels_of_a_built_in_kind(client, pod):
    body = pod("p", labels={"a": "1", "b": "2"})
    await apply(client, body, path=f"{PODS}/p")
    body["metadata"]["labels"] = {"a": "1"}
    _, item = await apply(client, body, path=f"{PODS}/p")
    assert item["metadata"]["labels"] == {"a": "1"}


async def test_apply_without_a_kind_is_refused(widgets):
    code, status = await widgets.patch(f"{WIDGETS}/w", {"spec": {}}, APPLY)
    assert (code, status["reason"]) == (400, "BadRequest")


async def test_a_small_number_stays_a_number(widgets):
    _, item = await apply(widgets, config(size="small", free={"ratio": 7e-05}))
    assert item["spec"]["free"] == {"ratio": 7e-05}
