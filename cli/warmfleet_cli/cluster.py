"""Reading a cluster by kubeconfig, for subcommands that look and never write."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from kubernetes.aio import config as kube_config
from rich.console import Console
from warmfleet_runtime.kubeclient import ApiError, KubeClient, Resource

GROUP = "warmfleet.dev/v1alpha1"
LLM_DEPLOYMENTS = Resource(GROUP, "llmdeployments")
INSTANCE_TYPES = Resource(GROUP, "instancetypes", namespaced=False)
TRAFFIC_FORECASTS = Resource(GROUP, "trafficforecasts")

Body = dict[str, Any]
T = TypeVar("T")


class ClusterError(Exception):
    """The cluster cannot be read; the message says why and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which cluster and namespace."""
    parser.add_argument("-n", "--namespace", help="namespace (default: the one of the kubeconfig's context)")
    parser.add_argument("--kubeconfig", help="kubeconfig (default: KUBECONFIG, else ~/.kube/config)")
    parser.add_argument("--context", help="context of the kubeconfig (default: the current one)")


def read(args: argparse.Namespace, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    """What ``work`` makes of the cluster.

    Raises:
        ClusterError: It cannot be reached, or refused a request.
    """
    if args.kubeconfig and not Path(args.kubeconfig).is_file():
        raise ClusterError(f"--kubeconfig {args.kubeconfig}: no such file")

    async def run() -> T:
        try:
            client = await KubeClient.from_kubeconfig(args.kubeconfig, args.context)
        except kube_config.ConfigException as error:
            raise ClusterError(f"kubeconfig: {error}; name one with --kubeconfig or KUBECONFIG") from error
        async with client:
            return await work(client)

    try:
        return asyncio.run(run())
    except ApiError as error:
        hint = "; install the CRDs (helm install warmfleet)" if error.status == 404 and "/apis/" in str(error) else ""
        raise ClusterError(f"{error}{hint}") from error
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        raise ClusterError(f"the API server cannot be reached: {error or type(error).__name__}") from error


def console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=max(140, plain.width))


def namespace(args: argparse.Namespace) -> str:
    """The namespace asked for, else the context's, else ``default``."""
    if args.namespace:
        return str(args.namespace)
    if args.kubeconfig and not Path(args.kubeconfig).is_file():
        return "default"  # who reads the cluster afterwards says what is wrong
    try:
        contexts, active = kube_config.list_kube_config_contexts(args.kubeconfig)  # type: ignore[no-untyped-call]
    except (kube_config.ConfigException, OSError):
        return "default"
    chosen = next((c for c in contexts if c["name"] == args.context), active)
    return str((chosen.get("context") or {}).get("namespace") or "default")


async def items(client: KubeClient, resource: Resource, inside: str | None = None, **selectors: str) -> list[Body]:
    """The objects of a collection, of all namespaces when ``inside`` is None; with the kind that lists omit."""
    found = await client.list(resource, inside, **selectors)
    kind = str(found.get("kind", "")).removesuffix("List")
    return [{"apiVersion": resource.api, "kind": kind, **body} for body in found["items"]]
