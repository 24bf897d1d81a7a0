"""A forecast as a TrafficForecast's status: rounded, bounded, aged when there is no newer one. Pure.

A status is written when it says something new. Rates are rounded to :data:`DIGITS` significant digits; two statuses
that differ only in when they were issued, in a message or in a transition's time say the same. One that says the same
is still written after :data:`RENEW` of its validity, or it would expire unrenewed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from warmfleet_contracts.api.base import Condition, format_duration, parse_duration
from warmfleet_contracts.api.trafficforecast import CurvePoint, Skill, TrafficForecastStatus

from warmfleet_forecasting.result import Curve, ForecastResult

Status = dict[str, Any]
DIGITS = 3
RENEW = 0.4
MOST_BYTES = 16 * 1024
"""Size of a status as compact JSON."""
_LEAST_FAR = 12
_MOST_MESSAGE = 1024


class StatusTooLargeError(ValueError):
    """A forecast does not fit into a status, however thinly it is told."""


def rounded(value: float) -> float:
    """``value`` with :data:`DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def stamp(at: float) -> str:
    """RFC 3339 of epoch seconds, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status_of(result: ForecastResult) -> Status:
    """The status that a forecast amounts to, without generation and conditions.

    Raises:
        StatusTooLargeError: It cannot be told in :data:`MOST_BYTES`.
    """
    known = math.isfinite(result.issued_at)
    table = result.lead_table
    status = TrafficForecastStatus(
        issued_at=stamp(result.issued_at) if known else None,
        valid_for=result.valid_for_s,
        near=_points(result.near) if known else (),
        far=_points(result.far) if known else (),
        lead_windows=table.to_wire() if table is not None and known else None,
        skill=tuple(
            Skill(
                horizon=s.horizon_s,
                pinball_gain=round(s.pinball_gain, 2),
                coverage90=None if s.coverage90 is None else round(s.coverage90, 2),
            )
            for s in result.skill
            if math.isfinite(s.pinball_gain)
        ),
        trusted=result.trusted and known,
        reason=str(result.reason),
        message=result.message[:_MOST_MESSAGE],
    )
    wire = status.to_wire()
    wire.pop("observedGeneration")
    return _bounded(wire)


def _points(curve: Curve) -> tuple[CurvePoint, ...]:
    q50, q90 = curve.quantile(0.5) if len(curve.offsets_s) else (), curve.quantile(0.9) if len(curve.offsets_s) else ()
    return tuple(
        CurvePoint(offset=float(o), q50=rounded(float(m)), q90=rounded(float(h)))
        for o, m, h in zip(curve.offsets_s, q50, q90, strict=True)
        if math.isfinite(m) and math.isfinite(h)
    )


def size(status: Status) -> int:
    """Bytes of a status as compact JSON."""
    return len(json.dumps(status, separators=(",", ":")).encode())


def _bounded(status: Status) -> Status:
    """The status, its far curve thinned until there is room for it and its conditions."""
    room = MOST_BYTES - 2048
    while size(status) > room and len(status.get("far", ())) > _LEAST_FAR:
        status = {**status, "far": status["far"][1::2]}
    if size(status) > room:
        raise StatusTooLargeError(f"the status has {size(status)} bytes, more than the {room} there is room for")
    return status


def expired(status: Mapping[str, Any], now: float) -> bool:
    """Whether a status may no longer be used, or never could."""
    issued = issued_at(status)
    return issued is None or now > issued + parse_duration(status.get("validFor", 0.0))


def issued_at(status: Mapping[str, Any]) -> float | None:
    """When a status was issued, epoch seconds; None when it does not say so, or not readably."""
    text = status.get("issuedAt")
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def aged(published: Status, reason: str, message: str, now: float) -> Status:
    """What to say when there is no new forecast: the last one, for as long as it is valid, and why it is not newer.

    Args:
        published: The status as it is.
        reason: Why there is no newer one.
        message: The same for a person.
        now: Epoch seconds.
    """
    kept = {k: v for k, v in published.items() if k not in {"observedGeneration", "conditions"}}
    issued, over = published.get("issuedAt"), expired(published, now)
    age = f"; the forecast of {issued} {'has expired' if over else 'is kept'}" if issued else ""
    return {
        **kept,
        "validFor": kept.get("validFor", format_duration(0.0)),
        "trusted": bool(published.get("trusted")) and not over,
        "reason": reason,
        "message": (message[: _MOST_MESSAGE - len(age)] + age),
    }


def complete(status: Status, published: Mapping[str, Any], *, generation: int, problem: bool, now: float) -> Status:
    """The status with generation and condition, as it is written.

    Args:
        status: From :func:`status_of` or :func:`aged`.
        published: The status as it is: a condition that does not change keeps its time.
        generation: Generation of the object the status speaks of.
        problem: Whether there is no new forecast.
        now: Epoch seconds.
    """
    verdict = "False" if problem or status.get("issuedAt") is None else "True"
    before: Mapping[str, Any] = next((c for c in published.get("conditions", ()) if c.get("type") == "Ready"), {})
    since = before.get("lastTransitionTime") if before.get("status") == verdict else None
    condition = Condition(
        type="Ready",
        status=verdict,
        reason=_condition_reason(status, verdict, now),
        message=status["message"] if verdict == "False" else "A forecast is issued on schedule.",
        observed_generation=generation,
        last_transition_time=since or stamp(now),
    )
    found = {**status, "observedGeneration": generation, "conditions": [condition.to_wire()]}
    if size(found) > MOST_BYTES:
        raise StatusTooLargeError(f"the status has {size(found)} bytes, more than {MOST_BYTES}")
    return found


def _condition_reason(status: Mapping[str, Any], verdict: str, now: float) -> str:
    if verdict == "True":
        return "Forecast"
    return "ForecastExpired" if status.get("issuedAt") and expired(status, now) else str(status["reason"])


def worth_writing(published: Mapping[str, Any], status: Status) -> bool:
    """Whether ``status`` says something that ``published`` does not, or is needed to keep it from expiring."""
    if _essence(published) != _essence(status):
        return True
    old, new = issued_at(published), issued_at(status)
    if old is None or new is None:
        return new is not None
    return new - old >= RENEW * parse_duration(status["validFor"])


def _essence(status: Mapping[str, Any]) -> str:
    conditions = [(c.get("type"), c.get("status"), c.get("reason")) for c in status.get("conditions", ())]
    rest = {k: v for k, v in status.items() if k not in {"issuedAt", "message", "conditions"}}
    return json.dumps([rest, conditions], sort_keys=True)
