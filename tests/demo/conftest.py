"""A made-up run for tests of the view and the report: a fluid fleet under the generated morning, and one beside it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from warmfleet_cli.demo import traffic
from warmfleet_cli.demo.timeline import (
    Beside,
    Drain,
    FaultStep,
    Optimum,
    Outlook,
    Sample,
    ScaleEvent,
    Setup,
    Timeline,
    Variant,
    WorkerSample,
)

CAPACITY = 0.06
PERIOD = 20.0
SETUP = Setup(
    source="generated",
    generated=True,
    start_minute=7 * 1440 + 450,
    minutes=100,
    scale=40.0,
    fleet="chat",
    beside="chat-without",
    model="test/model-8b",
    variants=(Variant("l4", "1 x L4", 0.8, CAPACITY, 360.0, 8),),
    ttft_slo=5.0,
    attainment=0.95,
    max_workers=8,
    history_minutes=7 * 1440,
    spike=(4560.0, 5160.0),
)


@pytest.fixture
def make_run() -> Callable[..., Timeline]:
    return _timeline


def _timeline(*, minutes: int = 100, seed: int = 1, forecast: bool = True) -> Timeline:
    """A run whose planner looks a start-up time ahead when ``forecast``, and at the present when not."""
    rng = random.Random(seed)
    rates = traffic.generated(minutes=100).rates(0.4)
    run = Timeline(SETUP)
    names, born, number = [f"chat-l4-{i}" for i in range(3)], {}, 3
    run.outlooks = [
        Outlook(
            at,
            at - 60.0,
            True,
            "better than the last value",
            tuple((60.0 * k, 0.15 + k / 300, 0.16 + k / 300) for k in range(1, 60)),
        )
        for at in (30.0, 1200.0, 2400.0, 3600.0, 4800.0)
    ]
    for index in range(minutes * 3):
        at = (index + 1) * PERIOD
        minute = min(99, index // 3)
        rate = float(rates[minute])
        soon = max(rates[minute : minute + 7]) if forecast and minute < 70 else rate
        need = float(soon) * 1.05
        wanted = max(3, int(-(-need // CAPACITY)))
        if wanted > len(names):
            names.append(f"chat-l4-{number}")
            born[names[-1]] = at
            number += 1
            text = f"created 1 worker: demand {rate:.3g} req/s -> {len(names)} workers"
            run.events.append(ScaleEvent(at, "ScaledUp", text, "LLMDeployment/chat"))
        elif need < CAPACITY * (len(names) - 1) and index % 6 == 0 and len(names) > 3:
            gone = names.pop(0)
            run.drains.append(Drain(at, gone, "LowestKvValue", rng.randint(2, 4), rng.randint(10, 20)))
            run.events.append(ScaleEvent(at, "ScaledDown", f"draining {gone}", "LLMDeployment/chat"))
            run.events.append(ScaleEvent(at + 30.0, "ScaledDown", "draining another", "LLMDeployment/chat-without"))
        ready = [name for name in names if at - born.get(name, -1e9) > 300]
        workers = tuple(
            WorkerSample(name, "l4", "Serving", rng.randint(1, 4), 0, 0.6, 0.8)
            if name in ready
            else WorkerSample(name, "l4", "Starting")
            for name in names
        )
        lost = 0.2 if 3300 < at < 4500 else 0.0
        run.samples.append(
            Sample(
                at,
                offered=rate * rng.uniform(0.95, 1.05),
                served=min(rate, len(ready) * CAPACITY),
                demand=rate,
                capacity=len(ready) * CAPACITY,
                desired=len(names),
                chosen_by="Forecast",
                in_flight=round(rate * 60),
                queue=rng.randint(1, 9) if 4560 < at < 5000 else 0,
                cost_per_hour=0.8 * len(names),
                ttft=tuple(rng.uniform(0.5, 4.0) for _ in range(5)),
                workers=workers,
                prompt_tokens=25_000,
                cached_tokens=17_600,
                repeated_tokens=20_000,
                forecast=float(soon),
                need=need,
                blend=f"up to {soon:.3g} req/s until a new worker serves",
                trusted=forecast,
                beside=Beside(
                    len(names), 25_000, round(20_000 * (0.88 - lost)), 0.8 * len(names), repeated_tokens=20_000
                ),
            )
        )
    run.fault = [FaultStep(2040.0, "machine l4-3 is taken away"), FaultStep(2340.0, "chat-l4-3 has left")]
    run.optimum = Optimum(3.0, 0.95, tuple(0.8 * 3 for _ in range(minutes)))
    return run
