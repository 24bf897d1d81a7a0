"""How much capacity is needed, in requests/s of capacity within the SLO.

With ``scaling.forecast`` the margin is forecast::

    reach(L)  = quantile (1 - q) of the highest sustained demand within [now, now + L]     leadwindow.maximum
    need.up   = max(min(rate, lasting), recovery + reach(start-up of the type that would be bought))
    need.down = max(need.up, min(need.up * (1 + min(BAND * volatility of the last hours, MOST_BAND)), record))
    lasting   = mean arrivals with a memory of 5 minutes + queue / catch-up time
    recovery  = RECOVERY * queue / catch-up time while the queue takes longer than the objective, else 1 times that
    q         : the chance that is taken, steered by the attainment reached                 steering

    reach     <= the highest rate of the history while the level is within it, max(highest rate, level / UP) above
    min(rate, lasting) <= need.up <= MOST_RATIO * max(level, rate) / UP               whatever the table says, without
                                                                                      patience and leeway

Where the objective is so long that requests may wait through a part of the start-up (batch), that part needs no margin;
window, margin and band have the weight 1 - patience, the mean arrivals with a memory of 20 minutes have the rest::

    need.up   = (1 - patience) * need.up + patience * (mean arrivals + queue / catch-up time)
    patience  = min(1, max(0, WAITS * slo.ttft - SEEN_S) / start-up)           foresight

The same where the boldest chance leaves next to nothing late: ``leeway`` (steering) takes the place of patience where
it is more, and what is bought stays up to LEEWAY below that, until as many requests wait as the objective lets. Only
buying waits: who let go as far below would buy again for the queue that it makes, and so to and fro::

    need.up   = (1 - LEEWAY * leeway) * need with max(patience, leeway)
    need.down = need, with its band, as before

A busy half minute buys nothing by itself: it is over before a worker that it buys would serve. What lasts raises the
mean of 5 minutes, what was too much for the workers is a queue, and both count whatever the table says.

What never was is not bought ahead of, growth apart: a service that jumps between two levels needs no margin on the
upper one. What leaves would take a start-up to come back, so it must not be missed within one: that is the same window
as that of buying. The band above it is as wide as the level may stray, so that noise alone moves no worker to and fro,
and ends at the record, so that a fleet that holds all that ever was holds no more.

The quantile is conditional on how the traffic moves, so it is the whole margin: no utilisation target comes on top.
The table is the one of a trusted TrafficForecast, or PRIOR, which was learned from other people's traffic and knows no
time of day. Without ``scaling.forecast``, the reactive rule::

    need.up   = rate / 0.85      create while  ready + starting < need.up
    need.down = rate / 0.70      remove while  ready - worker   >= need.down

A declared event raises either, from a start-up time before its beginning to its end, and lowers neither::

    need.up  >= factor * (usual rate, as it was before the event) / UP

panic: rate >= 2 * ready     nothing is removed for a while.

Between ``up`` and ``down`` lies the band in which nothing changes. What is starting is credited upwards only: it never
justifies the removal of a worker that serves. The comparison is in units of capacity, so variants may be mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from warmfleet_contracts.leadwindow import MOST_RATIO, LeadWindowTable, TrafficState, Window, maximum

from warmfleet_operator.planning.demand import Traffic

UP = 0.85
"""Utilisation above which workers are created."""
DOWN = 0.70
"""Utilisation below which workers are removed."""
PANIC_FACTOR = 2.0
SLACK = 1e-9
"""Relative slack of comparisons, so that rounding never buys a worker."""
BAND = 2.0
"""Width of the band in which nothing changes, in volatilities of the level."""
MOST_BAND = 0.13
"""Most capacity that stays, over the need for it, for the sake of noise."""
RECOVERY = 4.0
"""Weight of a queue that makes requests late: behind it everybody is, so it is worth more than its own requests."""
WITHIN = 1.02
"""A level up to this, over the highest rate of the history, is within the history."""
LEEWAY = 0.7
"""How far below the need buying may stay while nothing is late, as a share of it."""
HOLD_LEADS, LEAST_HOLD_S = 0.5, 60.0
"""How long a worker must not have been missed to leave, in start-up times, and seconds at least: the window ahead says
already that it will not be missed, so this is about noise alone."""

_PRIOR_ROWS = (
    # lead s, residuals, gains of momentum and trend, scale: base, volatility, calm volatility
    (60.0, (0.0, 0.47, 0.84, 1.49, 2.17, 3.15, 3.96, 4.94, 6.9, 10.3, 23.7), 0.1, -0.03, 0.0103, 0.434, 0.106),
    (120.0, (0.4, 0.91, 1.31, 2.01, 2.76, 3.86, 4.89, 6.35, 10.5, 16.2, 40.8), 0.07, -0.04, 0.0106, 0.501, 0.16),
    (180.0, (0.54, 1.02, 1.39, 2.07, 2.79, 3.88, 4.97, 6.95, 11.5, 16.7, 38.7), 0.05, -0.04, 0.0123, 0.565, 0.221),
    (300.0, (0.62, 1.06, 1.41, 2.04, 2.71, 3.81, 5.16, 7.37, 12.5, 20.6, 39.0), 0.0, -0.05, 0.0145, 0.678, 0.331),
    (480.0, (0.66, 1.08, 1.41, 2.0, 2.64, 3.79, 5.22, 7.84, 14.4, 17.8, 35.1), -0.06, -0.04, 0.0162, 0.813, 0.474),
    (600.0, (0.67, 1.09, 1.41, 1.98, 2.61, 3.81, 5.38, 8.67, 14.4, 16.2, 32.2), -0.1, -0.04, 0.0171, 0.869, 0.567),
    (900.0, (0.67, 1.07, 1.4, 2.01, 2.65, 4.0, 5.87, 9.7, 12.3, 14.5, 28.4), -0.18, -0.05, 0.0189, 0.941, 0.794),
    (1200.0, (0.66, 1.07, 1.4, 2.02, 2.69, 4.16, 6.53, 9.04, 10.9, 17.7, 25.0), -0.27, -0.06, 0.0205, 0.987, 0.999),
)
PRIOR = LeadWindowTable(
    probabilities=(0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999),
    windows=tuple(
        Window(
            lead_s=lead_s,
            residuals=residuals,
            momentum_gain=momentum,
            trend_gain=trend,
            scale_base=base,
            volatility_gain=volatility,
            calm_gain=calm,
        )
        for lead_s, residuals, momentum, trend, base, volatility, calm in _PRIOR_ROWS
    ),
    peak=1e9,
)
"""The table where nothing was learned: pooled over public traces of many services, steps and crowds; it knows no time
of day. Its peak is no bound: blend's own is."""


class Basis(StrEnum):
    """What a need rests on."""

    REACTIVE = "reactive"
    PRIOR = "prior"
    FORECAST = "forecast"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Need:
    """Capacity needed.

    Attributes:
        up: At least this much shall be there or starting, requests/s.
        down: At least this much must stay ready when workers leave, requests/s.
        now: What is asked for right now without any margin, requests/s.
        quiet: ``up`` without the queue, requests/s.
        basis: What it rests on.
        forecast: Highest demand expected over the start-up lead, requests/s; None with the reactive rule.
        chance: The chance that it is exceeded, as it was taken; None with the reactive rule.
        steady: What must be carried when spot capacity is reclaimed, requests/s; None for ``now``.
        plain: What of ``up`` the reactive rule would ask for too, requests/s; None for all of it.
        kept: What the reactive rule would not let go, requests/s; None with the reactive rule.
        leeway: How much of the leeway below the boldest margin was taken, in [0, 1].
    """

    up: float
    down: float
    now: float
    quiet: float
    basis: Basis = Basis.REACTIVE
    forecast: float | None = None
    chance: float | None = None
    steady: float | None = None
    plain: float | None = None
    kept: float | None = None
    leeway: float = 0.0

    @property
    def firm(self) -> float:
        """What must be carried when spot capacity is reclaimed, requests/s."""
        return self.now if self.steady is None else self.steady

    def lacks(self, capacity: float) -> float:
        """Requests/s by which ``capacity`` falls short of the upper need, 0 when it does not."""
        gap = self.up - capacity
        return gap if gap > SLACK * max(1.0, self.up) else 0.0

    def stays_met(self, capacity: float) -> bool:
        """Whether ``capacity`` is still above the lower need."""
        return capacity >= self.down * (1.0 - SLACK)


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of the time ahead.

    Attributes:
        table: Where the quantiles come from.
        basis: PRIOR or FORECAST.
        offset_s: Seconds since the forecast was made.
        chance: The chance that is taken.
        lead_s: Start-up time of the type that would be bought, seconds.
        peak: Highest rate known, requests/s.
        record: Highest rate of the learned history, requests/s; None where nothing was learned.
        recovery: Weight of the queue.
        patience: Share of the start-up time through which requests may wait.
        leeway: How much of the leeway below the boldest margin is taken, in [0, 1].
    """

    table: LeadWindowTable
    basis: Basis
    offset_s: float
    chance: float
    lead_s: float
    peak: float
    record: float | None = None
    recovery: float = 1.0
    patience: float = 0.0
    leeway: float = 0.0


def reactive(traffic: Traffic) -> Need | None:
    """The need by the reactive rule; None while the demand is unknown."""
    if traffic.rate is None:
        return None
    arrivals = traffic.rate if traffic.arrivals is None else traffic.arrivals
    return Need(traffic.rate / UP, traffic.rate / DOWN, traffic.rate, arrivals / UP)


def foresighted(traffic: Traffic, state: TrafficState, sight: Sight) -> Need | None:
    """The need by the quantile; None while the demand is unknown, and the reactive one while only a queue is known."""
    if traffic.rate is None or traffic.arrivals is None:
        return reactive(traffic)
    queue = max(0.0, traffic.rate - traffic.arrivals) * sight.recovery
    known = _known(state, sight)
    reach = min(maximum(sight.table, state, sight.lead_s, 1.0 - sight.chance, sight.offset_s), known)
    most = MOST_RATIO * max(state.level, traffic.rate) / UP
    lasting = state.mid + traffic.rate - traffic.arrivals
    margined = max(min(traffic.rate, lasting), queue + reach)
    waiting = state.slow + traffic.rate - traffic.arrivals
    need = min(margined + (waiting - margined) * max(sight.patience, sight.leeway), most)
    bought = need * (1.0 - LEEWAY * sight.leeway)
    band = 1.0 + min(BAND * math.sqrt(state.calm_variance), MOST_BAND) * (1.0 - sight.patience)
    return Need(
        up=bought,
        down=max(need, min(need * band, known)),
        now=traffic.rate,
        quiet=max(traffic.arrivals, reach),
        basis=sight.basis,
        forecast=reach,
        chance=sight.chance,
        plain=min(bought, lasting / UP),
        kept=max(traffic.rate, lasting) / DOWN,
        leeway=sight.leeway,
    )


def _known(state: TrafficState, sight: Sight) -> float:
    """The highest rate that is bought ahead of: what the history saw, or the level with a margin beyond it."""
    if sight.record is not None and state.level <= sight.record * WITHIN:
        return max(sight.record, state.level)
    return max(sight.peak, state.level / UP)


def raised(need: Need, usual: float | None, factor: float) -> Need:
    """The need with a declared event.

    Args:
        need: Without it.
        usual: Rate before it began, requests/s; None while unknown.
        factor: Expected traffic over usual traffic.
    """
    coming = (usual or 0.0) * factor
    least = coming / UP  # what somebody has declared is no margin: it is neither bought last nor given to others
    down = max(need.down, least)
    plain = None if need.plain is None else max(need.plain, least)
    kept = None if need.kept is None else max(need.kept, least)
    need = replace(need, down=down, plain=plain, kept=kept)
    if least <= need.up:
        return need
    return replace(need, up=least, quiet=least, basis=Basis.EVENT, forecast=coming)


def sharing(need: Need, most_spot: float | None) -> Need:
    """The need where spot capacity is to carry no more than a share ``most_spot`` of it; None for no such bound."""
    return need if most_spot is None else replace(need, steady=(1.0 - most_spot) * need.up)


def panics(need: Need, ready: float) -> bool:
    """Whether demand is so far above what serves that nothing may be removed for a while."""
    return ready > 0 and need.now >= PANIC_FACTOR * ready
