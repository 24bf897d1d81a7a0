"""Settings of the agent, from its environment.

======================================  =========================================================================
``WARMFLEET_POD_UID``                   UID of the pod (required; downward API metadata.uid).
``WARMFLEET_POD_IP``                    Address to bind (required; downward API status.podIP).
``WARMFLEET_AGENT_PORT``                Port to bind (9600).
``WARMFLEET_ENGINE_URL``                Base URL of the engine (http://127.0.0.1:8000).
``WARMFLEET_SLO_TTFT_SECONDS``          Objective for the time to first token (2).
``WARMFLEET_SLO_TPOT_SECONDS``          Objective for the time per output token (0.05).
``WARMFLEET_POLL_SECONDS``              Time between two polls of the engine (1); never less than 0.25 s of real time
                                        (while the worker starts or drains a quarter of that,
                                        and 0.1 s).
``WARMFLEET_UNROUTE_SECONDS``           Time from readiness taken away to no router sending requests (2).
``WARMFLEET_UNROUTE_REAL_SECONDS``      The same in real time, for routers that poll in real time (1.5): the longer one
                                        holds.
``WARMFLEET_DRAIN_DEADLINE_SECONDS``    Longest drain that the preStop hook starts by itself (120).
``WARMFLEET_HANDOVER``                  Strategies of such a drain, in order of preference, with commas (none).
``WARMFLEET_HANDOVER_BYTES``            Most bytes of KV cache that a drain brings to survivors (0: 4 million tokens).
``WARMFLEET_ENDPOINT``                  OpenAI endpoint of the deployment, without /v1, for replay and migrate; empty:
                                        none.
``WARMFLEET_KV_BYTES_PER_TOKEN``        Size of one token's KV cache in the worker (0: unknown).
``WARMFLEET_PREFILL_TOKENS_PER_SECOND`` Prompt tokens that a worker computes per second (0: unknown).
``WARMFLEET_LINK_BYTES_PER_SECOND``     Bandwidth of a worker's network (0: unknown).
``WARMFLEET_KV_EVENTS``                 ZMQ endpoint of the engine's KV events; empty for none.
``WARMFLEET_KV_REPLAY``                 ZMQ endpoint that replays them; empty for none.
``WARMFLEET_KV_STORE``                  Folder of the engine's shared KV tier; empty for none.
``WARMFLEET_KV_STORE_BYTES``            Size that the folder is pruned to (0: not at all).
``WARMFLEET_KV_STORE_AGE_SECONDS``      Age at which its blocks are removed, in real seconds (604800).
``WARMFLEET_PREWARM_SECONDS``           Longest warming of a new engine before it takes traffic (0: none).
``WARMFLEET_KEYS``                      Folder with the namespace's key (items token and previous of the Secret); empty:
                                        anybody who reaches the port may ask for a drain.
``WARMFLEET_PRESTOP_TOKEN``             What the pod's own preStop hook presents; empty: as the operator.
``WARMFLEET_MODEL_CACHE``               Folder of the engine's downloads and compiled kernels, to tell how far its start
                                        is; empty: it is not told.
``WARMFLEET_ENGINE_SHM``                Folder of the engine's shared memory, cleaned when it has exited; empty: none.
======================================  =========================================================================

Seconds are logical unless said otherwise.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from warmfleet_contracts.agent import Strategy
from warmfleet_contracts.labels import AGENT_PORT, ENGINE_PORT

from warmfleet_worker.kv.physics import Physics

MIN_POLL_REAL = 0.25
"""Real seconds: the agent polls no more often, however fast the clock runs (a poll costs both sides 3 ms)."""
MIN_POLL_REAL_URGENT = 0.1
"""The same while the worker starts or drains."""
URGENT = 0.25
"""Share of the time between two polls that then is enough: an idle worker is to be gone within a second."""


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
    handover: tuple[Strategy, ...] = (Strategy.NONE,)
    handover_bytes: int = 0
    endpoint: str = ""
    physics: Physics = Physics()  # noqa: RUF009 - frozen
    kv_events: str = ""
    kv_replay: str = ""
    kv_store: Path | None = None
    kv_store_bytes: int = 0
    kv_store_age: float = 604_800.0
    prewarm: float = 0.0
    engine_shm: Path | None = None
    model_cache: Path | None = None
    keys: Path | None = None
    prestop_token: str = ""

    def propagation(self, scale: float) -> float:
        """Logical seconds of Unrouting at a clock of ``scale`` logical seconds per real one."""
        return max(self.unroute, self.unroute_real * scale)

    def period(self, scale: float, *, urgent: bool = False) -> float:
        """Logical seconds between two polls of the engine."""
        if urgent:
            return max(self.poll * URGENT, MIN_POLL_REAL_URGENT * scale)
        return max(self.poll, MIN_POLL_REAL * scale)


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
        handover=_strategies(environ, "WARMFLEET_HANDOVER"),
        handover_bytes=int(_number(environ, "WARMFLEET_HANDOVER_BYTES", default.handover_bytes, high=2**60)),
        endpoint=_url(environ, "WARMFLEET_ENDPOINT", "") if environ.get("WARMFLEET_ENDPOINT", "").strip() else "",
        physics=_physics(environ),
        kv_events=_endpoint(environ, "WARMFLEET_KV_EVENTS"),
        kv_replay=_endpoint(environ, "WARMFLEET_KV_REPLAY"),
        kv_store=_folder(environ, "WARMFLEET_KV_STORE"),
        kv_store_bytes=int(_number(environ, "WARMFLEET_KV_STORE_BYTES", default.kv_store_bytes, high=2**60)),
        kv_store_age=_number(environ, "WARMFLEET_KV_STORE_AGE_SECONDS", default.kv_store_age, low=60, high=1e9),
        prewarm=_number(environ, "WARMFLEET_PREWARM_SECONDS", default.prewarm, high=600.0),
        engine_shm=_folder(environ, "WARMFLEET_ENGINE_SHM"),
        model_cache=_folder(environ, "WARMFLEET_MODEL_CACHE"),
        keys=_folder(environ, "WARMFLEET_KEYS"),
        prestop_token=environ.get("WARMFLEET_PRESTOP_TOKEN", "").strip(),
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


def _physics(environ: Mapping[str, str]) -> Physics:
    """What ``auto`` weighs; the store is reached over the same network as other workers."""
    size = _number(environ, "WARMFLEET_KV_BYTES_PER_TOKEN", 0.0, high=2**40) or None
    prefill = _number(environ, "WARMFLEET_PREFILL_TOKENS_PER_SECOND", 0.0, high=1e9) or None
    link = _number(environ, "WARMFLEET_LINK_BYTES_PER_SECOND", 0.0, high=1e15) or None
    return Physics(size, prefill, link, link)


def _strategies(environ: Mapping[str, str], name: str) -> tuple[Strategy, ...]:
    text = environ.get(name, "").strip()
    try:
        return tuple(Strategy(word.strip()) for word in text.split(",")) if text else (Strategy.NONE,)
    except ValueError:
        known = ", ".join(Strategy)
        raise SettingsError(f"{name}={text[:80]!r}: write some of {known}, with commas between") from None


def _endpoint(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name, "").strip()
    if text and not text.startswith(("ipc:///", "tcp://")):
        raise SettingsError(f"{name}={text[:80]!r}: write an endpoint such as ipc:///run/warmfleet/kv-events")
    return text


def _folder(environ: Mapping[str, str], name: str) -> Path | None:
    text = environ.get(name, "").strip()
    if text and not text.startswith("/"):
        raise SettingsError(f"{name}={text[:80]!r}: write an absolute path")
    return Path(text) if text else None


def _url(environ: Mapping[str, str], name: str, default: str) -> str:
    text = environ.get(name, "").strip().rstrip("/") or default
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path:
        raise SettingsError(f"{name}={text!r}: write a base URL such as {default}")
    return text
