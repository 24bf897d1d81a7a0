"""The model of an LLMDeployment, and where its weights come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from warmfleet_contracts.api.base import ApiModel, Rule, ShortText


class SecretKeyRef(ApiModel):
    """One key of a Secret in the deployment's namespace."""

    name: ShortText
    """Name of the Secret."""
    key: ShortText
    """Key inside the Secret."""


class SecretRef(ApiModel):
    """A Secret in the deployment's namespace."""

    name: ShortText
    """Name of the Secret."""


class HuggingFaceSource(ApiModel):
    """Weights from the Hugging Face hub."""

    repo: ShortText
    """Repository, such as meta-llama/Llama-3.1-8B-Instruct."""
    revision: ShortText = "main"
    """Branch, tag or commit."""
    token_secret_ref: SecretKeyRef | None = None
    """Token for gated repositories."""


class PvcSource(ApiModel):
    """Weights on a PersistentVolumeClaim."""

    claim_name: ShortText
    """Name of the claim."""
    path: Annotated[str, Field(max_length=1024)] = ""
    """Path of the model below the volume's root."""


class S3Source(ApiModel):
    """Weights in an S3-compatible object store."""

    uri: Annotated[str, Field(max_length=1024, pattern=r"^s3://.+")]
    """s3://bucket/prefix."""
    endpoint: Annotated[str, Field(max_length=1024)] | None = None
    """Endpoint URL of a store that is not AWS S3."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; unset: the pod's own identity."""


class HostPathSource(ApiModel):
    """Weights on the node's disk."""

    path: Annotated[str, Field(max_length=1024, pattern=r"^/")]
    """Absolute path on the node."""


class ModelSource(ApiModel):
    """Where the weights come from; exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.hf), has(self.pvc), has(self.s3), has(self.hostPath)].filter(x, x).size() == 1",
            "source: set exactly one of hf, pvc, s3 and hostPath",
            lambda s: sum(x is not None for x in (s.hf, s.pvc, s.s3, s.host_path)) == 1,
        ),
    )

    hf: HuggingFaceSource | None = None
    """Hugging Face hub."""
    pvc: PvcSource | None = None
    """PersistentVolumeClaim."""
    s3: S3Source | None = None
    """Object store."""
    host_path: HostPathSource | None = None
    """The node's disk."""


class Model(ApiModel):
    """The model that is served."""

    name: ShortText
    """Name under which the OpenAI endpoint serves the model."""
    source: ModelSource
    """Where the weights come from."""
    profile: Annotated[str, Field(max_length=63)] | None = None
    """Row of the performance model, such as llama-3.1-8b; unset: looked up by name. Without a row each variant needs
    a performance override."""
    max_model_len: Annotated[int, Field(ge=128, le=16_777_216)] | None = None
    """Longest context in tokens; unset: the model's own."""
    quantization: Literal["none", "fp8", "mxfp4", "awq", "gptq", "compressed-tensors"] = "none"
    """Weight quantization."""
