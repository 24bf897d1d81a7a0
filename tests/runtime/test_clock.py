"""Logical time: scaling, agreement between processes, and time moved by hand."""

import asyncio
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from warmfleet_runtime.clock import CLOCK_ENV, Clock, ManualClock, ScaledClock, SystemClock, clock_from_env

WALL = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize("clock", [SystemClock(), ScaledClock(10), ManualClock()])
def test_every_clock_keeps_the_protocol(clock: Clock) -> None:
    assert isinstance(clock, Clock)
    assert clock.wall().tzinfo is UTC
    assert clock.real(10) == 10 / clock.scale
    first = clock.now()
    assert clock.now() >= first


async def test_scaled_sleep_takes_the_scaled_time() -> None:
    clock = ScaledClock(100)
    real, logical = time.monotonic(), clock.now()
    await clock.sleep(10)
    assert 0.09 < time.monotonic() - real < 0.5
    assert clock.now() - logical >= 10


def test_scaled_wall_moves_with_now() -> None:
    clock = ScaledClock(3600, start_wall=WALL, epoch_real=time.time() - 2)
    assert clock.now() >= 7200
    assert timedelta(hours=2) <= clock.wall() - WALL < timedelta(hours=3)


def test_processes_agree_through_the_environment() -> None:
    clock = ScaledClock(60, start_wall=WALL)
    code = "from warmfleet_runtime.clock import clock_from_env as c; print(c().now(), c().wall().isoformat())"
    import os

    before = clock.now()
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, CLOCK_ENV: clock.to_env()},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.split()
    assert before - 0.6 <= float(answer[0]) <= clock.now() + 0.6
    assert abs(datetime.fromisoformat(answer[1]) - WALL - timedelta(seconds=float(answer[0]))) < timedelta(seconds=1)


def test_without_environment_time_is_real() -> None:
    assert isinstance(clock_from_env({}), SystemClock)
    assert isinstance(clock_from_env({CLOCK_ENV: " "}), SystemClock)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("60", "scale="),
        ("epoch_real=1", "scale="),
        ("scale=0", "scale"),
        ("scale=nan", "scale"),
        ("scale=fast", "fast"),
        ("scale=2,epoch_real=inf", "epoch_real"),
        ("scale=2,epoch_wall=2026-01-01", "time zone"),
        ("scale=2,speed=3", "speed=3"),
    ],
)
def test_a_wrong_environment_names_the_field(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=CLOCK_ENV) as caught:
        clock_from_env({CLOCK_ENV: text})
    assert named in str(caught.value)


async def test_manual_time_wakes_who_is_due_and_nobody_else() -> None:
    clock, woken = ManualClock(5.0), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleeper(s)) for s in (3, 1, 2)]
    await asyncio.sleep(0)
    clock.advance(2)
    await asyncio.sleep(0.01)
    assert woken == [1, 2]
    assert clock.now() == 7.0
    tasks[0].cancel()
    await asyncio.sleep(0)
    clock.advance(10)
    await asyncio.sleep(0)
    assert woken == [1, 2]
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)


async def test_manual_time_may_be_moved_from_another_thread() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    threading.Thread(target=clock.advance, args=(1.0,)).start()
    await asyncio.wait_for(task, 2)
    assert clock.wall() - datetime(2026, 1, 1, tzinfo=UTC) == timedelta(seconds=1)
