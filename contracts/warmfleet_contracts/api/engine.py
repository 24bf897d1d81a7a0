"""The inference engine of a worker: its image, the flags that warmfleet knows by name, and those it only passes on.

A flag that has a field may be given in ``engine.args`` or in the field, not in both: which of them holds would depend
on the order in which the engine reads them, and capacity would be counted with the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from warmfleet_contracts.api.base import ApiModel, Rule

MOST_LEVELS = 32
"""Of a podTemplate, in which the API server lets thousands pass; a pod has about a dozen."""
_SHORT = {"--tensor-parallel-size": "-tp", "--pipeline-parallel-size": "-pp", "--quantization": "-q"}


def spellings(flag: str) -> tuple[str, ...]:
    """Ways of writing an engine flag: with dashes, with underscores, its negation and its short form.

    ``--enable-chunked-prefill`` is switched off by ``--no-enable-chunked-prefill``.
    """
    found = [flag, "--" + flag[2:].replace("-", "_")]
    if flag.startswith("--enable-"):
        found += [f"--no-{flag[2:]}", "--no_" + flag[2:].replace("-", "_")]
    if flag in _SHORT:
        found.append(_SHORT[flag])
    return tuple(dict.fromkeys(found))


def given(args: tuple[str, ...], flag: str) -> bool:
    """Whether the flag is among the arguments, however it is written."""
    ways = spellings(flag)
    return any(arg.partition("=")[0] in ways for arg in args)


def one_place(field: str, flag: str, *, args: str = "self", test: str, holds: Callable[[Any], bool]) -> Rule:
    """The rule that a flag with a field is given in one place.

    Args:
        field: Path of the field, for the message.
        flag: The engine's flag.
        args: CEL path of the object that holds ``args``.
        test: CEL that is true when the field is set.
        holds: The whole rule over the parsed model.
    """
    ways = " || ".join(f"a == '{way}' || a.startsWith('{way}=')" for way in spellings(flag))
    return Rule(
        f"!({test}) || !has({args}.args) || !{args}.args.exists(a, {ways})",
        f"{field} and {flag} in engine.args are the same setting; keep {field} and remove the flag",
        holds,
    )


def _engine_field(field: str, flag: str) -> Rule:
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in field)
    return one_place(
        f"engine.{field}",
        flag,
        test=f"has(self.{field})",
        holds=lambda s: getattr(s, name) is None or not given(s.args, flag),
    )


def _variant_field(field: str, flag: str) -> Rule:
    return one_place(f"variants[].{field}", flag, test="true", holds=lambda s: not given(s.args, flag))


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    """What is nested without end ends whoever walks through it: hashing, copying and merging are recursive."""
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS):
        parts = (one.values() if isinstance(one, dict) else one for one in level)
        level = [inner for part in parts for inner in part if isinstance(inner, dict | list)]
    if level:
        raise ValueError(f"is nested more than {MOST_LEVELS} levels deep, which no pod is; leave that part out")
    return value


ENGINE_FLAGS = {
    "prefixCaching": "--enable-prefix-caching",
    "chunkedPrefill": "--enable-chunked-prefill",
    "maxNumSeqs": "--max-num-seqs",
    "maxNumBatchedTokens": "--max-num-batched-tokens",
    "maxQueuedRequests": "--max-num-queued-reqs",
    "maxQueuedTokens": "--max-num-queued-tokens",
    "schedulingPolicy": "--scheduling-policy",
}
"""Field of ``spec.engine`` -> flag of ``vllm serve``."""


class EnvVar(ApiModel):
    """One literal environment variable; anything richer goes into podTemplate."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Value of the variable."""


def _develops(env: Sequence[EnvVar]) -> bool:
    return any(e.name == "VLLM_SERVER_DEV_MODE" and e.value not in ("", "0") for e in env)


class Engine(ApiModel):
    """The inference engine of a worker."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *(_engine_field(field, flag) for field, flag in ENGINE_FLAGS.items()),
        _variant_field("tensorParallel", "--tensor-parallel-size"),
        _variant_field("pipelineParallel", "--pipeline-parallel-size"),
        Rule(
            "!has(self.env) || "
            "!self.env.exists(e, e.name == 'VLLM_SERVER_DEV_MODE' && has(e.value) && !(e.value in ['', '0']))",
            "engine.env: VLLM_SERVER_DEV_MODE opens endpoints with which anybody in the cluster could clear caches and "
            "run code, on the port that takes requests; remove it",
            lambda s: not _develops(s.env),
        ),
    )

    image: Annotated[str, Field(min_length=1, max_length=512)]
    """Container image of vLLM."""
    version: Annotated[str, Field(max_length=32, pattern=r"^v?[0-9]+\.[0-9]+(\.[0-9]+)?([-.+a-z][-.+a-z0-9]*)?$")] | (
        None
    ) = None
    """Version of vLLM in the image, such as 0.32.0, against which fields are checked; unset: the image's tag, where it
    is a version."""
    prefix_caching: bool | None = None
    """Whether prompt prefixes are kept and found again; unset: the engine's own default, which is yes."""
    chunked_prefill: bool | None = None
    """Whether long prompts are computed in chunks between other requests' tokens; unset: the engine's own default,
    which is yes."""
    max_num_seqs: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Most requests that run at a time (the batch); unset: 256 are counted on."""
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """Most tokens of one engine step; unset: 8192 are counted on."""
    max_queued_requests: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most requests in one engine, running or waiting; it answers 503 to more. Unset: no limit."""
    max_queued_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most prompt tokens that wait for their prefill in one engine; it answers 503 to more. Unset: no limit."""
    scheduling_policy: Literal["fcfs", "priority"] | None = None
    """Order in which waiting requests run: as they came, or by the request's field priority (lower first); unset: as
    they came."""
    args: Annotated[
        tuple[Annotated[str, Field(max_length=4096)], ...],
        Field(max_length=128, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """Further engine flags, appended to those that warmfleet sets."""
    env: Annotated[
        tuple[EnvVar, ...],
        Field(
            max_length=128,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()
    """Environment of the engine container."""
    pod_template: Annotated[
        dict[str, Any],
        AfterValidator(_shallow),
        Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
    ] = Field(default_factory=dict)
    """Overlay on the worker's pod (metadata.labels, metadata.annotations, spec), merged like a strategic merge
    patch: lists of containers, volumes, env and mounts merge by name. The engine's shutdown timeout, a grace period
    that covers it, and shut development endpoints stay."""


__all__ = ["ENGINE_FLAGS", "Engine", "EnvVar", "given", "one_place", "spellings"]
