"""The HTML report: one self-contained page with the headline figures, the plots and every scale event."""

from __future__ import annotations

import html
import statistics
from dataclasses import dataclass
from pathlib import Path

import plotly.io

from warmfleet_cli.demo.plots import figure, quantile
from warmfleet_cli.demo.timeline import Timeline
from warmfleet_cli.demo.view import trace_time

_STYLE = """
body { margin: 0; background: #f7f8fa; color: #1f2933; font: 15px/1.55 Inter, Helvetica, Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; }
p.lead { margin: 0 0 24px; color: #52606d; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 0 0 20px; }
.tile { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.2; letter-spacing: -0.01em; }
.tile span { color: #52606d; font-size: 13px; }
.good b { color: #147d64; } .bad b { color: #ba2525; }
.card { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; padding: 12px 8px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: #52606d; font-weight: 600; border-bottom: 1px solid #cbd2d9; padding: 6px 10px; }
td { border-bottom: 1px solid #eef0f2; padding: 6px 10px; vertical-align: top; }
td.num { text-align: right; font-variant-numeric: tabular-nums; } th.num { text-align: right; }
tr:last-child td { border-bottom: 0; }
.what { white-space: nowrap; font-weight: 600; } .ScaledUp { color: #2d7d54; } .ScaledDown { color: #7b3fa8; }
.when { white-space: nowrap; color: #52606d; }
p.note { color: #52606d; font-size: 13.5px; }
@media (max-width: 720px) { .tiles { grid-template-columns: repeat(2, 1fr); } }
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """What the clients counted.

    Attributes:
        requests: Requests sent.
        failed: Of these, not answered to the last token.
        tokens: Tokens received and checked.
        failures: Distinct reasons of failures, most frequent first, with their counts.
    """

    requests: int
    failed: int
    tokens: int
    failures: tuple[tuple[str, int], ...] = ()


def render(run: Timeline, totals: Totals) -> str:
    """The page."""
    setup = run.setup
    plot = plotly.io.to_html(
        figure(run),
        include_plotlyjs=True,
        full_html=False,
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>warmfleet demo</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>"
        f'<h1>warmfleet demo</h1><p class="lead">{_lead(run)}</p>'
        f"{_tiles(run, totals)}{_failures(totals)}"
        f'<div class="card">{plot}</div>'
        f'<p class="note">All times are the trace\'s: one real second is {setup.scale:g} trace seconds, so every real '
        f"millisecond that this machine takes shows as {setup.scale:g} ms of latency.</p>"
        f"<h2>Scale events</h2>{_event_table(run)}"
        f"<h2>Workers that left</h2>{_drain_table(run)}"
        "</main></body></html>\n"
    )


def write(path: Path, run: Timeline, totals: Totals) -> None:
    """Writes the page."""
    path.write_text(render(run, totals), encoding="utf-8")


def _lead(run: Timeline) -> str:
    setup = run.setup
    until = trace_time(setup.start_minute, setup.minutes * 60.0)
    if setup.generated:
        source = f"a generated pattern (no trace was found) of {setup.minutes} minutes"
    else:
        source = f"the trace {setup.source}, {trace_time(setup.start_minute, 0.0)} to {until}"
    share = ""
    if setup.trace_share:
        share = f", thinned to one request in {1 / setup.trace_share:,.0f}"
    return html.escape(f"{setup.model} on up to {setup.max_workers} workers of {setup.worker}, under {source}{share}.")


def _tiles(run: Timeline, totals: Totals) -> str:
    cost, most = run.cost(), run.cost_at_max()
    ttft = [t for sample in run.samples for t in sample.ttft]
    within = sum(t <= run.setup.ttft_slo for t in ttft) / len(ttft) if ttft else None
    hits = [sample.hit_ratio for sample in run.samples if sample.hit_ratio is not None]
    streams = [drain.streams for drain in run.drains if drain.streams is not None]
    tiles = (
        (f"{totals.requests:,}", f"requests, {totals.tokens:,} tokens checked", ""),
        (f"{totals.failed}", "failed or cut off", "bad" if totals.failed else "good"),
        (f"{run.scale_events('ScaledUp')} / {run.scale_events('ScaledDown')}", "scale-ups / scale-downs", ""),
        (
            f"{min(streams)} to {max(streams)}" if streams else "none",
            f"streams in flight on a worker told to leave ({len(run.drains)} drains)",
            "",
        ),
        (
            f"{statistics.median(ttft):.1f} s" if ttft else "unknown",
            f"TTFT p50; p99 {quantile(ttft, 0.99) or 0:.1f} s" if ttft else "TTFT",
            "",
        ),
        (
            f"{within:.1%}" if within is not None else "unknown",
            f"of requests within {run.setup.ttft_slo:g} s to first token",
            "",
        ),
        (f"{statistics.fmean(hits):.0%}" if hits else "unknown", "prefix-cache hit ratio, mean", ""),
        (
            f"${cost:.2f}" if cost is not None else "unknown",
            f"{1 - cost / most:.0%} less than ${most:.2f} always at max" if cost is not None and most > 0 else "cost",
            "good" if cost is not None and cost < most else "",
        ),
    )
    cells = "".join(
        f'<div class="tile {kind}"><b>{html.escape(big)}</b><span>{html.escape(small)}</span></div>'
        for big, small, kind in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _failures(totals: Totals) -> str:
    if not totals.failures:
        return ""
    rows = "".join(f'<tr><td class="num">{n}</td><td>{html.escape(why)}</td></tr>' for why, n in totals.failures)
    return (
        f'<h2>Failures</h2><div class="card"><table><tr><th class="num">count</th><th>why</th></tr>{rows}</table></div>'
    )


def _event_table(run: Timeline) -> str:
    rows = "".join(
        f'<tr><td class="when">{_when(run, event.at)}</td><td class="what {html.escape(event.reason)}">'
        f"{html.escape(event.reason)}</td><td>{html.escape(event.object)}</td>"
        f"<td>{html.escape(event.message)}</td></tr>"
        for event in run.events
    )
    head = "<tr><th>trace time</th><th>what</th><th>object</th><th>why</th></tr>"
    return f'<div class="card"><table id="events">{head}{rows}</table></div>'


def _drain_table(run: Timeline) -> str:
    rows = "".join(
        f'<tr><td class="when">{_when(run, drain.at)}</td><td>{html.escape(drain.worker)}</td>'
        f'<td>{html.escape(drain.reason)}</td><td class="num">'
        f'{"unknown" if drain.streams is None else drain.streams}</td><td class="num">{drain.fleet_streams}</td></tr>'
        for drain in run.drains
    )
    head = (
        '<tr><th>trace time</th><th>worker</th><th>why this one</th><th class="num">its streams in flight</th>'
        '<th class="num">the fleet\'s</th></tr>'
    )
    return f'<div class="card"><table id="drains">{head}{rows}</table></div>'


def _when(run: Timeline, at: float) -> str:
    return "before the traffic" if at < 0 else html.escape(trace_time(run.setup.start_minute, at))
