"""What a process node is made of: node shapes, the image table, and its limits of pace."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NodeShape:
    """A kind of Node object to register.

    Attributes:
        name: Prefix of the node names, which are `<name>-<index>`.
        labels: Labels beside the usual `kubernetes.io/*` ones.
        allocatable: Kubernetes quantities, e.g. `{"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}`;
            `pods` defaults to 110.
        taints: `{key, value, effect}` objects.
        count: How many nodes to register at the start.
        env: Environment of its containers, as a device plugin and a runtime hook would add it.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    count: int = 1
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"NodeShape {self.name}: count must not be negative")


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """How to run an image here.

    Attributes:
        argv: Stands for the image's entrypoint; `$(VAR)` is expanded.
        env: Stands for the image's own environment; the container's wins.
        entry_only: Run `argv` even where the container sets `command` (whose program exists only in the
            image); the container's `args` are appended either way.
        pull_seconds: Logical seconds the first start on each node takes longer.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    entry_only: bool = False
    pull_seconds: float = 0.0


class ImageMap:
    """Image globs (`ghcr.io/warmfleet/agent:*`) to local commands; the first match counts.

    Entries may be added while a node runs: a pod that waits in ImagePullBackOff finds them at its next try.
    """

    def __init__(self, entries: Mapping[str, ImageEntry] | None = None) -> None:
        self._entries = dict(entries or {})

    def __setitem__(self, pattern: str, entry: ImageEntry) -> None:
        self._entries[pattern] = entry

    def find(self, image: str) -> ImageEntry | None:
        """The entry of `image`, None when no node could pull it."""
        for pattern, entry in self._entries.items():
            if fnmatch.fnmatchcase(image, pattern):
                return entry
        return None


def random_loopback_range() -> str:
    """A /16 of 127.0.0.0/8, so that clusters on one machine seldom meet on an address and port."""
    return f"127.{random.randint(16, 223)}.0.0/16"


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of a process node. Real seconds are floors under what the clock would make too short.

    Attributes:
        addresses: Network the pod addresses are taken from; it must be bindable here.
        host_ip: Reported as the nodes' and hosts' address.
        min_probe_period: Real seconds; a shorter scaled period is stretched and its threshold lowered.
        min_probe_timeout: Real seconds an answer may take even if the scaled timeout is shorter.
        service_patience: Real seconds a container waits for the first pod of a Service that its environment names.
        min_stop_window: Real seconds between SIGTERM and SIGKILL at least.
        heartbeat: Real seconds between renewals of the node leases.
        service_account_tokens: Give pods a kubeconfig with their ServiceAccount's token; None: if the API is
            reached over TLS.
    """

    addresses: str = field(default_factory=random_loopback_range)
    host_ip: str = "127.0.0.1"
    min_probe_period: float = 0.1
    min_probe_timeout: float = 0.5
    service_patience: float = 3.0
    min_stop_window: float = 0.5
    heartbeat: float = 10.0
    service_account_tokens: bool | None = None
