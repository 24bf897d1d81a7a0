"""The worker pod: engine, agent beside it, and how the two end together.

The agent is a native sidecar (an init container that is restarted always), so it starts before the engine and is
stopped after it. Readiness is the agent's alone, at period 1 s and threshold 1, because the engine's own health check
stays good while it refuses requests. The engine's preStop hook asks the agent to drain, because a sidecar's own hook
would not hold back the engine's SIGTERM. The grace period covers the longest drain, the engine's shutdown and a margin.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

from warmfleet_contracts import bearer, labels
from warmfleet_contracts.api import InstanceTypeSpec, LLMDeploymentSpec, Variant
from warmfleet_contracts.perfmodel import prefill_tokens_per_second

from warmfleet_operator.planning import modelled
from warmfleet_operator.settings import Settings
from warmfleet_operator.specs import engine, kv, promises
from warmfleet_operator.specs.common import POD_ADDRESS, POD_ADDRESS_ENV, RESTRICTED, Object, metadata, short_hash
from warmfleet_operator.specs.overlay import merge
from warmfleet_operator.specs.routing import endpoint
from warmfleet_operator.state.records import DeploymentRecord
from warmfleet_operator.state.revisions import revision

CACHE_SEEN = "/model-cache"
"""Where the agent sees the engine's downloads and compiled kernels."""
ZONE = "topology.kubernetes.io/zone"
GRACE_MARGIN = 30
"""Seconds of the grace period beyond drain and engine shutdown."""
KEY_MOUNT = "/run/warmfleet-key"
"""Where the agent finds the key of its namespace; the engine does not have it."""
_STARTUP_SECONDS = 3600
"""Longest start of an engine: large weights come slowly; the planner gives up earlier on what it has measured."""


@dataclass(frozen=True, slots=True)
class WorkerTemplate:
    """Everything a worker pod of one variant is made from.

    Attributes:
        record: The deployment (with a valid spec).
        spec: Its spec.
        variant: The variant.
        instance_type: Spec of the variant's InstanceType.
        settings: Images and times.
        prestop_token: What the preStop hook presents to the agent; empty: nothing.
    """

    record: DeploymentRecord
    spec: LLMDeploymentSpec
    variant: Variant
    instance_type: InstanceTypeSpec
    settings: Settings
    prestop_token: str = ""


def worker_name(record: DeploymentRecord, variant: str, ordinal: int) -> str:
    """Deterministic pod name: the same deployment, variant and ordinal always give the same one.

    ``<deployment>-<variant>-<5 hex of UID, variant and ordinal>``, the first two cut so that it is a DNS label.
    """
    stem = f"{record.key.name}-{variant}"[:57].rstrip("-")
    return f"{stem}-{short_hash([record.uid, variant, ordinal])}"


def free_names(record: DeploymentRecord, variants: Iterable[str], used: Set[str]) -> list[str]:
    """A name for each new worker: the lowest ordinals of its variant that are not in use."""
    taken, found, ordinals = set(used), [], dict[str, int]()
    for variant in variants:
        ordinal = ordinals.get(variant, 0)
        while (name := worker_name(record, variant, ordinal)) in taken:
            ordinal += 1
        ordinals[variant] = ordinal + 1
        taken.add(name)
        found.append(name)
    return found


def worker_pod(template: WorkerTemplate, name: str) -> Object:
    """The pod of one worker."""
    pod = build(template, name)
    pod["metadata"]["labels"][labels.REVISION] = revision(template.spec, template.variant)
    return pod


def build(template: WorkerTemplate, name: str) -> Object:
    """The pod without its revision label."""
    spec, variant = template.spec, template.variant
    meta = metadata(
        template.record,
        name,
        labels.COMPONENT_WORKER,
        {
            labels.VARIANT: variant.name,
            labels.INSTANCE_TYPE: variant.instance_type,
            labels.ROUTE: labels.ROUTE_VALUE,
        },
    )
    meta["annotations"] = {
        labels.KARPENTER_DO_NOT_DISRUPT: "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "kubectl.kubernetes.io/default-container": labels.ENGINE_CONTAINER,
    }
    pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": _pod_spec(template)}
    overlay = spec.engine.pod_template
    if overlay:
        allowed: Object = {"spec": overlay.get("spec") or {}}
        wished = overlay.get("metadata") or {}
        allowed["metadata"] = {key: wished[key] for key in ("labels", "annotations") if wished.get(key)}
        own = dict(meta["labels"])
        pod = merge(pod, allowed)
        pod["metadata"]["labels"].update(own)  # the operator finds its pods by these
        shutdown = template.settings.engine_shutdown_seconds
        pod = promises.kept(pod, shutdown_seconds=shutdown, grace_seconds=_grace(template))
    return pod


def _grace(template: WorkerTemplate) -> int:
    """Seconds from deletion to SIGKILL: the longest drain, the engine's shutdown, and a margin."""
    return round(template.spec.kv_cache.drain_deadline) + template.settings.engine_shutdown_seconds + GRACE_MARGIN


def _pod_spec(template: WorkerTemplate) -> Object:
    spec, itype = template.spec, template.instance_type
    settings, placement = template.settings, template.variant.placement
    built: Object = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": _grace(template),
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": kv.USER},
        "initContainers": [_agent(template)],
        "containers": [_engine(template)],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            engine.cache_volume(spec),
            *engine.weights(spec).volumes,
            *kv.volumes(_kv(template)),
            *_key_volume(settings),
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": placement.spread_by if placement is not None else ZONE,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {labels.DEPLOYMENT: template.record.key.name}},
            }
        ],
    }
    selector = {**(placement.node_labels if placement is not None else {}), **itype.node_selector}
    if selector:
        built["nodeSelector"] = selector
    if placement is not None and placement.pack_by is not None:
        built["affinity"] = _near(template.record.key.name, placement.pack_by)
    if itype.tolerations:
        built["tolerations"] = [t.to_wire() for t in itype.tolerations]
    if spec.priority_class_name:
        built["priorityClassName"] = spec.priority_class_name
    return built


def _near(deployment: str, topology_key: str) -> Object:
    """A wish, not a condition: a worker far from the others serves better than one that is never scheduled."""
    term = {
        "labelSelector": {"matchLabels": {labels.DEPLOYMENT: deployment, labels.COMPONENT: labels.COMPONENT_WORKER}},
        "topologyKey": topology_key,
    }
    wish = {"weight": 100, "podAffinityTerm": term}
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}


def _kv(template: WorkerTemplate) -> kv.KvPlan:
    return kv.plan(template.record.key.name, template.spec)


def _physics(template: WorkerTemplate) -> kv.Physics | None:
    """What moving and computing a token costs on these workers; None without a row of the performance model."""
    spec, variant = template.spec, template.variant
    name = modelled.profile_name(spec)
    if name is None:
        return None
    kind = template.instance_type.accelerator.name
    row = modelled.find_profile(name, modelled.dtype(spec, name), kind, variant.tensor_parallel)
    if row is None:
        return None
    size = row.kv_bytes_per_token / modelled.cache_factor(spec)
    return kv.Physics(size, round(prefill_tokens_per_second(row)))


def _engine(template: WorkerTemplate) -> Object:
    spec, settings, cache = template.spec, template.settings, _kv(template)
    args = engine.arguments(
        spec,
        template.variant,
        shutdown_seconds=settings.engine_shutdown_seconds,
        extra=kv.arguments(cache),
    )
    return {
        "name": labels.ENGINE_CONTAINER,
        "image": spec.engine.image,
        "command": list(settings.engine_command),
        "args": args,
        "env": engine.environment(spec, kv.engine_env(cache)),
        "ports": [{"name": "http", "containerPort": labels.ENGINE_PORT, "protocol": "TCP"}],
        "resources": _resources(template),
        "startupProbe": {
            "httpGet": {"path": "/health", "port": labels.ENGINE_PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": _STARTUP_SECONDS // 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": labels.ENGINE_PORT},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"httpGet": _prestop(template)}},
        "securityContext": {**RESTRICTED, "runAsUser": kv.USER, "runAsGroup": kv.USER},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - where tensor parallelism exchanges data
            {"name": "cache", "mountPath": engine.CACHE_MOUNT},
            *engine.weights(spec).mounts,
            *kv.engine_mounts(cache),
        ],
    }


def _prestop(template: WorkerTemplate) -> Object:
    hook: Object = {"path": "/v1/prestop", "port": labels.AGENT_PORT}
    if template.prestop_token:
        hook["httpHeaders"] = [{"name": "Authorization", "value": f"Bearer {template.prestop_token}"}]
    return hook


def _key_volume(settings: Settings) -> list[Object]:
    if not settings.agent_authentication:
        return []
    source = {"secret": {"name": bearer.SECRET_NAME}}
    return [{"name": "agent-key", "projected": {"sources": [source], "defaultMode": 0o440}}]


def _resources(template: WorkerTemplate) -> Object:
    count, itype = template.variant.accelerators, template.instance_type
    accelerator = {itype.accelerator.resource_name: str(count)}
    requests: Object = dict(accelerator)
    if itype.resources.cpu is not None:
        requests["cpu"] = scale_quantity(itype.resources.cpu, count)
    if itype.resources.memory is not None:
        requests["memory"] = scale_quantity(itype.resources.memory, count)
    return {"requests": requests, "limits": accelerator}


def scale_quantity(quantity: str, factor: int) -> str:
    """``factor`` times a Kubernetes quantity such as ``500m``, ``1.5`` or ``24Gi``."""
    digits = quantity.rstrip("mKMGTi")
    unit = quantity[len(digits) :]
    if "." not in digits:
        return f"{int(digits) * factor}{unit}"
    return f"{float(digits) * factor:.6f}".rstrip("0").rstrip(".") + unit


def _agent(template: WorkerTemplate) -> Object:
    settings, spec, cache = template.settings, template.spec, _kv(template)
    values = {
        "WARMFLEET_AGENT_PORT": str(labels.AGENT_PORT),
        "WARMFLEET_ENGINE_URL": f"http://{POD_ADDRESS}:{labels.ENGINE_PORT}",
        "WARMFLEET_SLO_TTFT_SECONDS": f"{spec.slo.ttft:g}",
        "WARMFLEET_SLO_TPOT_SECONDS": f"{spec.slo.tpot:g}",
        "WARMFLEET_POLL_SECONDS": f"{settings.agent_poll_seconds:g}",
        "WARMFLEET_UNROUTE_SECONDS": f"{settings.unroute_seconds:g}",
        "WARMFLEET_DRAIN_DEADLINE_SECONDS": f"{spec.kv_cache.drain_deadline:g}",
        **kv.agent_env(
            cache, endpoint(template.record, spec).removesuffix("/v1"), _physics(template), settings.kv_link_gbit
        ),
    }
    values["WARMFLEET_MODEL_CACHE"] = CACHE_SEEN
    mounts = [*kv.agent_mounts(cache), {"name": "cache", "mountPath": CACHE_SEEN, "readOnly": True}]
    if settings.agent_authentication:
        values["WARMFLEET_KEYS"] = KEY_MOUNT
        mounts.append({"name": "agent-key", "mountPath": KEY_MOUNT, "readOnly": True})
    if template.prestop_token:
        values["WARMFLEET_PRESTOP_TOKEN"] = template.prestop_token
    env: list[dict[str, Any]] = [
        {"name": "WARMFLEET_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        POD_ADDRESS_ENV,
        *({"name": name, "value": value} for name, value in values.items()),
    ]
    return {
        "name": labels.AGENT_CONTAINER,
        "image": settings.agent_image,
        "command": list(settings.agent_command),
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "agent", "containerPort": labels.AGENT_PORT, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": {"path": "/healthz", "port": labels.AGENT_PORT},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": labels.AGENT_PORT},
            "periodSeconds": 1,
            "failureThreshold": 1,
            "successThreshold": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": labels.AGENT_PORT},
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {**RESTRICTED, "runAsUser": kv.USER, "runAsGroup": kv.USER, "readOnlyRootFilesystem": True},
        "volumeMounts": mounts,
    }
