"""What is built: valid Kubernetes objects with the properties that a clean departure depends on."""

from __future__ import annotations

import copy
import json
from typing import Any

import kubernetes_validate
import pytest
from fleet import instance_type, llm_deployment
from warmfleet_contracts import labels
from warmfleet_contracts.api import InstanceTypeSpec
from warmfleet_operator.settings import Settings
from warmfleet_operator.specs import engine, kv
from warmfleet_operator.specs.disruption import disruption_budget
from warmfleet_operator.specs.overlay import merge
from warmfleet_operator.specs.routing import routing_children
from warmfleet_operator.specs.worker import WorkerTemplate, scale_quantity, worker_name, worker_pod
from warmfleet_operator.state import parse
from warmfleet_operator.state.records import DeploymentRecord


def record(**spec: Any) -> DeploymentRecord:
    body = llm_deployment(replicas=1, **spec)
    body["metadata"] |= {"uid": "u-1", "generation": 1, "resourceVersion": "5"}
    found = parse.deployment_from(body, None, 0.0)
    assert found is not None
    assert found.spec is not None, found.spec_error
    return found


def template(settings: Settings | None = None, **spec: Any) -> WorkerTemplate:
    found = record(**spec)
    assert found.spec is not None
    itype = InstanceTypeSpec.model_validate(instance_type()["spec"])
    return WorkerTemplate(found, found.spec, found.spec.variants[0], itype, settings or Settings())


def pod(settings: Settings | None = None, **spec: Any) -> dict[str, Any]:
    return worker_pod(template(settings, **spec), "chat-h100-00000")


def container(built: dict[str, Any], name: str) -> dict[str, Any]:
    spec = built["spec"]
    return next(c for c in [*spec["containers"], *spec["initContainers"]] if c["name"] == name)


SOURCES = {
    "hf": {"hf": {"repo": "a/b", "tokenSecretRef": {"name": "hf", "key": "token"}}},
    "pvc": {"pvc": {"claimName": "weights", "path": "/llama"}},
    "s3": {"s3": {"uri": "s3://b/p", "endpoint": "http://minio", "credentialsSecretRef": {"name": "s3"}}},
    "hostPath": {"hostPath": {"path": "/weights"}},
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_built_object_is_valid_kubernetes(source: str) -> None:
    found = record(model={"name": "m", "source": SOURCES[source]}, priorityClassName="high")
    assert found.spec is not None
    built = [pod(model={"name": "m", "source": SOURCES[source]}), disruption_budget(found, 3)]
    built += routing_children(found, found.spec, Settings())
    for body in built:
        assert body is not None
        kubernetes_validate.validate(body, "1.34", strict=True)


def test_the_engine_gets_the_flags_of_the_spec() -> None:
    built = pod(
        model={
            "name": "llama",
            "source": SOURCES["hf"],
            "maxModelLen": 8192,
            "quantization": "fp8",
        },
        kvCache={"dtype": "fp8"},
        variants=[{"name": "h", "instanceType": "h100", "tensorParallel": 4, "performance": {"requestsPerSecond": 1}}],
        engine={"image": "v", "args": ["--max-num-seqs", "8"]},
    )
    args = container(built, "engine")["args"]
    text = " ".join(args)
    for flag in (
        "a/b --served-model-name llama",
        "--port 8000",
        "--max-model-len 8192",
        "--tensor-parallel-size 4",
        "--kv-cache-dtype fp8",
        "--quantization fp8",
        "--shutdown-timeout 30",
    ):
        assert flag in text
    assert args[-4:-2] == ["--max-num-seqs", "8"]
    resources = container(built, "engine")["resources"]
    assert resources["limits"] == {"nvidia.com/gpu": "4"}
    assert resources["requests"] == {"nvidia.com/gpu": "4", "cpu": "16", "memory": "128Gi"}


def test_fields_become_flags_and_what_is_unset_does_not() -> None:
    fields = {
        "prefixCaching": False,
        "chunkedPrefill": True,
        "maxNumSeqs": 64,
        "maxNumBatchedTokens": 4096,
        "maxQueuedRequests": 100,
        "maxQueuedTokens": 9000,
        "schedulingPolicy": "priority",
    }
    text = " ".join(container(pod(engine={"image": "v", **fields}), "engine")["args"])
    assert (
        "--no-enable-prefix-caching --enable-chunked-prefill --max-num-seqs 64 --max-num-batched-tokens 4096 "
        "--max-num-queued-reqs 100 --max-num-queued-tokens 9000 --scheduling-policy priority" in text
    )
    plain = container(pod(), "engine")["args"]
    assert not any(flag in plain for flag in engine.ENGINE_FLAGS.values())


@pytest.mark.parametrize("kind", ["awq", "gptq", "compressed-tensors", "mxfp4"])
def test_the_engine_reads_a_checkpoint_s_quantization_itself(kind: str) -> None:
    built = pod(model={"name": "m", "source": SOURCES["hf"], "quantization": kind})
    assert "--quantization" not in container(built, "engine")["args"]


def test_workers_are_placed_by_topology_labels() -> None:
    placement = {
        "nodeLabels": {"example.com/linked": "yes"},
        "packBy": "example.com/rack",
        "spreadBy": "example.com/row",
    }
    kind = {"name": "h", "instanceType": "h100", "performance": {"requestsPerSecond": 1}}
    built = pod(variants=[{**kind, "placement": placement}])
    kubernetes_validate.validate(built, "1.34", strict=True)
    plain = pod(variants=[kind])
    assert built["spec"]["nodeSelector"] == {**plain["spec"].get("nodeSelector", {}), "example.com/linked": "yes"}
    (near,) = built["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert near["podAffinityTerm"]["topologyKey"] == "example.com/rack"
    assert built["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "example.com/row"
    assert built["metadata"]["labels"][labels.REVISION] != plain["metadata"]["labels"][labels.REVISION]
    assert "affinity" not in plain["spec"]


@pytest.mark.parametrize(
    ("cache", "source"),
    [
        ({"hostPath": "/var/models"}, {"hostPath": {"path": "/var/models", "type": "DirectoryOrCreate"}}),
        ({"claimName": "models"}, {"persistentVolumeClaim": {"claimName": "models"}}),
    ],
)
def test_a_cache_outlives_the_pod(cache: dict[str, str], source: dict[str, Any]) -> None:
    built = pod(model={"name": "m", "source": SOURCES["hf"], "cache": cache})
    kubernetes_validate.validate(built, "1.34", strict=True)
    volume = next(v for v in built["spec"]["volumes"] if v["name"] == "cache")
    assert volume == {"name": "cache", **source}


@pytest.mark.parametrize(
    ("mode", "version", "told"),
    [("router", None, True), ("router", "0.32.1", True), ("router", "0.31.0", False), ("service", None, False)],
)
def test_engines_behind_a_router_tell_it_the_token_ids(mode: str, version: str | None, *, told: bool) -> None:
    chosen = {} if version is None else {"version": version}
    args = container(pod(routing={"mode": mode}, engine={"image": "v", **chosen}), "engine")["args"]
    assert ("--enable-scale-out" in args) is told


def test_a_shutdown_timeout_of_zero_is_refused() -> None:
    found = record()
    assert found.spec is not None
    with pytest.raises(ValueError, match="--shutdown-timeout"):
        engine.arguments(found.spec, found.spec.variants[0], shutdown_seconds=0)


def test_a_user_cannot_set_the_shutdown_timeout() -> None:
    args = container(pod(engine={"image": "v", "args": ["--shutdown_timeout=0", "--shutdown-timeout", "0"]}), "engine")
    assert args["args"][-2:] == ["--shutdown-timeout", "30"]


TIERS = [{"medium": "cpu", "size": "8Gi"}, {"medium": "fs", "size": "2Ti", "claimName": "shared"}]


def flag(built: dict[str, Any], name: str) -> Any:
    args = container(built, "engine")["args"]
    return json.loads(args[args.index(name) + 1])


def variables(built: dict[str, Any], name: str) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container(built, name)["env"]}


def test_a_replay_needs_events_and_an_endpoint_and_no_connector() -> None:
    built = pod(kvCache={"handover": ["replay"]})
    kubernetes_validate.validate(built, "1.34", strict=True)
    agent = variables(built, "agent")
    assert agent["WARMFLEET_HANDOVER"] == "replay"
    assert agent["WARMFLEET_ENDPOINT"] == "http://chat.prod.svc:8080"
    assert flag(built, "--kv-events-config")["endpoint"] == agent["WARMFLEET_KV_EVENTS"]
    assert "--kv-transfer-config" not in container(built, "engine")["args"]
    assert "WARMFLEET_HANDOVER_BYTES" not in agent
    bounded = variables(pod(kvCache={"handover": ["replay"], "handoverBudget": "50Gi"}), "agent")
    assert bounded["WARMFLEET_HANDOVER_BYTES"] == str(50 * 2**30)
    assert float(bounded["WARMFLEET_KV_BYTES_PER_TOKEN"]) > 0, "a budget in bytes needs the size of a token"
    without = variables(pod(kvCache={"handover": ["replay"]}, routing={"mode": "none"}), "agent")
    assert without["WARMFLEET_ENDPOINT"] == ""


def test_tiers_become_a_connector_and_the_agent_sees_the_same_folder() -> None:
    built = pod(kvCache={"tiers": TIERS, "handover": ["auto"]})
    kubernetes_validate.validate(built, "1.34", strict=True)
    extra = flag(built, "--kv-transfer-config")["kv_connector_extra_config"]
    assert extra["cpu_bytes_to_use"] == 8 * 2**30
    assert extra["offload_prompt_only"] is False
    (tier,) = extra["secondary_tiers"]
    agent = variables(built, "agent")
    assert tier["root_dir"] == agent["WARMFLEET_KV_STORE"] == "/kv/chat"
    assert agent["WARMFLEET_HANDOVER"] == "store"
    assert agent["WARMFLEET_KV_STORE_BYTES"] == str(2 * 2**40)
    events = flag(built, "--kv-events-config")
    assert events["endpoint"] == agent["WARMFLEET_KV_EVENTS"]
    assert events["replay_endpoint"] == agent["WARMFLEET_KV_REPLAY"]
    assert variables(built, "engine")["VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES"] == "0"
    volumes = {v["name"]: v for v in built["spec"]["volumes"]}
    assert volumes["kv"]["persistentVolumeClaim"]["claimName"] == "shared"
    for name in ("engine", "agent"):
        one = container(built, name)
        assert {"run", "kv"} <= {m["name"] for m in one["volumeMounts"]}
        assert (one["securityContext"]["runAsUser"], one["securityContext"]["runAsGroup"]) == (1000, 1000)
    mounts = {m["name"]: m["mountPath"] for m in container(built, "agent")["volumeMounts"]}
    assert mounts["shm"] == agent["WARMFLEET_ENGINE_SHM"]


def test_survivors_may_pull_where_workers_migrate() -> None:
    built = pod(kvCache={"handover": ["migrate"]})
    kubernetes_validate.validate(built, "1.34", strict=True)
    connector = flag(built, "--kv-transfer-config")
    assert connector["kv_connector"] == "NixlConnector"
    assert connector["kv_connector_extra_config"]["kv_lease_duration"] < Settings().engine_shutdown_seconds
    assert variables(built, "engine")["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "$(WARMFLEET_POD_IP)"
    agent = variables(built, "agent")
    assert agent["WARMFLEET_HANDOVER"] == "migrate"
    assert agent["WARMFLEET_ENDPOINT"] == "http://chat.prod.svc:8080"
    assert float(agent["WARMFLEET_LINK_BYTES_PER_SECOND"]) == pytest.approx(25e9 / 8 * 0.9)


def test_an_engine_that_stores_and_migrates_has_both_connectors_nixl_first() -> None:
    built = pod(kvCache={"tiers": TIERS, "handover": ["auto", "migrate", "replay"]})
    kubernetes_validate.validate(built, "1.34", strict=True)
    connector = flag(built, "--kv-transfer-config")
    assert connector["kv_connector"] == "MultiConnector"
    inner = connector["kv_connector_extra_config"]["connectors"]
    assert [c["kv_connector"] for c in inner] == ["NixlConnector", "OffloadingConnector"]
    agent = variables(built, "agent")
    assert agent["WARMFLEET_HANDOVER"] == "auto,store,migrate,replay"
    assert float(agent["WARMFLEET_KV_BYTES_PER_TOKEN"]) == 131_072
    assert 20_000 < float(agent["WARMFLEET_PREFILL_TOKENS_PER_SECOND"]) < 60_000


@pytest.mark.parametrize(
    ("handover", "tiers", "expected"),
    [
        (["auto"], TIERS, ("store",)),
        (["auto"], [], ("none",)),
        (["auto", "none"], [], ("none",)),
        (["auto", "replay"], [], ("replay",)),
        (["auto", "replay"], TIERS, ("auto", "store", "replay")),
        (["replay", "auto"], TIERS, ("replay", "store")),
        (["store", "auto", "migrate", "replay"], TIERS, ("store", "auto", "migrate", "replay")),
    ],
)
def test_auto_stands_for_what_there_are_means_for(handover, tiers, expected) -> None:
    found = record(kvCache={"tiers": tiers, "handover": handover})
    assert found.spec is not None, found.spec_error
    assert kv.resolve(found.spec) == expected


def test_host_memory_alone_keeps_blocks_but_hands_none_over() -> None:
    built = pod(kvCache={"tiers": TIERS[:1], "handover": ["auto"]})
    kubernetes_validate.validate(built, "1.34", strict=True)
    assert flag(built, "--kv-transfer-config")["kv_connector_extra_config"]["spec_name"] == "CPUOffloadingSpec"
    assert variables(built, "agent")["WARMFLEET_HANDOVER"] == "none"
    assert "--kv-events-config" not in container(built, "engine")["args"]


def test_without_tiers_the_engine_is_left_alone() -> None:
    built = pod()
    assert not {"--kv-transfer-config", "--kv-events-config"} & set(container(built, "engine")["args"])
    assert {v["name"] for v in built["spec"]["volumes"]} >= {"shm", "cache"}


def test_readiness_is_the_agents_and_the_engines_prestop_asks_it_to_drain() -> None:
    built = pod()
    agent, vllm = container(built, "agent"), container(built, "engine")
    assert agent in built["spec"]["initContainers"]
    assert agent["restartPolicy"] == "Always"
    probe = agent["readinessProbe"]
    assert (probe["httpGet"]["path"], probe["periodSeconds"], probe["failureThreshold"]) == ("/readyz", 1, 1)
    assert "readinessProbe" not in vllm
    assert vllm["lifecycle"]["preStop"]["httpGet"] == {"path": "/v1/prestop", "port": labels.AGENT_PORT}
    assert built["spec"]["terminationGracePeriodSeconds"] > 60 + 30


def test_a_new_worker_is_routed_and_protected_from_consolidation() -> None:
    meta = pod()["metadata"]
    assert meta["labels"][labels.ROUTE] == "true"
    assert meta["annotations"][labels.KARPENTER_DO_NOT_DISRUPT] == "true"
    assert meta["ownerReferences"][0]["controller"] is True


def _label(found: WorkerTemplate) -> str:
    return str(worker_pod(found, "x")["metadata"]["labels"][labels.REVISION])


def test_the_revision_ignores_the_operators_images_but_not_the_users() -> None:
    other = Settings(agent_image="agent:2", router_image="router:2", engine_shutdown_seconds=60)
    assert _label(template()) == _label(template(other))
    assert _label(template()) != _label(template(engine={"image": "vllm:2"}))
    assert _label(template()) != _label(template(engine={"image": "vllm:2", "podTemplate": {"spec": {"a": 1}}}))


def test_the_revision_is_a_matter_of_what_runs_in_the_pod_not_of_how_the_operator_steers() -> None:
    steering = [
        {"slo": {"ttft": "9s"}},
        {"kvCache": {"drainDeadline": "9s", "handoverBudget": "9Gi", "minRetainedHitRatio": 0.5}},
        {"rollout": {"maxSurge": 3}},
        {"routing": {"mode": "none"}},
    ]
    assert {_label(template(**changes)) for changes in steering} == {_label(template())}
    running = [{"kvCache": {"dtype": "fp8"}}, {"priorityClassName": "high"}]
    assert len({_label(template(**changes)) for changes in [*running, {}]}) == 3


@pytest.mark.parametrize(
    ("args", "timeout"),
    [
        (["m", "--shutdown-timeout", "0"], "30"),
        (["m", "--shutdown_timeout=90", "--shutdown-timeout=0"], "30"),
        (["m", "--shutdown-timeout"], "30"),
        (["m"], "30"),
        (["m", "--shutdown-timeout", "0", "--shutdown_timeout", "90"], None),
    ],
)
def test_a_pod_template_cannot_make_a_worker_lose_its_streams(args: list[str], timeout: str | None) -> None:
    env = [{"name": "VLLM_SERVER_DEV_MODE", "value": "1"}, {"name": "X", "value": "1"}]
    overlay = {
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "engine", "args": args, "env": env}]},
    }
    built = pod(engine={"image": "v", "podTemplate": overlay})
    plain = pod(engine={"image": "v"})
    assert built["spec"]["terminationGracePeriodSeconds"] == plain["spec"]["terminationGracePeriodSeconds"] > 90
    engine_container = container(built, "engine")
    assert engine_container["args"] == args + (["--shutdown-timeout", timeout] if timeout else [])
    names = {e["name"] for e in engine_container["env"]}
    assert "X" in names
    assert "VLLM_SERVER_DEV_MODE" not in names
    longer = pod(engine={"image": "v", "podTemplate": {"spec": {"terminationGracePeriodSeconds": 5000}}})
    assert longer["spec"]["terminationGracePeriodSeconds"] == 5000


def test_names_are_deterministic_short_and_distinct() -> None:
    found = record()
    names = [worker_name(found, "v" * 63, i) for i in range(200)]
    assert len(set(names)) == 200
    assert all(len(n) <= 63 for n in names)
    assert worker_name(found, "a", 1) == worker_name(found, "a", 1)


def test_the_pod_template_merges_by_name_and_cannot_steal_labels() -> None:
    overlay = {
        "metadata": {"labels": {"team": "x", labels.DEPLOYMENT: "other"}, "annotations": {"a": "b"}, "name": "evil"},
        "spec": {
            "containers": [{"name": "engine", "env": [{"name": "X", "value": "1"}]}, {"name": "extra", "image": "e"}],
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "volumes": [{"name": "shm", "$patch": "delete"}],
            "priorityClassName": "p",
        },
    }
    built = pod(engine={"image": "v", "podTemplate": overlay})
    assert built["metadata"]["name"] == "chat-h100-00000"
    assert built["metadata"]["labels"][labels.DEPLOYMENT] == "chat"
    assert built["metadata"]["labels"]["team"] == "x"
    assert container(built, "engine")["image"] == "v"
    assert {"name": "X", "value": "1"} in container(built, "engine")["env"]
    assert container(built, "extra")["image"] == "e"
    assert len(built["spec"]["tolerations"]) == 2
    assert "shm" not in {v["name"] for v in built["spec"]["volumes"]}


def test_merging_changes_neither_side() -> None:
    base, overlay = {"a": {"b": 1, "c": 2}, "l": [1]}, {"a": {"b": None, "d": {"x": None}}, "l": [2]}
    before = copy.deepcopy((base, overlay))
    assert merge(base, overlay) == {"a": {"c": 2, "d": {}}, "l": [2]}
    assert (base, overlay) == before


@pytest.mark.parametrize(
    ("quantity", "factor", "result"), [("500m", 3, "1500m"), ("1.5", 3, "4.5"), ("24Gi", 2, "48Gi"), ("4", 8, "32")]
)
def test_quantities_scale(quantity: str, factor: int, result: str) -> None:
    assert scale_quantity(quantity, factor) == result
