"""The ``warmfleet.dev/v1alpha1`` resources as pydantic models; ``crds/*.yaml`` is generated from them."""

from warmfleet_contracts.api.instancetype import InstanceType, InstanceTypeSpec, InstanceTypeStatus
from warmfleet_contracts.api.llmdeployment import LLMDeployment, LLMDeploymentSpec, Variant
from warmfleet_contracts.api.llmdeployment_status import LLMDeploymentStatus
from warmfleet_contracts.api.trafficforecast import (
    TrafficForecast,
    TrafficForecastSpec,
    TrafficForecastStatus,
)

GROUP = "warmfleet.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "InstanceType",
    "InstanceTypeSpec",
    "InstanceTypeStatus",
    "LLMDeployment",
    "LLMDeploymentSpec",
    "LLMDeploymentStatus",
    "TrafficForecast",
    "TrafficForecastSpec",
    "TrafficForecastStatus",
    "Variant",
]
