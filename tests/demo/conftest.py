"""A made-up run for tests of the view and the report: a fluid fleet under the generated pattern."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from warmfleet_cli.demo import traffic
from warmfleet_cli.demo.timeline import Drain, Sample, ScaleEvent, Setup, Timeline, WorkerSample

CAPACITY = 0.1


@pytest.fixture
def make_run() -> Callable[..., Timeline]:
    return _timeline


def _timeline(*, minutes: int = 150, seed: int = 1) -> Timeline:
    rng = random.Random(seed)
    rates = traffic.generated(minutes=minutes).rates(0.48)
    run = Timeline(
        Setup(
            source="generated",
            generated=True,
            start_minute=480,
            minutes=minutes,
            scale=60.0,
            model="test/model-8b",
            worker="1 x L4",
            ttft_slo=5.0,
            max_workers=7,
            worker_cost=0.8,
        )
    )
    names, born, number = [f"chat-l4-{i}" for i in range(2)], {}, 2
    for index in range(minutes * 2):
        at = index * 30.0 + 30.0
        rate = float(rates[index // 2])
        wanted = max(2, -(-rate // (CAPACITY * 0.85)))
        if wanted > len(names):
            names.append(f"chat-l4-{number}")
            born[names[-1]] = at
            number += 1
            run.events.append(
                ScaleEvent(at, "ScaledUp", f"{len(names)} workers: {rate:.2f} req/s", "LLMDeployment/chat")
            )
        elif rate < 0.7 * CAPACITY * (len(names) - 1) and index % 12 == 0 and len(names) > 2:
            gone = names.pop(0)
            run.drains.append(Drain(at, gone, "FewestRunning", rng.randint(5, 9), rng.randint(20, 40)))
            run.events.append(
                ScaleEvent(at, "ScaledDown", f"{len(names)} workers: {rate:.2f} req/s", "LLMDeployment/chat")
            )
        ready = [name for name in names if at - born.get(name, -1e9) > 180]
        workers = tuple(
            WorkerSample(
                name,
                "l4",
                "Serving" if name in ready else "Starting",
                rng.randint(4, 12) if name in ready else None,
                0 if name in ready else None,
                0.6 if name in ready else None,
                0.8 if name in ready else None,
            )
            for name in names
        )
        served = min(rate, len(ready) * CAPACITY)
        run.samples.append(
            Sample(
                at,
                offered=rate * rng.uniform(0.8, 1.2),
                served=served,
                demand=rate,
                capacity=len(ready) * CAPACITY,
                desired=len(names),
                chosen_by="Hold",
                in_flight=round(rate * 120),
                queue=rng.randint(0, 3),
                hit_ratio=0.78 + rng.uniform(-0.03, 0.03) if index > 3 else None,
                cost_per_hour=0.8 * len(names),
                ttft=tuple(rng.uniform(0.5, 4.0) for _ in range(8)),
                workers=workers,
            )
        )
    return run
