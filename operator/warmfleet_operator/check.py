"""``warmfleet-operator check``: whether an installation works, from inside the cluster; what ``helm test`` runs.

Nothing is stored: objects are only tried (server-side dry run). Three things are checked, each until it holds or
the time is up: a good LLMDeployment is accepted, a bad one is refused by the rule that it breaks, and a replica leads,
which shows in a Lease that is renewed while this looks.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from warmfleet_contracts.api import API_VERSION
from warmfleet_runtime.kubeclient import KubeClient, load_configuration
from warmfleet_runtime.resources import LEASES, LLM_DEPLOYMENTS
from warmfleet_runtime.rest import ApiError

from warmfleet_operator.settings import Settings

DEADLINE_SECONDS = 120.0
"""Real seconds for each check."""
_PAUSE_SECONDS = 0.5
_NAME = "warmfleet-check"
_INVALID = 422
_RULE = "min must not be above max"

Object = dict[str, Any]
Check = Callable[[], Awaitable[str]]


class Installation:
    """An installation, looked at through its API server.

    Args:
        client: Connection.
        settings: The operator's settings: namespace and name of the Lease.
        namespace: Where objects are tried.
    """

    def __init__(self, client: KubeClient, settings: Settings, namespace: str) -> None:
        self._client, self._settings, self._namespace = client, settings, namespace
        self._renewed: str | None = None

    async def accepts(self) -> str:
        """``""`` once a good LLMDeployment is accepted; else what was said."""
        await self._try(low=1, high=2)
        return ""

    async def refuses(self) -> str:
        """``""`` once a bad LLMDeployment is refused by its rule; else what was said."""
        try:
            await self._try(low=3, high=2)
        except ApiError as error:
            if error.status == _INVALID and _RULE in str(error):
                return ""
            raise
        return "an LLMDeployment whose scaling.min is above its scaling.max was accepted"

    async def leads(self) -> str:
        """``""`` once the Lease has been renewed since the first look; else why not."""
        name, namespace = self._settings.lease_name, self._settings.resolved_lease_namespace(os.environ)
        spec = (await self._client.get(LEASES, name, namespace)).get("spec") or {}
        if not spec.get("holderIdentity"):
            return f"no replica of the operator holds the Lease {namespace}/{name}"
        before, self._renewed = self._renewed, str(spec.get("renewTime"))
        if before in (None, self._renewed):
            return f"{spec['holderIdentity']} holds the Lease {namespace}/{name}, but does not renew it"
        return ""

    async def _try(self, *, low: int, high: int) -> Object:
        body = sample(self._namespace, low=low, high=high)
        return await self._client.patch(
            LLM_DEPLOYMENTS, _NAME, body, self._namespace, how="apply", fieldManager=_NAME, dryRun="All"
        )


def sample(namespace: str, *, low: int, high: int) -> Object:
    """A small LLMDeployment with these bounds."""
    return {
        "apiVersion": API_VERSION,
        "kind": "LLMDeployment",
        "metadata": {"name": _NAME, "namespace": namespace},
        "spec": {
            "model": {"name": "check", "source": {"hf": {"repo": "warmfleet/check"}}},
            "engine": {"image": "warmfleet.dev/check:none"},
            "variants": [{"name": "check", "instanceType": "check"}],
            "scaling": {"min": low, "max": high},
        },
    }


async def until(check: Check, seconds: float) -> str:
    """``""`` once the check says so; what it said last after ``seconds`` real seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        try:
            said = await check()
        except (ApiError, OSError, TimeoutError, aiohttp.ClientError) as error:
            said = str(error) or type(error).__name__
        if not said or loop.time() >= end:
            return said
        await asyncio.sleep(_PAUSE_SECONDS)


async def run(settings: Settings, seconds: float = DEADLINE_SECONDS) -> int:
    """Runs all checks and says what came out; the exit code: 0 when all hold, else 1."""
    namespace = settings.namespace or settings.resolved_lease_namespace(os.environ)
    client = KubeClient(await load_configuration())
    async with client:
        installation = Installation(client, settings, namespace)
        checks: tuple[tuple[str, Check], ...] = (
            ("a good LLMDeployment is accepted", installation.accepts),
            ("a bad LLMDeployment is refused", installation.refuses),
            ("a replica of the operator leads", installation.leads),
        )
        failed = False
        for name, check in checks:
            problem = await until(check, seconds)
            failed = failed or bool(problem)
            sys.stdout.write(f"FAILED  {name}: {problem}\n" if problem else f"ok      {name}\n")
    return int(failed)
