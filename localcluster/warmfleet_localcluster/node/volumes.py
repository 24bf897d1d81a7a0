"""Volumes of a pod as directories of this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmfleet_runtime.kubeclient import Object
from warmfleet_runtime.resources import CONFIG_MAPS, SECRETS

from warmfleet_localcluster.node.environment import Fetch, object_data
from warmfleet_localcluster.node.expand import ContainerConfigError, field_value

Token = Callable[[str | None, int | None], Awaitable[str]]
"""(audience, expirationSeconds) to a ServiceAccount token of the pod."""


@dataclass(frozen=True, slots=True)
class VolumeSources:
    """Where the volumes of one pod come from.

    Attributes:
        pod: The pod.
        fetch: Reads Secrets and ConfigMaps beside it.
        token: Makes ServiceAccount tokens.
        addresses: (pod IP, host IP).
        disk: Folder for its directories.
        memory: Folder for `emptyDir` with `medium: Memory`.
        claims: Folder that stands for the cluster's persistent volumes: one directory per claim, shared by all
            pods that name it, for as long as the node lives.
    """

    pod: Object
    fetch: Fetch
    token: Token
    addresses: tuple[str, str]
    disk: Path
    memory: Path
    claims: Path

    async def build(self) -> dict[str, Path]:
        """Create all volumes.

        Returns:
            Volume name to directory (or file, for a hostPath).

        Raises:
            ContainerConfigError: One is of an unsupported kind or needs an object that is missing.
        """
        return {volume["name"]: await self._volume(volume) for volume in self.pod["spec"].get("volumes") or []}

    async def _volume(self, volume: Mapping[str, Any]) -> Path:
        name = volume["name"]
        if "emptyDir" in volume:
            in_memory = (volume["emptyDir"] or {}).get("medium") == "Memory"
            return _folder((self.memory if in_memory else self.disk) / name)
        if host := volume.get("hostPath"):
            return _host_path(Path(host["path"]), host.get("type") or "", name)
        if claim := volume.get("persistentVolumeClaim"):
            namespace = self.pod["metadata"].get("namespace")
            return _folder(self.claims / f"{namespace}-{claim['claimName']}")
        if "projected" in volume:
            folder = _folder(self.disk / name)
            for source in volume["projected"].get("sources") or []:
                _write(folder, await self._files(source, name))
            return folder
        folder = _folder(self.disk / name)
        _write(folder, await self._files(volume, name))
        return folder

    async def _files(self, source: Mapping[str, Any], volume: str) -> dict[str, bytes]:
        if secret := source.get("secret"):
            return await self._object(SECRETS, secret, secret.get("secretName") or secret.get("name"))
        if config_map := source.get("configMap"):
            return await self._object(CONFIG_MAPS, config_map, config_map["name"])
        if token := source.get("serviceAccountToken"):
            text = await self.token(token.get("audience"), token.get("expirationSeconds"))
            return {token["path"]: text.encode()}
        if "downwardAPI" in source:
            return {item["path"]: self._field(item) for item in source["downwardAPI"].get("items") or []}
        kinds = ", ".join(sorted(set(source) - {"name"}))
        raise ContainerConfigError(f"volume {volume!r}: {kinds or 'no source'} is not supported by this node")

    def _field(self, item: Mapping[str, Any]) -> bytes:
        if "fieldRef" not in item:
            raise ContainerConfigError(f"downwardAPI item {item['path']!r}: only fieldRef is supported")
        pod_ip, host_ip = self.addresses
        return field_value(self.pod, item["fieldRef"]["fieldPath"], pod_ip=pod_ip, host_ip=host_ip).encode()

    async def _object(self, resource: Any, source: Mapping[str, Any], name: str) -> dict[str, bytes]:
        optional = bool(source.get("optional"))
        data = await object_data(self.fetch, resource, name, optional=optional)
        if data is None or not (items := source.get("items")):
            return data or {}
        missing = [item["key"] for item in items if item["key"] not in data]
        if missing and not optional:
            raise ContainerConfigError(f"{resource.plural[:-1]} {name!r} has no key {missing[0]!r}")
        return {item["path"]: data[item["key"]] for item in items if item["key"] in data}


def container_mounts(container: Mapping[str, Any], volumes: Mapping[str, Path]) -> list[tuple[str, Path]]:
    """(mountPath, real directory) of each of a container's mounts; a `subPath` directory is created."""
    mounts = []
    for mount in container.get("volumeMounts") or []:
        real = volumes[mount["name"]]
        if below := mount.get("subPath"):
            real /= below
            if not real.exists():
                _folder(real)
        mounts.append((mount["mountPath"], real))
    return mounts


def mount_environment(container: Mapping[str, Any], mounts: list[tuple[str, Path]]) -> dict[str, str]:
    """`WARMFLEET_MOUNT_<NAME>` for each mount: where the volume really is."""
    return {
        "WARMFLEET_MOUNT_" + mount["name"].upper().replace("-", "_").replace(".", "_"): str(real)
        for mount, (_, real) in zip(container.get("volumeMounts") or [], mounts, strict=True)
    }


def _host_path(path: Path, wanted: str, volume: str) -> Path:
    if wanted == "DirectoryOrCreate":
        return _folder(path)
    if wanted and not path.exists():
        raise ContainerConfigError(f"hostPath {path} of volume {volume!r} does not exist")
    return path


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ContainerConfigError(f"volume file path {name!r} leaves the volume")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o600)
