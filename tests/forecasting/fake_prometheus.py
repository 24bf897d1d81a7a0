"""The range-query API of Prometheus, made of aiohttp, with its limits and its bad days."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Value = Callable[[float], float | None]


@dataclass
class FakePrometheus:
    """Answers each series' function at each step; ``mode`` is how it behaves."""

    series: dict[str, Value] = field(default_factory=dict)
    mode: str = "good"
    requests: list[dict[str, str]] = field(default_factory=list)
    failures: int = 0
    url: str = ""
    runner: web.AppRunner | None = None

    async def __aenter__(self) -> FakePrometheus:
        app = web.Application()
        app.router.add_post("/api/v1/query_range", self._range)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.runner is not None
        await self.runner.cleanup()

    async def _range(self, request: web.Request) -> web.StreamResponse:
        form = {k: str(v) for k, v in (await request.post()).items()}
        self.requests.append(form)
        if self.failures:
            self.failures -= 1
            return web.json_response({"status": "error", "error": "try again"}, status=503)
        if self.mode == "slow":
            await asyncio.sleep(30)
        if self.mode == "refusing":
            return web.json_response({"status": "error", "error": "parse error at char 3"}, status=400)
        if self.mode == "garbage":
            return web.Response(body=b"\xff<html>", content_type="application/json")
        if self.mode == "huge":
            return await self._huge(request)
        start, end, step = (float(form[k]) for k in ("start", "end", "step"))
        count = int((end - start) / step + 1e-9) + 1
        if count > 11_000:
            return web.json_response({"status": "error", "error": "exceeded maximum resolution of 11,000"}, status=400)
        result = [self._one(name, value, start, step, count) for name, value in self.series.items()]
        found = [series for series in result if series["values"]]
        return web.json_response({"status": "success", "data": {"resultType": "matrix", "result": found}})

    def _one(self, name: str, value: Value, start: float, step: float, count: int) -> dict[str, Any]:
        points = [(start + i * step, value(start + i * step)) for i in range(count)]
        values = [[at, "NaN" if math.isnan(v) else repr(v)] for at, v in points if v is not None]
        return {"metric": {"pod": name}, "values": values}

    async def _huge(self, request: web.Request) -> web.StreamResponse:
        """Ten million points, whatever was asked for."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[')
        block = b",".join(b'[1700000000,"1"]' for _ in range(10_000)) + b","
        try:
            for _ in range(1000):
                await response.write(block)
        except ConnectionError:
            pass
        return response
