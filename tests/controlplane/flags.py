"""The flags and addresses of the servers."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from certificates import Authority
from in_netns import POD_NETWORK

KWOK_STAGES = Path(__file__).resolve().with_name("kwok-stages.yaml")
_SLOTS = 16
_PORTS_PER_SLOT = 100


@dataclass(frozen=True, slots=True)
class Addresses:
    """Who listens where: the customary ports for slot 0, and per slot a /20 of the pod network.

    Of the /20, the lower half is for tests (its first address is the API server's), the upper half for kwok's pods.

    Attributes:
        slot: 0 to 15.
    """

    slot: int

    def __post_init__(self) -> None:
        if not 0 <= self.slot < _SLOTS:
            raise ValueError(f"slot is {self.slot}; one namespace has room for slots 0 to {_SLOTS - 1}")

    def _port(self, base: int) -> int:
        return base + self.slot * _PORTS_PER_SLOT

    @property
    def etcd_port(self) -> int:
        """For clients of etcd."""
        return self._port(2379)

    @property
    def etcd_peer_port(self) -> int:
        """For other members of etcd; there are none."""
        return self._port(2380)

    @property
    def apiserver_port(self) -> int:
        """Of the API server."""
        return self._port(6443)

    @property
    def controller_manager_port(self) -> int:
        """Of the controller manager's health."""
        return self._port(10257)

    @property
    def scheduler_port(self) -> int:
        """Of the scheduler's health."""
        return self._port(10259)

    @property
    def kwok_port(self) -> int:
        """Of kwok's health, without TLS."""
        return self._port(10247)

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://127.0.0.1:{self.apiserver_port}"

    @property
    def test_pods(self) -> ipaddress.IPv4Network:
        """Pod addresses for tests."""
        return self._halves()[0]

    @property
    def kwok_pods(self) -> ipaddress.IPv4Network:
        """Pod addresses that kwok gives out."""
        return self._halves()[1]

    @property
    def advertised(self) -> str:
        """Endpoint of the Service ``kubernetes``, which may not be loopback."""
        return str(self.test_pods[1])

    @property
    def service_address(self) -> str:
        """Cluster address of the Service ``kubernetes``; nothing answers there."""
        return str(self.services[1])

    @property
    def services(self) -> ipaddress.IPv4Network:
        """Cluster addresses of services."""
        return ipaddress.IPv4Network("10.96.0.0/16")

    def _halves(self) -> list[ipaddress.IPv4Network]:
        mine = list(ipaddress.IPv4Network(POD_NETWORK).subnets(new_prefix=20))[self.slot]
        return list(mine.subnets(new_prefix=21))


def etcd_flags(addresses: Addresses, data: Path) -> list[str]:
    """Flags of etcd: one member, which need not survive a power cut and elects itself at once."""
    client = f"http://127.0.0.1:{addresses.etcd_port}"
    peer = f"http://127.0.0.1:{addresses.etcd_peer_port}"
    return [
        "--name=test",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=test={peer}",
        "--unsafe-no-fsync",
        "--heartbeat-interval=10",
        "--election-timeout=50",
        "--log-level=warn",
    ]


def apiserver_flags(
    addresses: Addresses, authority: Authority, serving: tuple[Path, Path], account_keys: tuple[Path, Path]
) -> list[str]:
    """Flags of kube-apiserver: RBAC on, default admission, webhooks by URL or by the endpoints of a Service."""
    return [
        f"--etcd-servers=http://127.0.0.1:{addresses.etcd_port}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={addresses.advertised}",
        f"--secure-port={addresses.apiserver_port}",
        *_serving_flags(serving),
        f"--client-ca-file={authority.certificate_file}",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={addresses.services}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={account_keys[0]}",
        f"--service-account-signing-key-file={account_keys[1]}",
        "--enable-aggregator-routing=true",  # there is no kube-proxy behind a Service's address
        "--shutdown-watch-termination-grace-period=1s",  # else open watches hold up a clean end for a minute
        "--allow-privileged=true",
        "--profiling=false",
    ]


def controller_manager_flags(
    addresses: Addresses, authority: Authority, serving: tuple[Path, Path], account_key: Path, kubeconfig: Path
) -> list[str]:
    """Flags of kube-controller-manager: all default controllers, each with its own rights, hardly throttled."""
    return [
        *_client_flags(kubeconfig),
        *_serving_flags(serving),
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.controller_manager_port}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--root-ca-file={authority.certificate_file}",
        f"--service-account-private-key-file={account_key}",
        f"--cluster-signing-cert-file={authority.certificate_file}",
        f"--cluster-signing-key-file={authority.key_file}",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--profiling=false",
    ]


def scheduler_flags(addresses: Addresses, serving: tuple[Path, Path], kubeconfig: Path, directory: Path) -> list[str]:
    """Flags of kube-scheduler, whose limits and leases are in a configuration file that this writes."""
    configuration = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 500, "burst": 1000},
        "leaderElection": {"leaderElect": False},
        "enableProfiling": False,
    }
    file = directory / "scheduler.json"
    file.write_text(json.dumps(configuration))
    return [
        f"--config={file}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--authentication-tolerate-lookup-failure=true",
        *_serving_flags(serving),
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.scheduler_port}",
    ]


def kwok_flags(addresses: Addresses, kubeconfig: Path) -> list[str]:
    """Flags of kwok: it plays the kubelet of nodes annotated so, and of no others."""
    network = addresses.kwok_pods
    return [
        f"--config={KWOK_STAGES}",
        f"--kubeconfig={kubeconfig}",
        f"--cidr={network[1]}/{network.prefixlen}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--server-address=127.0.0.1:{addresses.kwok_port}",
    ]


def _serving_flags(serving: tuple[Path, Path]) -> list[str]:
    return [f"--tls-cert-file={serving[0]}", f"--tls-private-key-file={serving[1]}"]


def _client_flags(kubeconfig: Path) -> list[str]:
    return [f"--{use}kubeconfig={kubeconfig}" for use in ("", "authentication-", "authorization-")]
