"""The Pareto plot as a small SVG, for the documentation."""

from __future__ import annotations

import html

import numpy as np

from warmfleet_simulation.report import colour
from warmfleet_simulation.sweep import Curve, Result

_WIDTH, _HEIGHT = 820, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 170, 40, 50
_LOW, _HIGH, _FLOOR = 1.0, 2.6, 0.90
_AXIS = "cost / clairvoyant optimum (star: knob tuned on the first days)"


def _x(ratio: float) -> float:
    return _LEFT + (min(_HIGH, max(_LOW, ratio)) - _LOW) / (_HIGH - _LOW) * (_WIDTH - _LEFT - _RIGHT)


def _y(attainment: float) -> float:
    return _HEIGHT - _BOTTOM - (max(_FLOOR, attainment) - _FLOOR) / (1.0 - _FLOOR) * (_HEIGHT - _TOP - _BOTTOM)


def picture(result: Result) -> str:
    """Cost over the optimum against SLO attainment; points beyond the axes are drawn on their border."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{html.escape(result.scenario)}: cost against SLO attainment</text>',
        *(_vertical(float(tick)) for tick in np.arange(1.0, 2.61, 0.2)),
        *(_horizontal(tick) for tick in (0.90, 0.92, 0.94, 0.96, 0.98, 1.0)),
        _dashes(_y(result.objective)),
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{_AXIS}</text>',
    ]
    out += [_curve(curve, i, result.optimum) for i, curve in enumerate(result.curves)]
    return "\n".join([*out, "</svg>"]) + "\n"


def _dashes(y: float) -> str:
    return f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#888" stroke-dasharray="4 3"/>'


def _vertical(tick: float) -> str:
    x, foot = _x(tick), _HEIGHT - _BOTTOM
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{foot}" stroke="#eee"/>'
        f'<text x="{x:.1f}" y="{foot + 16}" text-anchor="middle">{tick:.1f}</text>'
    )


def _horizontal(tick: float) -> str:
    y = _y(tick)
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.0%}</text>'
    )


def _curve(curve: Curve, index: int, optimum: float) -> str:
    paint = colour(curve.policy, index)
    lanes = sorted(curve.lanes, key=lambda lane: lane.score.cost)
    path = " ".join(f"{_x(lane.score.cost / optimum):.1f},{_y(lane.score.attainment):.1f}" for lane in lanes)
    thick = 3 if curve.policy == "warmfleet" else 1.4
    at = curve.tuned.score
    row = _TOP + 14 + 18 * index
    return (
        f'<polyline points="{path}" fill="none" stroke="{paint}" stroke-width="{thick}"/>'
        f'<text x="{_x(at.cost / optimum):.1f}" y="{_y(at.attainment) + 6:.1f}" text-anchor="middle" font-size="18" '
        f'fill="{paint}">★</text>'
        f'<rect x="{_WIDTH - _RIGHT + 14}" y="{row - 9}" width="12" height="10" fill="{paint}"/>'
        f'<text x="{_WIDTH - _RIGHT + 32}" y="{row}">{html.escape(curve.policy)}</text>'
    )
