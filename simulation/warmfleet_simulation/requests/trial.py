"""What scaling costs, arm by arm: hits, TTFT and prefill in the two minutes after each scale-down.

::

    window          arrivals within WINDOW_S of a scale-down
    hit ratio       prompt tokens that were cached or loaded / prompt tokens, of the window's requests
    retained        hit tokens of the arm / hit tokens of a fleet that never scaled, same requests, same store
    possible        the same ratio for a fleet that had the survivors' size all along: what their caches and their
                    accelerators allow, whatever is handed over
    reference       the never-scaled fleet with the same store and the same host memory as the arm
    excess prefill  GPU-seconds of prefill in the whole run - those of the never-scaled fleet
    interval        mean +- t(0.975, n - 1) * s / sqrt(n) over seeds

Not one knob is fitted: arms are settings of the product, and the routers are alike in both arms of a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.stats import t as student

from warmfleet_simulation.requests.arrays import DONE
from warmfleet_simulation.requests.cluster import Run, simulate
from warmfleet_simulation.requests.setup import Arm, Engine
from warmfleet_simulation.requests.workload import Work

WINDOW_S = 120.0
WORKERS = 8
STORE_TOKENS = 60_000_000
"""About 7.9 TB of an 8B model's cache in bf16: a shared file system, not one machine's memory."""
HOST_TOKENS = 1_572_864
"""192 GiB of host memory per worker for an 8B model's cache in bf16: of the 2 TiB that a node with eight H100 has."""
_BOUNDARY_S = 600.0
"""Caches fill for so long before the first event."""

IDEAL = "ideal"
ARMS = (
    Arm("naive", victims="newest", leaving="cut"),
    Arm("arbitrary", victims="arbitrary", leaving="cut"),
    Arm("drain", victims="newest"),
    Arm("victim"),
    Arm("replay", handover="replay"),
    Arm("migrate", handover="migrate"),
    Arm("store", handover="store", store_tokens=STORE_TOKENS),
    Arm("naive+host", victims="newest", leaving="cut", host_tokens=HOST_TOKENS),
    Arm("migrate+host", handover="migrate", host_tokens=HOST_TOKENS),
    Arm(IDEAL, handover="store", store_tokens=10**9, store_gbit=1e6, link_gbit=1e6),
)
"""Naive deletion as a ReplicaSet does it, and of arbitrary workers; then what each mechanism adds: waiting for
requests, choosing the worker, keeping its cache. Last what no mechanism can better: whatever was computed once is found
by everybody, at once and for ever."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Scale-downs that come again and again.

    Attributes:
        name: Short name.
        survivors: Workers that stay.
        every_s: Seconds from one scale-down to the next.
        back_s: Seconds after which the fleet is whole again.
    """

    name: str
    survivors: int
    every_s: float
    back_s: float

    def schedule(self, until_s: float, phase_s: float = 0.0) -> list[tuple[float, int]]:
        """(seconds, workers wanted), ascending; no scale-down whose window would not end in time."""
        out: list[tuple[float, int]] = []
        at = _BOUNDARY_S + phase_s
        while at + max(self.back_s, WINDOW_S) <= until_s:
            out += [(at, self.survivors), (at + self.back_s, WORKERS)]
            at += self.every_s
        return out


HALVED = Pattern("halved every 10 minutes", WORKERS // 2, 600.0, 300.0)
TWO_OF_EIGHT = Pattern("2 of 8 every 2 minutes", WORKERS - 2, 120.0, 60.0)
PATTERNS = (HALVED, TWO_OF_EIGHT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One arm, one pattern, one seed.

    Attributes:
        arm: Name; those that begin with ``never`` never scale, those with ``survivors`` have their number all along;
            ``+store`` and ``+host`` say what beside the accelerators' memory they have.
        pattern: Name.
        seed: Seed.
        hit_rate: Of the windows' requests.
        retained: Hits over those of the reference; None when that had none.
        ttft_p50: Seconds, of the windows' requests.
        ttft_p99: Seconds.
        prefill_s: GPU-seconds of prefill, whole run.
        excess_s: Of these, more than the reference.
        lost: Requests that were never answered.
        retried: Requests that were aborted and sent again.
        worker_s: Seconds of workers that were paid for.
    """

    arm: str
    pattern: str
    seed: int
    hit_rate: float
    retained: float | None
    ttft_p50: float
    ttft_p99: float
    prefill_s: float
    excess_s: float
    lost: int
    retried: int
    worker_s: float


@dataclass(frozen=True, slots=True)
class _Figures:
    hits: float
    inputs: float
    ttft: tuple[float, float]
    prefill_s: float
    lost: int
    retried: int
    worker_s: float


def trial(
    work: Work,
    engine: Engine,
    pattern: Pattern,
    seed: int,
    *,
    arms: Sequence[Arm] = ARMS,
    phase_s: float = 0.0,
    known: Sequence[Outcome] = (),
    seen: Callable[[str, Run], None] = lambda _name, _run: None,
) -> list[Outcome]:
    """All arms on one workload, beside the fleets that never scale.

    Args:
        work: Requests.
        engine: What serves them.
        pattern: When the fleet shrinks and grows.
        seed: Only noted; the workload was drawn by it.
        arms: Ways to scale; all with the same router as the first one.
        phase_s: Moves the pattern.
        known: What has been found on this workload with this pattern; references among it are not run again.
        seen: Is given each run, with its name, when it has ended.

    Raises:
        ValueError: The workload is too short for one scale-down, or the routers differ.
    """
    schedule = pattern.schedule(work.duration_s, phase_s)
    downs = np.array([at for at, wanted in schedule if wanted < WORKERS])
    if not len(downs):
        raise ValueError(f"{work.name}: {work.duration_s:.0f} s are too short for a fleet {pattern.name}")
    if len({(arm.routing, arm.balance_abs, arm.even) for arm in arms}) > 1:
        raise ValueError("arms with different routers cannot be compared")
    plain = replace(arms[0], victims="planner", leaving="drain", handover="none", store_tokens=0, host_tokens=0)

    def figures(arm: Arm, plan: Sequence[tuple[float, int]], workers: int = WORKERS) -> _Figures:
        run = simulate(work, engine, arm, plan, workers=workers)
        seen(arm.name, run)
        return _figures(run, downs)

    out: list[Outcome] = []
    never: dict[tuple[int, int], _Figures] = {}

    def reference(store: int, host: int) -> _Figures:
        """The fleet that never scales with this memory; on first use it is run, and one of the survivors' size."""
        if (store, host) not in never:
            more = ("+store" if store else "") + ("+host" if host else "")
            before = [one for one in known if one.arm == f"never{more}"]
            if before:
                never[store, host] = _figures_of(before[0])
                return never[store, host]
            like = replace(plain, store_tokens=store, host_tokens=host)
            found = never[store, host] = figures(replace(like, name=f"never{more}"), [])
            out.append(_outcome(f"never{more}", pattern, seed, found, found))
            if not store:  # with one, the number of workers changes nothing of what it holds
                few = figures(replace(like, name=f"survivors{more}"), [], pattern.survivors)
                out.append(_outcome(f"survivors{more}", pattern, seed, few, found))
        return never[store, host]

    reference(0, 0)
    for arm in arms:
        against = reference(0 if arm.name == IDEAL else arm.store_tokens, arm.host_tokens)
        out.append(_outcome(arm.name, pattern, seed, figures(arm, schedule), against))
    return out


def in_windows(
    run: Run, starts: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of the workload's requests arrived in the two minutes after one of these times."""
    arrival = run.state.arrival[: run.users]
    at = np.searchsorted(starts, arrival, side="right") - 1
    return np.asarray((at >= 0) & (arrival < starts[np.maximum(at, 0)] + WINDOW_S))


def _figures(run: Run, starts: np.ndarray[tuple[int], np.dtype[np.float64]]) -> _Figures:
    st, n = run.state, run.users
    inside = in_windows(run, starts)
    waited = run.ttft()[inside & (st.status[:n] == DONE)]
    p50, p99 = np.percentile(waited, (50.0, 99.0)) if len(waited) else (np.nan, np.nan)
    return _Figures(
        hits=float((st.hit[:n] + st.loaded[:n])[inside].sum()),
        inputs=float(st.inputs[:n][inside].sum()),
        ttft=(float(p50), float(p99)),
        prefill_s=float(st.prefill_s.sum()),
        lost=int((st.status[:n] != DONE).sum()),
        retried=run.retried,
        worker_s=run.worker_s,
    )


def _figures_of(one: Outcome) -> _Figures:
    """What a row still says; hits are per token, which is all that a comparison needs."""
    waited = (one.ttft_p50, one.ttft_p99)
    return _Figures(one.hit_rate, 1.0, waited, one.prefill_s, one.lost, one.retried, one.worker_s)


def _outcome(arm: str, pattern: Pattern, seed: int, found: _Figures, reference: _Figures) -> Outcome:
    mine, others = (one.hits / one.inputs if one.inputs else 0.0 for one in (found, reference))
    return Outcome(
        arm=arm,
        pattern=pattern.name,
        seed=seed,
        hit_rate=mine,
        retained=mine / others if others else None,
        ttft_p50=found.ttft[0],
        ttft_p99=found.ttft[1],
        prefill_s=found.prefill_s,
        excess_s=found.prefill_s - reference.prefill_s,
        lost=found.lost,
        retried=found.retried,
        worker_s=found.worker_s,
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval; the width is NaN for fewer than two values."""
    n = len(values)
    mean = float(np.mean(values)) if n else float("nan")
    if n < 2:
        return mean, float("nan")
    return mean, float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The same as plain dictionaries."""
    return [asdict(one) for one in outcomes]
