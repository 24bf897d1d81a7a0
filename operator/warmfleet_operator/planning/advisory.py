"""``scaling.mode: Advisory``: the decision is made and reported, and nothing is done.

It is the decision that would hold had the operator been acting all along: the step limit does not count, because no
step is ever taken. It buys from what the fleets that act leave, and takes nothing from them.
"""

from __future__ import annotations

from dataclasses import replace

from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.reasons import Reason

from warmfleet_operator.state.decisions import DeploymentPlan, Problem
from warmfleet_operator.state.memory import DeploymentMemory, evolve


def is_advisory(spec: LLMDeploymentSpec | None) -> bool:
    """Whether decisions about the deployment are only reported."""
    return spec is not None and spec.scaling is not None and spec.scaling.mode == "Advisory"


def advise(
    made: DeploymentPlan, memory: DeploymentMemory, serving: int, floor: int
) -> tuple[DeploymentPlan, DeploymentMemory]:
    """The decision without its acts, and the memory of a planner that has not acted.

    Args:
        made: What would be done.
        memory: The memory as if it had been.
        serving: Workers that take traffic.
        floor: Fewest workers that the spec allows.
    """
    problems = made.problems
    if serving < floor:
        message = (
            f"scaling.mode is Advisory, so no worker is created: {serving} of at least {floor} serve; set "
            "scaling.mode to Auto, or create the workers otherwise"
        )
        problems = (Problem(Reason.ADVISORY, message), *problems)
    advice = replace(
        made,
        acts=False,
        victims=(),
        cancels=(),
        variants=tuple(replace(variant, create=0) for variant in made.variants),
        message=f"advice, nothing is done: {made.message}"[:1000],
        problems=problems,
    )
    return advice, evolve(memory, steps=(), chosen={})
