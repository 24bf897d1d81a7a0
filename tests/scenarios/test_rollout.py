"""A changed template replaces every worker without a lost stream, and one that does not come up is taken back."""

from __future__ import annotations

import pytest
from traffic import Streams
from warmfleet_contracts import labels
from warmfleet_runtime.resources import CONFIG_MAPS, EVENTS
from world import ENGINE_IMAGE, World, deployment, eventually, instance_type

NEW_IMAGE = "vllm/vllm-openai:v0.33.0"
MISSING_IMAGE = "vllm/vllm-openai:v0.33.1-missing"


def fleet(image: str) -> dict[str, object]:
    return deployment(replicas=2, engine={"image": image})


@pytest.mark.scale(30.0)
async def test_a_rollout_loses_no_stream_and_a_bad_one_is_rolled_back(running: World) -> None:
    engine = running.images.find(ENGINE_IMAGE)
    assert engine is not None
    running.images[NEW_IMAGE] = engine
    await running.apply(instance_type(), fleet(ENGINE_IMAGE))
    first = {pod["metadata"]["uid"] for pod in await running.until_ready(2)}
    streams = Streams(await running.until_endpoint())

    async def settled() -> bool:
        """The template is proven: its revision is kept for a rollback."""
        kept = await running.kube.list(CONFIG_MAPS, "default")
        return any("template.json" in (item.get("data") or {}) for item in kept["items"])

    await eventually(settled, "template that counts as good", seconds=30)
    await running.apply(fleet(NEW_IMAGE))

    async def replaced() -> bool:
        if streams.in_flight < 4:
            streams.send(1, tokens=1500)
        ready = await running.ready_workers()
        assert len(ready) >= 2, "never below the need"
        done = not first & {pod["metadata"]["uid"] for pod in await running.workers()}
        return done and (await running.status()).get("rollout", {}).get("state") == "Updated"

    await eventually(replaced, "fleet on the new template", seconds=60)
    await streams.finish()
    assert (await running.condition("RollingOut")) == {}
    status = await running.status()
    assert status["rollout"]["updated"] == status["rollout"]["total"] == 2
    good = status["variants"][0]["revision"]

    await running.apply(fleet(MISSING_IMAGE))
    await running.until_condition("Stalled", "True", "RolledBack", seconds=60)
    await running.until_condition("RollingOut", "False", "RolledBack", seconds=30)
    pods = await running.until_ready(2)
    assert {pod["metadata"]["labels"][labels.REVISION] for pod in pods} == {good}
    assert (await running.get())["spec"]["engine"]["image"] == MISSING_IMAGE, "the user's spec is never written"
    events = await running.kube.list(EVENTS, "default")
    reasons = {event["reason"] for event in events["items"]}
    assert {"RolloutStarted", "RolloutCompleted", "RolledBack", "DrainCompleted"} <= reasons
    assert "DrainForced" not in reasons
