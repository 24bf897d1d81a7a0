"""Probes and lifecycle hooks: httpGet, tcpSocket, exec, sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from warmfleet_runtime.clock import Clock

Exec = Callable[[Sequence[str]], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe as it is carried out; durations are real seconds, thresholds counts in a row."""

    action: Mapping[str, Any]
    initial_delay: float
    period: float
    timeout: float
    successes: int
    failures: int

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], clock: Clock, *, min_period: float, min_timeout: float) -> Probe:
        """Scale a probe's spec by the clock.

        A period below the floor is stretched to it; the failure threshold shrinks in proportion, so that
        `period * threshold`, the time until the probe counts as failed, is kept where it can be.
        """
        wanted = clock.real(spec.get("periodSeconds") or 10)
        period = max(wanted, min_period)
        threshold = spec.get("failureThreshold") or 3
        return cls(
            action=spec,
            initial_delay=clock.real(spec.get("initialDelaySeconds") or 0),
            period=period,
            timeout=max(clock.real(spec.get("timeoutSeconds") or 1), min_timeout),
            successes=spec.get("successThreshold") or 1,
            failures=max(1, round(threshold * wanted / period)),
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container's handlers go: its pod's address, its named ports and a way to run a program in it."""

    address: str
    ports: Mapping[str, int]
    execute: Exec
    http: aiohttp.ClientSession

    def port(self, value: int | str) -> int:
        """A port number from a number or a port's name.

        Raises:
            ValueError: No port of the container has that name.
        """
        if isinstance(value, int) or value.isdigit():
            return int(value)
        if value not in self.ports:
            raise ValueError(f"no container port is named {value!r}")
        return self.ports[value]


async def act(action: Mapping[str, Any], target: Target, clock: Clock) -> str | None:
    """Carry out a handler once, for as long as it takes: the caller sets the limit.

    Returns:
        None on success, else what went wrong.
    """
    try:
        if http := action.get("httpGet"):
            return await _http_get(http, target)
        if tcp := action.get("tcpSocket"):
            address = tcp.get("host") or target.address
            _, writer = await asyncio.open_connection(address, target.port(tcp["port"]))
            writer.close()
            return None
        if command := action.get("exec"):
            code = await target.execute(command["command"])
            return None if code == 0 else f"command exited with {code}"
        if pause := action.get("sleep"):
            await clock.sleep(pause["seconds"])
            return None
    except (OSError, aiohttp.ClientError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return f"handler {sorted(action)} is not supported: use httpGet, tcpSocket, exec or sleep"


async def keep_probing(probe: Probe, target: Target, clock: Clock, report: Callable[[bool, str], None]) -> None:
    """Probe for ever; `report(healthy, message)` whenever a threshold is reached, and again each time after."""
    await asyncio.sleep(probe.initial_delay)
    good = bad = 0
    while True:
        try:
            async with asyncio.timeout(probe.timeout):
                problem = await act(probe.action, target, clock)
        except TimeoutError:
            problem = f"no answer within {probe.timeout:.3g} s"
        good, bad = (good + 1, 0) if problem is None else (0, bad + 1)
        if good >= probe.successes:
            report(True, "")  # noqa: FBT003 - a callback's positional contract
        elif bad >= probe.failures:
            report(False, problem or "")  # noqa: FBT003
        await asyncio.sleep(probe.period)


async def _http_get(http: Mapping[str, Any], target: Target) -> str | None:
    host, port = http.get("host") or target.address, target.port(http["port"])
    path = "/" + (http.get("path") or "/").lstrip("/")
    headers = {header["name"]: header["value"] for header in http.get("httpHeaders") or []}
    url = f"{(http.get('scheme') or 'HTTP').lower()}://{host}:{port}{path}"
    async with target.http.get(url, headers=headers, allow_redirects=False, ssl=False) as answer:
        return None if 200 <= answer.status < 400 else f"HTTP probe failed with statuscode: {answer.status}"
