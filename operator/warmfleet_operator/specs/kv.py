"""What ``spec.kvCache`` asks of a worker pod: the engine's connector and events, the shared folder, the agent's part.

One connector per engine. With tiers it is vLLM's OffloadingConnector, which writes every block through host memory to
the tiers below as soon as it is computed; the answers' blocks too, since the next turn of a conversation starts with
them. The shared folder is named after the deployment, inside the claim: workers of one deployment share their blocks,
and nobody else's. KV events go over Unix sockets that only the pod's own containers see, with whole hashes, because a
hash cut to 64 bits does not name a block's file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.api.llmdeployment import KvTier

from warmfleet_operator.specs.common import Object

STORE_MOUNT = "/kv"
"""Where the claim of an fs tier is mounted, in engine and agent."""
RUN_MOUNT = "/run/warmfleet"
"""Folder of the sockets between engine and agent."""
ENGINE_SHM = "/engine-shm"
"""Where the agent sees the engine's /dev/shm."""
EVENTS = f"ipc://{RUN_MOUNT}/kv-events"
REPLAY = f"ipc://{RUN_MOUNT}/kv-replay"
PREWARM_SECONDS = 10
"""Longest that a new worker loads the fleet's hottest prompts from the store before it takes traffic."""
USER = 1000
"""User and group of agent and engine, which share files and sockets."""
_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True, slots=True)
class KvPlan:
    """How one deployment's workers keep and hand over their cache.

    Attributes:
        cpu: Tier in host memory; None without.
        store: Shared file system; None without.
        root: Folder of the deployment in the store, as both containers see it.
        strategies: Hand-over strategies, ``auto`` resolved.
    """

    cpu: KvTier | None
    store: KvTier | None
    root: str
    strategies: tuple[str, ...]


def plan(name: str, spec: LLMDeploymentSpec) -> KvPlan:
    """The plan of a deployment.

    Args:
        name: The deployment's name.
        spec: Its spec.
    """
    tiers = {tier.medium: tier for tier in spec.kv_cache.tiers}
    return KvPlan(tiers.get("cpu"), tiers.get("fs"), f"{STORE_MOUNT}/{name}", resolve(spec))


def resolve(spec: LLMDeploymentSpec) -> tuple[str, ...]:
    """Hand-over strategies in order of preference, ``auto`` replaced by those the deployment has the means for."""
    store = any(tier.medium == "fs" for tier in spec.kv_cache.tiers)
    found: list[str] = []
    for wanted in spec.kv_cache.handover:
        means = ("store",) if store else ("none",)
        found += [s for s in (means if wanted == "auto" else (wanted,)) if s not in found]
    return tuple(found)


def size_bytes(quantity: str) -> int:
    """Bytes of a quantity such as ``64Gi``."""
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def arguments(kv: KvPlan) -> list[str]:
    """The engine's flags."""
    if kv.cpu is None:
        return _events(kv)
    extra: dict[str, Any] = {"cpu_bytes_to_use": size_bytes(kv.cpu.size), "offload_prompt_only": False}
    if kv.store is None:
        extra["spec_name"] = "CPUOffloadingSpec"
    else:
        extra["spec_name"] = "TieringOffloadingSpec"
        extra["secondary_tiers"] = [{"type": "fs", "root_dir": kv.root, "enable_kv_events": True}]
    connector = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": extra,
    }
    return ["--kv-transfer-config", _json(connector), *_events(kv)]


def _events(kv: KvPlan) -> list[str]:
    if not watched(kv):
        return []
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": EVENTS,
        "replay_endpoint": REPLAY,
        "topic": "kv",
    }
    return ["--kv-events-config", _json(config)]


def watched(kv: KvPlan) -> bool:
    """Whether the agent follows the engine's blocks."""
    return kv.store is not None or "replay" in kv.strategies


def engine_env(kv: KvPlan) -> list[Object]:
    """The engine's environment."""
    # Without an entry in the image's passwd, libraries that ask for the user's name need it from here.
    user = {"name": "USER", "value": "warmfleet"}
    return [{"name": "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "value": "0"}, user] if watched(kv) else [user]


def agent_env(kv: KvPlan, endpoint: str) -> dict[str, str]:
    """The agent's environment.

    Args:
        kv: The plan.
        endpoint: OpenAI endpoint of the deployment, without /v1; empty for none.
    """
    env = {"WARMFLEET_HANDOVER": ",".join(kv.strategies)}
    if "replay" in kv.strategies:
        env["WARMFLEET_ENDPOINT"] = endpoint
    if watched(kv):
        env |= {"WARMFLEET_KV_EVENTS": EVENTS, "WARMFLEET_KV_REPLAY": REPLAY}
    if kv.store is not None:
        env |= {"WARMFLEET_KV_STORE": kv.root, "WARMFLEET_KV_STORE_BYTES": str(size_bytes(kv.store.size))}
        env["WARMFLEET_PREWARM_SECONDS"] = str(PREWARM_SECONDS)
    if kv.cpu is not None:
        env["WARMFLEET_ENGINE_SHM"] = ENGINE_SHM
    return env


def volumes(kv: KvPlan) -> list[Object]:
    """Volumes of the pod."""
    found: list[Object] = []
    if watched(kv):
        found.append({"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}})
    if kv.store is not None:
        found.append({"name": "kv", "persistentVolumeClaim": {"claimName": kv.store.claim_name}})
    return found


def engine_mounts(kv: KvPlan) -> list[Object]:
    """Mounts of the engine."""
    found: list[Object] = []
    if watched(kv):
        found.append({"name": "run", "mountPath": RUN_MOUNT})
    if kv.store is not None:
        found.append({"name": "kv", "mountPath": STORE_MOUNT})
    return found


def agent_mounts(kv: KvPlan) -> list[Object]:
    """Mounts of the agent."""
    shm: list[Object] = [] if kv.cpu is None else [{"name": "shm", "mountPath": ENGINE_SHM}]
    return [*engine_mounts(kv), *shm]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
