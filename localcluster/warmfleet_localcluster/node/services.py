"""Names of Services in a container's environment. There is no DNS here, so each is replaced by an address of its pods.

That happens once, when the container starts: a Service whose pods all move later is not followed, and a port of the
Service that differs from its pods' port is not translated.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping

from warmfleet_runtime.kubeclient import Object

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME = re.compile(rf"(?<![-.a-z0-9])({_LABEL})\.({_LABEL})\.svc(?:\.cluster\.local)?(?![-.a-z0-9])")
_LOOK = 0.2
Slices = Callable[[str, str], Awaitable[list[Object]]]
"""EndpointSlices of a Service, by namespace and name."""


async def with_addresses(env: Mapping[str, str], slices: Slices, *, patience: float) -> dict[str, str]:
    """The environment with addresses for names such as ``chat.default.svc``; a name without pods stays as it is.

    Args:
        env: The environment.
        slices: Reads the EndpointSlices of a Service.
        patience: Real seconds to wait for a Service's first pod: the pods of a Service may be created after this one.
    """
    names = {(match[2], match[1]) for value in env.values() for match in _NAME.finditer(value)}
    if not names:
        return dict(env)
    deadline = time.monotonic() + patience
    found: dict[tuple[str, str], str] = {}
    while True:
        for namespace, name in names - found.keys():
            if address := first_address(await slices(namespace, name)):
                found[namespace, name] = address
        if len(found) == len(names) or time.monotonic() > deadline:
            break
        await asyncio.sleep(_LOOK)

    def replaced(match: re.Match[str]) -> str:
        return found.get((match[2], match[1]), match[0])

    return {key: _NAME.sub(replaced, value) for key, value in env.items()}


def first_address(slices: list[Object]) -> str | None:
    """An address of a Service: that of a ready pod if there is one, in brackets if it is IPv6; None without any."""
    endpoints = [endpoint for one in slices for endpoint in one.get("endpoints") or []]
    ready = [e for e in endpoints if (e.get("conditions") or {}).get("ready")]
    address = next((a for e in (*ready, *endpoints) for a in e.get("addresses") or []), None)
    return f"[{address}]" if address is not None and ":" in address else address
