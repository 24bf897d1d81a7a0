"""Where the past comes from: Prometheus (a fake one), the recorder, scraping, counters."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from warmfleet_forecasting.history import HistoryError, HistoryProblem, Key
from warmfleet_forecasting.history.counters import CounterRates, cell_rates
from warmfleet_forecasting.history.prometheus import PrometheusHistory, PrometheusSettings, render
from warmfleet_forecasting.history.recorded import CachedHistory, RecordedHistory
from warmfleet_forecasting.history.recorder import Recorder
from warmfleet_forecasting.history.scrape import Scraper
from warmfleet_forecasting.series import Series
from warmfleet_runtime.clock import ManualClock

sys.path.insert(0, str(Path(__file__).resolve().parent))  # these folders are no packages

from fake_prometheus import FakePrometheus

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()
CHAT = Key("prod", "chat")
DAY = 86_400.0


async def _no_wait(_: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture
async def prometheus() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus() as fake:
        yield fake


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


def history(
    fake: FakePrometheus, session: aiohttp.ClientSession, *, timeout_s: float = 5.0, **how: bool | int | str
) -> PrometheusHistory:
    return PrometheusHistory(PrometheusSettings(fake.url, timeout_s=timeout_s, **how), session, _no_wait)  # type: ignore[arg-type]


async def test_a_month_comes_in_chunks_and_lies_on_the_right_minutes(
    prometheus: FakePrometheus, session: aiohttp.ClientSession
) -> None:
    prometheus.series["a"] = lambda at: at - NOW + 28 * DAY
    series = await history(prometheus, session).series(CHAT, NOW - 28 * DAY, NOW)
    assert len(prometheus.requests) == 5
    assert (series.start, series.end, series.known) == (NOW - 28 * DAY, NOW, 28 * 1440)
    # the value at t is the mean of the minute that ends at t
    assert series.values[0] == 60.0
    assert series.values[-1] == 28 * DAY
    assert 'namespace="prod",deployment="chat"' in prometheus.requests[0]["query"]
    assert "[60s]" in prometheus.requests[0]["query"]


async def test_a_gap_is_no_zero_and_a_zero_is_no_gap(
    prometheus: FakePrometheus, session: aiohttp.ClientSession
) -> None:
    def value(at: float) -> float | None:
        minute = round((NOW - at) / 60)
        return {0: 0.0, 1: None, 2: math.nan, 3: math.inf, 4: -5.0}.get(minute, 1.0)

    prometheus.series["a"] = value
    series = await history(prometheus, session).series(CHAT, NOW - 600, NOW)
    assert series.values[-1] == 0.0
    assert np.isnan(series.values[-5:-1]).all()
    assert (series.values[:-5] == 1.0).all()
    assert series.rejected == 1


async def test_several_series_are_added_up(prometheus: FakePrometheus, session: aiohttp.ClientSession) -> None:
    prometheus.series["a"] = lambda at: 1.0
    prometheus.series["b"] = lambda at: 2.0 if at > NOW - 300 else None
    series = await history(prometheus, session).series(CHAT, NOW - 600, NOW)
    assert series.values.tolist() == [1.0] * 5 + [3.0] * 5


async def test_counters_that_restart_are_counted_right(
    prometheus: FakePrometheus, session: aiohttp.ClientSession
) -> None:
    restart = NOW - 300

    prometheus.series["a"] = lambda at: (at - NOW + 10 * DAY) * 2.0 if at < restart else (at - restart) * 2.0
    series = await history(prometheus, session, counter=True).series(CHAT, NOW - 600, NOW)
    rates = series.values
    assert np.delete(rates, 4) == pytest.approx([2.0] * 9)
    assert 0.0 <= rates[4] <= 2.0, "what was counted in the minute of the restart before it is lost, never negative"


async def test_an_answer_of_ten_million_points_is_hung_up_on(
    prometheus: FakePrometheus, session: aiohttp.ClientSession
) -> None:
    prometheus.mode = "huge"
    with pytest.raises(HistoryError, match="aggregate it to one series") as raised:
        await history(prometheus, session).series(CHAT, NOW - 28 * DAY, NOW)
    assert raised.value.problem is HistoryProblem.TOO_LARGE
    assert len(prometheus.requests) < 12


async def test_too_large_an_answer_is_asked_for_in_smaller_pieces(
    prometheus: FakePrometheus, session: aiohttp.ClientSession
) -> None:
    prometheus.series |= {str(n): lambda at: 1.0 for n in range(20)}
    series = await history(prometheus, session, most_bytes=500_000).series(CHAT, NOW - DAY, NOW)
    assert (series.values == 20.0).all()
    assert len(series) == 1440
    with pytest.raises(HistoryError, match="samples"):
        await history(prometheus, session, most_samples=10_000).series(CHAT, NOW - DAY, NOW)


@pytest.mark.parametrize(
    ("mode", "problem", "words"),
    [
        ("slow", HistoryProblem.UNREACHABLE, "Timeout"),
        ("refusing", HistoryProblem.REFUSED, "parse error"),
        ("garbage", HistoryProblem.UNREADABLE, "not JSON"),
    ],
)
async def test_a_prometheus_on_a_bad_day_is_a_reason(
    prometheus: FakePrometheus, session: aiohttp.ClientSession, mode: str, problem: HistoryProblem, words: str
) -> None:
    prometheus.mode = mode
    with pytest.raises(HistoryError, match=words) as raised:
        await history(prometheus, session, timeout_s=0.2, attempts=2).series(CHAT, NOW - 600, NOW)
    assert raised.value.problem is problem


async def test_an_overloaded_prometheus_is_asked_again(
    prometheus: FakePrometheus, session: aiohttp.ClientSession
) -> None:
    prometheus.series["a"], prometheus.failures = lambda at: 4.0, 2
    series = await history(prometheus, session).series(CHAT, NOW - 600, NOW)
    assert series.known == 10
    prometheus.failures = 3
    with pytest.raises(HistoryError, match="503"):
        await history(prometheus, session).series(CHAT, NOW - 600, NOW)


async def test_no_prometheus_is_a_reason(session: aiohttp.ClientSession) -> None:
    nobody = PrometheusHistory(PrometheusSettings("http://127.0.0.1:1", attempts=1), session)
    with pytest.raises(HistoryError) as raised:
        await nobody.series(CHAT, NOW - 600, NOW)
    assert raised.value.problem is HistoryProblem.UNREACHABLE


def test_names_are_escaped_in_the_query() -> None:
    assert render('x{n="$deployment"}', Key("a", 'b"}) or vector(1')) == 'x{n="b\\"}) or vector(1"}'


def test_the_recorder_keeps_minute_means_gaps_and_zeros(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "h.sqlite"), 28 * DAY)
    readings = [(CHAT, NOW + s, 2.0 + s % 2) for s in (0, 15, 30, 45)] + [(CHAT, NOW + 180, 0.0)]
    bad = [(CHAT, NOW, math.nan), (CHAT, NOW, -1.0), (CHAT, NOW, math.inf)]
    assert recorder.record([*readings, *bad]) == 3
    recorder.close()
    again = Recorder(str(tmp_path / "h.sqlite"), 28 * DAY)
    series = again.series(CHAT, NOW - DAY, NOW + 240)
    assert series.start == NOW
    assert series.values.tolist() == pytest.approx([2.5, math.nan, math.nan, 0.0], nan_ok=True)
    assert again.newest(CHAT, NOW + 999) == NOW + 240
    assert len(again.series(Key("prod", "other"), NOW, NOW + 240)) == 0
    again.close()


def test_the_recorder_forgets_the_old_and_a_future_that_a_clock_made_up() -> None:
    recorder = Recorder(":memory:", 2 * DAY)
    recorder.record([(CHAT, NOW - 3 * DAY, 1.0), (CHAT, NOW - DAY, 2.0), (CHAT, NOW + DAY, 3.0)])
    assert recorder.prune(NOW) == 2
    kept = recorder.series(CHAT, 0, NOW + 2 * DAY)
    assert (kept.start, kept.known, kept.values[0]) == (NOW - DAY, 1, 2.0)
    recorder.close()


def test_a_damaged_file_is_put_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    file = tmp_path / "h.sqlite"
    file.write_bytes(b"no database " * 100)
    recorder = Recorder(str(file), DAY)
    recorder.record([(CHAT, NOW, 1.0)])
    assert recorder.series(CHAT, NOW, NOW + 60).known == 1
    recorder.close()
    assert (tmp_path / "h.sqlite.unreadable").read_bytes().startswith(b"no database")
    with pytest.raises(HistoryError, match="unable to open"):
        Recorder(str(tmp_path / "nowhere" / "h.sqlite"), DAY)


def test_a_file_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "h.sqlite"), DAY)
    with sqlite3.connect(tmp_path / "h.sqlite") as other:
        other.execute("DROP TABLE cell")
    other.close()
    with pytest.raises(HistoryError, match="no such table"):
        recorder.record([(CHAT, NOW, 1.0)])
    recorder.close()


async def test_the_past_is_taken_over_once_and_never_over_what_was_recorded(
    prometheus: FakePrometheus, session: aiohttp.ClientSession
) -> None:
    recorder = Recorder(":memory:", 28 * DAY)
    both = RecordedHistory(recorder, history(prometheus, session))
    recorder.record([(CHAT, NOW - 60, 9.0)])
    prometheus.failures = 99
    assert (await both.series(CHAT, NOW - 600, NOW)).known == 1, "without Prometheus there is what was recorded"
    prometheus.failures, asked = 0, len(prometheus.requests)
    prometheus.series["a"] = lambda at: 5.0
    assert (await both.series(CHAT, NOW - 600, NOW)).known == 1, "it is not asked again at once"
    assert len(prometheus.requests) == asked
    later = NOW + 660
    series = await both.series(CHAT, later - 1200, later)
    assert series.values.tolist() == [5.0] * 8 + [9.0] + [5.0] * 11
    asked = len(prometheus.requests)
    await both.series(CHAT, later - 600, later + 9000)
    assert len(prometheus.requests) == asked
    recorder.close()


async def test_of_prometheus_only_what_is_new_is_fetched(
    prometheus: FakePrometheus, session: aiohttp.ClientSession
) -> None:
    recorder = Recorder(":memory:", 28 * DAY)
    cached = CachedHistory(recorder, history(prometheus, session))
    prometheus.series["a"] = lambda at: 5.0
    assert (await cached.series(CHAT, NOW - DAY, NOW)).known == 1440
    asked = len(prometheus.requests)
    assert (await cached.series(CHAT, NOW - DAY + 600, NOW + 600)).known == 1440
    (request,) = prometheus.requests[asked:]
    assert float(request["end"]) - float(request["start"]) == pytest.approx(840)
    prometheus.mode = "refusing"
    with pytest.raises(HistoryError):
        await cached.series(CHAT, NOW - DAY, NOW + 1200)
    recorder.close()


async def test_every_replica_of_the_operator_is_asked_and_the_leader_counts(session: aiohttp.ClientSession) -> None:
    text = 'warmfleet_operator_demand_requests_per_second{namespace="prod",deployment="chat"} 12.5\nother_metric 1\n'

    async def metrics(request: web.Request) -> web.Response:
        known = request.headers.get("Authorization") == "Bearer newest"
        return web.Response(text=text) if known else web.Response(status=401)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    clock = ManualClock(start_wall=datetime.fromtimestamp(NOW, UTC))
    recorder, outcomes = Recorder(":memory:", DAY), list[str]()
    url = f"http://localhost:{runner.addresses[0][1]}/metrics"
    tokens: list[str] = []
    scraper = Scraper(recorder, url, session, clock, observe=outcomes.append, tokens=lambda: tokens)
    assert await scraper.round() == 0
    assert set(outcomes) == {"failed"}
    tokens += ["newest", "older"]
    outcomes.clear()
    assert await scraper.round() == 1
    text = "\xff broken {"
    clock.advance(60)
    assert await scraper.round() == 0
    text = 'warmfleet_operator_demand_requests_per_second{namespace="prod",deployment="chat"} NaN\n'
    clock.advance(60)
    assert await scraper.round() == 0
    await runner.cleanup()
    assert await scraper.round() == 0
    assert outcomes[0] == "read"
    assert outcomes.count("failed") >= 2
    kept = recorder.series(CHAT, NOW, NOW + 240)
    assert (kept.values[0], kept.known) == (12.5, 1), "what is not known is no zero"
    recorder.close()


def test_a_counter_read_one_at_a_time() -> None:
    rates = CounterRates(60.0)
    readings = [(0, 100.0), (10, 120.0), (20, 5.0), (100, 50.0), (90, 60.0), (110, 80.0)]
    assert [rates.add(at, value) for at, value in readings] == [None, 2.0, 0.5, None, None, 1.0]


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1e6), st.booleans()), min_size=2, max_size=60),
)
def test_counted_is_never_negative_and_never_lost_but_to_a_restart(steps: list[tuple[float, float, bool]]) -> None:
    times = np.cumsum([step for step, _, _ in steps])
    values, total, expected = [], 0.0, 0.0
    for _, more, restarts in steps:
        total = more if restarts else total + more
        expected += more if values else 0.0
        values.append(total)
    edges = np.linspace(times[0], times[-1], 8)
    rates = cell_rates(times, np.array(values), edges, math.inf)
    assert (rates >= -1e-9).all()
    counted = float((rates * np.diff(edges)).sum())
    # a restart to a larger value than before cannot be told from growth, which only counts less
    assert counted <= expected * (1 + 1e-9) + 1e-6
    assert counted == pytest.approx(expected, rel=1e-6, abs=1e-3) or any(restarts for *_, restarts in steps[1:])


def test_filling_needs_the_recorders_own_cells() -> None:
    recorder = Recorder(":memory:", DAY)
    with pytest.raises(ValueError, match="60 s"):
        recorder.fill(CHAT, Series(NOW, 300.0, np.ones(3)), replace=True)
    recorder.close()
