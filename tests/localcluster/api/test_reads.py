"""Listing: selectors, paging, tables, discovery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from warmfleet_localcluster.api.ages import age

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=a", ["one"]),
        ("app!=a", ["three", "two"]),
        ("app in (a,b)", ["one", "two"]),
        ("app notin (a,b)", ["three"]),
        ("app", ["one", "two"]),
        ("!app", ["three"]),
        ("app,tier==x", ["two"]),
    ],
)
async def test_label_selectors(client, config_map, selector, names):
    await client.made(MAPS, config_map("one", labels={"app": "a"}))
    await client.made(MAPS, config_map("two", labels={"app": "b", "tier": "x"}))
    await client.made(MAPS, config_map("three"))
    async with client.session.get(client.url + MAPS, params={"labelSelector": selector}) as response:
        assert [i["metadata"]["name"] for i in (await response.json())["items"]] == names


async def test_field_selectors_and_the_unsupported_one(client, pod):
    await client.made(PODS, pod("a", node="n1"))
    await client.made(PODS, pod("b"))
    _, listed = await client.get(f"{PODS}?fieldSelector=spec.nodeName%3Dn1")
    assert [i["metadata"]["name"] for i in listed["items"]] == ["a"]
    _, listed = await client.get(f"{PODS}?fieldSelector=spec.nodeName%3D,status.phase%3DPending")
    assert [i["metadata"]["name"] for i in listed["items"]] == ["b"]
    code, status = await client.get(f"{PODS}?fieldSelector=spec.hostname%3Dx")
    assert (code, status["message"]) == (400, "field label not supported: spec.hostname")


async def test_pages_cover_everything_once_and_expire(client, api, config_map):
    names = [f"m{i}" for i in range(7)]
    for name in names:
        await client.made(MAPS, config_map(name))
    seen, token = [], ""
    while True:
        _, page = await client.get(f"{MAPS}?limit=3&continue={token}")
        seen += [i["metadata"]["name"] for i in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
        assert page["metadata"]["remainingItemCount"] == 7 - len(seen)
        last = token
    assert seen == names
    api.store.forget_events()
    code, status = await client.get(f"{MAPS}?limit=3&continue={last}")
    assert (code, status["reason"]) == (410, "Expired")


async def test_table_of_pods_has_the_known_columns(client, pod):
    await client.made(PODS, pod("a"))
    async with client.session.get(client.url + PODS, headers={"Accept": TABLE}) as response:
        table = await response.json()
    assert [c["name"] for c in table["columnDefinitions"]][:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert table["rows"][0]["cells"][:4] == ["a", "0/1", "Pending", 0]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_aggregated_and_classic_discovery_agree(client):
    _, classic = await client.get("/apis/apps/v1")
    plain = {r["name"] for r in classic["resources"] if "/" not in r["name"]}
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    async with client.session.get(client.url + "/apis", headers={"Accept": accept}) as response:
        assert "APIGroupDiscoveryList" in response.headers["Content-Type"]
        groups = {g["metadata"]["name"]: g for g in (await response.json())["items"]}
    assert {r["resource"] for r in groups["apps"]["versions"][0]["resources"]} == plain
    assert "deployments" in plain


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (125, "2m5s"), (900, "15m"), (3 * 3600 + 60, "3h1m"), (9 * 3600, "9h"), (172800, "2d")],
)
def test_ages_read_like_kubectl(seconds, text):
    now = datetime(2026, 1, 5, tzinfo=UTC)
    assert age((now - timedelta(seconds=seconds)).isoformat(), now) == text
