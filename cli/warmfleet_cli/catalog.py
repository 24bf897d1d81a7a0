"""Accelerators with list prices, for sizing before there is an InstanceType.

On-demand dollars per accelerator and hour at the smallest instance that is sold with it: AWS us-east-1 (L4 g6, A10G g5,
L40S g6e, A100-40GB p4d, H100-SXM p5, H200-SXM p5en, B200-SXM p6-b200) and GCP us-central1 (A100-80GB a2-ultragpu), read
in 2026. Everybody pays something else: say so with an InstanceType.
"""

from __future__ import annotations

from warmfleet_contracts.api import InstanceTypeSpec

_PRICES = {
    "L4": 0.80,
    "A10G": 1.01,
    "L40S": 1.86,
    "A100-40GB": 2.74,
    "A100-80GB": 5.07,
    "H100-SXM": 6.88,
    "H200-SXM": 7.91,
    "B200-SXM": 14.24,
}
COUNT = 8
"""Accelerators of an instance."""


def instance_types() -> dict[str, InstanceTypeSpec]:
    """One InstanceType per accelerator, by a lower-case name."""
    return {
        name.lower(): InstanceTypeSpec.model_validate(
            {"accelerator": {"name": name, "count": COUNT}, "price": {"onDemand": price * COUNT}}
        )
        for name, price in _PRICES.items()
    }
