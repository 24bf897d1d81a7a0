"""Nothing to do means nothing written."""

from __future__ import annotations

import pytest
from world import World, deployment, instance_type

QUIET_MINUTES = 10


@pytest.mark.scale(60.0)
async def test_an_idle_fleet_causes_no_write_for_ten_minutes(running: World) -> None:
    if running.api is None:
        pytest.skip("writes are counted by the embedded API alone")
    await running.apply(instance_type(), deployment(replicas=2))
    await running.until_ready(2)
    await running.until_endpoint()
    await running.until_condition("Ready", "True")
    await running.clock.sleep(180)  # the last status and events, and the note that the template is good
    running.api.requests.reset()
    await running.clock.sleep(QUIET_MINUTES * 60)
    writes = [
        row
        for row in running.api.requests.as_json()
        if row["verb"] in {"create", "update", "patch", "delete"} and "warmfleet" in row["user_agent"]
    ]
    assert [row for row in writes if row["resource"] != "leases"] == []
