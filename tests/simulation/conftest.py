"""Small fleets and traces."""

from __future__ import annotations

import numpy as np
import pytest
from warmfleet_contracts.traces import RateTrace
from warmfleet_simulation.fleet import Fleet, Service, WorkerType


def constant(minutes: int, per_second: float) -> RateTrace:
    requests = np.full(minutes, per_second * 60.0)
    return RateTrace(
        name="constant",
        minutes=np.arange(minutes, dtype=np.int64),
        requests=requests,
        input_tokens=requests * 100,
        output_tokens=requests * 10,
        missing=np.zeros(minutes, dtype=np.bool_),
    )


@pytest.fixture(scope="session")
def one_type() -> Fleet:
    kind = WorkerType("h100", price=3.6, startup_s=60.0, startup_sigma=0.0)
    return Fleet((kind,), (Service("chat", (1.0,)),), kv_at_capacity=0.9, batch_at_capacity=64.0)
