"""How sure the planner wants to be: the probability of the quantile, steered by the SLO attainment reached.

::

    target  = 1 - slo.attainment                                share of requests that may be late
    aim     = AIM * target
    share   = min(arrivals * dt / (mean arrivals * day), 1)     of a day's requests, since the last decision
    error'  = clip(error + share * (missed - aim) / aim, -LEAST, MOST)        an integral, in days' budgets
    q       = clip(target * START * exp(-GAIN * error), RAREST, OFTENEST)           p = 1 - q
    leeway' = clip(leeway + EASE * (what error' had been below -LEAST - TAKEN_BACK * what it grew by), 0, 1)
    taken   = leeway / (1 + start-up / EASE_LEAD_S)

The objective is a floor: what is steered for a day is missed on half of all days, so less than the budget is aimed for,
and no more than three quarters of a day of it are saved up: 0.7 + 0.75 * 0.7 / 4 = 0.83, so over any four days a sixth
of the budget is left for what is still owed at their end, whatever the days before them saved.

A budget missed twice in a day lowers the chance that is taken by a factor of exp(GAIN); a quiet day raises it as
slowly. So the quantile settles where exactly the budget is missed, whatever the table behind it is worth: a quantile is
a statement on windows, the objective one on requests, and this is what turns the one into the other. The mean
is that of the time there was, up to a day: a fleet whose first minutes were idle would count its first hour for a day
otherwise. The integral is
bounded on both sides, so neither a bad day nor a week of idleness is remembered for long, and it stands still while the
attainment is unknown and while there is no traffic. What is missed while more is not the planner's to give (limits,
pauses) is no debt: a margin would not have helped. What is met then counts: else a debt that fills the limit by itself
would keep it full for ever. It takes back leeway all the same: who bought late before a limit was reached has made it
worse.

The boldest chance still covers the demand that is there. Where even so next to nothing is late, because a fleet of few
workers is rounded up, workers start in seconds, or much of the traffic may wait, the budget that is not spent becomes
leeway: buying may stay below what arrives, and requests wait a little (see ``blend``). What is late takes it back
twice as fast as it came. What was misjudged is late for a start-up, so the longer that takes, the less of it is taken.

``missed`` is one minus the attainment that agents report; without it, all requests are taken as late while those that
wait take longer than the TTFT objective to be served by what is ready.
"""

from __future__ import annotations

import math

from warmfleet_operator.state.memory import Steering

DAY_S = 86_400.0
START = 7.0
"""Chance taken at first, in targets: a window that is exceeded does not make all of its requests late."""
AIM = 0.7
"""Share of the budget of late requests that is aimed for."""
GAIN = 1.5
LEAST, MOST = 0.75, 4.5
"""Bounds of the integral, days' budgets: unused ones, missed ones. From 3 on the chance is rarer than what tables
tell apart, so a crowd that nobody could foresee is guarded against for a day or two more, not for a week."""
EASE = 0.25
"""Leeway per day's budget that is not spent: a quiet weekend earns half of it."""
TAKEN_BACK = 2.0
"""How much faster it goes than it came."""
EASE_LEAD_S = 150.0
"""Start-up time at which half of the leeway is taken, seconds."""
RAREST, OFTENEST = 1e-4, 0.4
"""Bounds of the chance that is taken."""
MOST_STEP_S = 60.0
"""Most seconds that one decision stands for."""


def steer(
    state: Steering, *, target: float, arrivals: float, missed: float | None, passed: float, steerable: bool = True
) -> Steering:
    """The integral after one more decision.

    Args:
        state: Before.
        target: Share of requests that may be late, in (0, 1).
        arrivals: Requests/s since the last decision.
        missed: Share of them that were late; None while unknown.
        passed: Seconds since the last decision.
        steerable: Whether more workers would come if more were wanted.
    """
    passed = min(max(passed, 0.0), MOST_STEP_S)
    new = -math.expm1(-passed / DAY_S)
    known = 0.0 if state.mean is None else min(max(state.seen, 0.0), 1.0)
    seen = known + (1.0 - known) * new
    mean = arrivals if state.mean is None or seen <= 0.0 else state.mean + (arrivals - state.mean) * new / seen
    if missed is None or mean <= 0.0:
        return Steering(state.error, mean, state.leeway, seen)
    aim = AIM * target
    share = min(1.0, arrivals * passed / (mean * DAY_S))
    off = share * (missed - aim) / aim
    error = state.error + (off if steerable or missed == 0.0 else 0.0)
    leeway = state.leeway + EASE * (max(0.0, -LEAST - error) - TAKEN_BACK * max(0.0, off))
    return Steering(min(max(error, -LEAST), MOST), mean, min(max(leeway, 0.0), 1.0), seen)


def chance(state: Steering, target: float) -> float:
    """The chance that is taken: one minus the probability of the quantile."""
    error = min(max(state.error, -LEAST), MOST)  # a checkpoint may hold anything
    return min(max(target * START * math.exp(-GAIN * error), RAREST), OFTENEST)


def taken(state: Steering, lead_s: float) -> float:
    """How much of the leeway is taken where workers start within ``lead_s`` seconds, in [0, 1]."""
    return min(max(state.leeway, 0.0), 1.0) / (1.0 + max(0.0, lead_s) / EASE_LEAD_S)


def late(queue: int | None, ready: float, objective_s: float) -> float | None:
    """Share of requests that come late, as far as the queue tells; None when it is unknown or nothing is ready."""
    if queue is None or ready <= 0.0:
        return None
    return 1.0 if queue / ready > objective_s else 0.0
