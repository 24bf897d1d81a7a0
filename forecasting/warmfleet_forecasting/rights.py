"""What the forecaster may do in a cluster, verb by verb, and what stops working without each verb."""

from __future__ import annotations

from warmfleet_contracts.api import API_VERSION
from warmfleet_runtime.rights import Right, Scope, granted

_GROUP = API_VERSION.partition("/")[0]
_LIST = "the start lists them"
_WATCH = "changes are seen at once"

RIGHTS: tuple[Right, ...] = (
    *granted(
        _GROUP, "instancetypes", Scope.CLUSTER, list=_LIST, watch="start-up times are the lead forecasts are judged at"
    ),
    *granted(_GROUP, "llmdeployments", Scope.FLEET, list=_LIST, watch=_WATCH),
    *granted(
        _GROUP,
        "trafficforecasts",
        Scope.FLEET,
        list=_LIST,
        watch=_WATCH,
        create="the forecast that a deployment asks for is made",
        delete="a forecast that nobody asks for any more is removed",
    ),
    *granted(_GROUP, "trafficforecasts/status", Scope.FLEET, patch="the forecast is reported"),
)
"""Every right, grouped by resource."""


def of(scope: Scope) -> tuple[Right, ...]:
    """The rights of a scope."""
    return tuple(right for right in RIGHTS if right.scope is scope)
