"""What ``spec.kvCache`` asks of a worker pod: the engine's connector and events, the shared folder, the agent's part.

With tiers the engine has vLLM's OffloadingConnector, which writes every block through host memory to the tiers below as
soon as it is computed; the answers' blocks too, since the next turn of a conversation starts with them. For ``migrate``
it has the NixlConnector; with both, the MultiConnector over the two, NIXL first, because a request that names where its
blocks are must get them from there. The shared folder is named after the deployment, inside the claim: workers of one
deployment share their blocks, and nobody else's. KV events go over Unix sockets that only the pod's own containers see,
with whole hashes, because a hash cut to 64 bits does not name a block's file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.api.llmdeployment import KvTier

from warmfleet_operator.planning.fit import memory_bytes
from warmfleet_operator.specs.common import POD_ADDRESS, Object

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
NIXL_PORT = 5600
"""Where an engine's NixlConnector answers survivors that want to pull from it."""
LEASE_SECONDS = 25
"""How long a leaving worker keeps blocks for a survivor that does not come for them; less than its shutdown timeout, so
that a survivor that died does not hold it up."""
LINK_EFFICIENCY = 0.9
"""Share of a link's nominal bandwidth that copies reach."""


@dataclass(frozen=True, slots=True)
class KvPlan:
    """How one deployment's workers keep and hand over their cache.

    Attributes:
        cpu: Tier in host memory; None without.
        store: Shared file system; None without.
        root: Folder of the deployment in the store, as both containers see it.
        strategies: Hand-over strategies, ``auto`` resolved as far as the spec alone can.
        budget: Most bytes of KV cache that a hand-over brings to survivors; None without a bound of the user's.
    """

    cpu: KvTier | None
    store: KvTier | None
    root: str
    strategies: tuple[str, ...]
    budget: int | None = None

    @property
    def migrates(self) -> bool:
        """Whether survivors may pull from this deployment's workers."""
        return "migrate" in self.strategies

    @property
    def asks_survivors(self) -> bool:
        """Whether prompts are sent to survivors."""
        return "replay" in self.strategies or self.migrates

    @property
    def weighed(self) -> bool:
        """Whether the agent has to choose."""
        return "auto" in self.strategies


@dataclass(frozen=True, slots=True)
class Physics:
    """What ``auto`` weighs; see :mod:`warmfleet_worker.kv.physics`.

    Attributes:
        kv_bytes_per_token: Size of one token's KV cache, all accelerators of a worker together.
        prefill_tokens_per_second: Prompt tokens that one worker computes per second.
    """

    kv_bytes_per_token: float
    prefill_tokens_per_second: float


def plan(name: str, spec: LLMDeploymentSpec) -> KvPlan:
    """The plan of a deployment.

    Args:
        name: The deployment's name.
        spec: Its spec.
    """
    tiers = {tier.medium: tier for tier in spec.kv_cache.tiers}
    root = f"{STORE_MOUNT}/{name}"
    return KvPlan(tiers.get("cpu"), tiers.get("fs"), root, resolve(spec), budget_bytes(spec))


def resolve(spec: LLMDeploymentSpec) -> tuple[str, ...]:
    """Hand-over strategies in order of preference.

    ``auto`` stands for ``store``, where there is an fs tier, and what is listed after it. Where these are several it
    stays in front of them, and the agent orders them when it drains; it is replaced by a single one, or by ``none``.
    """
    wanted = spec.kv_cache.handover
    if "auto" not in wanted:
        return wanted
    place = wanted.index("auto")
    before = wanted[:place]
    store = ("store",) if any(tier.medium == "fs" for tier in spec.kv_cache.tiers) else ()
    means = tuple(dict.fromkeys(s for s in (*store, *wanted[place + 1 :]) if s not in {"auto", "none", *before}))
    if len(means) > 1:
        return (*before, "auto", *means)
    return (*before, *means) or ("none",)


def budget_bytes(spec: LLMDeploymentSpec) -> int | None:
    """Most bytes of KV cache that a hand-over brings to survivors; None without a bound of the user's."""
    quantity = spec.kv_cache.handover_budget
    return None if quantity is None else size_bytes(quantity)


def size_bytes(quantity: str) -> int:
    """Bytes of a quantity such as ``64Gi``."""
    return int(memory_bytes(quantity))


def arguments(kv: KvPlan) -> list[str]:
    """The engine's flags."""
    found = [c for c in (_nixl(kv), _offloading(kv)) if c is not None]
    if not found:
        return _reported(kv)
    several = {"kv_connector": "MultiConnector", "kv_role": "kv_both"}
    connector = found[0] if len(found) == 1 else {**several, "kv_connector_extra_config": {"connectors": found}}
    return ["--kv-transfer-config", _json(connector), *_reported(kv)]


def _nixl(kv: KvPlan) -> Object | None:
    if not kv.migrates:
        return None
    extra = {"kv_lease_duration": LEASE_SECONDS}
    return {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}


def _offloading(kv: KvPlan) -> Object | None:
    if kv.cpu is None:
        return None
    extra: dict[str, Any] = {"cpu_bytes_to_use": size_bytes(kv.cpu.size), "offload_prompt_only": False}
    if kv.store is None:
        extra["spec_name"] = "CPUOffloadingSpec"
    else:
        extra["spec_name"] = "TieringOffloadingSpec"
        extra["secondary_tiers"] = [{"type": "fs", "root_dir": kv.root, "enable_kv_events": True}]
    return {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}


def _reported(kv: KvPlan) -> list[str]:
    """What the agent has to be told: blocks, and what of a prompt a survivor had."""
    if not watched(kv):
        return []
    details = ["--enable-prompt-tokens-details"] if kv.asks_survivors else []
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": EVENTS,
        "replay_endpoint": REPLAY,
        "topic": "kv",
    }
    return ["--kv-events-config", _json(config), *details]


def watched(kv: KvPlan) -> bool:
    """Whether the agent follows the engine's blocks."""
    return kv.store is not None or kv.asks_survivors


def engine_env(kv: KvPlan) -> list[Object]:
    """The engine's environment."""
    # Without an entry in the image's passwd, libraries that ask for the user's name need it from here.
    found: list[Object] = [{"name": "USER", "value": "warmfleet"}]
    if watched(kv):
        found.append({"name": "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "value": "0"})
    if kv.migrates:
        found += [
            {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "value": POD_ADDRESS},
            {"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "value": str(NIXL_PORT)},
        ]
    return found


def agent_env(kv: KvPlan, endpoint: str, physics: Physics | None = None, link_gbit: float = 0.0) -> dict[str, str]:
    """The agent's environment.

    Args:
        kv: The plan.
        endpoint: OpenAI endpoint of the deployment, without /v1; empty for none.
        physics: What ``auto`` weighs; None while unknown.
        link_gbit: Nominal bandwidth of a node's network, Gbit/s; 0: unknown.
    """
    env = {"WARMFLEET_HANDOVER": ",".join(kv.strategies)}
    if kv.asks_survivors:
        env["WARMFLEET_ENDPOINT"] = endpoint
        if kv.budget is not None:
            env["WARMFLEET_HANDOVER_BYTES"] = str(kv.budget)
    if (kv.weighed or kv.asks_survivors) and physics is not None:
        env["WARMFLEET_KV_BYTES_PER_TOKEN"] = f"{physics.kv_bytes_per_token:g}"
        env["WARMFLEET_PREFILL_TOKENS_PER_SECOND"] = f"{physics.prefill_tokens_per_second:g}"
    if (kv.weighed or kv.migrates) and link_gbit:
        env["WARMFLEET_LINK_BYTES_PER_SECOND"] = f"{link_gbit * 1e9 / 8 * LINK_EFFICIENCY:g}"
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
