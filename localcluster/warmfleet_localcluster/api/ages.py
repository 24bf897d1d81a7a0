"""Durations as kubectl prints them."""

from __future__ import annotations

from datetime import datetime

from warmfleet_localcluster.api.objects import parse_timestamp


def age(created: str | None, now: datetime) -> str:
    """Return the time since a moment as kubectl prints it: 5s, 3m20s, 7m, 4h5m, 12h, 3d."""
    if not created:
        return "<unknown>"
    seconds = max(0, int((now - parse_timestamp(created)).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if hours >= 48:
        return f"{days}d{hours % 24}h" if days < 8 and hours % 24 else f"{days}d"
    if hours >= 3:
        return f"{hours}h{minutes % 60}m" if hours < 8 and minutes % 60 else f"{hours}h"
    if seconds >= 120:
        return f"{minutes}m{seconds % 60}s" if minutes < 10 and seconds % 60 else f"{minutes}m"
    return f"{seconds}s"
