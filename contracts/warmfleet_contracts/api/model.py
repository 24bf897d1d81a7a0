"""The model of an LLMDeployment, and where its weights come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from warmfleet_contracts.api.base import ApiModel, Rule, ShortText

Word = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[^-]")]
"""Text that stands in the engine's command line by itself: without a dash in front, so that it is no flag."""


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

    repo: Word
    """Repository, such as meta-llama/Llama-3.1-8B-Instruct."""
    revision: Word = "main"
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


class NodeCache(ApiModel):
    """Where downloaded weights and compiled kernels outlive a worker; exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.hostPath) != has(self.claimName)",
            "cache: set exactly one of hostPath (a folder on each node) and claimName (a ReadWriteMany claim)",
            lambda s: (s.host_path is None) != (s.claim_name is None),
        ),
    )

    host_path: Annotated[str, Field(max_length=1024, pattern=r"^/")] | None = None
    """Absolute path of a folder on the node, made when it is missing; the engine's user must be able to write to it."""
    claim_name: ShortText | None = None
    """PersistentVolumeClaim (ReadWriteMany) in the deployment's namespace."""


class Model(ApiModel):
    """The model that is served."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.scheme) || (has(self.quantization) && (self.quantization == 'compressed-tensors' || "
            "(self.quantization == 'gptq' && self.scheme.endsWith('a16'))))",
            "model.scheme says how the weights of a compressed-tensors or (w4a16, w8a16) gptq checkpoint are "
            "quantized; set model.quantization to one of them or remove scheme",
            lambda s: (
                s.scheme is None
                or s.quantization == "compressed-tensors"
                or (s.quantization == "gptq" and s.scheme.endswith("a16"))
            ),
        ),
        Rule(
            "!has(self.sparsity) || (has(self.quantization) && self.quantization == 'compressed-tensors')",
            "model.sparsity is of compressed-tensors checkpoints; set model.quantization to compressed-tensors or "
            "remove sparsity",
            lambda s: s.sparsity is None or s.quantization == "compressed-tensors",
        ),
    )

    name: Word
    """Name under which the OpenAI endpoint serves the model."""
    source: ModelSource
    """Where the weights come from."""
    profile: Annotated[str, Field(max_length=63)] | None = None
    """Row of the performance model, such as llama-3.1-8b; unset: looked up by name. Without a row each variant needs
    a performance override."""
    max_model_len: Annotated[int, Field(ge=128, le=16_777_216)] | None = None
    """Longest context in tokens; unset: the model's own."""
    quantization: Literal["none", "fp8", "mxfp4", "awq", "gptq", "compressed-tensors"] = "none"
    """Weight quantization. fp8 quantizes a 16-bit checkpoint while it is loaded, or says that the checkpoint is fp8;
    the others are properties of the checkpoint, which the engine reads from its config."""
    scheme: Literal["w4a16", "w8a16", "w8a8-int8", "w8a8-fp8"] | None = None
    """Bits of weights and activations of a compressed-tensors or gptq checkpoint, for capacity and fit; unset: w4a16
    for gptq, unknown for compressed-tensors."""
    sparsity: Literal["2:4"] | None = None
    """Structured sparsity of a compressed-tensors checkpoint. Engines from vLLM 0.19 on cannot run it."""
    cache: NodeCache | None = None
    """Keeps downloaded weights and compiled kernels for the next worker; unset: they go with the pod."""
