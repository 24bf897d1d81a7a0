"""Text rules of a container, without I/O: `$(VAR)` expansion, mount paths, field references."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


class ContainerConfigError(Exception):
    """The container cannot be created yet; the message is what the kubelet would report."""


def expand(text: str, env: Mapping[str, str]) -> str:
    """Expand `$(NAME)` as Kubernetes does: an unknown name stays, `$$` is a literal `$`."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return env.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def substitute_mounts(text: str, mounts: Sequence[tuple[str, Path]]) -> str:
    """Put the real directory where `text` names a mount path or something below it.

    Args:
        text: An argument or environment value, e.g. `--dir=/cache/a` or `ipc:///run/kv/events`.
        mounts: (mountPath, real directory) pairs.
    """
    if not mounts:
        return text
    real = {path.rstrip("/"): str(directory) for path, directory in mounts}
    names = "|".join(re.escape(path) for path in sorted(real, key=len, reverse=True))
    return re.sub(rf"(?:(?<=://)|(?<![\w./-]))({names})(?![\w.-])", lambda match: real[match[1]], text)


def field_value(pod: Mapping[str, Any], path: str, *, pod_ip: str, host_ip: str) -> str:
    """The value of a downward API `fieldRef`.

    Raises:
        ContainerConfigError: The path is not one that Kubernetes offers.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    if subscript := _SUBSCRIPT.match(path):
        return str((metadata.get(subscript[1]) or {}).get(subscript[2], ""))
    if path in {"metadata.labels", "metadata.annotations"}:
        values = metadata.get(path.partition(".")[2]) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName") or "default",
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }
    if path not in known:
        raise ContainerConfigError(f"fieldRef {path!r} is not one of {', '.join(sorted(known))}")
    return str(known[path])
