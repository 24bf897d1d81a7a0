"""What `bench/scale.py` has measured: the figures, the table, the claims, and the JSON line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from marked import write_between

TARGETS = {"cold_start_s": 60.0, "tick_s": 5.0, "rss_mb": 600.0, "idle_writes": 0.0, "reaction_s": 6.0}
TARGETS["takeover_s"] = 20.0


@dataclass(slots=True)
class Point:
    """One step of the curve; None: not measured."""

    deployments: int
    pods: int
    nodes: int
    telemetry: str = ""
    populate_s: float | None = None
    cold_start_s: float | None = None
    cold_cpu_s: float | None = None
    settled_s: float | None = None
    tick_s: float | None = None
    tick_median_s: float | None = None
    phases_s: dict[str, float] = field(default_factory=dict)
    watch_lag_s: float | None = None
    rss_mb: float | None = None
    peak_mb: float | None = None
    cpu_share: float | None = None
    answers_per_s: float | None = None
    """Of agents, to the operator; None: it did not ask them all."""
    start_requests: dict[str, int] = field(default_factory=dict)
    minute_requests: dict[str, int] = field(default_factory=dict)
    etcd_puts_per_minute: float | None = None


@dataclass(slots=True)
class Report:
    """Everything measured."""

    machine: str
    points: list[Point] = field(default_factory=list)
    reaction_s: list[float] = field(default_factory=list)
    idle_minutes: float = 0.0
    idle_writes: int | None = None
    idle_what: dict[str, int] = field(default_factory=dict)
    takeover_s: float | None = None
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Everything, and the line."""
        return json.dumps(asdict(self) | {"line": self.line()}, indent=1) + "\n"

    def line(self) -> dict[str, float | int | None]:
        """The figures of the last step."""
        last = self.points[-1] if self.points else Point(0, 0, 0)
        return {
            "deployments": last.deployments,
            "pods": last.pods,
            "cold_start_s": last.cold_start_s,
            "tick_s": last.tick_s,
            "rss_mb": last.peak_mb,
            "idle_writes": self.idle_writes,
            "reaction_s": max(self.reaction_s, default=None),
            "takeover_s": self.takeover_s,
        }


@dataclass(frozen=True, slots=True)
class Limit:
    """A target, and the fleets at which it would be missed; None: growth between the last two steps never gets there.

    Attributes:
        name: What is measured.
        target: Largest value that is good.
        fleets: Where a straight line through the last two steps crosses it.
    """

    name: str
    target: float
    fleets: float | None


def limits(points: Sequence[Point]) -> list[Limit]:
    """Which target of the curve would be missed first, then the others."""
    found = []
    for name, field_name in (("cold_start_s", "cold_start_s"), ("tick_s", "tick_s"), ("rss_mb", "peak_mb")):
        known = [(p.deployments, v) for p in points if (v := getattr(p, field_name)) is not None]
        if len(known) < 2:
            continue
        (before, low), (last, high) = known[-2:]
        slope = (high - low) / (last - before) if last > before else 0.0
        crossing = last + (TARGETS[name] - high) / slope if slope > 0 else None
        found.append(Limit(name, TARGETS[name], crossing))
    return sorted(found, key=lambda limit: math.inf if limit.fleets is None else limit.fleets)


def say(text: str) -> None:
    """One line, at once."""
    print(text, flush=True)


def show(report: Report) -> None:
    """The table, then the JSON line."""
    say(f"machine: {report.machine}; load average {os.getloadavg()[0]:.1f}")
    rows = (
        "cold_start_s",
        "settled_s",
        "tick_median_s",
        "tick_s",
        "watch_lag_s",
        "cold_cpu_s",
        "rss_mb",
        "peak_mb",
        "cpu_share",
    )
    say(f"{'fleets':>8} {'pods':>7} " + " ".join(f"{row:>13}" for row in rows))
    for point in report.points:
        values = " ".join(f"{getattr(point, row)!s:>13}" for row in rows)
        say(f"{point.deployments:>8} {point.pods:>7} {values}")
    if report.points:
        last = report.points[-1]
        say(f"tick by phase, s: {last.phases_s}")
        say(f"requests of the cold start: {last.start_requests}")
        say(f"requests a minute, without traffic: {last.minute_requests}; etcd puts {last.etcd_puts_per_minute}")
    say(f"idle {report.idle_minutes:g} min: {report.idle_what}")
    for failure in report.failures:
        say(f"failed: {failure}")
    for name, value in report.line().items():
        if name in TARGETS and value is not None:
            met = value <= TARGETS[name]
            say(json.dumps({"claim": f"scale: {name}", "value": value, "target": TARGETS[name], "met": met}))
    say(json.dumps(report.line()))


_BEGIN, _END = "<!-- scale: written by make bench-scale -->", "<!-- /scale -->"
_COLUMNS = {
    "deployments": "fleets",
    "pods": "workers",
    "telemetry": "measured at",
    "cold_start_s": "cold start, s",
    "cold_cpu_s": "of that CPU, s",
    "tick_median_s": "tick, s",
    "tick_s": "slowest, s",
    "watch_lag_s": "watch lag, s",
    "rss_mb": "RSS, MB",
    "peak_mb": "peak, MB",
    "cpu_share": "cores",
    "answers_per_s": "agents' answers/s",
    "etcd_puts_per_minute": "etcd puts/min",
}


def write_page(report: Report, path: Path) -> None:
    """Put the figures between the markers of a page.

    Raises:
        ValueError: The page has no such markers.
    """
    write_between(path, _BEGIN, _END, _section(report))


def _section(report: Report) -> str:
    lines = [
        f"Machine: {report.machine}.",
        "",
        "| " + " | ".join(_COLUMNS.values()) + " |",
        "|" + "---|" * len(_COLUMNS),
        *("| " + " | ".join(_shown(getattr(p, name)) for name in _COLUMNS) + " |" for p in report.points),
        "",
    ]
    if report.points and report.points[-1].phases_s:
        last = report.points[-1]
        dear = max(last.phases_s, key=lambda phase: last.phases_s[phase])
        parts = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in sorted(last.phases_s.items()))
        lines += [f"A tick at the last step: {parts}; most of it is *{dear}*.", ""]
        minute = ", ".join(f"{what} {count}" for what, count in last.minute_requests.items()) or "none"
        lines += [f"Requests a minute at the last step, without traffic: {minute}.", ""]
    if found := limits(report.points):
        words = (f"{_at(one)} ({one.name} {one.target:g})" for one in found)
        lines += [f"What breaks first, on a straight line through the last two steps: {'; '.join(words)}.", ""]
    line = report.line()
    lines += ["| claim | value | target | met |", "|---|---|---|---|"]
    for name, target in TARGETS.items():
        value = line[name]
        met = "not measured" if value is None else "yes" if value <= target else "**no**"
        lines.append(f"| {name} | {_shown(value)} | {target:g} | {met} |")
    lines += ["", f"Idle: {report.idle_minutes:g} minutes. Reactions, s: {report.reaction_s}."]
    lines += [f"- failed: {failure.splitlines()[0][:300]}" for failure in report.failures]
    return "\n".join(lines)


def _at(limit: Limit) -> str:
    return "nowhere" if limit.fleets is None else f"at {limit.fleets:,.0f} fleets"


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
