"""A real Kubernetes control plane for tests: etcd, kube-apiserver, kube-scheduler, kube-controller-manager, kwok.

It lives in the network namespace of the test process, which `in_netns.py` makes, one per pytest run:

    python tests/controlplane/in_netns.py -- python -m pytest tests/controlplane

So the test process, kubectl, helm, an operator and stand-in pods all just use 127.0.0.1 and the pod addresses, and
`ControlPlane.run` is a plain subprocess with KUBECONFIG set. Within one namespace several control planes (the workers
of pytest-xdist) keep apart by their `slot`: other ports, another part of the pod network.

What it has: RBAC, all default admission plugins, every controller that is on by default, webhooks by URL or by Service
(the API server picks an endpoint itself). What it lacks: kubelets, DNS and service addresses that answer. Hence:

- A pod bound to a plain Node stays Pending until a test (or kwok, for its nodes) writes its status, and once deleted
  stays Terminating until somebody deletes it with grace period 0.
- The node life-cycle controller calls a Node without heartbeats unreachable 50 to 60 s after it was registered.
- The garbage collector looks for new resource types every 30 s. What an owner of a newer kind leaves behind goes late
  (41 s in a trial), so CRDs are best installed before the controllers start: `crds`.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from binaries import Binaries
from certificates import Authority, certificate_user, kubeconfig
from clients import kubectl_path
from daemons import Daemon, DaemonError, end_group
from flags import Addresses, apiserver_flags, controller_manager_flags, etcd_flags, kwok_flags, scheduler_flags
from in_netns import INSIDE

_POLL = 0.05
_READY_TIMEOUT = 60.0


class NotIsolatedError(RuntimeError):
    """The process is not in a namespace that `in_netns.py` made."""


def require_isolation() -> None:
    """Raises NotIsolatedError unless this process is where a control plane may start."""
    if INSIDE not in os.environ:
        raise NotIsolatedError(
            "the control plane needs network namespaces of its own; put "
            "`python tests/controlplane/in_netns.py --` before the command"
        )
    with contextlib.closing(socket.socket()) as probe:
        try:
            probe.bind((str(Addresses(0).test_pods[1]), 0))
        except OSError as error:
            raise NotIsolatedError(f"{INSIDE} is set, but the pod network is not there: {error}") from error


class ControlPlane:
    """The servers of one cluster; a context manager.

    Attributes:
        directory: Holds data, certificates, kubeconfigs and logs. Removed by `stop`.
        kubeconfig: File for an administrator (group ``system:masters``).
        url: Of the API server.
        version: Kubernetes version, such as ``v1.37.2``.
        pod_network: Addresses that tests may bind and give to pods.
    """

    def __init__(
        self,
        binaries: Binaries,
        *,
        slot: int = 0,
        extra_flags: Mapping[str, Sequence[str]] | None = None,
        crds: Path | None = None,
    ) -> None:
        """Prepares files only; `start` starts.

        Args:
            binaries: Where the programs are.
            slot: 0 to 15, one for each control plane in the same namespace.
            extra_flags: More flags per program, such as ``{"kube-apiserver": ["--v=4"]}``; the last one wins.
            crds: Folder of CustomResourceDefinitions to install before the controllers start, which then know the
                new types as owners from the beginning.
        """
        require_isolation()
        self.version = binaries.version
        self._addresses = Addresses(slot)
        self.url = self._addresses.url
        self.pod_network: ipaddress.IPv4Network = self._addresses.test_pods
        self.directory = Path(tempfile.mkdtemp(prefix="controlplane-", dir=os.environ[INSIDE]))
        self._binaries = binaries
        self._extra = dict(extra_flags or {})
        self._crds = crds
        self._authority = Authority(self.directory / "pki")
        self._commands: list[subprocess.Popen[bytes]] = []
        self._issued = 0
        (self.directory / "logs").mkdir()
        self.kubeconfig = self.kubeconfig_for(user="test-admin", groups=["system:masters"])
        self._context = self._client_context()
        self._daemons = {daemon.name: daemon for daemon in self._prepare_daemons()}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Life

    def start(self) -> None:
        """Starts all but kwok and waits until pods can be created, scheduled and controlled.

        Raises:
            DaemonError: One died or was not ready in time; with the tail of its log.
        """
        self._daemons["etcd"].start()
        self.start_apiserver()
        if self._crds is not None:
            self.install_crds(self._crds)
        for name, port in (
            ("kube-controller-manager", self._addresses.controller_manager_port),
            ("kube-scheduler", self._addresses.scheduler_port),
        ):
            self._daemons[name].start()
            self._await(name, lambda port=port: self._status(port, "/healthz") == http.client.OK)  # type: ignore[misc]
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._await("kube-controller-manager", lambda: self.status(account) == http.client.OK)

    def stop(self) -> None:
        """Ends every process, the commands of `popen` included, and removes the directory. May be called twice."""
        for command in self._commands:
            end_group(command, timeout=5.0, force=False)
        self._commands.clear()
        clients = [daemon for name, daemon in self._daemons.items() if name not in ("etcd", "kube-apiserver")]
        for daemon in clients:
            daemon.signal_stop()
        for daemon in clients:
            daemon.stop()
        # Nothing of theirs is worth a clean end, and an API server takes seconds to drain its watches.
        self._daemons["kube-apiserver"].stop(force=True)
        self._daemons["etcd"].stop(force=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def install_crds(self, folder: Path) -> None:
        """Applies the CustomResourceDefinitions of a folder and waits until they are served."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder))
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(folder))

    def stop_apiserver(self, *, force: bool = False) -> None:
        """Ends the API server, the other servers go on.

        Args:
            force: Whether it dies at once (SIGKILL) instead of finishing requests, which takes 1 to 2 seconds.
        """
        self._daemons["kube-apiserver"].stop(timeout=30.0, force=force)

    def start_apiserver(self) -> None:
        """Starts the API server where it is stopped and waits until it is ready."""
        self._daemons["kube-apiserver"].start()
        self._await("kube-apiserver", lambda: self.status("/readyz") == http.client.OK)

    def restart_apiserver(self, *, force: bool = False) -> None:
        """Stops and starts the API server; watches break, the data stay."""
        self.stop_apiserver(force=force)
        self.start_apiserver()

    def restart_etcd(self) -> None:
        """Kills etcd and starts it on the same data; the API server answers errors meanwhile, its watches break."""
        self._daemons["etcd"].stop(force=True)
        self._daemons["etcd"].start()
        self._await("kube-apiserver", lambda: self.status("/readyz") == http.client.OK)

    def start_kwok(self) -> None:
        """Starts kwok, which plays the kubelet of each Node with the annotation ``kwok.x-k8s.io/node: fake``."""
        self._daemons["kwok"].start()
        self._await("kwok", lambda: self._status(self._addresses.kwok_port, "/healthz", secure=False) == http.client.OK)

    # Users

    def kubeconfig_for(self, *, user: str, groups: Sequence[str] = ()) -> Path:
        """Makes a user by a client certificate, without any rights; returns the kubeconfig file."""
        name = self._next_name()
        return self._write_kubeconfig(name, certificate_user(*self._authority.client(name, user=user, groups=groups)))

    def kubeconfig_for_service_account(self, namespace: str, name: str, *, seconds: int = 3600) -> Path:
        """Requests a token for a ServiceAccount; returns the kubeconfig file.

        Args:
            namespace: Of the account.
            name: Of the account, which must exist.
            seconds: Life of the token, at least 600.
        """
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", f"--duration={seconds}s").strip()
        return self._write_kubeconfig(self._next_name(), {"token": token})

    def server_certificate(self, name: str, *, dns: Sequence[str], addresses: Sequence[str] = ()) -> tuple[Path, Path]:
        """Makes a certificate for a server of the test, such as a webhook; returns the files of it and of its key."""
        return self._authority.server(name, dns=dns, addresses=addresses)

    @property
    def ca_file(self) -> Path:
        """File of the CA certificate behind every certificate of this cluster."""
        return self._authority.certificate_file

    # Use

    def environment(self, *, kubeconfig: Path | None = None) -> dict[str, str]:
        """Returns the environment of a command: this process's and KUBECONFIG, by default the administrator's."""
        return {**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig)}

    def run(
        self, command: Sequence[str], *, kubeconfig: Path | None = None, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end with KUBECONFIG set and returns its output as text.

        Args:
            command: Program and arguments.
            kubeconfig: By default the administrator's.
            check: Whether a failure raises AssertionError, with all output.
            options: For `subprocess.run`; ``env`` is added to the environment.
        """
        environment = self.environment(kubeconfig=kubeconfig) | options.pop("env", {})
        options.setdefault("timeout", 60)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)
        if check and done.returncode:
            raise AssertionError(f"{list(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def popen(
        self, command: Sequence[str], *, kubeconfig: Path | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Starts a command with KUBECONFIG set, leading a process group that `stop` ends."""
        environment = self.environment(kubeconfig=kubeconfig) | options.pop("env", {})
        process: subprocess.Popen[bytes] = subprocess.Popen(command, env=environment, start_new_session=True, **options)
        self._commands.append(process)
        return process

    @property
    def kubectl_path(self) -> str:
        """A kubectl that fits the server."""
        return kubectl_path(self.version)

    def kubectl(self, *arguments: str, kubeconfig: Path | None = None, stdin: str | None = None) -> str:
        """Runs kubectl and returns its standard output; AssertionError when it fails."""
        return self.run([self.kubectl_path, *arguments], kubeconfig=kubeconfig, input=stdin).stdout

    def status(self, path: str) -> int | None:
        """Asks the API server as administrator; returns the HTTP status, None when there was no answer."""
        return self._status(self._addresses.apiserver_port, path)

    # Logs and processes

    def pids(self) -> dict[str, int]:
        """Returns the process ids of the servers that run, by program."""
        return {name: daemon.pid for name, daemon in self._daemons.items() if daemon.alive and daemon.pid is not None}

    def log_offsets(self) -> dict[str, int]:
        """Returns how long each log is now, in bytes; for `log_tails`."""
        return {name: daemon.log.stat().st_size for name, daemon in self._daemons.items() if daemon.log.exists()}

    def log_tails(self, since: Mapping[str, int] | None = None, *, lines: int = 25) -> Iterator[tuple[str, str]]:
        """Yields program and last log lines of each server that has written since then."""
        for name, daemon in self._daemons.items():
            tail = daemon.tail(lines, since=(since or {}).get(name, 0))
            if tail:
                yield name, tail

    def keep_logs(self) -> Path:
        """Copies the logs to a directory that outlives the run and returns it."""
        kept = Path(tempfile.mkdtemp(prefix="warmfleet-controlplane-logs-"))
        return Path(shutil.copytree(self.directory / "logs", kept, dirs_exist_ok=True))

    # Inside

    def _prepare_daemons(self) -> Iterator[Daemon]:
        serving = self._authority.server(
            "serving",
            dns=["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"],
            addresses=["127.0.0.1", self._addresses.advertised, self._addresses.service_address],
        )
        account_keys = self._authority.signing_key("service-accounts")
        manager = self.kubeconfig_for(user="system:kube-controller-manager")
        scheduler = self.kubeconfig_for(user="system:kube-scheduler")
        flags = {
            "etcd": etcd_flags(self._addresses, self.directory / "etcd"),
            "kube-apiserver": apiserver_flags(self._addresses, self._authority, serving, account_keys),
            "kube-controller-manager": controller_manager_flags(
                self._addresses, self._authority, serving, account_keys[1], manager
            ),
            "kube-scheduler": scheduler_flags(self._addresses, serving, scheduler, self.directory),
            "kwok": kwok_flags(self._addresses, self.kubeconfig),
        }
        for name, own in flags.items():
            command = [self._binaries.path(name), *own, *self._extra.get(name, ())]
            yield Daemon(name, command, self.directory / "logs" / f"{name}.log")

    def _client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._authority.certificate_file))
        context.load_cert_chain(*self._authority.client("probe", user="test-probe", groups=["system:masters"]))
        return context

    def _next_name(self) -> str:
        self._issued += 1
        return f"user-{self._issued}"

    def _write_kubeconfig(self, name: str, user: dict[str, str]) -> Path:
        path = self.directory / f"{name}.kubeconfig"
        return kubeconfig(path, server=self.url, authority=self._authority.certificate_file, user=user)

    def _status(self, port: int, path: str, *, secure: bool = True) -> int | None:
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=self._context)
            if secure
            else http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        )
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):  # not up yet, or gone
                return None

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT
        while not ready():
            for daemon in self._daemons.values():
                if daemon.pid is not None:
                    daemon.check()
            if time.monotonic() > deadline:
                tail = self._daemons[name].tail()
                raise DaemonError(f"{name} was not ready within {_READY_TIMEOUT:.0f} s:\n{tail}")
            time.sleep(_POLL)
