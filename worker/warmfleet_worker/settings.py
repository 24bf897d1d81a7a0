"""Settings of the agent, from its environment.

======================================  =========================================================================
``WARMFLEET_POD_UID``                   UID of the pod (required; downward API metadata.uid).
``WARMFLEET_POD_IP``                    Address to bind (required; downward API status.podIP).
``WARMFLEET_AGENT_PORT``                Port to bind (9600).
``WARMFLEET_ENGINE_URL``                Base URL of the engine (http://127.0.0.1:8000).
``WARMFLEET_SLO_TTFT_SECONDS``          Objective for the time to first token (2).
``WARMFLEET_SLO_TPOT_SECONDS``          Objective for the time per output token (0.05).
``WARMFLEET_POLL_SECONDS``              Time between two looks at the engine (1); never less than 0.25 s of real time
                                        (0.1 s while the worker starts or drains).
``WARMFLEET_UNROUTE_SECONDS``           Time from readiness taken away to no router sending requests (2).
``WARMFLEET_UNROUTE_REAL_SECONDS``      The same in real time, for routers that poll in real time (1.5): the longer one
                                        holds.
``WARMFLEET_DRAIN_DEADLINE_SECONDS``    Longest drain that the preStop hook starts by itself (120).
======================================  =========================================================================

Seconds are logical unless said otherwise.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from warmfleet_contracts.labels import AGENT_PORT, ENGINE_PORT

MIN_POLL_REAL = 0.25
"""Real seconds: the agent looks no more often, however fast the clock runs (a look costs both sides 3 ms)."""
MIN_POLL_REAL_URGENT = 0.1
"""The same while the worker starts or drains."""


class SettingsError(ValueError):
    """A variable is missing or cannot be used; the message names it and the fix."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the agent runs with; see the module's table. Times in logical seconds unless named real."""

    pod_uid: str
    pod_ip: str
    port: int = AGENT_PORT
    engine_url: str = f"http://127.0.0.1:{ENGINE_PORT}"
    slo_ttft: float = 2.0
    slo_tpot: float = 0.05
    poll: float = 1.0
    unroute: float = 2.0
    unroute_real: float = 1.5
    drain_deadline: float = 120.0

    def propagation(self, scale: float) -> float:
        """Logical seconds of Unrouting at a clock of ``scale`` logical seconds per real one."""
        return max(self.unroute, self.unroute_real * scale)

    def period(self, scale: float, *, urgent: bool = False) -> float:
        """Logical seconds between two looks at the engine."""
        return max(self.poll, (MIN_POLL_REAL_URGENT if urgent else MIN_POLL_REAL) * scale)


def settings_from_env(environ: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: A variable is missing or cannot be used.
    """
    default = Settings("", "")
    return Settings(
        pod_uid=_required(environ, "WARMFLEET_POD_UID", "metadata.uid"),
        pod_ip=_address(_required(environ, "WARMFLEET_POD_IP", "status.podIP")),
        port=int(_number(environ, "WARMFLEET_AGENT_PORT", default.port, low=1, high=65535)),
        engine_url=_url(environ, "WARMFLEET_ENGINE_URL", default.engine_url),
        slo_ttft=_number(environ, "WARMFLEET_SLO_TTFT_SECONDS", default.slo_ttft, low=1e-3),
        slo_tpot=_number(environ, "WARMFLEET_SLO_TPOT_SECONDS", default.slo_tpot, low=1e-4),
        poll=_number(environ, "WARMFLEET_POLL_SECONDS", default.poll, low=0.01, high=60),
        unroute=_number(environ, "WARMFLEET_UNROUTE_SECONDS", default.unroute),
        unroute_real=_number(environ, "WARMFLEET_UNROUTE_REAL_SECONDS", default.unroute_real),
        drain_deadline=_number(environ, "WARMFLEET_DRAIN_DEADLINE_SECONDS", default.drain_deadline),
    )


def _required(environ: Mapping[str, str], name: str, field: str) -> str:
    value = environ.get(name, "").strip()
    if not value or len(value) > 64:
        raise SettingsError(f"{name}: set it from the downward API field {field} (at most 64 characters)")
    return value


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise SettingsError(f"WARMFLEET_POD_IP={text!r} is not an IP address") from None


def _number(
    environ: Mapping[str, str], name: str, default: float, *, low: float = 0.0, high: float = 86_400.0
) -> float:
    text = environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise SettingsError(f"{name}={text!r}: write a number from {low:g} to {high:g}")
    return value


def _url(environ: Mapping[str, str], name: str, default: str) -> str:
    text = environ.get(name, "").strip().rstrip("/") or default
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path:
        raise SettingsError(f"{name}={text!r}: write a base URL such as {default}")
    return text
