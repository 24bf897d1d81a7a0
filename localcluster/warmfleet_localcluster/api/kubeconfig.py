"""Writing a kubeconfig for the embedded API."""

from __future__ import annotations

from pathlib import Path

import yaml

CONTEXT = "warmfleet-local"
"""Name of the context, cluster and user in the file."""


def write_kubeconfig(path: Path | str, server: str, *, namespace: str = "default") -> Path:
    """Write a kubeconfig that points every client at a server.

    Args:
        path: File to write, replaced if it exists.
        server: URL such as `http://127.0.0.1:8080`.
        namespace: The context's default namespace.

    Returns:
        The path written.
    """
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": server}}],
        # any token is accepted; one is present because some clients insist on credentials
        "users": [{"name": CONTEXT, "user": {"token": "anyone"}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": namespace}}],
        "current-context": CONTEXT,
    }
    target = Path(path)
    target.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return target
