"""Hit ratio and TTFT over time, arm by arm, as one HTML page that fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from warmfleet_contracts.traces import FloatArray

from warmfleet_simulation.report import COLOURS, STYLE
from warmfleet_simulation.requests.arrays import DONE
from warmfleet_simulation.requests.cluster import Event, Run
from warmfleet_simulation.requests.trial import Outcome

BIN_S = 20.0
BEFORE_S = 60.0
BINS = 30
"""Ten minutes, of which one lies before the scale-down."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """What a run's requests saw, by time of arrival.

    Attributes:
        name: The arm.
        at: Middle of each bin, seconds, shape (n,).
        hit_rate: Share of the prompt tokens that were cached or loaded, shape (n,); NaN without requests.
        ttft_p95: Seconds, shape (n,); NaN without requests that ended.
        events: Changes of the fleet's size.
    """

    name: str
    at: FloatArray
    hit_rate: FloatArray
    ttft_p95: FloatArray
    events: tuple[Event, ...]


def timeline(name: str, run: Run) -> Timeline:
    """A run in bins of BIN_S."""
    st, n = run.state, run.users
    place = (st.arrival[:n] // BIN_S).astype(np.int64)
    size = int(place.max()) + 1
    inputs = np.bincount(place, weights=st.inputs[:n], minlength=size)
    hits = np.bincount(place, weights=(st.hit + st.loaded)[:n], minlength=size)
    rate: FloatArray = np.full(size, np.nan)
    np.divide(hits, inputs, out=rate, where=inputs > 0)
    waited, answered = run.ttft(), st.status[:n] == DONE
    p95: FloatArray = np.full(size, np.nan)
    for i in range(size):
        own = waited[answered & (place == i)]
        if len(own):
            p95[i] = np.percentile(own, 95.0)
    at: FloatArray = (np.arange(size, dtype=np.float64) + 0.5) * BIN_S
    return Timeline(name, at, rate, p95, run.events)


@dataclass(frozen=True, slots=True)
class Around:
    """What a run's requests saw by time since the last scale-down, in bins of BIN_S from BEFORE_S before it.

    Attributes:
        hits: Prompt tokens that were cached or loaded, by bin.
        inputs: Prompt tokens, by bin.
        ttft: Seconds of each answered request, by bin.
    """

    hits: FloatArray
    inputs: FloatArray
    ttft: tuple[FloatArray, ...]


def around(run: Run, downs: Sequence[float]) -> Around:
    """Requests by time since the last of the scale-downs, those shortly before one counted to it."""
    st, n, starts = run.state, run.users, np.asarray(downs) - BEFORE_S
    arrival = st.arrival[:n]
    event = np.searchsorted(starts, arrival, side="right") - 1
    place = ((arrival - starts[np.maximum(event, 0)]) // BIN_S).astype(np.int64)
    place[(event < 0) | (place >= BINS)] = BINS
    hits, inputs = (
        np.bincount(place, weights=w[:n], minlength=BINS + 1)[:BINS].astype(np.float64)
        for w in (st.hit + st.loaded, st.inputs)
    )
    waited, answered = run.ttft(), st.status[:n] == DONE
    return Around(hits, inputs, tuple(waited[answered & (place == i)] for i in range(BINS)))


def together(runs: Sequence[Around]) -> dict[str, list[float | None]]:
    """Several runs as one: seconds since the scale-down, hit ratio, TTFT p95 in seconds; None without requests."""
    out: dict[str, list[float | None]] = {"at": [], "hit_rate": [], "ttft_p95": []}
    for i in range(BINS):
        inputs = sum(float(run.inputs[i]) for run in runs)
        waited = np.concatenate([run.ttft[i] for run in runs])
        out["at"].append((i + 0.5) * BIN_S - BEFORE_S)
        out["hit_rate"].append(sum(float(run.hits[i]) for run in runs) / inputs if inputs else None)
        out["ttft_p95"].append(float(np.percentile(waited, 95.0)) if len(waited) else None)
    return out


def page(title: str, outcomes: Sequence[Outcome], lines: Sequence[Timeline]) -> str:
    """The report as HTML."""
    figures = [_figure(lines, "hit_rate", "hit ratio"), _figure(lines, "ttft_p95", "TTFT p95, s")]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs="inline" if i == 0 else False)
        for i, figure in enumerate(figures)
    ]
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        "<p>Figures of the requests that arrive in the two minutes after a scale-down. Retained: hit tokens over those "
        "of a fleet that never scaled, with the same store. Survivors: a fleet of the survivors' size all along.</p>"
        f"{_table(outcomes)}{''.join(parts)}</body></html>"
    )


def _figure(lines: Sequence[Timeline], key: str, title: str) -> go.Figure:
    figure = go.Figure()
    for i, line in enumerate(lines):
        figure.add_scatter(
            x=line.at / 60.0,
            y=getattr(line, key),
            mode="lines",
            name=line.name,
            line={"color": COLOURS[i % len(COLOURS)], "width": 1.5},
        )
    for event in max((line.events for line in lines), key=len, default=()):
        paint = "#c00" if event.after < event.before else "#0a0"
        figure.add_vline(x=event.at / 60.0, line_width=1, line_dash="dot", line_color=paint)
    figure.update_layout(
        title=f"{title}, by time of arrival (red: scale-down, green: scale-up)",
        xaxis={"title": "minutes"},
        yaxis={"title": title},
        height=420,
        template="plotly_white",
    )
    return figure


def _table(outcomes: Sequence[Outcome]) -> str:
    names = ("arm", "hit ratio", "retained", "TTFT p50 s", "TTFT p99 s", "excess prefill GPU-s", "lost", "sent again")
    head = "<tr>" + "".join(f"<th>{name}" for name in names) + "</tr>"
    body = "".join(
        f"<tr><td>{html.escape(one.arm)}<td>{one.hit_rate:.3f}"
        f"<td>{'-' if one.retained is None else format(one.retained, '.3f')}<td>{one.ttft_p50:.2f}"
        f"<td>{one.ttft_p99:.2f}<td>{one.excess_s:,.0f}<td>{one.lost}<td>{one.retried}</tr>"
        for one in outcomes
    )
    return f"<table>{head}{body}</table>"
