"""Reading a cluster by kubeconfig, for subcommands that look and never write."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml
from kubernetes.aio import config as kube_config
from rich.console import Console
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import Resource
from warmfleet_runtime.rest import ApiError

Body = dict[str, Any]
T = TypeVar("T")


_UNREADABLE = (
    kube_config.ConfigException,
    yaml.YAMLError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
)
"""What the client library raises over a file that is no kubeconfig: it does not check before it looks into it."""


class ClusterError(Exception):
    """The cluster cannot be read; the message says why and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which cluster and namespace."""
    parser.add_argument("-n", "--namespace", help="namespace (default: the one of the kubeconfig's context)")
    parser.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig (default: KUBECONFIG, else ~/.kube/config)")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig (default: the current one)")


def read(args: argparse.Namespace, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    """What ``work`` makes of the cluster.

    Raises:
        ClusterError: It cannot be reached, or refused a request.
    """
    if missing := _missing(args):
        raise ClusterError(missing)

    async def run() -> T:
        try:
            client = await KubeClient.from_kubeconfig(args.kubeconfig, args.context)
        except _UNREADABLE as error:
            said = error if isinstance(error, kube_config.ConfigException) else f"it is none ({error})"
            raise ClusterError(f"kubeconfig {_where(args)}: {said}; name another with --kubeconfig") from error
        async with client:
            return await work(client)

    try:
        return asyncio.run(run())
    except ApiError as error:
        no_kind = error.status == 404 and "/apis/warmfleet.dev/" in str(error) and '" not found' not in str(error)
        hint = "; install the CRDs (helm install warmfleet)" if no_kind else ""
        raise ClusterError(f"{error}{hint}") from error
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        raise ClusterError(f"the API server cannot be reached: {error or type(error).__name__}") from error


def _where(args: argparse.Namespace) -> str:
    """Path of the kubeconfig, or paths as in KUBECONFIG."""
    return str(args.kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")


def _missing(args: argparse.Namespace) -> str:
    """What is wrong when there is no kubeconfig; empty when there is one."""
    if args.kubeconfig:
        return "" if Path(args.kubeconfig).is_file() else f"--kubeconfig {args.kubeconfig}: no such file"
    where = _where(args)
    if any(Path(path).expanduser().is_file() for path in where.split(os.pathsep)):
        return ""
    return f"kubeconfig {where}: no such file; name one with --kubeconfig or KUBECONFIG"


def console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=max(140, plain.width))


def namespace(args: argparse.Namespace) -> str:
    """The namespace asked for, else the context's, else ``default``."""
    if args.namespace:
        return str(args.namespace)
    if _missing(args):
        return "default"  # who reads the cluster afterwards says what is wrong
    try:
        contexts, active = kube_config.list_kube_config_contexts(args.kubeconfig)  # type: ignore[no-untyped-call]
        chosen = next((c for c in contexts if c["name"] == args.context), active)
        return str((chosen.get("context") or {}).get("namespace") or "default")
    except _UNREADABLE:
        return "default"


async def items(client: KubeClient, resource: Resource, inside: str | None = None, **selectors: str) -> list[Body]:
    """The objects of a collection, of all namespaces when ``inside`` is None; with the kind that lists omit."""
    found = await client.list(resource, inside, **selectors)
    kind = str(found.get("kind", "")).removesuffix("List")
    return [{"apiVersion": resource.api, "kind": kind, **body} for body in found["items"]]
