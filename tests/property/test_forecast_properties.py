"""Whatever a TrafficForecast says, the plan stays within the stated bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from planning_specs import KEY, deployment, scaling, spec
from planning_world import START, traffic, workers, world
from warmfleet_contracts.leadwindow import MOST_PEAKS, MOST_RATIO
from warmfleet_contracts.reasons import Reason
from warmfleet_contracts.trafficstate import TrafficState
from warmfleet_operator.planning import rehearsal
from warmfleet_operator.planning.blend import DOWN, MOST_BAND, UP, Rule
from warmfleet_operator.planning.plan import plan
from warmfleet_operator.state import parse
from warmfleet_operator.state.memory import DeploymentMemory, PlannerMemory, Rehearsal

UNIT = 10.0
WALL = 1_795_000_000.0
ODD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e12, -1e12, 1e300])
NUMBER = st.one_of(st.floats(-3, 3), st.floats(0, 100), ODD)


@st.composite
def statuses(draw: st.DrawFn) -> dict[str, Any]:
    """What somebody may have written into a status: mostly well-formed, with numbers that make no sense."""
    count = draw(st.integers(1, 4))
    sane = draw(st.booleans())
    numbers = st.floats(0.0, 3.0) if sane else NUMBER
    chances = sorted(draw(st.lists(st.floats(0.01, 0.999), min_size=count, max_size=count, unique=True)))
    windows, at_lead = (
        [
            {
                "lead": f"{60 * (i + 1)}s",
                "residuals": sorted(draw(st.lists(numbers, min_size=count, max_size=count))),
                "momentumGain": draw(numbers),
                "trendGain": draw(numbers),
                "shapeGain": draw(numbers),
                "scaleBase": draw(numbers),
                "volatilityGain": draw(numbers),
                "calmGain": draw(numbers),
                "riseSpread": draw(numbers),
            }
            for i in range(draw(st.integers(least, 4)))
        ]
        for least in (1, 0)
    )
    issued = WALL + draw(st.sampled_from([-1e9, -1e5, -1700.0, -10.0, 30.0, 1e4]))
    table = {
        "probabilities": chances,
        "windows": windows,
        "atLead": at_lead,
        "shape": draw(st.lists(numbers, max_size=6)),
        "shapeStep": "300s",
        "peak": draw(st.one_of(st.floats(0, 1000), NUMBER)),
        "floor": draw(st.one_of(st.floats(0, 5), NUMBER)),
    }
    return {
        "issuedAt": datetime.fromtimestamp(issued, UTC).isoformat(),
        "validFor": draw(st.sampled_from(["30m", "1s", "900000h"])),
        "trusted": draw(st.sampled_from([True, True, True, False])),
        "leadWindows": draw(st.sampled_from([table, table, table, {}, None, {**table, "windows": "x"}])),
    }


@given(
    status=statuses(),
    arrivals=st.floats(0, 300),
    state=st.tuples(st.floats(0, 300), st.floats(0, 4)),
    peak=st.floats(0, 400),
    position=st.tuples(st.one_of(st.floats(-1, 20), st.floats(-1e9, 1e9)), st.booleans()),
    there=st.integers(1, 40),
)
def test_a_forecast_does_no_harm_beyond_the_stated_bound(
    status: dict[str, Any],
    arrivals: float,
    state: tuple[float, float],
    peak: float,
    position: tuple[float, bool],
    there: int,
) -> None:
    body = {"metadata": {"name": "f", "namespace": KEY.namespace, "uid": "u"}, "status": status}
    found = parse.forecast_from({**body, "spec": {"target": {"name": KEY.name}}}, START, WALL)
    assert found is not None
    record = deployment(spec(scaling=scaling(high=5000, maxStep=10_000, stabilizationWindow=0) | {"forecast": {}}))
    snapshot = replace(world(workers(there), traffic(arrivals), record=record), forecasts={KEY: (found,)})
    level, variance = state
    seen = TrafficState(START - 5.0, level, level, level, variance, variance)
    memory = DeploymentMemory(
        record.uid,
        at=START - 5.0,
        traffic=seen,
        peak=peak,
        forecast_since=START - 900.0,
        rehearsal=Rehearsal(START - (5.0 if position[1] else 900.0), position=position[0]),
    )
    made, after = plan(snapshot, PlannerMemory({KEY: memory}), START)
    one = made.deployments[KEY]
    assert not any(p.reason is Reason.OPERATOR_ERROR for p in one.problems)
    most = MOST_RATIO * max(level, arrivals) / UP
    kept = after.deployments[KEY].traffic
    assert kept is not None
    lasting = min(arrivals, kept.mid)
    taken = rehearsal.margin(after.deployments[KEY].rehearsal)
    if taken.rule is Rule.REACTIVE:
        lasting, most = arrivals / (UP * taken.value), max(most, arrivals / (DOWN * taken.value))
    elif taken.rule is Rule.RECORD:
        most = max(most, MOST_PEAKS * after.deployments[KEY].peak)
    assert lasting - 1e-6 <= one.figures["need_up_rps"] <= most + 1e-6
    assert one.figures["need_up_rps"] <= one.figures["need_down_rps"] <= most * (1.0 + MOST_BAND) + 1e-6
    assert math.ceil(lasting / UNIT - 1e-6) <= one.desired <= max(there, math.ceil(most / UNIT))
    if not one.victims:
        again, _ = plan(snapshot, after, START)
        assert again.deployments[KEY].desired == one.desired
