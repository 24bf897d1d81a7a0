"""Each source of weights: what the engine is told to load, where from, and with whose credentials."""

from __future__ import annotations

from typing import Any

import pytest
from fleet import instance_type, llm_deployment
from warmfleet_contracts.api import InstanceTypeSpec
from warmfleet_operator.settings import Settings
from warmfleet_operator.specs.worker import WorkerTemplate, worker_pod
from warmfleet_operator.state import parse

Json = dict[str, Any]


def built(source: Json) -> tuple[list[str], Json, Json, Json]:
    """The engine's arguments, environment and mounts, and the pod's volumes, by name."""
    body = llm_deployment(replicas=1, model={"name": "llama", "source": source})
    body["metadata"] |= {"uid": "u-1", "generation": 1, "resourceVersion": "5"}
    found = parse.deployment_from(body, None, 0.0)
    assert found is not None
    assert found.spec is not None, found.spec_error
    itype = InstanceTypeSpec.model_validate(instance_type()["spec"])
    spec = worker_pod(WorkerTemplate(found, found.spec, found.spec.variants[0], itype, Settings()), "chat-1")["spec"]
    engine = next(c for c in spec["containers"] if c["name"] == "engine")
    mounts = {m["name"]: m for m in engine["volumeMounts"]}
    return engine["args"], {e["name"]: e for e in engine["env"]}, mounts, {v["name"]: v for v in spec["volumes"]}


def of_secret(name: str, key: str) -> Json:
    return {"secretKeyRef": {"name": name, "key": key}}


def test_a_gated_repository_is_read_at_its_revision_with_the_token_of_the_secret() -> None:
    hub = {"repo": "meta-llama/Llama-3.1-8B-Instruct", "revision": "v2", "tokenSecretRef": {"name": "hf", "key": "t"}}
    args, env, mounts, volumes = built({"hf": hub})
    assert args[0] == "meta-llama/Llama-3.1-8B-Instruct"
    assert args[args.index("--revision") + 1] == "v2"
    assert env["HF_TOKEN"]["valueFrom"] == of_secret("hf", "t")
    assert env["HF_HOME"]["value"].startswith(mounts["cache"]["mountPath"]), "downloads go into the cache"
    assert "model" not in mounts
    assert "model" not in volumes


def test_an_open_repository_needs_no_token() -> None:
    _, env, _, _ = built({"hf": {"repo": "a/b"}})
    assert "HF_TOKEN" not in env


@pytest.mark.parametrize(("path", "model"), [("/llama/", "/models/llama"), ("a/b", "/models/a/b"), (None, "/models")])
def test_a_claim_is_mounted_for_reading_and_its_folder_loaded(path: str | None, model: str) -> None:
    claim = {"claimName": "weights"} | ({} if path is None else {"path": path})
    args, _, mounts, volumes = built({"pvc": claim})
    assert args[0] == model
    assert "--revision" not in args
    assert mounts["model"] == {"name": "model", "mountPath": "/models", "readOnly": True}
    assert volumes["model"]["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}


def test_a_folder_of_the_node_must_be_there_and_is_mounted_for_reading() -> None:
    args, _, mounts, volumes = built({"hostPath": {"path": "/srv/llama"}})
    assert args[0] == "/models"
    assert mounts["model"]["readOnly"] is True
    assert volumes["model"]["hostPath"] == {"path": "/srv/llama", "type": "Directory"}


def test_a_bucket_is_streamed_with_the_credentials_of_the_secret() -> None:
    bucket = {"uri": "s3://b/llama", "endpoint": "https://minio:9000", "credentialsSecretRef": {"name": "keys"}}
    args, env, mounts, _ = built({"s3": bucket})
    assert args[0] == "s3://b/llama"
    assert args[args.index("--load-format") + 1] == "runai_streamer"
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert env[key]["valueFrom"] == of_secret("keys", key)
    assert env["AWS_ENDPOINT_URL"]["value"] == "https://minio:9000"
    assert "model" not in mounts


def test_a_bucket_without_a_secret_is_read_as_the_pod_is() -> None:
    _, env, _, _ = built({"s3": {"uri": "s3://b/llama"}})
    assert not [name for name in env if name.startswith("AWS_")]
