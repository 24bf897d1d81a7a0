"""What an engine must be able to do for a spec, and from which vLLM release on it can.

The releases are those in which a flag or feature was first seen documented; every flag was read in vLLM 0.32.0. A spec
whose image tells no version is not refused: nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from warmfleet_contracts.api import LLMDeploymentSpec

Version = tuple[int, int]
"""Major and minor."""
READ = (0, 32)
"""The release whose flags were read and exercised."""

_VERSION = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})(?:\.[0-9]+)?(?:[-.+a-z].*)?")


@dataclass(frozen=True, slots=True)
class _Need:
    field: str
    used: Callable[[LLMDeploymentSpec], bool]
    since: Version | None = None
    until: Version | None = None
    instead: str = ""


def _tier(spec: LLMDeploymentSpec, medium: str) -> bool:
    return any(tier.medium == medium for tier in spec.kv_cache.tiers)


_NEEDS = (
    _Need("a worker (its --shutdown-timeout)", lambda s: True, since=(0, 18)),  # noqa: ARG005
    _Need("engine.maxQueuedRequests", lambda s: s.engine.max_queued_requests is not None, since=(0, 29)),
    _Need("engine.maxQueuedTokens", lambda s: s.engine.max_queued_tokens is not None, since=(0, 29)),
    _Need("kvCache.tiers with an fs tier", lambda s: _tier(s, "fs"), since=(0, 23)),
    # Lent blocks have had a lease since the first half of 2026; it was run with this release only.
    _Need("kvCache.handover: migrate", lambda s: "migrate" in s.kv_cache.handover, since=(0, 32)),
    _Need(
        "model.sparsity 2:4",
        lambda s: s.model.sparsity is not None,
        until=(0, 19),
        instead="serve the checkpoint without sparsity, or an engine before it",
    ),
)


def engine_version(spec: LLMDeploymentSpec) -> Version | None:
    """Major and minor version of the engine, from engine.version, else the image's tag; None when neither tells."""
    text = spec.engine.version or _tag(spec.engine.image)
    found = _VERSION.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else None


def _tag(image: str) -> str:
    name = image.partition("@")[0].rpartition("/")[2]
    return name.partition(":")[2]


def engine_problems(spec: LLMDeploymentSpec) -> tuple[str, ...]:
    """What the spec asks of an engine that cannot do it, each with the field and the fix; empty when all is well."""
    version = engine_version(spec)
    if version is None:
        return ()
    return tuple(text for need in _NEEDS if need.used(spec) and (text := _lacks(need, version)))


def _lacks(need: _Need, version: Version) -> str:
    now = f"vLLM {_text(version)} (engine.version, else the tag of engine.image)"
    if need.since is not None and version < need.since:
        return f"{need.field} needs vLLM {_text(need.since)} or newer, not {now}; choose a newer engine.image"
    if need.until is not None and version >= need.until:
        return f"{need.field} was removed from vLLM in {_text(need.until)}, and this is {now}; {need.instead}"
    return ""


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
