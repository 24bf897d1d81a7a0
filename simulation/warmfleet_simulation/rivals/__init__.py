"""What others do, each from its published formula and defaults."""

from __future__ import annotations

from collections.abc import Mapping

from warmfleet_simulation.policy import Policy
from warmfleet_simulation.rivals.aibrix import AibrixApa
from warmfleet_simulation.rivals.dynamo import DynamoPlanner
from warmfleet_simulation.rivals.hpa import HpaKv, HpaQueue
from warmfleet_simulation.rivals.knative import KnativeKpa
from warmfleet_simulation.rivals.sageserve import SageServe
from warmfleet_simulation.rivals.static import StaticPeak
from warmfleet_simulation.rivals.wva import LlmdWva

RIVALS: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        StaticPeak(),
        HpaQueue(),
        HpaKv(),
        KnativeKpa(),
        AibrixApa(),
        LlmdWva(),
        DynamoPlanner(),
        SageServe(),
    )
}
"""By name."""
