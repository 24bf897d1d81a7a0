"""The pictures of the page on caches across scale events."""

from __future__ import annotations

import html
from math import isnan

from caches_page import ORDER, Row, by_arm, cases, column
from warmfleet_simulation.requests.trial import IDEAL, interval

_COLOURS = {
    "never": "#888888",
    "naive": "#d62728",
    "migrate": "#ff7f0e",
    "migrate+host": "#1f77b4",
    "store": "#2ca02c",
    "naive+host": "#9467bd",
}
Series = dict[str, list[float | None]]


def _svg(wide: int, high: int, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{wide}" height="{high}" fill="white"/>', *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
        f"{html.escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def retained(rows: list[Row]) -> str:
    """Retained hit ratio by arm, one panel per case, with intervals."""
    arms = [arm for arm in ORDER if not arm.startswith("never") and arm != IDEAL]  # what lies far above 1 is no scale
    left, wide, row, top, low, high = 100, 420, 18, 30, 0.4, 1.1
    panel = top + len(arms) * row + 34
    shown = cases(rows)
    parts: list[str] = []

    def x(ratio: float, at: float) -> float:
        return at + left + (min(high, max(low, ratio)) - low) / (high - low) * (wide - left - 60)

    for n, case in enumerate(shown):
        ox, oy = (n % 2) * wide, (n // 2) * panel
        by = by_arm(rows, *case)
        bottom = oy + top + len(arms) * row
        parts.append(_text(ox + 8, oy + 18, ", ".join(case), size=13))
        for tick in (0.4, 0.6, 0.8, 1.0):
            parts.append(_line(x(tick, ox), oy + top - 4, x(tick, ox), bottom, "#bbb" if tick < 1 else "#666"))
            parts.append(_text(x(tick, ox), bottom + 14, f"{tick:.1f}", anchor="middle", size=11))
        for i, arm in enumerate(arms):
            y = oy + top + i * row + 8
            mean, half = interval(column(by[arm], "retained"))
            half = 0.0 if isnan(half) else half
            colour = _COLOURS.get(arm, "#555")
            parts += [
                _text(ox + left - 8, y + 4, arm, anchor="end"),
                _line(x(mean - half, ox), y, x(mean + half, ox), y, colour, 'stroke-width="2"'),
                f'<circle cx="{x(mean, ox):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
                _text(ox + wide - 52, y + 4, f"{mean:.3f}"),
            ]
    return _svg(2 * wide, panel * -(-len(shown) // 2), parts)


def around(found: dict[str, dict[str, Series]]) -> str:
    """Hit ratio and TTFT p95 by time since the scale-down, one row of panels per workload."""
    wide, high, left, top = 430, 250, 50, 40
    parts: list[str] = []
    for n, (name, of) in enumerate(found.items()):
        for m, (key, title) in enumerate((("hit_rate", "hit ratio"), ("ttft_p95", "TTFT p95, s"))):
            ox, oy = m * wide, n * high + 24
            parts += [_text(ox + left, oy + 22, f"{name}: {title}", size=13)]
            parts += _panel(of, key, ox + left, oy + top, wide - left - 20, high - top - 40)
    legend = [arm for arm in _COLOURS if any(arm in of for of in found.values())]
    for i, arm in enumerate(legend):
        parts += [
            _line(left + 130 * i, 16, left + 130 * i + 24, 16, _COLOURS[arm], 'stroke-width="3"'),
            _text(left + 130 * i + 30, 20, arm),
        ]
    return _svg(2 * wide, len(found) * high + 24, parts)


def _panel(of: dict[str, Series], key: str, left: float, top: float, wide: float, high: float) -> list[str]:
    values = [v for line in of.values() for v in line[key] if v is not None]
    times = [t for line in of.values() for t in line["at"] if t is not None]
    low, peak = (min(values) - 0.02, max(values) + 0.02) if key == "hit_rate" else (0.0, 1.05 * max(values))
    first, last = min(times), max(times)

    def place(at: float, value: float) -> tuple[float, float]:
        return left + (at - first) / (last - first) * wide, top + high - (value - low) / (peak - low) * high

    out = [f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="none" stroke="#bbb"/>']
    for i in range(5):
        value = low + (peak - low) * i / 4
        out.append(_text(left - 6, place(first, value)[1] + 4, f"{value:.2g}", anchor="end", size=11))
    for minute in range(10):
        x = place(60.0 * minute, low)[0]
        out.append(_text(x, top + high + 14, f"{minute}", anchor="middle", size=11))
    for at, colour in ((0.0, "#c00"), (300.0, "#0a0")):
        out.append(_line(place(at, low)[0], top, place(at, low)[0], top + high, colour, 'stroke-dasharray="3 3"'))
    out.append(_text(left + wide / 2, top + high + 28, "minutes since the scale-down", anchor="middle", size=11))
    for arm, line in of.items():
        points = [(t, v) for t, v in zip(line["at"], line[key], strict=True) if t is not None and v is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(t, v) for t, v in points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{_COLOURS[arm]}" stroke-width="1.8"/>')
    return out
