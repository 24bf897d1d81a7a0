"""The need of one deployment with what is known of the time ahead: which table, whether to trust it, which events.

The trust gate; a forecast is used when all of it holds::

    its table makes sense           (leadwindow.fault; checked when it arrives)
    status.trusted                  its forecaster's own backtest
    -AHEAD <= now - issuedAt <= validFor      neither stale nor from the future; AHEAD is what clocks may differ by
    so it has been for SETTLE s without a break         hysteresis: one good issue among bad ones changes nothing
    misfit <= MOST_MISFIT                               its table fits what is there:

    misfit = share of the last hours (memory FIT_S) in which  median of the highest demand to come < LOW * demand now
                                                    or        its 5 % quantile                     > HIGH * demand now

Anything else is answered by blend's PRIOR at once. Little changes then, because both share the state of the traffic,
the margin that was rehearsed and the bounds.

Declared events are in wall time. While none is on, the usual rate follows the arrivals; it stands still while one is.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.leadwindow import Outlook, outlook, outlook_at
from warmfleet_contracts.trafficstate import TrafficState, advance

from warmfleet_operator.planning import blend, limits, rehearsal
from warmfleet_operator.planning.blend import Basis, Need, Sight
from warmfleet_operator.planning.capacity import Offer
from warmfleet_operator.planning.demand import MIN_CATCH_UP, Grade, Traffic, sane
from warmfleet_operator.state.memory import DeploymentMemory, evolve
from warmfleet_operator.state.parse import epoch
from warmfleet_operator.state.records import FleetSnapshot, ForecastRecord, Key

SETTLE = 300.0
"""Seconds for which a forecast must have been usable before it is used."""
AHEAD = 60.0
FIT_S, MOST_MISFIT = 6 * 3600.0, 0.5
"""Memory of how well a table fits, seconds, and the misfit beyond which it is not used."""
LOW, HIGH = 0.9, 1.25
"""A window's highest demand is seldom below what is there at its beginning, and seldom surely far above."""
WAITS, SEEN_S = 0.5, 30.0
"""Share of the TTFT objective that a request may spend in the queue, the rest being the engine's; and how much of that,
seconds, passes before the rate of the last half minute shows what has come."""
PEAK_MEMORY_S = 7 * 86_400.0
"""Memory of the highest rate: a week."""


@dataclass(frozen=True, slots=True)
class Coming:
    """A declared event that is on, or begins within the start-up time.

    Attributes:
        name: Its name.
        factor: Expected traffic over usual traffic.
        on: Whether it has begun.
    """

    name: str
    factor: float
    on: bool


@dataclass(frozen=True, slots=True)
class Means:
    """What a decision on the need has at hand.

    Attributes:
        key: The deployment.
        traffic: Demand.
        offers: Variants in the order of the spec.
        ready: Capacity of ready workers, requests/s.
        steerable: Whether more workers would come if more were wanted: no maximum, limit or pause binds.
    """

    key: Key
    traffic: Traffic
    offers: Sequence[Offer]
    ready: float
    steerable: bool


def look(
    spec: LLMDeploymentSpec,
    means: Means,
    snapshot: FleetSnapshot,
    memory: DeploymentMemory,
    now: float,
) -> tuple[Need | None, DeploymentMemory]:
    """The need, and the memory with what was seen of the traffic.

    Args:
        spec: The deployment's spec.
        means: What is at hand.
        snapshot: For forecasts, measured attainment and the wall time.
        memory: The deployment's memory, moved to now.
        now: Logical seconds.

    Returns:
        The need, None while the demand is unknown or ``spec.replicas`` is set; and the memory.
    """
    if spec.scaling is None:
        return None, memory
    events = coming(spec, snapshot.wall_epoch, lead(means.offers))
    before = memory.traffic
    memory = _remember(means.traffic, memory, now, quiet=not any(event.on for event in events))
    state = memory.traffic
    if spec.scaling.forecast is None or state is None:
        need = blend.reactive(means.traffic)
    else:
        passed = 0.0 if before is None else now - before.at
        found, memory = _gate(newest(snapshot.forecasts.get(means.key, ()), now), memory, now)
        found, ahead, memory = _fitting(found, state, lead(means.offers), memory, now, passed)
        seen = _sight(spec, means, found, ahead, memory, now)
        memory = _rehearse(spec, means, snapshot, memory, seen, now)
        late = bool(rehearsal.late(means.traffic.queue, means.ready, spec.slo.ttft))
        need = blend.foresighted(means.traffic, seen, rehearsal.margin(memory.rehearsal), late=late)
    if need is not None and events:
        need = blend.raised(need, memory.usual, max(event.factor for event in events))
    return need, memory


def refusal(forecast: ForecastRecord, now: float) -> str:
    """Why a forecast is not used, for a person; empty when it may be."""
    if forecast.fault:
        return forecast.fault
    if not forecast.trusted:
        return "its forecaster does not trust it"
    if forecast.issued_at is None or forecast.table is None:
        return "its status is not complete"
    age = now - forecast.issued_at
    if age < -AHEAD:
        return f"it was made {-age:.0f} s in the future"
    return (
        f"it is stale: made {age:.0f} s ago, valid for {forecast.valid_for:.0f} s" if age > forecast.valid_for else ""
    )


def newest(forecasts: Sequence[ForecastRecord], now: float) -> ForecastRecord | None:
    """The usable forecast that was made last; None when there is none."""
    good = [f for f in forecasts if not refusal(f, now)]
    return max(good, key=lambda f: (f.issued_at or 0.0, f.key)) if good else None


def coming(spec: LLMDeploymentSpec, wall_epoch: float | None, lead_s: float) -> tuple[Coming, ...]:
    """Declared events that are on or begin within ``lead_s`` seconds; none while the wall time is unknown."""
    if spec.scaling is None or wall_epoch is None:
        return ()
    found = []
    for event in spec.scaling.events:
        start, end = epoch(event.start), epoch(event.end)
        if start is not None and end is not None and start - lead_s <= wall_epoch < end:
            found.append(Coming(event.name, event.factor, on=start <= wall_epoch))
    return tuple(found)


def lead(offers: Sequence[Offer]) -> float:
    """Start-up time of the type that would be bought: the cheapest per request, seconds."""
    first = _bought(offers)
    return max((o.startup for o in offers), default=0.0) if first is None else first.startup


def _bought(offers: Sequence[Offer]) -> Offer | None:
    """The variant that would be bought: the cheapest per request; None where no rate is known."""
    rated = [o for o in offers if o.buy and o.rate]
    return min(
        rated, key=lambda o: (math.inf if o.price is None else o.price / (o.rate or 1.0), o.startup), default=None
    )


def _remember(traffic: Traffic, memory: DeploymentMemory, now: float, *, quiet: bool) -> DeploymentMemory:
    """The traffic up to this decision; ``quiet`` when no event is on. Unknown arrivals change nothing."""
    if traffic.arrivals is None or traffic.grade is not Grade.COMPLETE:
        return memory
    before = memory.traffic
    if before is not None and now < before.at:  # the clock went back: nothing is learned, nothing is lost
        before = replace(before, at=now)
    state = advance(before, traffic.arrivals, now)
    passed = 0.0 if before is None else min(now - before.at, PEAK_MEMORY_S)
    return evolve(
        memory,
        traffic=state,
        peak=max(memory.peak * math.exp(-passed / PEAK_MEMORY_S), state.level),
        usual=state.level if quiet or memory.usual is None else memory.usual,
    )


def _rehearse(
    spec: LLMDeploymentSpec,
    means: Means,
    snapshot: FleetSnapshot,
    memory: DeploymentMemory,
    seen: Sight,
    now: float,
) -> DeploymentMemory:
    offer, scaling, arrivals = _bought(means.offers), spec.scaling, means.traffic.arrivals
    if offer is None or scaling is None or arrivals is None or means.traffic.grade is not Grade.COMPLETE:
        return memory
    measured = snapshot.demand.get(means.key)
    attained = None if measured is None else sane(measured.slo_attainment, 1.0)
    missed = 1.0 - attained if attained is not None else None
    if missed is None:
        missed = rehearsal.late(means.traffic.queue, means.ready, spec.slo.ttft)
    window = scaling.scale_down.stabilization_window
    stage = rehearsal.Stage(
        seen=seen,
        arrivals=arrivals,
        missed=missed,
        steerable=means.steerable,
        unit=offer.rate or 1.0,
        lead_s=offer.startup,
        catch_up_s=max(offer.startup, MIN_CATCH_UP),
        objective_s=spec.slo.ttft,
        holds_s=(limits.hold(offer.startup, window, ahead=True), limits.hold(offer.startup, window, ahead=False)),
        least=scaling.min,
        most=scaling.max,
        ready=means.ready,
        phase=zlib.crc32(memory.uid.encode()) / 2.0**32,
    )
    return evolve(memory, rehearsal=rehearsal.rehearse(memory.rehearsal, stage, 1.0 - spec.slo.attainment, now))


def _gate(
    found: ForecastRecord | None,
    memory: DeploymentMemory,
    now: float,
) -> tuple[ForecastRecord | None, DeploymentMemory]:
    """The forecast once it has been usable for long enough."""
    if found is None:
        return None, memory if memory.forecast_since is None else evolve(memory, forecast_since=None)
    since = memory.forecast_since
    if since is None or since > now:
        return None, evolve(memory, forecast_since=now)
    return (found if now - since >= SETTLE else None), memory


def _fitting(
    found: ForecastRecord | None,
    state: TrafficState,
    lead_s: float,
    memory: DeploymentMemory,
    now: float,
    passed: float,
) -> tuple[ForecastRecord | None, Outlook | None, DeploymentMemory]:
    """The forecast while its table fits the demand that is there, whoever trusts it; and what it says."""
    if found is None or found.table is None or found.issued_at is None or state.level <= found.table.floor:
        return found, None, memory
    ahead = outlook(found.table, state, lead_s, max(0.0, now - found.issued_at))
    misfits = ahead.quantile(0.5) < LOW * state.level or ahead.quantile(0.05) > HIGH * state.level
    misfit = misfits + (memory.misfit - misfits) * math.exp(-max(0.0, passed) / FIT_S)
    good = misfit <= MOST_MISFIT
    return found if good else None, ahead if good else None, evolve(memory, misfit=misfit)


def _sight(
    spec: LLMDeploymentSpec,
    means: Means,
    found: ForecastRecord | None,
    ahead: Outlook | None,
    memory: DeploymentMemory,
    now: float,
) -> Sight:
    state = memory.traffic
    assert state is not None  # noqa: S101  (the caller has just looked)
    startup_s = lead(means.offers)
    patience = min(1.0, max(0.0, WAITS * spec.slo.ttft - SEEN_S) / max(startup_s, 1.0))
    table, basis, offset, record = blend.PRIOR, Basis.PRIOR, 0.0, None
    if found is not None and found.table is not None and found.issued_at is not None:
        table, basis, offset = found.table, Basis.FORECAST, max(0.0, now - found.issued_at)
        record = table.peak
    if ahead is None or patience:
        ahead = outlook(table, state, startup_s * (1.0 - patience), offset)
    usual = None if table is blend.PRIOR else outlook(blend.PRIOR, state, startup_s * (1.0 - patience), 0.0)
    at_lead = outlook_at(table, state, startup_s * (1.0 - patience), offset)
    return blend.sight(
        ahead,
        state,
        basis=basis,
        peak=memory.peak,
        record=record,
        patience=patience,
        usual=usual,
        at_lead=at_lead,
    )
