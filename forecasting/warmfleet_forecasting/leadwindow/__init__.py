"""Learns the lead-window table: the distribution of the highest demand until a new worker serves.

Use of the table by a planner, for a start-up time L, a hold H >= L and a chance q that is taken per window::

    up   = Q_{1-q}[sustained maximum within L]            + recovery
    down = max(up, Q_{1-q}[sustained maximum within 2 L])                H = L: a worker that leaves serves again
    recovery = k * queue / L,  k about 4,  once the queue is longer than the objective allows
    buy while ready + starting < up;  let go while ready - worker >= down

What a backtest with this rule over other traces than those that are scored showed (costs over the clairvoyant optimum,
300 s start-up, 99 % in time, the chance q swept):

- one q for all moments costs within 0.7 % of one that weighs cost against worth of the margin at each moment, and less
  under heavy noise; q is 1-8 %: windows overlap, most overshoots are short, and a queue of some seconds is in time;
- distribution over [0, L] against that around the moment L alone: within 1 %, and fewer scale actions;
- down over 2 L against 1.4 L or 3 L: within 1 % of cost; letting go at ``up`` costs as much with 3-9 times the actions;
- recovery: without it an overload that was missed lasts long, because what is bought covers the demand and hardly the
  queue, and everybody behind a queue is late. It is worth 0.3-4 % of cost at equal attainment, most with jumps;
- rounding up against rounding to the nearest worker: within 1 %.

With the true maxima instead of quantiles the rule cost 1.02-1.03 times the optimum: what is left is the forecast.
"""

from warmfleet_forecasting.leadwindow.learning import LEADS_S, PROBABILITIES, Untrusted, learn

__all__ = ["LEADS_S", "PROBABILITIES", "Untrusted", "learn"]
