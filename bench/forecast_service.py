"""The forecaster itself with a thousand deployments: time to forecast all of them from nothing, and its memory.

The process is the shipped one, on an embedded API, with two fitting processes; only its histories are made up: 28 days
in the recorder's steps of a minute, a different one for each deployment. Nothing is remembered, which is the dearest
case: as after a restart. What it remembers grows for eight days, so what that adds is measured on one series and
counted in full.

    python bench/forecast_service.py [--series 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from forecaster import PROCESSES, history
from warmfleet_forecasting.config import DAY_S, ForecastConfig
from warmfleet_forecasting.service.status import MOST_BYTES, size
from warmfleet_forecasting.service.work import fit
from warmfleet_localcluster.api import EmbeddedApi, serve, server_url
from warmfleet_runtime.clock import ScaledClock
from warmfleet_runtime.kubeclient import KubeClient
from warmfleet_runtime.resources import CUSTOM_RESOURCE_DEFINITIONS, LLM_DEPLOYMENTS

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_S = 3 * 3600.0
_TICKS = os.sysconf("SC_CLK_TCK")


def deployment(number: int) -> dict[str, object]:
    """An LLMDeployment that asks for a forecast of 28 days of history."""
    return {
        "apiVersion": LLM_DEPLOYMENTS.api,
        "kind": "LLMDeployment",
        "metadata": {"name": f"fleet-{number}", "namespace": "default"},
        "spec": {
            "model": {"name": "m", "profile": "llama-3.1-8b", "source": {"pvc": {"claimName": "w", "path": "m"}}},
            "engine": {"image": "vllm/vllm-openai:v0.32.0"},
            "variants": [{"name": "a", "instanceType": "h100"}],
            "scaling": {"min": 1, "max": 8, "forecast": {"history": "672h"}},
        },
    }


def family(pid: int) -> list[int]:
    """A process and all below it; one that ends meanwhile has none below it."""
    found = [pid]
    try:
        children = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return found
    for child in " ".join(children).split():
        found += family(int(child))
    return found


def held_mb(pid: int) -> float:
    """Memory of a process and all below it, shared pages counted once, MiB."""
    total = 0
    for one in family(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # a program of a fit that has ended
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def processor_s(pid: int) -> float:
    """Processor time of a process, all below it, and what of them has ended, seconds."""
    total = 0
    for one in family(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(value) for value in fields[11:15])
    return total / _TICKS


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run of the service took.

    Attributes:
        series: How many deployments.
        wall_s: Until all of them had a forecast, whatever else the machine did.
        processor_s: Processor time of the service and its fits.
        peak_mb: Most memory of the service and its fits, shared pages counted once, MiB.
        grown_mb: The same with eight days of what it remembers of each series.
        status_bytes: Largest status.
    """

    series: int
    wall_s: float
    processor_s: float
    peak_mb: float
    grown_mb: float
    status_bytes: int

    @property
    def thousand_s(self) -> float:
        """What a thousand series take on the cores that the fits use, by their processor time, seconds."""
        return 1000.0 * self.processor_s / self.series / PROCESSES


def memory_grows_mb() -> float:
    """What the memory of one series grows by between its first forecast and its eighth day, MiB."""
    config = ForecastConfig()
    end = 40 * DAY_S
    first = fit(history(0, end - 28 * DAY_S, end, 300.0), config, None).previous
    grown = first
    for half_days in range(1, 18):
        now = end + half_days * DAY_S / 2
        grown = fit(history(0, now - 28 * DAY_S, now, 300.0), config, grown).previous
    assert len(pickle.loads(grown).memory.folds) >= 16
    return (len(grown) - len(first)) / 2**20


async def measure(series: int) -> Measured:
    """Run the service until every deployment has a forecast."""
    api = EmbeddedApi(clock=ScaledClock(1.0))
    runner = await serve(api, "127.0.0.1", 0)
    service: asyncio.subprocess.Process | None = None
    try:
        async with KubeClient.for_server(server_url(runner)) as client:
            for file in sorted((ROOT / "crds").glob("*.yaml")):
                await client.create(CUSTOM_RESOURCE_DEFINITIONS, yaml.safe_load(file.read_text()))
            for number in range(series):
                await client.create(LLM_DEPLOYMENTS, deployment(number))
        program = Path(__file__).with_name("forecaster.py")
        service = await asyncio.create_subprocess_exec(sys.executable, str(program), server_url(runner))
        began, peak, statuses = time.monotonic(), 0.0, []
        while len(statuses) < series:
            await asyncio.sleep(1.0)
            if service.returncode is not None or time.monotonic() - began > _PATIENCE_S:
                raise RuntimeError(f"{len(statuses)} of {series} forecasts; the service's code: {service.returncode}")
            peak = max(peak, held_mb(service.pid))
            objects = api.store.objects(api.registry.named("trafficforecasts", "warmfleet.dev").storage)
            statuses = [o["status"] for o in objects if "issuedAt" in o.get("status", {})]
        wall, used = time.monotonic() - began, processor_s(service.pid)
    finally:
        if service is not None and service.returncode is None:
            service.terminate()
            await service.wait()
        await runner.shutdown()
        await runner.cleanup()
    largest = max(size(status) for status in statuses)
    assert largest <= MOST_BYTES
    return Measured(series, wall, used, peak, peak + series * memory_grows_mb(), largest)


def tell(found: Measured) -> str:
    """One line for a person."""
    return (
        f"the service, {found.series} series of 28 days by the minute, nothing remembered: {found.wall_s:.0f} s wall, "
        f"{found.processor_s:.0f} s of processor ({found.processor_s / found.series:.2f} s each); "
        f"{found.peak_mb:.0f} MiB, {found.grown_mb:.0f} MiB after eight days; largest status {found.status_bytes} bytes"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--series", type=int, default=1000)
    found = asyncio.run(measure(parser.parse_args().series))
    print(tell(found))
    print(
        json.dumps(
            {
                "refit_1000_s": round(found.thousand_s),
                "rss_mb": round(found.grown_mb),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
