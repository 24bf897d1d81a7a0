"""The report of a simulation: one HTML page that fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from warmfleet_simulation.fleet import Load
from warmfleet_simulation.outcome import Action
from warmfleet_simulation.sweep import Curve, Result, rows

COLOURS = (
    *("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2", "#eeca3b", "#bab0ac"),
    *("#2f4b7c", "#8c8c00", "#ff9da6"),
)
_OURS = "#e45756"
_SAVED, _ADDED, _WHOLE = "#54a24b", "#e45756", "#4c78a8"
_MOST_ACTIONS = 400
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{padding:.25rem .5rem;border-bottom:1px solid #ddd;
text-align:right}td:first-child,th:first-child,td.t{text-align:left}td:not(.t){white-space:nowrap}
.n{color:#666;font-size:13px}
"""


def colour(policy: str, index: int) -> str:
    """A policy's colour: red for ours, so that it is found at once whether it wins or loses."""
    return _OURS if policy == "warmfleet" else COLOURS[index % len(COLOURS)]


def pareto(result: Result) -> go.Figure:
    """Cost over the optimum against SLO attainment, one curve per policy; the tuned point is larger."""
    figure = go.Figure()
    base = result.optimum or 1.0
    for i, curve in enumerate(result.curves):
        lanes = sorted(curve.lanes, key=lambda lane: lane.score.cost)
        sizes = [15 if lane is curve.tuned else 9 if lane is curve.untuned else 5 for lane in lanes]
        marks = ["star" if lane is curve.tuned else "diamond" if lane is curve.untuned else "circle" for lane in lanes]
        figure.add_scatter(
            x=[lane.score.cost / base for lane in lanes],
            y=[lane.score.attainment * 100 for lane in lanes],
            mode="lines+markers",
            name=curve.policy,
            line={"color": colour(curve.policy, i), "width": 3 if curve.policy == "warmfleet" else 1.5},
            marker={"size": sizes, "symbol": marks},
            text=[f"{curve.knob} = {lane.knob:.3g}" for lane in lanes],
        )
    figure.add_hline(y=result.objective * 100, line_dash="dot", annotation_text="objective")
    figure.update_layout(
        title=f"{result.scenario}: cost against SLO attainment (star: tuned on the first days, diamond: default)",
        xaxis={"title": "cost / clairvoyant optimum", "range": [0.95, 3.0]},
        yaxis={"title": "requests within the objective, %", "range": [80, 100.3]},
        height=520,
        template="plotly_white",
    )
    return figure


def fleet_size(result: Result, load: Load) -> go.Figure:
    """Workers over the scored time: the tuned lane of each policy, and the clairvoyant."""
    figure = go.Figure()
    stride = max(1, load.steps // 3000)
    day = np.arange(load.steps)[::stride] * load.step_s / 86400.0
    for i, curve in enumerate(result.curves):
        figure.add_scatter(
            x=day,
            y=curve.tuned.paid[::stride],
            name=curve.policy,
            line={"color": colour(curve.policy, i), "width": 2 if curve.policy == "warmfleet" else 1},
            visible=True if curve.policy in ("warmfleet", "static-peak") else "legendonly",
        )
    if len(result.answers) == 1:
        plan = result.answers[0].workers.sum(axis=1)
        first = float(np.argmax(load.score)) * load.step_s / 86400.0
        figure.add_scatter(
            x=first + np.arange(len(plan)) / 1440.0, y=plan, name="clairvoyant", line={"color": "#000", "width": 1}
        )
    figure.update_layout(
        title="Workers paid for",
        xaxis={"title": "day"},
        yaxis={"title": "workers"},
        height=380,
        template="plotly_white",
    )
    return figure


def waterfall(result: Result) -> go.Figure | None:
    """From the static peak to the optimum: what scaling saves, what ours adds, what nobody can save."""
    by_name = {curve.policy: curve for curve in result.curves}
    ours, static = by_name.get("warmfleet"), by_name.get("static-peak")
    if ours is None or static is None:
        return None
    others = [c for n, c in by_name.items() if n not in ("warmfleet", "static-peak")]
    good = [c for c in others if c.tuned.score.attainment >= result.objective]
    best = min(good, key=lambda c: c.tuned.score.cost) if good else None
    names, values, measure = ["static peak"], [static.tuned.score.cost], ["absolute"]
    last = static.tuned.score.cost
    if best is not None:
        names.append(f"scaling ({best.policy})")
        values.append(best.tuned.score.cost - last)
        measure.append("relative")
        last = best.tuned.score.cost
    names += ["warmfleet", "still above the optimum", "clairvoyant optimum"]
    values += [ours.tuned.score.cost - last, result.optimum - ours.tuned.score.cost, result.optimum]
    measure += ["relative", "relative", "total"]
    figure = go.Figure(
        go.Waterfall(
            x=names,
            y=values,
            measure=measure,
            text=[f"{'-' if v < 0 else ''}${abs(v):,.0f}" for v in values],
            decreasing={"marker": {"color": _SAVED}},
            increasing={"marker": {"color": _ADDED}},
            totals={"marker": {"color": _WHOLE}},
        )
    )
    figure.update_layout(
        title="Savings over the scored days (tuned points)", yaxis={"title": "$"}, height=380, template="plotly_white"
    )
    return figure


def page(result: Result, load: Load, notes: Sequence[str]) -> str:
    """The whole report as HTML."""
    figures = [pareto(result), fleet_size(result, load)]
    if (falls := waterfall(result)) is not None:
        figures.append(falls)
    parts = [
        figure.to_html(full_html=False, include_plotlyjs="inline" if i == 0 else False)
        for i, figure in enumerate(figures)
    ]
    said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    proved = result.optimum_plan_cost / result.optimum - 1.0 if result.optimum else 0.0
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(result.scenario)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{html.escape(result.scenario)}</h1>"
        f"<p>Objective: {result.objective:.2%} of requests in time. Clairvoyant optimum: ${result.optimum:,.2f}, a "
        f"lower bound with a plan {proved:.3%} above it. Scored: {load.score.sum() * load.step_s / 86400:.2f} days; "
        f"tuned on {load.tune.sum() * load.step_s / 86400:.2f} days before.</p><ul class=n>{said}</ul>"
        f"{_table(result)}<p class=n>! misses the objective: cheap and late is not cheap.</p>"
        f"{''.join(parts)}{_log(result)}</body></html>"
    )


def _table(result: Result) -> str:
    head = (
        "<tr><th>policy<th>tuned knob<th>cost $<th>/ optimum<th>in time<th>lost<th>scale actions"
        "<th>default: / optimum<th>default: in time<th>at equal attainment: / optimum</tr>"
    )
    body = []
    for row, curve in zip(rows(result), result.curves, strict=True):
        equal = row["over_provisioning_at_objective"]
        plain = curve.untuned.score
        body.append(
            f"<tr><td>{row['policy']}<td title='{html.escape(curve.knob)}'>{curve.tuned.knob:.3g}"
            f"<td>{curve.tuned.score.cost:,.0f}<td>{row['over_provisioning']}"
            f"<td>{curve.tuned.score.attainment:.3%}{'' if curve.tuned.score.attainment >= result.objective else ' !'}"
            f"<td>{curve.tuned.score.lost:,.0f}<td>{curve.tuned.scale_actions}"
            f"<td>{plain.cost / result.optimum if result.optimum else 0:.3f}<td>{plain.attainment:.3%}"
            f"<td>{'never' if equal is None else equal}</tr>"
        )
    return f"<table>{head}{''.join(body)}</table>"


def _log(result: Result) -> str:
    parts = []
    for curve in result.curves:
        actions = curve.tuned.actions
        if actions:
            parts.append(_actions(curve, actions))
    return "".join(parts)


def _actions(curve: Curve, actions: Sequence[Action]) -> str:
    shown = actions[-_MOST_ACTIONS:]
    lines = "".join(
        f"<tr><td>{a.time / 86400:.4f}<td class=t>{html.escape(a.service)}<td>{a.before}<td>{a.after}"
        f"<td class=t>{html.escape(a.reason)}</tr>"
        for a in shown
    )
    return (
        f"<details><summary>{html.escape(curve.policy)}: last {len(shown)} of {len(actions)} scale actions</summary>"
        f"<table><tr><th>day<th>service<th>before<th>after<th>reason</tr>{lines}</table></details>"
    )
