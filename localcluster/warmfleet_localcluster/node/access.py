"""How the programs of a pod reach the API: the kubeconfig they get, and ServiceAccount tokens."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml
from warmfleet_runtime.kubeclient import KubeClient, Object
from warmfleet_runtime.resources import SERVICE_ACCOUNTS

_TOKEN_SECONDS = 24 * 3600
"""Tokens are asked for once per pod, so for longer than the hour a kubelet that renews them would."""


class ApiAccess:
    """Cluster access for pods.

    Args:
        client: The node's own client; its server and CA are passed on, never its credentials.
        tokens: Whether pods authenticate with ServiceAccount tokens; None: when the API is served over TLS.
    """

    def __init__(self, client: KubeClient, *, tokens: bool | None) -> None:
        self._client = client
        self.tokens = client.configuration.host.startswith("https:") if tokens is None else tokens

    async def token(self, pod: Object, *, audience: str | None = None, seconds: int | None = None) -> str:
        """A token of the pod's ServiceAccount, bound to the pod.

        Where the API knows no authentication this is the word `anonymous`, so that the file exists.
        """
        if not self.tokens:
            return "anonymous"
        metadata, account = pod["metadata"], pod["spec"].get("serviceAccountName") or "default"
        spec: dict[str, Any] = {
            "audiences": [audience] if audience else [],
            "expirationSeconds": max(seconds or 0, _TOKEN_SECONDS),
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self._client.create(
            SERVICE_ACCOUNTS, request, metadata["namespace"], name=account, subresource="token"
        )
        return str(answer["status"]["token"])

    async def write_kubeconfig(self, pod: Object, file: Path) -> bool:
        """Write the pod's kubeconfig, readable by its owner only.

        Returns:
            False, and no file, where the pod mounts no ServiceAccount token although tokens are in use.
        """
        if self.tokens and not _mounts_token(pod):
            return False
        user = {"token": await self.token(pod)} if self.tokens else {}
        _write_private(file, self._kubeconfig(user, pod["metadata"]["namespace"]))
        return True

    def _kubeconfig(self, user: dict[str, str], namespace: str) -> str:
        configuration = self._client.configuration
        cluster: dict[str, Any] = {"server": configuration.host}
        if configuration.ssl_ca_cert:
            authority = Path(configuration.ssl_ca_cert).read_bytes()
            cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
        if not configuration.verify_ssl:
            cluster["insecure-skip-tls-verify"] = True
        if configuration.tls_server_name:
            cluster["tls-server-name"] = configuration.tls_server_name
        context = {"cluster": "cluster", "user": "pod", "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "pod", "user": user}],
            "contexts": [{"name": "pod", "context": context}],
            "current-context": "pod",
        }
        return yaml.safe_dump(content)


def _write_private(file: Path, content: str) -> None:
    file.touch(mode=0o600)
    file.write_text(content)


def _mounts_token(pod: Object) -> bool:
    return any(
        "serviceAccountToken" in source
        for volume in pod["spec"].get("volumes") or []
        for source in (volume.get("projected") or {}).get("sources") or []
    )
