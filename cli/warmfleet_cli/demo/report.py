"""The HTML report: one self-contained page with the headline figures, the plots and every scale event."""

from __future__ import annotations

import html
import statistics
from dataclasses import dataclass
from pathlib import Path

import plotly.io

from warmfleet_cli.demo import story
from warmfleet_cli.demo.chapters import chapters
from warmfleet_cli.demo.plots import figure
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
ol.story { display: grid; gap: 10px; margin: 0 0 20px; padding: 0; list-style: none; counter-reset: n; }
ol.story li { display: grid; grid-template-columns: 32px 190px 1fr; align-items: baseline; background: #fff;
  border: 1px solid #e4e7eb; border-radius: 10px; padding: 10px 16px; counter-increment: n; }
ol.story li::before { content: counter(n); color: #9aa5b1; font-weight: 700; }
ol.story span { color: #3e4c59; }
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
        config={"displaylogo": False, "displayModeBar": False, "responsive": True},
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>warmfleet demo</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>"
        f'<h1>warmfleet demo</h1><p class="lead">{_lead(run)}</p>'
        f"{_tiles(run, totals)}{_failures(totals)}"
        f'<ol class="story">{"".join(_chapter(title, text) for title, text in chapters(run))}</ol>'
        f'<div class="card">{plot}</div>'
        f'<p class="note">All times are the trace\'s: one real second is {setup.scale:g} trace seconds, so every real '
        f"millisecond that this machine takes shows as {setup.scale:g} ms of latency.</p>"
        f"<h2>What was bought, and when the demand came</h2>{_purchase_table(run)}"
        f"<h2>The machine that was taken away</h2>{_fault_table(run)}"
        f"<h2>Workers that left</h2>{_drain_table(run)}"
        f"<h2>Events</h2>{_event_table(run)}"
        "</main></body></html>\n"
    )


def write(path: Path, run: Timeline, totals: Totals) -> None:
    """Writes the page."""
    path.write_text(render(run, totals), encoding="utf-8")


def _lead(run: Timeline) -> str:
    setup = run.setup
    days = setup.history_minutes / 1440
    first, until = (trace_time(setup.start_minute, at) for at in (0.0, setup.minutes * 60.0))
    source = "generated traffic" if setup.generated else f"the trace {setup.source}"
    share = f", thinned to one request in {1 / setup.trace_share:,.0f}" if setup.trace_share else ""
    types = " and ".join(variant.accelerators for variant in setup.variants)
    return html.escape(
        f"{setup.model} on workers of {types}, under {source}{share}: {first} to {until}, after {days:.1f} days of "
        f"history. A second fleet, {setup.beside}, gets the same requests and hands nothing over."
    )


def _tiles(run: Timeline, totals: Totals) -> str:
    ttft = [t for sample in run.samples for t in sample.ttft]
    within, cost, best = story.attained(run), run.cost(), run.optimum
    most = run.cost_at_largest()
    tiles = (
        (f"{totals.requests:,}", f"requests to two fleets, {totals.tokens:,} tokens checked", ""),
        (f"{totals.failed}", "failed or cut off", "bad" if totals.failed else "good"),
        (
            f"{within:.1%}" if within is not None else "unknown",
            f"within {run.setup.ttft_slo:g} s to first token (p50 {statistics.median(ttft):.1f} s); objective "
            f"{run.setup.attainment:.0%}"
            if ttft
            else "of requests within the objective",
            "good" if within is not None and within >= run.setup.attainment else "",
        ),
        (
            f"${cost:.2f}" if cost is not None else "unknown",
            _compared(cost, best.cost if best else None, most),
            "",
        ),
    )
    cells = "".join(
        f'<div class="tile {kind}"><b>{html.escape(big)}</b><span>{html.escape(small)}</span></div>'
        for big, small, kind in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _compared(cost: float | None, best: float | None, most: float | None) -> str:
    """A cost beside the optimum and beside the fleet that is always at its largest."""
    if cost is None:
        return "cost"
    parts = [f"{cost / best:.2f} x the optimum that knew the future (${best:.2f})"] if best else []
    parts += [f"{1 - cost / most:.0%} less than always at its largest"] if most else []
    return "; ".join(parts) or "cost"


def _chapter(title: str, text: str) -> str:
    return f"<li><b>{html.escape(title)}</b><span>{html.escape(text)}</span></li>"


def _purchase_table(run: Timeline) -> str:
    rows = "".join(
        f'<tr><td class="when">{_when(run, bought.event.at)}</td><td>{_kind(bought)}</td>'
        f"<td>{html.escape(bought.event.message)}</td><td>{html.escape(bought.blend)}</td></tr>"
        for bought in story.purchases(run)
    )
    head = "<tr><th>trace time</th><th>when</th><th>the decision</th><th>how it came to the need</th></tr>"
    return f'<div class="card"><table id="purchases">{head}{rows}</table></div>'


def _kind(bought: story.Purchase) -> str:
    if not bought.ahead:
        return "when it was there"
    return "ahead" if bought.lead_s is None else f"{bought.lead_s / 60:.0f} min ahead"


def _fault_table(run: Timeline) -> str:
    rows = "".join(
        f'<tr><td class="when">{_when(run, step.at)}</td><td>{html.escape(step.text)}</td></tr>' for step in run.fault
    )
    return f'<div class="card"><table id="fault"><tr><th>trace time</th><th>what</th></tr>{rows}</table></div>'


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
        for event in run.own_events
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
