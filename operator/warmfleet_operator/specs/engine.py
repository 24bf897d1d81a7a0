"""The engine's command line and environment from a deployment's spec.

Flags are those of ``vllm serve``. What warmfleet sets comes first and ``engine.args`` after it, because the last
occurrence of a flag wins in the engine's argument parser; only the shutdown timeout is not the user's to set, and a
flag that has a field is refused in ``engine.args`` when the field is set. Quantization that is a property of the
checkpoint is left to the engine, which reads it from the checkpoint's config and chooses the fastest kernel for it;
naming it would pin one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from warmfleet_contracts import labels
from warmfleet_contracts.api import LLMDeploymentSpec, Variant
from warmfleet_contracts.api.engine import ENGINE_FLAGS, Engine
from warmfleet_contracts.api.model import S3Source
from warmfleet_contracts.engineversion import READ, engine_version

from warmfleet_operator.specs.common import POD_ADDRESS, POD_ADDRESS_ENV

MODEL_MOUNT = "/models"
CACHE_MOUNT = "/cache"


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the engine finds the weights.

    Attributes:
        model: Positional argument of the engine.
        args: Further flags.
        env: Environment entries.
        volumes: Pod volumes.
        mounts: Volume mounts of the engine.
    """

    model: str
    args: tuple[str, ...] = ()
    env: tuple[dict[str, Any], ...] = ()
    volumes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()


def cache_volume(spec: LLMDeploymentSpec) -> dict[str, Any]:
    """Volume of downloads and compiled kernels: the pod's own, the node's or a claim."""
    kept = spec.model.cache
    if kept is None:
        return {"name": "cache", "emptyDir": {}}
    if kept.host_path is not None:
        return {"name": "cache", "hostPath": {"path": kept.host_path, "type": "DirectoryOrCreate"}}
    return {"name": "cache", "persistentVolumeClaim": {"claimName": kept.claim_name}}


def weights(spec: LLMDeploymentSpec) -> Weights:
    """Flags, environment and volumes for the model's source."""
    source = spec.model.source
    if source.hf is not None:
        token = source.hf.token_secret_ref
        env = () if token is None else (_secret_env("HF_TOKEN", token.name, token.key),)
        return Weights(source.hf.repo, ("--revision", source.hf.revision), env)
    if source.pvc is not None:
        volume = {"persistentVolumeClaim": {"claimName": source.pvc.claim_name, "readOnly": True}}
        path = f"{MODEL_MOUNT}/{source.pvc.path.strip('/')}".rstrip("/")
        return _mounted(volume, path)
    if source.host_path is not None:
        return _mounted({"hostPath": {"path": source.host_path.path, "type": "Directory"}}, MODEL_MOUNT)
    if source.s3 is None:
        raise ValueError("model.source: set exactly one of hf, pvc, s3 and hostPath")
    return Weights(source.s3.uri, ("--load-format", "runai_streamer"), tuple(_s3_env(source.s3)))


def literal(text: str) -> str:
    """Text of a user as it is: ``$(NAME)`` in it would otherwise be replaced by a variable, such as a token."""
    return text.replace("$", "$$")


def _s3_env(source: S3Source) -> list[dict[str, Any]]:
    env: list[dict[str, Any]] = []
    if source.credentials_secret_ref is not None:
        name = source.credentials_secret_ref.name
        env += [_secret_env(key, name, key) for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    if source.endpoint is not None:
        env.append({"name": "AWS_ENDPOINT_URL", "value": literal(source.endpoint)})
    return env


def _mounted(volume: dict[str, Any], path: str) -> Weights:
    mount = {"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True}
    return Weights(path, volumes=({"name": "model", **volume},), mounts=(mount,))


def _secret_env(name: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def arguments(
    spec: LLMDeploymentSpec, variant: Variant, *, shutdown_seconds: int, extra: Sequence[str] = ()
) -> list[str]:
    """Arguments after the engine's command.

    Args:
        spec: The deployment's spec.
        variant: The variant the worker is of.
        shutdown_seconds: Time for running requests after SIGTERM; 0 would leave their clients hanging.
        extra: Further flags of ours, before the user's.

    Raises:
        ValueError: ``shutdown_seconds`` is not positive.
    """
    if shutdown_seconds <= 0:
        raise ValueError("--shutdown-timeout must be positive: with 0 the engine leaves open streams hanging")
    source = weights(spec)
    args = [literal(source.model), "--served-model-name", literal(spec.model.name)]
    # The router, the agent and the probes all reach the engine by the pod's address.
    args += ["--host", POD_ADDRESS, "--port", str(labels.ENGINE_PORT)]
    args += ["--tensor-parallel-size", str(variant.tensor_parallel)]
    if variant.pipeline_parallel > 1:
        args += ["--pipeline-parallel-size", str(variant.pipeline_parallel)]
    if spec.model.max_model_len is not None:
        args += ["--max-model-len", str(spec.model.max_model_len)]
    if spec.model.quantization == "fp8":
        args += ["--quantization", "fp8"]
    if _answers_routers(spec):
        args.append("--enable-scale-out")
    args += serving(spec.engine)
    if spec.kv_cache.dtype != "auto":
        args += ["--kv-cache-dtype", spec.kv_cache.dtype]
    return [*args, *map(literal, source.args), *extra, *spec.engine.args, "--shutdown-timeout", str(shutdown_seconds)]


def _answers_routers(spec: LLMDeploymentSpec) -> bool:
    """Whether the engine must tell routers the token ids of a prompt (``/v1/completions/render`` and its like).

    vllm-router's cache_aware asks a worker for them and routes by load alone when it is refused, which vLLM does since
    0.32 without this flag. An engine known to be older does not have the flag.
    """
    version = engine_version(spec)
    return spec.routing.mode == "router" and (version is None or version >= READ)


def serving(engine: Engine) -> list[str]:
    """Flags of the fields of ``spec.engine`` that are set."""
    found: list[str] = []
    for field, flag in ENGINE_FLAGS.items():
        value = getattr(engine, "".join(f"_{c.lower()}" if c.isupper() else c for c in field))
        if isinstance(value, bool):
            found.append(flag if value else f"--no-{flag[2:]}")
        elif value is not None:
            found += [flag, str(value)]
    return found


def environment(spec: LLMDeploymentSpec, extra: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Environment of the engine container, with ``extra`` entries of ours; the user's entries win."""
    own: list[dict[str, Any]] = [
        POD_ADDRESS_ENV,
        {"name": "HF_HOME", "value": CACHE_MOUNT},
        {"name": "HOME", "value": CACHE_MOUNT},
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
        *weights(spec).env,
        *extra,
    ]
    users = [{"name": e.name, "value": e.value} for e in spec.engine.env]
    names = {e["name"] for e in users}
    return [e for e in own if e["name"] not in names] + users
