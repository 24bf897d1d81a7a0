"""Watches: history, selectors, bookmarks, WatchList, 410 Gone, faults."""

from __future__ import annotations

import asyncio

from warmfleet_localcluster.api import EmbeddedApi

MAPS = "/api/v1/namespaces/default/configmaps"


async def test_list_then_watch_misses_nothing(client, config_map):
    await client.made(MAPS, config_map("a"))
    _, listed = await client.get(MAPS)
    rv = listed["metadata"]["resourceVersion"]
    await client.made(MAPS, config_map("b"))
    await client.patch(f"{MAPS}/a", {"data": {"k": "v"}})
    async with client.watching(f"{MAPS}?watch=true&resourceVersion={rv}") as following:
        await client.delete(f"{MAPS}/b")
        events = [await following() for _ in range(3)]
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in events] == [
        ("ADDED", "b"),
        ("MODIFIED", "a"),
        ("DELETED", "b"),
    ]
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in events]
    assert versions == sorted(versions)


async def test_watch_without_a_version_begins_with_the_present(client, config_map):
    await client.made(MAPS, config_map("a"))
    async with client.watching(f"{MAPS}?watch=1") as following:
        assert (await following())["type"] == "ADDED"


async def test_watch_list_marks_the_end_of_the_initial_events(client, config_map):
    await client.made(MAPS, config_map("a"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with client.watching(f"{MAPS}?{query}") as following:
        assert (await following())["type"] == "ADDED"
        mark = await following()
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await client.made(MAPS, config_map("b"))
        assert (await following())["object"]["metadata"]["name"] == "b"


async def test_object_leaving_and_entering_a_selector(client, config_map):
    await client.made(MAPS, config_map("a", labels={"on": "1"}))
    async with client.watching(f"{MAPS}?watch=1&labelSelector=on%3D1") as following:
        assert (await following())["type"] == "ADDED"
        _, off = await client.patch(f"{MAPS}/a", {"metadata": {"labels": {"on": "0"}}})
        left = await following()
        assert left["type"] == "DELETED"
        assert left["object"]["metadata"]["labels"] == {"on": "1"}
        assert left["object"]["metadata"]["resourceVersion"] == off["metadata"]["resourceVersion"]
        await client.patch(f"{MAPS}/a", {"metadata": {"labels": {"on": "1"}}})
        assert (await following())["type"] == "ADDED"


async def test_bookmarks_on_a_quiet_watch(client, monkeypatch, config_map):
    monkeypatch.setattr("warmfleet_localcluster.api.watch.BOOKMARK_SECONDS", 0.05)
    item = await client.made(MAPS, config_map("a"))
    rv = item["metadata"]["resourceVersion"]
    async with client.watching(f"{MAPS}?watch=1&resourceVersion={rv}&allowWatchBookmarks=true") as following:
        event = await following()
    assert (event["type"], event["object"]["kind"]) == ("BOOKMARK", "ConfigMap")
    assert int(event["object"]["metadata"]["resourceVersion"]) >= int(rv)


async def test_timeout_ends_the_watch_cleanly(client):
    async with client.watching(f"{MAPS}?watch=1&timeoutSeconds=0.1") as following:
        assert await following() is None


async def test_forgotten_log_and_foreign_version_give_410(client, api, config_map):
    item = await client.made(MAPS, config_map("a"))
    api.store.forget_events()
    future = api.store.rv + 1000
    for rv in (item["metadata"]["resourceVersion"], future):
        async with client.watching(f"{MAPS}?watch=1&resourceVersion={rv}") as following:
            event = await following()
            assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
            assert await following() is None


async def test_log_window_is_bounded_per_kind(config_map):
    api = EmbeddedApi(window=3)
    maps = api.registry.named("configmaps")
    created = [api.create(maps, "default", config_map(f"m{i}")) for i in range(5)]
    first, second = (int(item["metadata"]["resourceVersion"]) for item in created[:2])
    assert not api.store.known_since(maps.storage, first)
    assert [c.new["metadata"]["name"] for c in api.store.since(maps.storage, second)] == ["m2", "m3", "m4"]


async def test_cut_watches_end_and_resume(client, api, config_map):
    item = await client.made(MAPS, config_map("a"))
    rv = item["metadata"]["resourceVersion"]
    async with client.watching(f"{MAPS}?watch=1&resourceVersion={rv}") as following:
        await asyncio.sleep(0.02)
        assert api.store.cut_watches() == 1
        assert await following() is None
    await client.made(MAPS, config_map("b"))
    async with client.watching(f"{MAPS}?watch=1&resourceVersion={rv}") as following:
        assert (await following())["object"]["metadata"]["name"] == "b"


async def test_ordered_failures_hit_the_named_requests_only(client, api, config_map):
    api.faults.fail(2, 503, verb="create", resource="configmaps")
    codes = [(await client.post(MAPS, config_map(f"m{i}")))[0] for i in range(3)]
    assert codes == [503, 503, 201]
    api.faults.fail(1, 409, verb="patch", resource="configmaps")
    assert (await client.get(MAPS))[0] == 200
    assert (await client.patch(f"{MAPS}/m2", {"data": {}}))[1]["reason"] == "Conflict"


async def test_delay_slows_requests_down(client, api):
    api.faults.delay_seconds = 0.1
    loop = asyncio.get_running_loop()
    start = loop.time()
    await client.get(MAPS)
    assert loop.time() - start >= 0.1


async def test_requests_are_counted_by_verb_resource_and_agent(client, api, config_map):
    await client.made(MAPS, config_map("a"))
    await client.get(MAPS)
    await client.get(f"{MAPS}/none")
    assert api.requests.total("create", "configmaps", user_agent="tests/") == 1
    _, rows = await client.get("/debug/requests")
    assert {"verb": "get", "resource": "configmaps", "subresource": "", "user_agent": "tests/1", "count": 1} in rows
    assert len(rows) == 3
    api.requests.reset()
    assert api.requests.total() == 0
