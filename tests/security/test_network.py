"""The chart's network policies let in every flow that exists, and no other."""

from __future__ import annotations

import json

import kubernetes_validate
import pytest
from built import SYSTEM, Json, pod_of, record, rendered, router, worker
from netpol import Peer, allowed, peer
from warmfleet_contracts import labels

SCRAPER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
CLIENT = {"podSelector": {"matchLabels": {"app": "gateway"}}}
OPEN = ("--set=networkPolicy.enabled=true", "--set=networkPolicy.fleets.namespaces={prod,staging}")
STRICT = (*OPEN, f"--set-json=networkPolicy.scrapers=[{json.dumps(SCRAPER)}]",
          f"--set-json=networkPolicy.fleets.clients=[{json.dumps(CLIENT)}]")  # fmt: skip

OPERATOR_PORT, FORECASTER_PORT = 8081, 8082


def scene(arguments: tuple[str, ...]) -> tuple[list[Json], dict[str, Peer]]:
    """The policies, and everybody who might knock."""
    bodies = rendered(*arguments)
    policies = [b for b in bodies if b["kind"] == "NetworkPolicy"]
    found = {"operator": "Deployment", "forecaster": "StatefulSet"}
    pods = {n: peer(pod_of(next(b for b in bodies if b["kind"] == kind))) for n, kind in found.items()}
    pods |= {"router": peer(router(record())), "worker": peer(worker(record()))}
    pods["neighbour"] = peer(worker(record(namespace="staging")))
    pods["gateway"] = Peer("prod", {"app": "gateway"}, {})
    pods["stranger"] = Peer("elsewhere", {"app": "gateway"}, {})
    pods["impostor"] = Peer("elsewhere", dict(pods["operator"].labels), {})
    pods["prometheus"] = Peer("monitoring", {"app": "prometheus"}, {})
    return policies, pods


EXISTING = {
    ("operator", "worker", labels.AGENT_PORT),  # state, drain
    ("operator", "router", labels.ROUTER_METRICS_PORT),  # arrivals
    ("forecaster", "operator", OPERATOR_PORT),  # demand
    ("router", "worker", labels.ENGINE_PORT),  # requests
    ("worker", "router", labels.ROUTER_PORT),  # replays of a leaving worker
    ("gateway", "router", labels.ROUTER_PORT),  # clients
    *(("prometheus", *target) for target in (
        ("operator", OPERATOR_PORT), ("forecaster", FORECASTER_PORT), ("router", labels.ROUTER_METRICS_PORT),
        ("worker", labels.AGENT_PORT), ("worker", labels.ENGINE_PORT),
    )),
}  # fmt: skip
"""Who connects to whom, on which port; probes and hooks come from the node, which no policy keeps out."""


def test_exactly_the_flows_that_exist_are_let_in() -> None:
    policies, pods = scene(STRICT)
    ports = {
        "operator": (OPERATOR_PORT,),
        "forecaster": (FORECASTER_PORT,),
        "router": (labels.ROUTER_PORT, labels.ROUTER_METRICS_PORT),
        "worker": (labels.AGENT_PORT, labels.ENGINE_PORT),
    }
    let_in = {
        (source, target, port)
        for target, open_ports in ports.items()
        for port in (*open_ports, 22)
        for source in pods
        if source != target and allowed(policies, pods[source], pods[target], port)
    }
    assert let_in == EXISTING


def test_as_installed_every_pod_may_be_a_client_and_nobody_but_the_operator_reaches_an_agent() -> None:
    policies, pods = scene(OPEN)
    assert allowed(policies, pods["stranger"], pods["router"], labels.ROUTER_PORT)
    reaching = {n for n, p in pods.items() if allowed(policies, p, pods["worker"], labels.AGENT_PORT)}
    assert reaching == {"operator"}
    reaching = {n for n, p in pods.items() if allowed(policies, p, pods["worker"], labels.ENGINE_PORT)}
    assert reaching == {"router"}


def test_the_policies_are_off_unless_asked_for_and_valid() -> None:
    assert not [b for b in rendered() if b["kind"] == "NetworkPolicy"]
    policies, pods = scene(STRICT)
    assert {(p["metadata"]["namespace"], p["metadata"]["name"]) for p in policies} == {
        (SYSTEM, "warmfleet-operator"),
        (SYSTEM, "warmfleet-forecaster"),
        *((n, f"warmfleet-{kind}") for n in ("prod", "staging") for kind in ("workers", "routers")),
    }
    for policy in policies:
        kubernetes_validate.validate(policy, "1.34", strict=True)
    for name in ("operator", "forecaster", "router", "worker", "neighbour"):
        matching = [p for p in policies if not allowed([p], Peer("nowhere", {}, {}), pods[name], 22)]
        assert len(matching) == 1, name


def test_namespaced_mode_protects_the_releases_own_namespace() -> None:
    found = rendered("--set=networkPolicy.enabled=true", "--set=namespaced=true")
    assert {b["metadata"]["namespace"] for b in found if b["kind"] == "NetworkPolicy"} == {SYSTEM}
    assert sum(b["kind"] == "NetworkPolicy" for b in found) == 4


@pytest.mark.parametrize("mode", ["service", "none"])
def test_fleets_without_a_router_name_their_clients(mode: str) -> None:
    peers = f"--set-json=networkPolicy.fleets.directClients=[{json.dumps(CLIENT)}]"
    policies, pods = scene((*OPEN, peers))
    target = peer(worker(record(routing={"mode": mode})))
    assert allowed(policies, pods["gateway"], target, labels.ENGINE_PORT)
    assert not allowed(policies, pods["stranger"], target, labels.ENGINE_PORT)
    assert not allowed(policies, pods["gateway"], target, labels.AGENT_PORT)
