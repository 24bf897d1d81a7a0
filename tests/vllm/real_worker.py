"""A worker as its pod would be: a real vLLM and our agent beside it, with the flags and variables that the specs give.

What a kubelet would do is done here: expansion, mounts as folders, the order of preStop, SIGTERM and SIGKILL. Both
processes listen on 127.0.0.1 only and are ended by their process ids.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from environment import HERE, VllmEnvironment
from warmfleet_contracts import labels
from warmfleet_contracts.agent import AgentState, DrainRequest, Phase, Strategy
from warmfleet_contracts.api import InstanceTypeSpec
from warmfleet_localcluster.node.expand import expand, substitute_mounts
from warmfleet_operator.settings import Settings
from warmfleet_operator.specs.worker import WorkerTemplate, worker_pod
from warmfleet_operator.state import parse

REPOSITORY = HERE.parents[1]
START_TIMEOUT = 600.0
REQUEST_TIMEOUT = 60.0
BLOCK = 32
SHUTDOWN_SECONDS = 120
MODEL = "tiny"
KV_CACHE_BYTES = 128 * 2**20
BLOCK_BYTES = 2 * 2 * BLOCK * 4 * 64 * 4
"""Keys and values of two layers, four heads of 64, in float32."""
_SIZED = [
    # With float32 two tokens are hardly ever equally likely, so an answer does not depend on what it was batched with.
    *("--dtype", "float32", "--max-model-len", "2048", "--block-size", str(BLOCK), "--max-num-seqs", "8"),
    *("--max-num-batched-tokens", "2048", "--kv-cache-memory-bytes", str(KV_CACHE_BYTES), "--enforce-eager"),
]
_ERROR = re.compile(r"\b(ERROR|FATAL|Fatal|Caught signal|Signals\.SIG|Segmentation)\b")
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    # The model is tiny and the cores are shared: one thread that is not bound to a core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # A spinning lock whose holder waits for a core is held for a slice of the scheduler's, not for a microsecond.
    "UCX_USE_MT_MUTEX": "y",
}


def deployment(**kv_cache: Any) -> dict[str, Any]:
    """An LLMDeployment of the tiny model with an fs tier."""
    cache = {
        "tiers": [{"medium": "cpu", "size": "128Mi"}, {"medium": "fs", "size": "1Gi", "claimName": "kv"}],
        "handover": ["store"],
        "drainDeadline": "30s",
    }
    return {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "chat", "namespace": "default", "uid": "u-1", "generation": 1, "resourceVersion": "1"},
        "spec": {
            "model": {"name": MODEL, "source": {"hostPath": {"path": "/weights"}}},
            "engine": {"image": "vllm/vllm-openai:v0.32.0", "args": _SIZED},
            "variants": [{"name": "cpu", "instanceType": "cpu", "performance": {"requestsPerSecond": 1}}],
            "replicas": 1,
            "kvCache": {**cache, **kv_cache},
        },
    }


def pod(body: dict[str, Any]) -> dict[str, Any]:
    """The pod that the operator would make."""
    record = parse.deployment_from(body, None, 0.0)
    assert record is not None
    assert record.spec is not None, record.spec_error
    itype = InstanceTypeSpec.model_validate(
        {"accelerator": {"name": "H100-SXM", "count": 1}, "price": {"onDemand": 1.0}}
    )
    settings = Settings(
        engine_shutdown_seconds=SHUTDOWN_SECONDS,
        agent_command=(sys.executable, "-m", "warmfleet_worker"),
        agent_authentication=False,
    )
    return worker_pod(WorkerTemplate(record, record.spec, record.spec.variants[0], itype, settings), "chat-cpu-00000")


def free_port() -> int:
    """A port nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RealWorker:
    """One worker.

    Attributes:
        name: For file names.
        environment: The real engine.
        claim: Folder that stands for the shared volume.
        folder: Folder of its own.
        kv_cache: Changes to ``spec.kvCache``.
        gate: File with the number of write jobs that its storage may do; None: all.
        prewarm: Whether it loads the fleet's hot prompts first; without, it holds what the test has asked it.
    """

    name: str
    environment: VllmEnvironment
    claim: Path
    folder: Path
    kv_cache: dict[str, Any] = field(default_factory=dict)
    gate: Path | None = None
    prewarm: bool = True
    engine: subprocess.Popen[bytes] | None = None
    agent: subprocess.Popen[bytes] | None = None
    shared_memory: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.engine_port, self.agent_port = free_port(), free_port()
        self.folder.mkdir(parents=True)
        self.run = Path(f"/tmp/wf-{os.getpid()}-{self.engine_port}")  # short: the paths of sockets are bounded
        self.run.mkdir()
        self.pod = pod(deployment(**self.kv_cache))

    # -- starting ------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start both, the agent first, as a native sidecar is."""
        self.agent = self._spawn(self._container("agent"), "agent")
        self.engine = self._spawn(self._container("engine"), "engine")
        return self

    def wait_ready(self) -> Self:
        """Wait until the agent says that the pod is ready."""
        self.until(lambda: self.readyz() == 200, START_TIMEOUT, "the worker is not ready")
        for process in self._processes():
            self.shared_memory |= _mapped_regions(process)
        return self

    def _container(self, name: str) -> dict[str, Any]:
        spec = self.pod["spec"]
        return next(c for c in [*spec["containers"], *spec["initContainers"]] if c["name"] == name)

    def _mounts(self, container: dict[str, Any]) -> list[tuple[str, Path]]:
        real = {"model": self.environment.model, "kv": self.claim, "run": self.run}
        found = []
        for mount in container.get("volumeMounts", ()):
            place = real.get(mount["name"], self.folder / mount["name"])
            place.mkdir(parents=True, exist_ok=True)
            if mount["mountPath"] != "/dev/shm":
                found.append((mount["mountPath"], place))
        return found

    def _spawn(self, container: dict[str, Any], name: str) -> subprocess.Popen[bytes]:
        fields = {"status.podIP": "127.0.0.1", "metadata.uid": f"uid-{self.name}"}
        mounts = self._mounts(container)
        env: dict[str, str] = {}
        for entry in container["env"]:
            text = entry.get("value") or fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            env[entry["name"]] = substitute_mounts(expand(text, env), mounts)
        words = [*container["command"], *container.get("args", ())]
        words = [substitute_mounts(expand(word, env), mounts) for word in words]
        if name == "engine":
            words, more = self._real(words)
        else:
            more = {
                "WARMFLEET_AGENT_PORT": str(self.agent_port),
                "WARMFLEET_ENGINE_URL": f"http://127.0.0.1:{self.engine_port}",
                "PYTHONPATH": os.pathsep.join(str(REPOSITORY / p) for p in ("contracts", "runtime", "worker")),
            }
            if not self.prewarm:
                more["WARMFLEET_PREWARM_SECONDS"] = "0"
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                words,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | env | more,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )

    def _real(self, words: list[str]) -> tuple[list[str], dict[str, str]]:
        """What differs from a pod with an accelerator: the port, copies within the host, the gate to the storage."""
        assert words[:2] == ["vllm", "serve"]
        words = [str(self.environment.python), "-m", "vllm.entrypoints.cli.main", *words[1:]]
        words[words.index("--port") + 1] = str(self.engine_port)
        if "--kv-transfer-config" in words:
            place = words.index("--kv-transfer-config") + 1
            config = json.loads(words[place])
            for connector in config["kv_connector_extra_config"].get("connectors", [config]):
                self._on_the_host(connector)
            words[place] = json.dumps(config)
        python_path = os.pathsep.join(str(p) for p in (REPOSITORY / "worker", HERE / "engine_side"))
        side_channel = {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port()), "UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"}
        return words, {**_QUIET, **side_channel, "PYTHONPATH": python_path}

    def _on_the_host(self, connector: dict[str, Any]) -> None:
        extra = connector["kv_connector_extra_config"]
        if connector["kv_connector"] == "NixlConnector":
            extra["num_threads"] = 0  # more threads than cores make nothing faster
            return
        assert extra["spec_name"] == "TieringOffloadingSpec"
        extra |= {"spec_name": "HostTieringSpec", "spec_module_path": "warmfleet_worker.engines.host_offload"}
        if self.gate is not None:
            (tier,) = extra["secondary_tiers"]
            tier |= {"type": "GatedTier", "module_path": "gated_tier", "gate": str(self.gate)}

    # -- talking -------------------------------------------------------------------------------------------------

    def complete(self, prompt: str, max_tokens: int = 8) -> str:
        """The text the engine generates at temperature 0."""
        with self.post(prompt, max_tokens, stream=False) as answer:
            return str(json.load(answer)["choices"][0]["text"])

    def post(self, prompt: str, max_tokens: int, *, stream: bool) -> http.client.HTTPResponse:
        """Send a completion request."""
        body = {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.engine_port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        found: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT)
        return found

    def readyz(self) -> int:
        """Status of the pod's readiness; 0 while the agent does not listen."""
        return self._status(f"http://127.0.0.1:{self.agent_port}/readyz")

    def health(self) -> int:
        """Status of the engine's health check; 0 while it does not listen."""
        return self._status(f"http://127.0.0.1:{self.engine_port}/health")

    @staticmethod
    def _status(url: str) -> int:
        try:
            with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def state(self) -> AgentState:
        """What the agent says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.agent_port}/v1/state", timeout=REQUEST_TIMEOUT) as answer:
            return AgentState.model_validate_json(answer.read())

    def metrics(self) -> str:
        """The engine's exposition."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.engine_port}/metrics", timeout=REQUEST_TIMEOUT) as answer:
            return str(answer.read().decode())

    @property
    def url(self) -> str:
        """Where the engine takes requests."""
        return f"http://127.0.0.1:{self.engine_port}"

    def drain(self, deadline: float, *strategies: Strategy, endpoint: str = "") -> None:
        """What the operator does when it has chosen this worker; ``endpoint`` is where survivors take prompts."""
        wanted = DrainRequest(
            reason="ScaleDown",
            deadline_seconds=deadline,
            strategies=strategies or (Strategy.STORE,),
            endpoint=endpoint,
        )
        urllib.request.urlopen(
            urllib.request.Request(
                f"http://127.0.0.1:{self.agent_port}/v1/drain", wanted.model_dump_json(by_alias=True).encode()
            ),
            timeout=REQUEST_TIMEOUT,
        ).close()

    def wait_drained(self, seconds: float) -> AgentState:
        """Wait for phase Drained."""
        self.until(lambda: self.state().phase is Phase.DRAINED, seconds, "the worker is not drained")
        return self.state()

    # -- ending --------------------------------------------------------------------------------------------------

    def terminate(self, grace: float | None = None) -> int:
        """What the kubelet does with the pod: preStop, SIGTERM, and SIGKILL at the end of the grace period.

        Returns:
            The engine's exit code.
        """
        assert self.engine is not None
        end = time.monotonic() + (grace or self.pod["spec"]["terminationGracePeriodSeconds"])
        hook = (
            f"http://127.0.0.1:{self.agent_port}{self._container('engine')['lifecycle']['preStop']['httpGet']['path']}"
        )
        with contextlib.suppress(OSError):
            urllib.request.urlopen(hook, timeout=max(0.1, end - time.monotonic())).close()
        self.engine.send_signal(signal.SIGTERM)
        try:
            return self.engine.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            return self.engine.wait(10)

    def kill(self) -> None:
        """End the engine at once, all of its processes."""
        if self.engine is not None:
            _kill_group(self.engine)

    def stop(self) -> None:
        """End whatever is left and remove what a killed engine leaves behind."""
        self.kill()
        if self.agent is not None:
            _kill_group(self.agent)
        for path in self.shared_memory:
            Path(path).unlink(missing_ok=True)
        shutil.rmtree(self.run, ignore_errors=True)

    def _processes(self) -> Iterator[int]:
        """The engine's processes: those of its session."""
        assert self.engine is not None
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.getsid(int(place.name)) == self.engine.pid:
                        yield int(place.name)

    def until(self, true: Callable[[], bool], seconds: float, problem: str) -> None:
        """Wait; fails with the logs' ends."""
        end = time.monotonic() + seconds
        while not true():
            dead = self.engine is not None and self.engine.poll() is not None and "ready" in problem
            if dead or time.monotonic() >= end:
                raise AssertionError(f"{problem} after {seconds:g} s{self.logs()}")
            time.sleep(0.1)

    def logs(self) -> str:
        """The ends of both logs, and before them what the processes behind the engine's server called errors."""
        found = ""
        for name in ("agent", "engine"):
            path = self.folder / f"{name}.log"
            if path.exists():
                text = path.read_text(errors="replace")
                errors = "\n".join(line for line in text.splitlines() if _ERROR.search(line))
                found += f"\n--- {self.name} {name}\n{errors[:6000]}\n[...]\n{text[-3000:]}"
        return found


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process we started and to its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _mapped_regions(pid: int) -> set[str]:
    """Shared memory of the host tier that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {line.split()[-1] for line in lines if "/dev/shm/vllm_offload_" in line and line.endswith(".mmap")}


def blocks_on_disk(claim: Path) -> int:
    """Blocks in the shared folder."""
    return sum(1 for _ in claim.rglob("*.bin"))


__all__ = ["BLOCK", "RealWorker", "blocks_on_disk", "labels"]
