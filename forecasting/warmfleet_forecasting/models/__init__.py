"""Models behind one protocol: what each expects, from an origin, of the time ahead.

::

    point models    change(i, h) = expected ln(rate[i + h] / rate[i])            persistence, seasonal, prophet
    boosting        quantiles of the same, directly

Every figure for an origin i is made from cells up to i only, by a model that was fitted on cells before the fold i is
in.
"""
