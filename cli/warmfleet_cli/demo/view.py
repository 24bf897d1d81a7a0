"""The live terminal view; on something that is no terminal, one line every ten seconds instead."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from warmfleet_contracts.agent import Phase

from warmfleet_cli.demo import story
from warmfleet_cli.demo.story import DEMAND_SAMPLES, smoothed
from warmfleet_cli.demo.timeline import Sample, Timeline

DASH = "-"
EVENTS = 7
"""Lines of what happened."""
_BARS = "▁▂▃▄▅▆▇█"
_PHASE_STYLE = {
    "Pending": "bright_black",
    Phase.STARTING.value: "yellow",
    Phase.SERVING.value: "green",
    Phase.UNROUTING.value: "magenta",
    Phase.SETTLING.value: "magenta",
    Phase.HANDING_OVER.value: "magenta",
    Phase.DRAINED.value: "bright_black",
    "Terminating": "bright_black",
}
_EVENT_STYLE = {"ScaledUp": "bold green", "ScaledDown": "bold magenta", "DrainForced": "bold red"}
QUIET_EVENTS = frozenset({"DrainStarted", "DrainCompleted"})
"""Shown in the report; in the terminal the line that decided is enough."""


def trace_time(setup_start_minute: int, at: float) -> str:
    """A moment in trace time, such as ``day 9, 17:55``."""
    minute = setup_start_minute + int(max(0.0, at) // 60)
    return f"day {minute // 1440 + 1}, {minute % 1440 // 60:02d}:{minute % 60:02d}"


def sparkline(values: Sequence[float | None], *, width: int, top: float) -> str:
    """The last values as one row of ``width`` characters, right-aligned; a gap where a value is unknown."""
    step = max(1, -(-len(values) // width))
    buckets = [values[i : i + step] for i in range(0, len(values), step)][-width:]
    cells = []
    for bucket in buckets:
        known = [value for value in bucket if value is not None]
        level = max(known) / top if known and top > 0 else None
        cells.append(" " if level is None else _BARS[min(len(_BARS) - 1, max(0, round(level * (len(_BARS) - 1))))])
    return "".join(cells).rjust(width)


def number(value: float | None, text: str = "{:.2f}") -> str:
    """A figure, or a dash while it is unknown."""
    return DASH if value is None else text.format(value)


def render(timeline: Timeline, *, requests: int, failed: int, kubeconfig: str, width: int) -> RenderableType:
    """The whole view.

    Args:
        timeline: What has been recorded so far.
        requests: Requests sent.
        failed: Of these, failed.
        kubeconfig: Path for ``kubectl``.
        width: Columns of the terminal.
    """
    now = timeline.samples[-1] if timeline.samples else None
    parts: list[RenderableType] = [_header(timeline, now, kubeconfig)]
    if now is None:
        return Group(*parts, Text("waiting for the first sample", style="bright_black"))
    parts.append(
        Panel(_curves(timeline, now, width), title=timeline.setup.fleet, title_align="left", border_style="blue")
    )
    parts.append(_workers(timeline, now))
    parts.append(Panel(_happened(timeline), title="what happened", title_align="left", border_style="blue"))
    parts.append(_totals(timeline, now, requests=requests, failed=failed))
    return Group(*parts)


def counted(timeline: Timeline) -> tuple[int, int]:
    """Requests of both fleets and failures among them, as far as the samples tell them."""
    sent, before = 0.0, 0.0
    for sample in timeline.samples:
        sent += sample.offered * (sample.at - before)
        before = sample.at
    last = timeline.samples[-1] if timeline.samples else None
    other = last.beside.failed if last is not None and last.beside is not None else 0
    return round(2 * sent), (last.failed if last is not None else 0) + other


def plain_line(timeline: Timeline, *, requests: int, failed: int) -> str:
    """One line for logs."""
    if not timeline.samples:
        return "waiting for the first sample"
    now = timeline.samples[-1]
    return (
        f"{trace_time(timeline.setup.start_minute, now.at)}  "
        f"demand {number(now.demand)} of {number(now.capacity)} req/s  "
        f"workers {now.count('Serving')} serving, {len(now.workers)} in all, {number(now.desired, '{:.0f}')} wanted "
        f"({now.chosen_by or 'no decision'})  in flight {now.in_flight}  "
        f"hit ratio {number(story.hits(timeline)[-1], '{:.0%}')}, without hand-over "
        f"{number(story.hits(timeline, beside=True)[-1], '{:.0%}')}  requests {requests}, failed {failed}"
    )


def _header(timeline: Timeline, now: Sample | None, kubeconfig: str) -> RenderableType:
    setup = timeline.setup
    at = now.at if now else 0.0
    source = "generated morning" if setup.generated else f"trace {setup.source}"
    left = Text.assemble(
        ("warmfleet demo  ", "bold"),
        (trace_time(setup.start_minute, at), "bold cyan"),
        (
            f"  {source} after {setup.history_minutes / 1440:.0f} days of history, 1 s = {setup.scale:g} s",
            "bright_black",
        ),
    )
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(width=24)
    grid.add_row(left, ProgressBar(total=setup.minutes * 60.0, completed=min(at, setup.minutes * 60.0), width=24))
    shell = Text.assemble(("in another terminal: ", "bright_black"), f"export KUBECONFIG={kubeconfig}")
    return Group(grid, shell)


def _curves(timeline: Timeline, now: Sample, width: int) -> RenderableType:
    samples = timeline.samples
    room = max(20, width - 62)
    demand = smoothed([sample.offered for sample in samples], DEMAND_SAMPLES)
    need = [sample.need for sample in samples]
    capacity = [sample.capacity for sample in samples]
    top = max([value for value in (*demand, *need, *capacity) if value is not None] or [1.0])
    ttft = [statistics.median(sample.ttft) if sample.ttft else None for sample in samples]
    ttft_top = max([value for value in ttft if value is not None] or [1.0])
    with_it, without = story.hits(timeline), story.hits(timeline, beside=True)
    most_hits = number(story.possible(timeline)[-1], "{:.0%} asked before")
    queue = [sample.queue for sample in samples]
    basis = "by its forecast" if now.trusted else "by the built-in margin"
    rows: tuple[tuple[str, Sequence[float | None], float, str, str], ...] = (
        ("demand", demand, top, f"{demand[-1]:.2f} req/s", "red"),
        ("planned for", need, top, f"{number(now.need)} req/s, {basis}", "magenta"),
        ("capacity", capacity, top, f"{number(now.capacity)} req/s", "blue"),
        ("waiting", queue, max([q or 0 for q in queue] + [1]), number(now.queue, "{} requests"), "yellow"),
        ("time to first token", ttft, ttft_top, f"{_recent_ttft(samples)} p50", "cyan"),
        ("hits, with hand-over", with_it, 1.0, f"{number(with_it[-1], '{:.0%}')} of {most_hits}", "green"),
        ("the same without", without, 1.0, number(without[-1], "{:.0%}"), "bright_black"),
    )
    grid = Table.grid(padding=(0, 2))
    for name, values, most, figure, style in rows:
        grid.add_row(
            Text(name, style="bright_black"), Text(sparkline(values, width=room, top=most), style=style), figure
        )
    return grid


def _recent_ttft(samples: Sequence[Sample]) -> str:
    recent = [t for sample in samples[-20:] for t in sample.ttft]
    return f"{statistics.median(recent):.1f} s" if recent else DASH


def _workers(timeline: Timeline, now: Sample) -> RenderableType:
    types = {variant.name: variant.accelerators for variant in timeline.setup.variants}
    table = Table(expand=True, box=box.SIMPLE_HEAD, header_style="bright_black")
    for name in ("worker", "on", "phase"):
        table.add_column(name, no_wrap=True)
    for name in ("running", "waiting", "KV in use", "hits"):
        table.add_column(name, justify="right")
    for worker in now.workers:
        table.add_row(
            worker.name,
            types.get(worker.variant, worker.variant),
            Text(worker.phase, style=_PHASE_STYLE.get(worker.phase, "red")),
            number(worker.running, "{}"),
            number(worker.waiting, "{}"),
            number(worker.kv_usage, "{:.0%}"),
            number(worker.hit_ratio, "{:.0%}"),
        )
    return table


def _happened(timeline: Timeline) -> RenderableType:
    """The newest events and what became of the fault, by time."""
    events = [
        (event.at, event.reason, _EVENT_STYLE.get(event.reason, ""), event.message)
        for event in timeline.own_events
        if event.reason not in QUIET_EVENTS
    ]
    events += [(step.at, "Fault", "bold yellow", step.text) for step in timeline.fault]
    shown = sorted(events, key=lambda event: event[0])[-EVENTS:]
    if not shown:
        return Text("nothing yet", style="bright_black")
    grid = Table.grid(padding=(0, 2))
    for at, what, style, text in shown:
        grid.add_row(
            Text(_clock(timeline, at), style="bright_black"),
            Text(what, style=style),
            Text(text, overflow="ellipsis", no_wrap=True),
        )
    return grid


def _clock(timeline: Timeline, at: float) -> str:
    return "start" if at < 0 else trace_time(timeline.setup.start_minute, at).partition(", ")[2]


def _totals(timeline: Timeline, now: Sample, *, requests: int, failed: int) -> RenderableType:
    cost, most = timeline.cost(), timeline.cost_at_largest()
    saved = f" ({1 - cost / most:.0%} less than always at its largest)" if cost is not None and most else ""
    other = f" + {now.beside.serving}" if now.beside is not None else ""
    return Text.assemble(
        ("requests ", "bright_black"),
        f"{requests}",
        ("   failed ", "bright_black"),
        (f"{failed}", "bold red" if failed else "bold green"),
        ("   workers ", "bright_black"),
        f"{now.count('Serving')}{other}",
        ("   bought ", "bright_black"),
        f"{len(timeline.scalings('ScaledUp'))}",
        ("   let go ", "bright_black"),
        f"{len(timeline.scalings('ScaledDown'))}",
        ("   cost ", "bright_black"),
        f"${number(cost)}{saved}",
    )


def console() -> Console:
    """The console on standard error: standard output carries only the result."""
    return Console(stderr=True, highlight=False)
