"""The report's plots: seven panels over one axis of trace time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from warmfleet_cli.demo import story
from warmfleet_cli.demo.story import DEMAND_SAMPLES, smoothed
from warmfleet_cli.demo.timeline import Sample, Setup, Timeline

INK, GRID, GREY = "#1f2933", "#e4e7eb", "#9aa5b1"
DEMAND, CAPACITY, FORECAST, NEED = "#d64545", "#3e7cb1", "#9d6cc9", "#5b3a8c"
UP, DOWN, GOOD, BAD, FAULT = "#2d9d64", "#8d4bbb", "#147d64", "#c65d21", "#8a5a00"
STARTING, LEAVING = "#f0b429", "#8d4bbb"
SERVING = ("#27567f", "#6aa5d8", "#a8cbe8", "#d2e4f3")
"""Shades of the workers that serve, by variant."""
_LEAVING = ("Unrouting", "Settling", "HandingOver", "Drained", "Terminating")
PANELS = (
    "Demand, forecast and capacity, requests per second",
    "Workers by type and state",
    "Prefix-cache hits per prompt token, with and without hand-over",
    "Requests waiting in the engines",
    "Time to first token, seconds",
    "Cost, dollars per hour",
    "Cost so far, dollars",
)
_HEIGHTS = (0.25, 0.14, 0.17, 0.09, 0.12, 0.12, 0.11)
_TTFT_SAMPLES = 10
"""Samples whose requests make one point of a latency quantile."""


def trace_moment(setup: Setup, at: float) -> datetime:
    """A moment on the x axis: the trace's minute as a time of day (the date only counts the trace's days)."""
    return datetime(2001, 1, 1, tzinfo=UTC) + timedelta(minutes=setup.start_minute, seconds=at)


def figure(run: Timeline) -> Any:
    """All panels as one plotly figure."""
    fig = make_subplots(rows=len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.03, row_heights=_HEIGHTS)
    times = [trace_moment(run.setup, sample.at) for sample in run.samples]
    for row, draw in enumerate((_demand, _workers, _hits, _queue, _ttft, _cost, _spent), 1):
        draw(fig, run, times, row)
    _marks(fig, run)
    _occasions(fig, run)
    fig.update_layout(
        template="plotly_white",
        height=1750,
        margin={"l": 64, "r": 24, "t": 64, "b": 48},
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
    _line(fig, row, times, capacity, "capacity", color=CAPACITY, shape="hv", fill="tozeroy", fillcolor="#3e7cb114")
    said = story.band(run)
    lead = f"said {run.setup.lead_s / 60:.0f} min before"
    _line(fig, row, times, [None if b is None else b[0] for b in said], f"median {lead}", color=FORECAST, width=0)
    high = [None if b is None else b[1] for b in said]
    _line(fig, row, times, high, f"90 % {lead}", color=FORECAST, width=0, fill="tonexty", fillcolor="#9d6cc966")
    need = [sample.need if sample.trusted else None for sample in run.samples]
    texts = [sample.blend for sample in run.samples]
    _line(fig, row, times, need, "planned for, on the forecast", color=NEED, width=1.5, dash="dash", text=texts,
          hovertemplate="%{y:.3f}")  # fmt: skip
    other = [None if sample.trusted else sample.need for sample in run.samples]
    _line(fig, row, times, other, "planned for, without it", color=GREY, width=1.5, dash="dash")
    _line(fig, row, times, smoothed([s.offered for s in run.samples], DEMAND_SAMPLES), "offered", color=DEMAND)
    names = [("capacity", CAPACITY), ("offered", DEMAND), (f"forecast {lead}", FORECAST), ("planned for", NEED)]
    _label(fig, row, [*names, ("bought", UP), ("let go", DOWN)])


def _workers(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    shades = dict(zip((v.name for v in run.setup.variants), SERVING, strict=False))
    layers = [
        (
            f"serving {name}",
            color,
            [sum(w.phase == "Serving" and w.variant == name for w in s.workers) for s in run.samples],
        )
        for name, color in shades.items()
    ]
    layers.append(("starting", STARTING, [s.count("Pending", "Starting") for s in run.samples]))
    layers.append(("leaving", LEAVING, [s.count(*_LEAVING) for s in run.samples]))
    for name, color, counts in layers:
        _line(fig, row, times, counts, name, color=color, width=0, shape="hv", stackgroup="workers", fillcolor=color)
    _line(fig, row, times, [s.desired for s in run.samples], "wanted", color=INK, width=1.5, shape="hv", **_rules(run))
    _label(fig, row, [(name, color) for name, color, _ in layers] + [("wanted", INK)])


def _rules(run: Timeline) -> dict[str, Any]:
    """Hover text of a line: the rule that decided at each moment."""
    return {"text": [sample.chosen_by for sample in run.samples], "hovertemplate": "%{y} by %{text}"}


def _hits(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    with_it, without = story.hits(run), story.hits(run, beside=True)
    _line(fig, row, times, story.possible(run), "asked before", color=GREY, dash="dot", hovertemplate="%{y:.0%}")
    _line(fig, row, times, without, "without hand-over", color=BAD, hovertemplate="%{y:.0%}")
    _line(fig, row, times, with_it, "with hand-over", color=GOOD, width=2.5, hovertemplate="%{y:.0%}")
    known = [value for value in (*with_it[story.HIT_SAMPLES :], *without[story.HIT_SAMPLES :]) if value is not None]
    low = max(0.0, min(known, default=0.0) - 0.05)
    fig.update_yaxes(range=[low, 1.0], tickformat=".0%", row=row, col=1)
    for beside, color in ((False, GOOD), (True, BAD)):
        moments = [trace_moment(run.setup, e.at) for e in run.scalings("ScaledDown", beside=beside)]
        fig.add_trace(
            go.Scatter(
                x=moments, y=[low + 0.012] * len(moments), mode="markers", hoverinfo="skip",
                name="worker leaves, without hand-over" if beside else "worker leaves",
                marker={"symbol": "triangle-down", "size": 10, "color": color},
            ),
            row=row, col=1,
        )  # fmt: skip
    keys = [("asked before", GREY), ("with hand-over", GOOD), ("the same requests without", BAD)]
    _label(fig, row, [*keys, ("▼ a worker leaves", GREY)])


def _queue(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    queue = [sample.queue for sample in run.samples]
    _line(fig, row, times, queue, "waiting", color=BAD, shape="hv", fill="tozeroy", fillcolor="#c65d2133")


def _ttft(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    windows = [run.samples[max(0, i + 1 - _TTFT_SAMPLES) : i + 1] for i in range(len(run.samples))]
    pooled = [[t for sample in window for t in sample.ttft] for window in windows]
    _line(fig, row, times, [quantile(values, 0.99) for values in pooled], "p99", color="#8aa9c7")
    _line(fig, row, times, [statistics.median(v) if v else None for v in pooled], "p50", color=CAPACITY)
    fig.add_hline(y=run.setup.ttft_slo, line={"color": DEMAND, "dash": "dash", "width": 1.5}, row=row, col=1)
    _label(fig, row, [("p50", CAPACITY), ("p99", "#8aa9c7"), ("objective", DEMAND)])


def _cost(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    _line(fig, row, times, [run.largest_cost] * len(times), "always at its largest", color=GREY, dash="dash", width=1.5)
    cost = [sample.cost_per_hour for sample in run.samples]
    _line(fig, row, times, cost, "warmfleet", color=GOOD, shape="hv", fill="tozeroy", fillcolor="#147d6426")
    best = run.optimum
    if best is not None:
        minutes = [trace_moment(run.setup, i * 60.0) for i in range(len(best.cost_per_hour))]
        _line(fig, row, minutes, best.cost_per_hour, "optimum", color=INK, shape="hv", width=1.5)
    _label(fig, row, [("warmfleet", GOOD), ("optimum that knew the future", INK), ("always at its largest", GREY)])


def _spent(fig: Any, run: Timeline, times: Sequence[datetime], row: int) -> None:
    hours = [(sample.at - run.samples[0].at) / 3600.0 for sample in run.samples]
    most = run.largest_cost or 0.0
    _line(fig, row, times, [most * h for h in hours], "always at its largest", color=GREY, dash="dash", width=1.5)
    _line(fig, row, times, run.spent(), "warmfleet", color=GOOD, fill="tozeroy", fillcolor="#147d6426")
    if run.optimum is not None:
        minutes = [trace_moment(run.setup, (i + 1) * 60.0) for i in range(len(run.optimum.cost_per_hour))]
        spent = [sum(run.optimum.cost_per_hour[: i + 1]) / 60.0 for i in range(len(minutes))]
        _line(fig, row, minutes, spent, "optimum", color=INK, width=1.5)


def _marks(fig: Any, run: Timeline) -> None:
    """A mark per scaling decision on the capacity curve, whose hover says why."""
    capacity_at = _lookup(run.samples, lambda sample: sample.capacity)
    marks: tuple[tuple[Any, str, str], ...] = (("ScaledUp", UP, "triangle-up"), ("ScaledDown", DOWN, "triangle-down"))
    for reason, color, symbol in marks:
        events = run.scalings(reason)
        fig.add_trace(
            go.Scatter(
                x=[trace_moment(run.setup, event.at) for event in events],
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


def _occasions(fig: Any, run: Timeline) -> None:
    """The fault and the spike through all panels, named above the first."""
    if run.fault:
        _occasion(fig, run, run.fault[0].at, run.fault[-1].at, "a machine is taken away", FAULT)
    if run.setup.spike is not None:
        _occasion(fig, run, *run.setup.spike, "spike, never seen before", DEMAND)


def _occasion(fig: Any, run: Timeline, start: float, end: float, text: str, color: str) -> None:
    first, last = trace_moment(run.setup, start), trace_moment(run.setup, end)
    fig.add_vrect(x0=first, x1=last, fillcolor=color, opacity=0.08, line_width=0, row="all", col=1)
    fig.add_annotation(
        text=text, x=first + (last - first) / 2, xref="x", y=1, yref="y domain", xanchor="center", yanchor="top",
        showarrow=False, font={"size": 11.5, "color": color},
    )  # fmt: skip


def _lookup(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> Callable[[float], float | None]:
    """A step function of time through the samples."""

    def at(moment: float) -> float | None:
        before = [sample for sample in samples if sample.at <= moment] or list(samples[:1])
        return value(before[-1]) if before else None

    return at
