"""The environment of a container: its image's, envFrom, env, and what stands for mounts and cluster access."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmfleet_runtime.clock import CLOCK_ENV
from warmfleet_runtime.kubeclient import Object
from warmfleet_runtime.resources import CONFIG_MAPS, SECRETS, Resource

from warmfleet_localcluster.node.expand import ContainerConfigError, expand, field_value, substitute_mounts

Fetch = Callable[[Resource, str], Awaitable[Object | None]]
"""Reads a namespaced object beside the pod; None when it does not exist."""

_INHERITED = ("HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", CLOCK_ENV)


def base_environment() -> dict[str, str]:
    """What every container inherits from this machine; this interpreter's folder leads its PATH."""
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return env


async def object_data(fetch: Fetch, resource: Resource, name: str, *, optional: bool) -> dict[str, bytes] | None:
    """Keys and values of a Secret or ConfigMap; None when it is absent and `optional`.

    Raises:
        ContainerConfigError: It is absent and required.
    """
    found = await fetch(resource, name)
    if found is None:
        if optional:
            return None
        raise ContainerConfigError(f'{resource.plural.removesuffix("s")} "{name}" not found')
    if resource is SECRETS:
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    plain = {key: value.encode() for key, value in (found.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    return plain | binary


async def container_environment(
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
    fetch: Fetch,
    *,
    base: Mapping[str, str],
    mounts: Sequence[tuple[str, Path]],
    addresses: tuple[str, str],
) -> dict[str, str]:
    """Resolve `envFrom` and `env` over `base`, in the order Kubernetes does.

    Args:
        container: The container's spec.
        pod: Its pod.
        fetch: Reads Secrets and ConfigMaps.
        base: Environment beneath.
        mounts: (mountPath, real directory), substituted in values.
        addresses: (pod IP, host IP).

    Raises:
        ContainerConfigError: A required object or key is missing.
    """
    env = dict(base)
    for source in container.get("envFrom") or []:
        env |= await _whole_object(source, fetch)
    for entry in container.get("env") or []:
        if "valueFrom" in entry:
            value = await _value_from(entry["valueFrom"], pod, fetch, addresses)
        else:
            value = expand(entry.get("value") or "", env)
        if value is not None:
            env[entry["name"]] = substitute_mounts(value, mounts)
    return env


async def _whole_object(source: Mapping[str, Any], fetch: Fetch) -> dict[str, str]:
    resource, ref = (SECRETS, source["secretRef"]) if "secretRef" in source else (CONFIG_MAPS, source["configMapRef"])
    data = await object_data(fetch, resource, ref["name"], optional=bool(ref.get("optional")))
    prefix = source.get("prefix") or ""
    return {prefix + key: value.decode() for key, value in (data or {}).items()}


async def _value_from(
    source: Mapping[str, Any], pod: Mapping[str, Any], fetch: Fetch, addresses: tuple[str, str]
) -> str | None:
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], pod_ip=addresses[0], host_ip=addresses[1])
    for kind, resource in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
        if kind not in source:
            continue
        ref = source[kind]
        optional = bool(ref.get("optional"))
        data = await object_data(fetch, resource, ref["name"], optional=optional)
        if data is None or ref["key"] not in data:
            if optional:
                return None
            raise ContainerConfigError(
                f"couldn't find key {ref['key']} in {resource.plural[:-1]} "
                f"{pod['metadata'].get('namespace')}/{ref['name']}"
            )
        return data[ref["key"]].decode()
    raise ContainerConfigError(f"env valueFrom {sorted(source)} is not supported by this node")
