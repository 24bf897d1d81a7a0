"""``warmfleet fit``: on which instance types a model fits, what one worker there gives, and with which flags it runs.

It asks the same function as the operator, so that what is refused here is refused there, in the same words.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text
from warmfleet_contracts.api import InstanceTypeSpec, LLMDeployment, LLMDeploymentSpec, Variant
from warmfleet_contracts.engineversion import engine_problems
from warmfleet_contracts.perfmodel import Workload, profiles
from warmfleet_operator.planning.demand import DEFAULT_WORKLOAD
from warmfleet_operator.planning.fit import Fit, best, fit, split, tried
from warmfleet_operator.planning.modelled import profile_name
from warmfleet_operator.settings import Settings
from warmfleet_operator.specs import engine, kv
from warmfleet_runtime.resources import INSTANCE_TYPES, LLM_DEPLOYMENTS

from warmfleet_cli import catalog, cluster, output, snapshots
from warmfleet_cli.snapshots import SnapshotError, first_error

_IMAGE = "vllm/vllm-openai:v0.32.0"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        variant: Name of the declared variant; empty for one that was tried.
        found: What a worker gives.
        flags: The engine's arguments; empty when it does not fit.
    """

    variant: str
    found: Fit
    flags: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model, such as meta-llama/Llama-3.1-8B-Instruct")
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="manifests: an LLMDeployment instead of MODEL, InstanceTypes instead of list prices",
    )
    parser.add_argument("--live", action="store_true", help="InstanceTypes (and --name) of the cluster")
    parser.add_argument("--name", metavar="NAME", help="which LLMDeployment, where there are several")
    parser.add_argument("--max-model-len", type=int, metavar="TOKENS", help="longest context of MODEL")
    parser.add_argument("--quantization", metavar="KIND", help="weight quantization of MODEL, such as fp8 or awq")
    parser.add_argument("--kv-cache-dtype", metavar="DTYPE", help="data type of MODEL's KV cache, such as fp8")
    parser.add_argument("--ttft", metavar="TIME", help="time to first token, such as 2s (default: the deployment's)")
    parser.add_argument("--tpot", metavar="TIME", help="time per output token, such as 50ms")
    parser.add_argument(
        "--input-tokens",
        type=float,
        default=DEFAULT_WORKLOAD.input_tokens,
        metavar="N",
        help=f"tokens of a mean prompt (default {DEFAULT_WORKLOAD.input_tokens:g})",
    )
    parser.add_argument(
        "--output-tokens",
        type=float,
        default=DEFAULT_WORKLOAD.output_tokens,
        metavar="N",
        help=f"tokens of a mean answer (default {DEFAULT_WORKLOAD.output_tokens:g})",
    )
    parser.add_argument(
        "--hit-ratio",
        type=float,
        default=0.0,
        metavar="0..1",
        help="share of the prompt found in the prefix cache (default 0)",
    )
    parser.add_argument("--all", action="store_true", help="every tensor parallelism, not the best of each type")
    parser.add_argument("--flags", action="store_true", help="print the engine's flags of every row that fits")
    output.add_arguments(parser)
    cluster.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 1 when nothing fits, 2 for input that cannot be used."""
    try:
        spec, types, declared, listed = _input(args)
        workload = _workload(args)
    except (cluster.ClusterError, SnapshotError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    found = rows(spec, types, declared, workload, every=args.all)
    problems, notes = _problems(spec, found), _notes(spec, listed=listed)
    if args.output == "json":
        rows_ = [as_json(row) for row in found]
        json.dump({"model": spec.model.name, "problems": problems, "notes": notes, "rows": rows_}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        show(cluster.console(), found, flags=args.flags)
        sys.stderr.writelines(f"note: {note}\n" for note in [*problems, *notes])
    return int(not any(row.found.serves and row.found.known for row in found) or bool(problems))


def _problems(spec: LLMDeploymentSpec, found: list[Row]) -> list[str]:
    """What keeps the model from being served on any type."""
    problems = list(engine_problems(spec))
    if profile_name(spec) is None and not any(row.found.known for row in found):
        known = ", ".join(sorted({key[0] for key in profiles()}))
        problems.append(
            f"no performance data for {spec.model.name}; set model.profile to one of: {known}, or measure a worker and "
            "set variants[].performance"
        )
    return problems


def _notes(spec: LLMDeploymentSpec, *, listed: bool) -> list[str]:
    notes = ["prices: list prices of 2026; give InstanceTypes with -f or --live"] if listed else []
    if spec.model.max_model_len is None:
        notes.append(
            "model.maxModelLen is not set: the engine takes the model's own context length, and does not start where "
            "the cache holds fewer tokens; set it to at most KV TOKENS"
        )
    return notes


def rows(
    spec: LLMDeploymentSpec,
    types: dict[str, InstanceTypeSpec],
    declared: tuple[Variant, ...],
    workload: Workload,
    *,
    every: bool = False,
) -> list[Row]:
    """The declared variants, then other ways to run the model, cheapest token first.

    Args:
        spec: The deployment.
        types: InstanceTypes by name.
        declared: Its variants whose InstanceType is known.
        workload: The mean request.
        every: All tensor parallelisms of a type, not the best.
    """
    found = [_row(spec, v, fit(spec, v, v.instance_type, types[v.instance_type], workload), v.name) for v in declared]
    shapes = {(v.instance_type, v.tensor_parallel, v.pipeline_parallel) for v in declared}
    others: list[Fit] = []
    for name, itype in types.items():
        fits = tried(spec, name, itype, workload)
        chosen = best(fits)
        others += fits if every else [chosen if chosen is not None else fits[-1]]
    others = [f for f in others if (f.instance_type, f.tensor_parallel, f.pipeline_parallel) not in shapes]
    others.sort(key=lambda f: (not f.serves, f.dollars_per_million is None, f.dollars_per_million or 0.0, f.price))
    return found + [_row(spec, split(f.instance_type, f.tensor_parallel), f, "") for f in others]


def _row(spec: LLMDeploymentSpec, variant: Variant, found: Fit, name: str) -> Row:
    if found.problem:
        return Row(name, found, ())
    extra = kv.arguments(kv.plan("fit", spec))
    seconds = Settings().engine_shutdown_seconds
    return Row(name, found, tuple(engine.arguments(spec, variant, shutdown_seconds=seconds, extra=extra)))


def as_json(row: Row) -> dict[str, Any]:
    """A row as a document; what is unknown is null."""
    one = row.found
    return {
        "variant": row.variant or None,
        "instanceType": one.instance_type,
        "accelerator": one.accelerator,
        "tensorParallel": one.tensor_parallel,
        "pipelineParallel": one.pipeline_parallel,
        "fits": not one.problem if one.known else None,
        "problem": one.problem or None,
        "weightBytes": one.weight_bytes,
        "usableBytes": one.usable_bytes,
        "kvCacheTokens": one.kv_tokens,
        "meetsSlo": one.meets_slo,
        "requestsPerSecond": one.rate,
        "batch": one.batch,
        "ttftMs": one.ttft_ms,
        "tpotMs": one.tpot_ms,
        "limitedBy": None if one.limited_by is None else str(one.limited_by),
        "costPerHour": one.price,
        "dollarsPerMillionTokens": one.dollars_per_million,
        "trust": one.trust,
        "flags": list(row.flags),
    }


def show(console: Console, found: list[Row], *, flags: bool) -> None:
    """Print the table, why not, and the flags."""
    table = Table(box=None, pad_edge=False)
    left = ("TYPE", "FITS", "LIMIT", "TRUST")
    names = ("TYPE", "TP", "FITS", "WEIGHTS", "KV TOKENS", "REQ/S", "BATCH", "LIMIT", "$/H", "$/1M TOK", "TRUST")
    for name in names:
        table.add_column(name, justify="left" if name in left else "right")
    for row in found:
        one = row.found
        verdict = "no" if one.problem else "slow" if one.meets_slo is False else "yes" if one.known else "?"
        table.add_row(
            one.instance_type + (f" ({row.variant})" if row.variant else ""),
            str(one.tensor_parallel) + (f"x{one.pipeline_parallel}" if one.pipeline_parallel > 1 else ""),
            Text(verdict, style={"yes": "green", "no": "red"}.get(verdict, "yellow")),
            "-" if one.weight_bytes is None else f"{one.weight_bytes / 1e9:.1f} GB",
            "-" if one.kv_tokens is None else f"{one.kv_tokens:,}",
            "-" if one.rate is None else f"{one.rate:.2f}",
            "-" if one.batch is None else str(one.batch),
            "-" if one.limited_by is None or not one.serves else str(one.limited_by),
            f"{one.price:.2f}",
            "-" if one.dollars_per_million is None else f"{one.dollars_per_million:.3f}",
            one.trust,
        )
    console.print(table)
    for row in found:
        if row.found.problem:
            console.print(Text(f"! {row.found.label}: {row.found.problem}", style="yellow"), soft_wrap=True)
    with_flags = [row for row in found if row.flags and row.found.serves and row.found.known]
    for row in with_flags if flags else with_flags[:1]:
        console.print(Text(f"\n{row.found.label} runs:\n{_command(row.flags)}"), soft_wrap=True)


def _command(flags: Sequence[str]) -> str:
    """The engine's command line, a flag on each line."""
    lines = ["vllm serve"]
    for word in flags:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return "  " + " \\\n    ".join(lines)


def _workload(args: argparse.Namespace) -> Workload:
    for flag, value in (("--input-tokens", args.input_tokens), ("--output-tokens", args.output_tokens)):
        if not 1 <= value <= 1e7:
            raise SnapshotError(f"{flag} {value:g}: write a number of tokens from 1 to 10000000")
    if not 0 <= args.hit_ratio <= 1:
        raise SnapshotError(f"--hit-ratio {args.hit_ratio:g}: write a share from 0 to 1")
    return Workload(args.input_tokens, args.output_tokens, args.hit_ratio)


_Input = tuple[LLMDeploymentSpec, dict[str, InstanceTypeSpec], tuple[Variant, ...], bool]


def _input(args: argparse.Namespace) -> _Input:
    """(spec, InstanceTypes, declared variants, whether prices are list prices)."""
    bodies = snapshots.manifests(args.filename) if args.filename else []
    if args.live:
        bodies += cluster.read(args, lambda client: cluster.items(client, INSTANCE_TYPES))
        if args.name is not None:
            inside = cluster.namespace(args)
            bodies.append(cluster.read(args, lambda client: client.get(LLM_DEPLOYMENTS, args.name, inside)))
    types = {b["metadata"]["name"]: _type(b) for b in bodies if b.get("kind") == "InstanceType"}
    spec = _spec(args, [b for b in bodies if b.get("kind") == "LLMDeployment"])
    listed = not types
    if listed:
        types = catalog.instance_types()
    declared = () if args.model else tuple(v for v in spec.variants if v.instance_type in types)
    missing = [] if args.model or listed else [v for v in spec.variants if v.instance_type not in types]
    if missing:
        known = ", ".join(sorted(types)[:8])
        raise SnapshotError(
            f"variants[{missing[0].name}].instanceType: there is no InstanceType {missing[0].instance_type}; give it "
            f"with -f, or name one of: {known}"
        )
    return spec, types, declared, listed


def _type(body: dict[str, Any]) -> InstanceTypeSpec:
    try:
        return InstanceTypeSpec.model_validate(body.get("spec"))
    except ValidationError as error:
        raise SnapshotError(f"InstanceType {body['metadata']['name']}: spec.{first_error(error)}") from error


def _spec(args: argparse.Namespace, fleets: list[dict[str, Any]]) -> LLMDeploymentSpec:
    if args.model:
        if args.name is not None:
            raise SnapshotError("MODEL and --name: give one, a model or the name of an LLMDeployment")
        raw: dict[str, Any] = {
            "model": {"name": args.model, "source": {"hf": {"repo": args.model}}},
            "engine": {"image": _IMAGE},
            "variants": [{"name": "fit", "instanceType": "any"}],
            "replicas": 1,
        }
    else:
        named = [b for b in fleets if args.name in (None, b["metadata"]["name"])]
        if len(named) != 1:
            there = ", ".join(sorted(b["metadata"]["name"] for b in fleets)) or "none"
            raise SnapshotError(
                f"give MODEL, or --name of one LLMDeployment in -f or, with --live, in the cluster: {there}"
            )
        raw = dict(named[0].get("spec") or {})
    changes = {"maxModelLen": args.max_model_len, "quantization": args.quantization}
    raw["model"] = {**(raw.get("model") or {}), **{k: v for k, v in changes.items() if v is not None}}
    if args.kv_cache_dtype is not None:
        raw["kvCache"] = {**(raw.get("kvCache") or {}), "dtype": args.kv_cache_dtype}
    slo = {"ttft": args.ttft, "tpot": args.tpot}
    raw["slo"] = {**(raw.get("slo") or {}), **{k: v for k, v in slo.items() if v is not None}}
    try:
        return LLMDeployment.model_validate({"spec": raw}).spec
    except ValidationError as error:
        raise SnapshotError(first_error(error)) from error
