"""Names of Services in a container's environment become addresses."""

from __future__ import annotations

import time
from typing import Any

import pytest
from warmfleet_localcluster.node.services import first_address, with_addresses


def slices(*endpoints: tuple[str, bool]) -> list[dict[str, Any]]:
    return [{"endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address, ready in endpoints]}]


@pytest.mark.parametrize(
    ("found", "address"),
    [
        ([], None),
        ([{"endpoints": None}], None),
        (slices(("127.0.0.5", False)), "127.0.0.5"),
        (slices(("127.0.0.5", False), ("127.0.0.6", True)), "127.0.0.6"),
        (slices(("fd00::5", True)), "[fd00::5]"),
    ],
)
def test_a_ready_pod_is_preferred(found: list[dict[str, Any]], address: str | None) -> None:
    assert first_address(found) == address


async def test_names_are_replaced_wherever_they_stand_and_nothing_else_is() -> None:
    async def lookup(namespace: str, name: str) -> list[dict[str, Any]]:
        return slices(("127.0.0.5", True)) if (namespace, name) == ("prod", "chat") else []

    env = {
        "URL": "http://chat.prod.svc:8080/v1",
        "TWO": "chat.prod.svc.cluster.local, chat.prod.svc",
        "UNKNOWN": "http://other.prod.svc:80",
        "HOST": "chat.prod.svc.example.org",
        "PLAIN": "no name here",
    }
    found = await with_addresses(env, lookup, patience=0.0)
    assert found["URL"] == "http://127.0.0.5:8080/v1"
    assert found["TWO"] == "127.0.0.5, 127.0.0.5"
    assert {key: found[key] for key in ("UNKNOWN", "HOST", "PLAIN")} == {
        key: env[key] for key in ("UNKNOWN", "HOST", "PLAIN")
    }


async def test_a_service_whose_pods_come_later_is_waited_for_and_not_for_ever() -> None:
    asked = 0

    async def lookup(namespace: str, name: str) -> list[dict[str, Any]]:
        nonlocal asked
        asked += 1
        return slices(("127.0.0.5", True)) if asked > 2 and name == "late" else []

    assert await with_addresses({"A": "late.ns.svc"}, lookup, patience=5.0) == {"A": "127.0.0.5"}
    began = time.monotonic()
    assert await with_addresses({"A": "never.ns.svc"}, lookup, patience=0.3) == {"A": "never.ns.svc"}
    assert 0.3 <= time.monotonic() - began < 3.0


async def test_without_names_nobody_is_asked() -> None:
    async def lookup(namespace: str, name: str) -> list[dict[str, Any]]:
        raise AssertionError

    assert await with_addresses({"A": "b"}, lookup, patience=1.0) == {"A": "b"}
