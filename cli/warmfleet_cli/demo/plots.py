"""The report's plots: seven panels over one axis of trace time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from warmfleet_cli.demo.timeline import Sample, Setup, Timeline

INK, GRID = "#1f2933", "#e4e7eb"
DEMAND, SERVED, CAPACITY = "#d64545", "#f0b429", "#3e7cb1"
UP, DOWN = "#2d9d64", "#8d4bbb"
_STATES = (
    ("serving", ("Serving",), "#3e7cb1"),
    ("starting", ("Pending", "Starting"), "#f0b429"),
    ("leaving", ("Unrouting", "Settling", "HandingOver", "Drained", "Terminating"), "#8d4bbb"),
)
PANELS = (
    "Demand and capacity, requests per second",
    "Workers by state",
    "Requests waiting in the engines",
    "Time to first token, seconds",
    "Prefix-cache hit ratio",
    "Cost, dollars per hour",
    "Cost so far, dollars",
)
_HEIGHTS = (0.24, 0.15, 0.11, 0.15, 0.11, 0.12, 0.12)
_SMOOTH = 10
"""Samples behind one point of a rate."""
_TTFT_SAMPLES = 10
"""Samples whose requests make one point of a latency quantile."""


def trace_moment(setup: Setup, at: float) -> datetime:
    """A moment on the x axis: the trace's minute as a time of day (the date only counts the trace's days)."""
    return datetime(2001, 1, 1, tzinfo=UTC) + timedelta(minutes=setup.start_minute, seconds=at)


def figure(run: Timeline) -> Any:
    """All panels as one plotly figure."""
    fig = make_subplots(rows=len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.033, row_heights=_HEIGHTS)
    times = [trace_moment(run.setup, sample.at) for sample in run.samples]
    for row, draw in enumerate((_demand, _workers, _queue, _ttft, _hits, _cost, _spent), 1):
        draw(fig, run, times, row)
    _marks(fig, run)
    fig.update_layout(
        template="plotly_white",
        height=1650,
        margin={"l": 64, "r": 24, "t": 52, "b": 48},
        hovermode="x unified",
        showlegend=False,
        font={"family": "Inter, Helvetica, Arial, sans-serif", "color": INK, "size": 13},
    )
    fig.update_xaxes(showgrid=True, gridcolor=GRID, tickformat="%H:%M", hoverformat="day %j, %H:%M")
    fig.update_xaxes(title_text="trace time", row=len(PANELS), col=1)
    fig.update_yaxes(gridcolor=GRID, rangemode="tozero", zerolinecolor=GRID)
    for row, title in enumerate(PANELS, 1):
        axis = fig.layout[f"yaxis{row if row > 1 else ''}"]
        fig.add_annotation(
            text=f"<b>{title}</b>", x=0, xref="paper", y=axis.domain[1], yref="paper", xanchor="left",
            yanchor="bottom", showarrow=False, font={"size": 14},
        )  # fmt: skip
    return fig


def smoothed(values: Sequence[float], width: int = _SMOOTH) -> list[float]:
    """The mean of each value and up to ``width - 1`` before it."""
    sums = [0.0, *accumulate(values)]
    return [(sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width) for i in range(len(values))]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value below or at which ``share`` of ``values`` lie; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _line(fig: Any, row: int, times: Sequence[datetime], values: Sequence[Any], name: str, **style: Any) -> None:
    line = {"color": style.pop("color"), "width": style.pop("width", 2), "dash": style.pop("dash", "solid")}
    line["shape"] = style.pop("shape", "linear")
    fig.add_trace(go.Scatter(x=times, y=values, name=name, mode="lines", line=line, **style), row=row, col=1)


def _label(fig: Any, row: int, names: Sequence[tuple[str, str]]) -> None:
    """Names the lines of a panel in its upper right corner, each in its colour."""
    axis = fig.layout[f"yaxis{row if row > 1 else ''}"]
    text = "   ".join(f'<span style="color:{color}">■</span> {name}' for name, color in names)
    fig.add_annotation(
        text=text, x=1, xref="paper", y=axis.domain[1], yref="paper", xanchor="right", yanchor="bottom",
        showarrow=False, font={"size": 12},
    )  # fmt: skip


def _demand(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    capacity = [sample.capacity for sample in run.samples]
    _line(fig, row, times, capacity, "capacity", color=CAPACITY, shape="hv", fill="tozeroy", fillcolor="#3e7cb11f")
    _line(fig, row, times, smoothed([s.offered for s in run.samples]), "offered", color=DEMAND)
    _line(fig, row, times, smoothed([s.served for s in run.samples]), "served", color=SERVED, dash="dot")
    names = (("capacity", CAPACITY), ("offered", DEMAND), ("served", SERVED), ("scaled up", UP), ("scaled down", DOWN))
    _label(fig, row, names)


def _workers(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    for name, phases, color in _STATES:
        counts = [sample.count(*phases) for sample in run.samples]
        _line(fig, row, times, counts, name, color=color, width=0, shape="hv", stackgroup="workers", fillcolor=color)
    _line(fig, row, times, [s.desired for s in run.samples], "wanted", color=INK, width=1.5, shape="hv", **_rules(run))
    _label(fig, row, [(name, color) for name, _, color in _STATES] + [("wanted", INK)])


def _rules(run: Timeline) -> dict[str, Any]:
    """Hover text of a line: the rule that decided at each moment."""
    return {"text": [sample.chosen_by for sample in run.samples], "hovertemplate": "%{y} by %{text}"}


def _queue(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    queue = [sample.queue for sample in run.samples]
    _line(fig, row, times, queue, "waiting", color="#c65d21", shape="hv", fill="tozeroy", fillcolor="#c65d2133")


def _ttft(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    windows = [run.samples[max(0, i + 1 - _TTFT_SAMPLES) : i + 1] for i in range(len(run.samples))]
    pooled = [[t for sample in window for t in sample.ttft] for window in windows]
    _line(fig, row, times, [quantile(values, 0.99) for values in pooled], "p99", color="#8aa9c7")
    _line(fig, row, times, [statistics.median(v) if v else None for v in pooled], "p50", color=CAPACITY)
    fig.add_hline(y=run.setup.ttft_slo, line={"color": DEMAND, "dash": "dash", "width": 1.5}, row=row, col=1)
    _label(fig, row, [("p50", CAPACITY), ("p99", "#8aa9c7"), ("objective", DEMAND)])


def _hits(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    _line(fig, row, times, [s.hit_ratio for s in run.samples], "hit ratio", color="#147d64", hovertemplate="%{y:.0%}")
    fig.update_yaxes(range=[0, 1.02], tickformat=".0%", row=row, col=1)


def _cost(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    most = run.setup.max_workers * run.setup.worker_cost
    cost = [sample.cost_per_hour for sample in run.samples]
    _line(fig, row, times, [most] * len(times), "always at max", color="#9aa5b1", dash="dash", width=1.5)
    _line(fig, row, times, cost, "warmfleet", color="#147d64", shape="hv", fill="tozeroy", fillcolor="#147d6426")
    _label(fig, row, [("warmfleet", "#147d64"), ("always at max", "#9aa5b1")])


def _spent(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    hours = [(sample.at - run.samples[0].at) / 3600.0 for sample in run.samples]
    most = run.setup.max_workers * run.setup.worker_cost
    _line(fig, row, times, [most * h for h in hours], "always at max", color="#9aa5b1", dash="dash", width=1.5)
    _line(fig, row, times, run.spent(), "warmfleet", color="#147d64", fill="tozeroy", fillcolor="#147d6426")


def _marks(fig: Any, run: Timeline) -> None:
    """A mark per scaling decision on the capacity curve, whose hover says why, and a thin line through all panels."""
    capacity_at = _lookup(run.samples, lambda sample: sample.capacity)
    for reason, color, symbol in (("ScaledUp", UP, "triangle-up"), ("ScaledDown", DOWN, "triangle-down")):
        events = [event for event in run.events if event.reason == reason and event.at >= 0]
        moments = [trace_moment(run.setup, event.at) for event in events]
        fig.add_trace(
            go.Scatter(
                x=moments,
                y=[capacity_at(event.at) for event in events],
                mode="markers",
                name=reason,
                marker={"symbol": symbol, "size": 13, "color": color, "line": {"color": "white", "width": 1}},
                text=[event.message for event in events],
                hovertemplate="%{text}",
            ),
            row=1,
            col=1,
        )
        for moment in moments:
            fig.add_vline(x=moment, line={"color": color, "width": 1, "dash": "dot"}, opacity=0.45)


def _lookup(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> Callable[[float], float | None]:
    """A step function of time through the samples."""

    def at(moment: float) -> float | None:
        before = [sample for sample in samples if sample.at <= moment] or list(samples[:1])
        return value(before[-1]) if before else None

    return at
