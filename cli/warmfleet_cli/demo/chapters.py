"""The run in five sentences with figures, for the report."""

from __future__ import annotations

from warmfleet_cli.demo import story
from warmfleet_cli.demo.story import Purchase, Retention
from warmfleet_cli.demo.timeline import Sample, Timeline


def chapters(run: Timeline) -> list[tuple[str, str]]:
    """Title and text of each; what a run has nothing to say about is left out."""
    found = [
        ("Buying ahead", _ahead(run)),
        ("A machine goes", _fault(run)),
        ("Hand-over", _hits(run)),
        ("The spike", _spike(run)),
        ("The cost", _cost(run)),
    ]
    return [(title, text) for title, text in found if text]


def _ahead(run: Timeline) -> str:
    bought = story.purchases(run)
    early = [purchase for purchase in bought if purchase.ahead]
    if not bought:
        return ""
    trusted = next((o for o in run.outlooks if o.trusted), None)
    if not early:
        why = "the forecast was trusted" if trusted else "no forecast was trusted"
        return f"None of {len(bought)} purchases was made before the demand was there; {why}."
    leads = [p.lead_s for p in early if p.lead_s is not None]
    minutes = dict.fromkeys(f"{lead / 60:.0f}" for lead in (min(leads), max(leads))) if leads else ()
    when = f", {' to '.join(minutes)} minutes early" if minutes else ""
    first = _first_of_rise(early)
    return (
        f"{len(early)} of {len(bought)} purchases were made on the forecast before the demand was there{when}. The "
        f"plan at the first: {first.blend}."
    )


def _first_of_rise(early: list[Purchase]) -> Purchase:
    """The first purchase that the demand confirmed, else the first."""
    return next((p for p in early if p.lead_s is not None), early[0])


def _fault(run: Timeline) -> str:
    if not run.fault:
        return ""
    steps = "; ".join(step.text for step in run.fault)
    late = run.samples[-1].failed if run.samples else 0
    return f"{steps[0].upper()}{steps[1:]}. {late or 'No'} request{'' if late == 1 else 's'} failed."


def _hits(run: Timeline) -> str:
    mine, other = story.retention(run), story.retention(run, beside=True)
    if mine is None or other is None:
        return ""
    count = len(run.scalings("ScaledDown"))
    return (
        f"Of the prompt tokens that had been asked before, the caches had, over {count} scale-downs with hand-over, "
        f"{_moved(mine)}. The same requests without it: {_moved(other)}."
    )


def _moved(found: Retention) -> str:
    if found.before is None or found.after is None or found.lowest is None:
        return "unknown"
    return f"{found.before:.0%} before, {found.after:.0%} while workers left and after (lowest {found.lowest:.0%})"


def _spike(run: Timeline) -> str:
    if run.setup.spike is None:
        return ""
    start, end = run.setup.spike
    bought = [p for p in story.purchases(run) if start <= p.event.at <= end + run.setup.lead_s]
    during = [s for s in run.samples if start <= s.at]
    longest = max((s.queue or 0 for s in during), default=0)
    calm = _calm(during)
    first = f"the first worker was bought {(bought[0].event.at - start) / 60:.0f} minutes into it" if bought else ""
    parts = [first or "no worker was bought", f"up to {longest} requests waited"]
    if calm is not None:
        parts.append(f"none did any more {(calm - start) / 60:.0f} minutes after its start")
    return f"Twice the traffic within a minute, which no day before had: {', '.join(parts)}."


def _calm(samples: list[Sample]) -> float | None:
    """From when on nobody waits any more."""
    waiting = [s.at for s in samples if s.queue]
    if not waiting:
        return None
    last = max(waiting)
    return next((s.at for s in samples if s.at > last), None)


def _cost(run: Timeline) -> str:
    cost, best, most = run.cost(), run.optimum, run.cost_at_largest()
    if cost is None or best is None or not best.cost:
        return ""
    text = (
        f"${cost:.2f}; whoever knew every request in advance and missed as many as the objective allows would have "
        f"paid ${best.cost:.2f}, so {cost / best.cost:.2f} times the optimum"
    )
    return f"{text}. Always as large as at its largest: ${most:.2f}." if most else f"{text}."
