"""How much capacity is needed, in requests/s of capacity within the SLO.

With ``scaling.forecast`` the margin is one of several, the cheapest that keeps the objective when it is rehearsed
(``rehearsal``). A forecast one::

    reach(L)  = quantile (1 - q) of the highest sustained demand within [now, now + L]     leadwindow.outlook
    need.up   = max(min(rate, lasting), recovery + reach(start-up of the type that would be bought))
    need.down = max(need.up, min(need.up * (1 + min(BAND * volatility of the last hours, MOST_BAND)), record))
    lasting   = mean arrivals with a memory of 5 minutes + queue / catch-up time
    recovery  = RECOVERY * queue / catch-up time while the queue takes longer than the objective, else 1 times that

    reach     <= the highest rate of the history while the level is within it, max(highest rate, level / UP) above
    min(rate, lasting) <= need.up <= MOST_RATIO * max(level, rate) / UP               whatever the table says, without
                                                                                      patience

What is bought now meets the demand of then. Where the table tells what that is, buying may go by it, and only leaving
by the highest demand until then; noise of the next minutes, which nothing that is bought now can serve, then buys
nothing, and the distance of the two takes the place of most of the band::

    need.up   = max(min(rate, lasting), recovery + quantile (1 - q) of the demand at now + L)     leadwindow.outlook_at
    need.down = max(need.up, min(max(need.up * (1 + CLOSE * (band - 1)), recovery + reach(L)), record))

The same as the first by the built-in table (PRIOR) instead of the forecast's, where it was cheaper: what is learned
anew every few hours may be worse than what never changes.

One for what comes without a warning: the rarest of those, and never less than a share of the highest rate known (at
most ``MOST_PEAKS`` times the highest that was seen here)::

    need.up  >= share * record

And the reactive rule (below) with a share of a worker's capacity counted on; above 1, a queue decides.

Where the objective is so long that requests may wait through a part of the start-up (batch), that part needs no margin;
window, margin and band have the weight 1 - patience, the mean arrivals with a memory of 20 minutes have the rest::

    need.up   = (1 - patience) * need.up + patience * (mean arrivals + queue / catch-up time)
    patience  = min(1, max(0, WAITS * slo.ttft - SEEN_S) / start-up)           foresight

A busy half minute buys nothing by itself: it is over before a worker that it buys would serve. What lasts raises the
mean of 5 minutes, what was too much for the workers is a queue, and both count whatever the table says.

What never was is not bought ahead of, growth apart: a service that jumps between two levels needs no margin on the
upper one. What leaves would take a start-up to come back, so it must not be missed within one: that is the same window
as that of buying. The band above it is as wide as the level may stray, so that noise alone moves no worker to and fro,
and ends at the record, so that a fleet that holds all that ever was holds no more.

The quantile is conditional on how the traffic moves, so it is the whole margin: no utilisation target comes on top.
The table is the one of a trusted TrafficForecast, or PRIOR, which was learned from other people's traffic and knows no
time of day. Without ``scaling.forecast``, the reactive rule::

    need.up   = rate / (0.85 * share)      create while  ready + starting < need.up
    need.down = rate / (0.70 * share)      remove while  ready - worker   >= need.down      share = 1

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

from warmfleet_contracts.leadwindow import MOST_PEAKS, MOST_RATIO, LeadWindowTable, Outlook, Window
from warmfleet_contracts.trafficstate import TrafficState

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
CLOSE = 0.25
"""Share of that band where buying goes by the demand at the end of the lead: most of it lies in the distance from the
highest demand until then."""
RECOVERY = 4.0
"""Weight of a queue that makes requests late: behind it everybody is, so it is worth more than its own requests."""
WITHIN = 1.02
"""A level up to this, over the highest rate of the history, is within the history."""

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


Bounds = tuple[float, float]


class Basis(StrEnum):
    """What a need rests on."""

    REACTIVE = "reactive"
    PRIOR = "prior"
    FORECAST = "forecast"
    BUILT_IN = "built-in"
    EVENT = "event"


class Rule(StrEnum):
    """What a margin is made of."""

    REACTIVE = "reactive"
    QUANTILE = "quantile"
    AT_LEAD = "at-lead"
    BUILT_IN = "built-in"
    RECORD = "record"


CHANCES = (Rule.QUANTILE, Rule.AT_LEAD, Rule.BUILT_IN)
"""The rules whose value is a chance."""


@dataclass(frozen=True, slots=True)
class Margin:
    """How sure the planner wants to be.

    Attributes:
        rule: What it is made of.
        value: REACTIVE: share of a worker's capacity that is counted on. QUANTILE: chance that the demand is higher
            until a worker serves that is bought now. AT_LEAD: chance that it is higher when that worker serves.
            BUILT_IN: the same, by the built-in table whatever the forecast. RECORD: share of the highest rate known
            that is always there.
    """

    rule: Rule
    value: float


RAREST = 0.01
"""The rarest chance that is taken, and what a margin on the highest rate known takes as well. A rarer one rests on the
few hours of a history that were worse, and they say less of what is to come than the highest of them does."""


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
        margin: Which margin it is; None where none is chosen (the reactive rule as it is).
        steady: What must be carried when spot capacity is reclaimed, requests/s; None for ``now``.
        plain: What of ``up`` the reactive rule would ask for too, requests/s; None for all of it.
        kept: What the reactive rule would not let go, requests/s; None with the reactive rule.
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
    margin: Margin | None = None

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
    """What is known of the time ahead, the same for every margin.

    Attributes:
        state: How the traffic has been moving.
        outlook: Quantiles of the highest demand until a worker serves that is bought now.
        basis: PRIOR or FORECAST: whose they are.
        known: The highest rate that is bought ahead of, requests/s.
        held: The highest rate of which a share may be held all the time, requests/s.
        band: Capacity that stays over the need for it, as a factor.
        patience: Share of the start-up time through which requests may wait.
        usual: The quantiles by the built-in table; None where ``outlook`` is that already.
        at_lead: Quantiles of the demand when a worker serves that is bought now; None where nothing tells.
    """

    state: TrafficState
    outlook: Outlook
    basis: Basis
    known: float
    held: float
    band: float
    patience: float = 0.0
    usual: Outlook | None = None
    at_lead: Outlook | None = None


def sight(
    ahead: Outlook,
    state: TrafficState,
    *,
    basis: Basis,
    peak: float,
    record: float | None,
    patience: float = 0.0,
    usual: Outlook | None = None,
    at_lead: Outlook | None = None,
) -> Sight:
    """What is known of the time ahead.

    Args:
        ahead: Quantiles of the highest demand until a worker serves that is bought now.
        state: How the traffic has been moving.
        basis: PRIOR or FORECAST: whose they are.
        peak: Highest rate seen, slowly forgotten, requests/s.
        record: Highest rate of the learned history, requests/s; None where nothing was learned.
        patience: Share of the start-up time through which requests may wait.
        usual: The same as ``ahead`` by the built-in table; None where it is that already.
        at_lead: Quantiles of the demand when a worker serves that is bought now; None where nothing tells.
    """
    if record is not None and state.level <= record * WITHIN:
        known = max(record, state.level)
    else:
        known = max(peak, record or 0.0, state.level / UP)
    held = min(max(peak, record or 0.0), MOST_PEAKS * peak)
    band = 1.0 + min(BAND * math.sqrt(state.calm_variance), MOST_BAND) * (1.0 - patience)
    return Sight(state, ahead, basis, known, held, band, patience, usual, at_lead)


def reactive(traffic: Traffic) -> Need | None:
    """The need by the reactive rule; None while the demand is unknown."""
    if traffic.rate is None:
        return None
    arrivals = traffic.rate if traffic.arrivals is None else traffic.arrivals
    return Need(traffic.rate / UP, traffic.rate / DOWN, traffic.rate, arrivals / UP)


def reach(seen: Sight, margin: Margin) -> float:
    """The demand that a margin expects until a new worker serves, requests/s; 0 with the reactive rule."""
    if margin.rule is Rule.AT_LEAD and seen.at_lead is not None:
        return min(seen.at_lead.quantile(1.0 - margin.value), seen.known)
    if margin.rule in (Rule.QUANTILE, Rule.AT_LEAD):
        return min(seen.outlook.quantile(1.0 - margin.value), seen.known)
    if margin.rule is Rule.BUILT_IN:
        return min((seen.usual or seen.outlook).quantile(1.0 - margin.value), seen.known)
    if margin.rule is Rule.RECORD:
        return max(min(seen.outlook.quantile(1.0 - RAREST), seen.known), margin.value * seen.held)
    return 0.0


def bounds(seen: Sight, margin: Margin, ahead: float, arrivals: float, queued: float, weight: float) -> Bounds:
    """What must be bought and what must stay.

    Args:
        seen: What is known of the time ahead.
        margin: Which margin.
        ahead: Its :func:`reach`.
        arrivals: Requests/s.
        queued: The queue over the time in which it is to be caught up, requests/s.
        weight: Of the queue: ``RECOVERY`` while it makes requests late, else 1.

    Returns:
        Capacity to buy up to, and capacity that must stay, requests/s.
    """
    rate = arrivals + queued
    if margin.rule is Rule.REACTIVE:
        return rate / (UP * margin.value), rate / (DOWN * margin.value)
    state = seen.state
    need = max(min(rate, state.mid + queued), queued * weight + ahead)
    stay, band = need, seen.band
    if margin.rule is Rule.AT_LEAD and seen.at_lead is not None:
        reached = queued * weight + seen.outlook.quantile(1.0 - margin.value)
        stay, band = max(need * (1.0 + (seen.band - 1.0) * CLOSE), reached), 1.0
    if seen.patience:
        need, stay = (x + (state.slow + queued - x) * seen.patience for x in (need, stay))
    most = MOST_RATIO * max(state.level, rate) / UP
    need, stay = min(need, most), min(stay, most)
    if margin.rule is Rule.RECORD:
        need = stay = max(need, margin.value * seen.held)
    return need, max(need, min(stay * band, seen.known))


def foresighted(traffic: Traffic, seen: Sight, margin: Margin, *, late: bool) -> Need | None:
    """The need with a margin; None while the demand is unknown, and the reactive one while only a queue is known."""
    if traffic.rate is None or traffic.arrivals is None:
        return reactive(traffic)
    queued = max(0.0, traffic.rate - traffic.arrivals)
    ahead = reach(seen, margin)
    up, down = bounds(seen, margin, ahead, traffic.arrivals, queued, RECOVERY if late else 1.0)
    lasting = seen.state.mid + queued
    looks = margin.rule is not Rule.REACTIVE
    basis = Basis.BUILT_IN if margin.rule is Rule.BUILT_IN and seen.basis is Basis.FORECAST else seen.basis
    return Need(
        up=up,
        down=down,
        now=traffic.rate,
        quiet=max(traffic.arrivals, ahead) if looks else traffic.arrivals / (UP * margin.value),
        basis=basis if looks else Basis.REACTIVE,
        forecast=ahead if looks else None,
        chance=margin.value if margin.rule in CHANCES else None,
        plain=min(up, lasting / UP),
        kept=max(traffic.rate, lasting) / DOWN,
        margin=margin,
    )


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
