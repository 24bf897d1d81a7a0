"""TrafficForecast: what traffic is expected for one LLMDeployment, and how far to trust it.

Anything may fill the status: bring your own forecaster.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from warmfleet_contracts.api.base import ApiModel, Conditions, Duration, LongText, ObjectMeta, ShortText


class TargetRef(ApiModel):
    """The LLMDeployment the forecast is for, in the same namespace."""

    name: ShortText
    """Name of the LLMDeployment."""


class TrafficForecastSpec(ApiModel):
    """Desired state of a TrafficForecast."""

    target: TargetRef
    """The LLMDeployment the forecast is for."""
    forecaster: Literal["Internal", "External"] = "Internal"
    """Internal: warmfleet fills the status; External: something else does and warmfleet leaves it alone."""


class CurvePoint(ApiModel):
    """Forecast quantiles of the demand at one time."""

    offset: Duration
    """Time after issuedAt."""
    q50: float
    """Median demand, requests/s."""
    q90: float
    """90th percentile of the demand, requests/s."""


_ATOMIC = {"x-kubernetes-list-type": "atomic"}


class LeadWindow(ApiModel):
    """Distribution of the highest sustained demand over the next ``lead``, or at its end, relative to the level now.

    The formulas are in ``warmfleet_contracts.leadwindow``.
    """

    lead: Duration
    """Length of the window."""
    residuals: Annotated[tuple[float, ...], Field(min_length=1, max_length=16, json_schema_extra=_ATOMIC)]
    """Quantiles of the standardised logarithm, ascending, one per probability."""
    drift: float = 0.0
    """Added to the logarithm when nothing moves."""
    momentum_gain: float = 0.0
    """Added to the logarithm per log(mean of 1 minute / mean of 5 minutes)."""
    trend_gain: float = 0.0
    """Added to the logarithm per log(mean of 5 minutes / mean of 20 minutes)."""
    shape_gain: float = 0.0
    """Added to the logarithm per rise of the shape within the window; at its end: per change of the shape."""
    anchor_gain: float = 0.0
    """Added to the logarithm per distance of the shape from the logarithm of the mean of 20 minutes."""
    scale_base: float = 1.0
    """Scale of the residuals without volatility."""
    volatility_gain: float = 0.0
    """Added to the scale per relative volatility of the last half hour."""
    calm_gain: float = 0.0
    """Added to the scale per relative volatility of the last six hours."""
    rise_spread: float = 0.0
    """Added to the scale per rise of the shape within the window."""


class LeadWindows(ApiModel):
    """Distributions of the highest sustained demand over the next minutes, given how traffic moves."""

    probabilities: Annotated[tuple[float, ...], Field(min_length=1, max_length=16, json_schema_extra=_ATOMIC)]
    """Ascending, each in (0, 1)."""
    windows: Annotated[tuple[LeadWindow, ...], Field(min_length=1, max_length=16, json_schema_extra=_ATOMIC)]
    """By ascending lead: the highest demand until the lead is over, which must not be missed by what leaves."""
    at_lead: Annotated[tuple[LeadWindow, ...], Field(max_length=16, json_schema_extra=_ATOMIC)] = ()
    """By ascending lead: the demand when the lead is over, which a worker meets that is bought now; may be empty."""
    shape: Annotated[tuple[float, ...], Field(max_length=320, json_schema_extra=_ATOMIC)] = ()
    """Logarithm of the expected demand (requests/s) at equal steps since issuedAt."""
    shape_step: Duration = 300.0
    """Length of a step of the shape."""
    peak: float = 0.0
    """Highest rate in the history, requests/s; what is bought on the table is bounded by it."""
    floor: float = 0.0
    """Rate below which relative changes mean nothing, requests/s."""


class Skill(ApiModel):
    """How good the forecast was, from a rolling backtest."""

    horizon: Duration
    """Lead at which it was judged."""
    pinball_gain: float
    """1 - loss / loss of persistence; positive is better than holding the last value."""
    coverage90: float | None = None
    """Share of values at or below the forecast's 90th percentile."""


class TrafficForecastStatus(ApiModel):
    """Observed state of a TrafficForecast."""

    observed_generation: int = -1
    """The generation that was last looked at; -1 before the first look."""
    issued_at: Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})] | None = None
    """When the forecast was made (RFC 3339)."""
    valid_for: Duration = 1800.0
    """How long after issuedAt it may be used."""
    near: Annotated[
        tuple[CurvePoint, ...], Field(max_length=60, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """The next hour, densely."""
    far: Annotated[
        tuple[CurvePoint, ...], Field(max_length=60, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """The next day, sparsely."""
    lead_windows: LeadWindows | None = None
    """The margin to buy, learned from the history."""
    skill: Annotated[
        tuple[Skill, ...], Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """How good the forecast was."""
    trusted: bool = False
    """Whether the planner may buy on it."""
    reason: Annotated[str, Field(max_length=64)] = ""
    """Why it is trusted or not, from the fixed table."""
    message: LongText = ""
    """The same for a person, with figures."""
    conditions: Conditions = ()
    """Conditions: Ready."""


class TrafficForecast(ApiModel):
    """The traffic expected for one LLMDeployment."""

    api_version: str = "warmfleet.dev/v1alpha1"
    kind: str = "TrafficForecast"
    metadata: ObjectMeta = ObjectMeta()
    spec: TrafficForecastSpec
    """Desired state."""
    status: TrafficForecastStatus | None = None
    """Observed state."""

    crd: ClassVar[dict[str, Any]] = {
        "plural": "trafficforecasts",
        "singular": "trafficforecast",
        "shortNames": ["tfc"],
        "categories": ["warmfleet"],
        "scope": "Namespaced",
        "columns": [
            ("Target", "string", ".spec.target.name", "LLMDeployment the forecast is for.", 0),
            ("Forecaster", "string", ".spec.forecaster", "Who fills the status.", 0),
            ("Trusted", "boolean", ".status.trusted", "Whether the planner may buy on it.", 0),
            ("Reason", "string", ".status.reason", "Why it is trusted or not.", 0),
            ("Issued", "date", ".status.issuedAt", "When the forecast was made.", 0),
            ("Age", "date", ".metadata.creationTimestamp", "Time since creation.", 0),
        ],
    }
