"""The checkpoint of one deployment's memory: a small JSON object in which times are ages.

::

    age      = now - time          rounded down: younger
    remaining = until - now        rounded up: longer

The process clock starts anew with each process, so moments mean nothing to the next one. The time in between is not
added: a restart may delay a scale-down, never hasten one. Whatever is cut to keep the object small is cut to the same
side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError
from warmfleet_contracts.api import LLMDeploymentSpec
from warmfleet_contracts.trafficstate import TrafficState

from warmfleet_operator.state import fields
from warmfleet_operator.state.fields import CheckpointError
from warmfleet_operator.state.memory import (
    DeploymentMemory,
    FailedStarts,
    LearnedRate,
    Rehearsal,
    RolloutMemory,
    evolve,
)
from warmfleet_operator.state.revisions import revisions

__all__ = ["VERSION", "CheckpointError", "dump", "load", "template", "with_template"]

VERSION = 1
MOST_STEPS = 32
MOST_NAMES = 20
MOST_LEARNED = 16
MOST_STARTS = 12
_REHEARSAL = ("requests", "seconds", "missed", "rehearsed", "position", "held")
"""What of the rehearsal is kept besides what each margin showed, in this order."""
_GRAIN = 10.0
_MOST = 1e9
_LONGEST_WAIT = 3600.0
"""Seconds for which what was read may hold anything back: nobody can write a fleet into a longer standstill."""
_Entry = TypeVar("_Entry")


def dump(memory: DeploymentMemory, now: float) -> dict[str, Any]:
    """The memory as a JSON object below 16 KB.

    Args:
        memory: Memory of one deployment.
        now: Logical seconds of this process's clock.
    """

    def age(at: float | None) -> float | None:
        return None if at is None else math.floor((now - at) * _GRAIN) / _GRAIN

    def ages(times: Mapping[str, float]) -> dict[str, float]:
        newest = sorted(times.items(), key=lambda item: (-item[1], item[0]))[:MOST_NAMES]
        return {name: math.floor((now - at) * _GRAIN) / _GRAIN for name, at in newest}

    def remaining(until: float) -> float:
        return math.ceil((until - now) * _GRAIN) / _GRAIN

    longest = sorted(memory.avoid.items(), key=lambda item: (-item[1], item[0]))[:MOST_NAMES]
    return {
        "version": VERSION,
        "uid": memory.uid,
        "generation": memory.generation,
        "desired": dict(memory.desired),
        "wants": [[age(at), count] for at, count in memory.wants],
        "steps": [[age(at), count] for at, count in _grouped(memory.steps)],
        "panic": None if memory.panic_until is None else remaining(memory.panic_until),
        "lowSince": age(memory.low_since),
        "sampledAt": age(memory.sampled_at),
        "means": [memory.input_tokens, memory.output_tokens, memory.hit_ratio],
        "planned": None if memory.planned is None else list(memory.planned),
        "chosen": ages(memory.chosen),
        "since": ages(memory.since),
        "failures": {
            name: [known.attempts, age(known.attempted_at), ages(known.times)]
            for name, known in sorted(memory.failures.items())[:MOST_NAMES]
        },
        "avoid": {name: remaining(until) for name, until in longest},
        "traffic": _traffic(memory, now),
        "rehearsal": {
            "sums": [_short(getattr(memory.rehearsal, name)) for name in _REHEARSAL],
            "late": [_short(value) for value in memory.rehearsal.late],
            "cost": [_short(value) for value in memory.rehearsal.cost],
        },
        "peak": memory.peak,
        "usual": memory.usual,
        "misfit": memory.misfit,
        "forecastSince": age(memory.forecast_since),
        "learned": {
            name: [round(known.log_ratio, 4), known.applied, age(known.at), known.count]
            for name, known in _newest(memory.learned, lambda known: known.at)
        },
        "startups": {
            name: [[age(at), round(seconds, 1)] for at, seconds in times[-MOST_STARTS:]]
            for name, times in _newest(memory.startups, lambda times: times[-1][0] if times else -_MOST)
        },
        "silentSince": age(memory.silent_since),
        "rollout": {
            "good": dict(memory.rollout.good_revisions),
            "target": memory.rollout.target,
            "rejected": list(memory.rollout.rejected),
            "why": memory.rollout.why,
            "strikes": ages(memory.rollout.strikes),
            "waited": memory.rollout.waited,
            "sizes": dict(memory.rollout.sizes),
        },
        "losses": [[age(at), share] for at, share in memory.losses[-MOST_STEPS:]],
        "hitsBefore": memory.hits_before,
    }


def template(memory: DeploymentMemory) -> dict[str, Any] | None:
    """The last good spec in wire form, which is kept beside the rest because of its size; None without one."""
    good = memory.rollout.good
    return None if good is None else good.to_wire()


def with_template(memory: DeploymentMemory, data: object) -> DeploymentMemory:
    """The memory with the good spec that belongs to it; without any when it is missing, unreadable or another one."""
    notes = memory.rollout
    try:
        good = LLMDeploymentSpec.model_validate(data) if data is not None else None
    except ValidationError:
        good = None
    if good is None or not notes.good_revisions or revisions(good) != notes.good_revisions:
        return evolve(memory, rollout=replace(notes, good=None, good_revisions={}, rejected=(), why=""))
    return evolve(memory, rollout=replace(notes, good=good))


def load(data: object, now: float) -> DeploymentMemory:
    """The memory as of ``now``.

    Args:
        data: What :func:`dump` gave, possibly in another process, possibly tampered with.
        now: Logical seconds of this process's clock.

    Raises:
        CheckpointError: It is not such an object; the message names the field.
    """
    if not isinstance(data, Mapping):
        raise CheckpointError(f"checkpoint: an object is expected, not {type(data).__name__}; delete it")
    if data.get("version") != VERSION:
        raise CheckpointError(f"checkpoint: version {data.get('version')!r} is not {VERSION}; delete it")
    uid = data.get("uid")
    if not isinstance(uid, str) or not uid:
        raise CheckpointError(f"checkpoint: uid {uid!r} is not the UID of an LLMDeployment; delete it")
    steps = [(now - a, c) for a, c in fields.pairs(data, "steps")]
    low, sampled, silent = (fields.number(data, name) for name in ("lowSince", "sampledAt", "silentSince"))
    since = fields.number(data, "forecastSince")
    panic = fields.number(data, "panic")
    means = fields.triple(data, "means", holes=True)
    planned = None if data.get("planned") is None else fields.triple(data, "planned", holes=False)
    generation = data.get("generation")
    return DeploymentMemory(
        uid=uid,
        desired={name: fields.count(data, "desired", count) for name, count in fields.table(data, "desired").items()},
        wants=tuple((now - max(0.0, a), c) for a, c in fields.pairs(data, "wants")),
        steps=tuple(at for at, count in steps for _ in range(min(count, 10_000))),
        panic_until=None if panic is None else now + min(panic, _LONGEST_WAIT),
        low_since=None if low is None else now - low,
        input_tokens=means[0],
        output_tokens=means[1],
        hit_ratio=means[2],
        at=now,
        generation=None if generation is None else fields.count(data, "generation", generation),
        sampled_at=None if sampled is None else now - sampled,
        planned=None if planned is None else (planned[0] or 1.0, planned[1] or 1.0, planned[2] or 0.0),
        chosen={name: now - age for name, age in fields.floats(data, "chosen").items()},
        since={name: now - age for name, age in fields.floats(data, "since").items()},
        failures={name: _failed(entry, now) for name, entry in fields.table(data, "failures").items()},
        avoid={name: now + min(rest, _LONGEST_WAIT) for name, rest in fields.floats(data, "avoid").items()},
        traffic=_read_traffic(data.get("traffic"), now),
        rehearsal=_read_rehearsal(data.get("rehearsal")),
        peak=fields.rate(data, "peak") or 0.0,
        usual=fields.rate(data, "usual"),
        misfit=min(fields.rate(data, "misfit") or 0.0, 1.0),
        forecast_since=None if since is None else now - max(0.0, since),
        learned={name: _learned(entry, now) for name, entry in fields.table(data, "learned").items()},
        startups={name: _startups(entry, now) for name, entry in fields.table(data, "startups").items()},
        silent_since=None if silent is None else now - max(0.0, silent),
        rollout=_rollout(data.get("rollout") or {}, now),
        losses=_losses(data, now),
        hits_before=fields.number(data, "hitsBefore"),
    )


def _losses(data: Mapping[str, Any], now: float) -> tuple[tuple[float, float], ...]:
    value = data.get("losses") or []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value[:MOST_STEPS]):
        raise fields.bad("losses", value)
    pairs = [(fields.real("losses", age), fields.real("losses", share)) for age, share in value[:MOST_STEPS]]
    return tuple((now - age, min(1.0, max(0.0, share))) for age, share in pairs)


def _rollout(data: object, now: float) -> RolloutMemory:
    if not isinstance(data, Mapping):
        raise fields.bad("rollout", data)
    if not data:
        return RolloutMemory()
    rejected, target, why = data.get("rejected"), data.get("target"), data.get("why")
    if not isinstance(rejected, list) or len(rejected) > MOST_NAMES or not all(isinstance(r, str) for r in rejected):
        raise fields.bad("rollout.rejected", rejected)
    if not isinstance(target, str) or not isinstance(why, str):
        raise fields.bad("rollout.target", target)
    return RolloutMemory(
        good_revisions={str(name): str(found)[:63] for name, found in fields.table(data, "good").items()},
        target=target[:63],
        rejected=tuple(rejected),
        why=why[:300],
        strikes={uid: now - age for uid, age in fields.floats(data, "strikes").items()},
        waited=max(0.0, fields.real("rollout.waited", data.get("waited"))),
        seen_at=now,
        sizes={name: fields.count(data, "sizes", count) for name, count in fields.table(data, "sizes").items()},
    )


def _traffic(memory: DeploymentMemory, now: float) -> list[float] | None:
    """[age, means ..., variances ...]; whatever the state is a mean of stays as it was."""
    state = memory.traffic
    if state is None:
        return None
    rest = (state.level, state.mid, state.slow, state.variance, state.calm_variance)
    return [max(0.0, now - state.at), *rest]


def _read_traffic(value: object, now: float) -> TrafficState | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 6:
        raise fields.bad("traffic", value)
    found = [fields.real("traffic", part) for part in value]
    if min(found) < 0.0:
        raise fields.bad("traffic", value)
    return TrafficState(now - found[0], *found[1:])


def _read_rehearsal(value: object) -> Rehearsal:
    """Without one, as older checkpoints are, it begins anew."""
    if value is None:
        return Rehearsal()
    if not isinstance(value, Mapping):
        raise fields.bad("rehearsal", value)
    sums, late, cost = (fields.reals(f"rehearsal.{name}", value.get(name)) for name in ("sums", "late", "cost"))
    if len(sums) != len(_REHEARSAL) or len(late) != len(cost):
        raise fields.bad("rehearsal", value)
    requests, seconds, missed, rehearsed, position, held = sums
    return Rehearsal(
        late=late,
        cost=cost,
        requests=requests,
        seconds=seconds,
        missed=missed,
        rehearsed=rehearsed,
        position=position,
        held=held,
    )


def _short(value: float) -> float:
    """Six digits are more than a mean of days is worth."""
    return float(f"{value:.6g}")


def _newest(table: Mapping[str, _Entry], at: Callable[[_Entry], float]) -> list[tuple[str, _Entry]]:
    return sorted(table.items(), key=lambda item: (-at(item[1]), item[0]))[:MOST_LEARNED]


def _failed(entry: object, now: float) -> FailedStarts:
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], Mapping) or len(entry[2]) > 64:
        raise fields.bad("failures", entry)
    at = None if entry[1] is None else now - max(0.0, fields.real("failures", entry[1]))
    times = {str(uid): now - max(0.0, fields.real("failures", age)) for uid, age in entry[2].items()}
    return FailedStarts(times, min(10, fields.whole("failures", entry[0])), at)


def _learned(entry: object, now: float) -> LearnedRate:
    if not isinstance(entry, list) or len(entry) != 4:
        raise fields.bad("learned", entry)
    log_ratio, applied, age = (fields.real("learned", value) for value in entry[:3])
    if abs(log_ratio) > 1.0 or not 0.5 <= applied <= 2.0:
        raise fields.bad("learned", entry)
    return LearnedRate(log_ratio, applied, now - max(0.0, age), fields.whole("learned", entry[3]))


def _startups(entry: object, now: float) -> tuple[tuple[float, float], ...]:
    if not isinstance(entry, list) or len(entry) > 256:
        raise fields.bad("startups", entry)
    found = []
    for pair in entry:
        if not isinstance(pair, list) or len(pair) != 2:
            raise fields.bad("startups", pair)
        age, seconds = (fields.real("startups", value) for value in pair)
        if seconds < 0:
            raise fields.bad("startups", pair)
        found.append((now - max(0.0, age), seconds))
    return tuple(sorted(found))


def _grouped(steps: tuple[float, ...]) -> list[tuple[float, int]]:
    """(time, count), at most ``MOST_STEPS``: the oldest are counted as if they had happened later."""
    groups: dict[float, int] = {}
    for at in sorted(steps):
        groups[at] = groups.get(at, 0) + 1
    pairs = list(groups.items())
    surplus = len(pairs) - MOST_STEPS
    if surplus > 0:
        merged = (pairs[surplus][0], sum(count for _, count in pairs[: surplus + 1]))
        pairs = [merged, *pairs[surplus + 1 :]]
    return pairs
