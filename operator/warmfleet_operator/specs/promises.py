"""What a ``podTemplate`` cannot take from a worker: that it leaves without losing requests and is asked for no more.

An overlay may replace any part of the pod, the engine's arguments and environment included. Three things are put right
afterwards, because the rest of the product builds on them: the engine finishes its streams after SIGTERM, the kubelet
leaves it the time for that, and vLLM's development endpoints stay shut, which lie on the port that the cluster reaches.
"""

from __future__ import annotations

from typing import Any

from warmfleet_contracts import labels

from warmfleet_operator.specs.common import Object

SHUTDOWN = "--shutdown-timeout"
DEVELOPMENT = "VLLM_SERVER_DEV_MODE"


def kept(pod: Object, *, shutdown_seconds: int, grace_seconds: int) -> Object:
    """The pod with its promises.

    Args:
        pod: Pod with the overlay merged in; not changed.
        shutdown_seconds: The engine's time for running requests after SIGTERM.
        grace_seconds: Shortest grace period that covers drain and shutdown.
    """
    spec = dict(pod["spec"])
    grace = spec.get("terminationGracePeriodSeconds")
    if not isinstance(grace, int) or grace < grace_seconds:
        spec["terminationGracePeriodSeconds"] = grace_seconds
    spec["containers"] = [
        _engine(c, shutdown_seconds) if isinstance(c, dict) and c.get("name") == labels.ENGINE_CONTAINER else c
        for c in spec["containers"]
    ]
    return {**pod, "spec": spec}


def _engine(container: Object, shutdown_seconds: int) -> Object:
    args = [str(a) for a in container.get("args") or ()]
    if not _finishes(args):
        args += [SHUTDOWN, str(shutdown_seconds)]
    env = [e for e in container.get("env") or () if not (isinstance(e, dict) and e.get("name") == DEVELOPMENT)]
    return {**container, "args": args, "env": env}


def _finishes(args: list[str]) -> bool:
    """Whether the last shutdown timeout, which holds, is longer than none."""
    last: Any = None
    for place, arg in enumerate(args):
        name, _, value = arg.partition("=")
        if name.replace("_", "-") == SHUTDOWN:
            last = value or (args[place + 1] if place + 1 < len(args) else "")
    return isinstance(last, str) and last.isascii() and last.isdigit() and int(last) > 0
