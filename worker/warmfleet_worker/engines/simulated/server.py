"""The simulated engine's HTTP side."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from typing import Any

from aiohttp import web

from warmfleet_worker.engines.simulated.engine import Engine, QueueFull, ShutDown, Stream
from warmfleet_worker.engines.simulated.metrics import EngineCollector, HttpStatistics, make_registry, render
from warmfleet_worker.engines.simulated.nixl import PullError, place_of
from warmfleet_worker.engines.simulated.openai import ApiError, Generation, Writer, parse_generation
from warmfleet_worker.engines.simulated.tokens import response_text

VERSION = "0.32.0+simulated"
MAX_BODY = 64 * 1024 * 1024
_JSON = "application/json"


class Server:
    """Handlers over one engine.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._http = HttpStatistics()
        self._generating: set[asyncio.BaseTransport | None] = set()
        self._registry = make_registry(EngineCollector(engine.config, engine.scheduler, self._http))

    def app(self) -> web.Application:
        """The application with all routes."""
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ping", self._health),
                web.post("/ping", self._health),
                web.get("/version", self._version),
                web.get("/load", self._load),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions/render", self._render),
                web.post("/v1/chat/completions/render", self._render),
            ]
        )
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            app.router.add_post("/reset_prefix_cache", self._reset_prefix_cache)
        return app

    def close_idle(self, runner: web.AppRunner) -> None:
        """Close the connections that wait for no tokens."""
        for connection in runner.server.connections if runner.server else ():
            transport = connection.transport
            if transport is not None and transport not in self._generating:
                transport.close()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _load(self, _: web.Request) -> web.Response:
        return web.json_response({"server_load": len(self.engine.streams)})

    async def _metrics(self, _: web.Request) -> web.Response:
        self.engine.refresh()
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=render(self._registry), headers=headers)

    async def _models(self, _: web.Request) -> web.Response:
        config = self.engine.config
        created = int(self.engine.clock.wall().timestamp())
        common = {"object": "model", "created": created, "owned_by": "vllm", "root": config.model, "parent": None}
        cards = [{"id": name, **common, "max_model_len": config.max_model_len} for name in config.served_names]
        return web.json_response({"object": "list", "data": cards})

    async def _reset_prefix_cache(self, _: web.Request) -> web.Response:
        self.engine.clear_cache()
        return web.Response()

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._counted(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._counted(request, chat=True)

    async def _render(self, request: web.Request) -> web.Response:
        """Token ids of a prompt: what a prefix-aware router asks for."""
        config, chat = self.engine.config, "/chat/" in request.path
        try:
            if not config.scale_out:
                raise ApiError(403, "Scale-out endpoints are disabled; see --enable-scale-out", "PermissionDeniedError")
            raw = await request.read()
            made = parse_generation(raw, chat=chat, names=config.served_names, max_model_len=config.max_model_len)
        except ApiError as error:
            return _error(error)
        told = {"request_id": uuid.uuid4().hex, "token_ids": made.prompt, "sampling_params": {}, "model": made.model}
        return web.json_response(told if chat else [told])

    async def _counted(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        began = time.perf_counter()
        try:
            response = await self._generate(request, chat=chat)
        except ApiError as error:
            response = _error(error)
        clock = self.engine.clock
        seconds = (time.perf_counter() - began) * clock.scale
        self._http.observe(request.path, request.method, response.status, seconds)
        return response

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        config = self.engine.config
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise ApiError(413, f"the body is larger than {MAX_BODY} bytes", "Bad Request") from None
        generation = parse_generation(raw, chat=chat, names=config.served_names, max_model_len=config.max_model_len)
        stream = self._submit(generation, await self._pull(generation))
        transport = request.transport
        self._generating.add(transport)
        writer = Writer(generation, uuid.uuid4().hex, int(self.engine.clock.wall().timestamp()))
        try:
            if generation.stream:
                return await _stream(request, stream, writer, usage=generation.usage)
            while not stream.request.finished:
                await stream.take()
            done = stream.request
            text = response_text(done.seed, 0, done.tokens)
            body = writer.whole(
                text,
                tokens=done.tokens,
                cached=done.cached,
                finish_reason=done.finish_reason,
                transfer=self._lend(generation),
            )
            return web.Response(body=body, content_type=_JSON)
        finally:
            self._generating.discard(transport)
            self.engine.leave(stream)

    def _lend(self, generation: Generation) -> dict[str, Any] | None:
        """What an engine is told that is to pull this request's blocks; None when nobody asked for it."""
        nixl, tokens = self.engine.nixl, len(generation.prompt)
        if nixl is None or generation.transfer.get("do_remote_decode") is not True:
            return None
        return nixl.lend(tokens, -(-tokens // self.engine.config.block_size))

    async def _pull(self, generation: Generation) -> int:
        """Fetch the blocks that a request says are elsewhere; returns tokens of its prompt that are here then."""
        nixl, place = self.engine.nixl, place_of(generation.transfer)
        if nixl is None or place is None:
            return 0
        try:
            return await nixl.pull(place, lambda: self.engine.missing(generation.prompt))
        except PullError as error:
            raise ApiError(500, str(error), "InternalServerError") from None

    def _submit(self, generation: Generation, pulled: int) -> Stream:
        try:
            return self.engine.submit(
                generation.prompt,
                generation.max_tokens,
                generation.finish_reason,
                every_chunk=generation.stream,
                pulled=pulled,
            )
        except ShutDown as error:
            raise ApiError(500, str(error), "InternalServerError") from None
        except QueueFull:
            limit = self.engine.config.max_num_queued_reqs
            raise ApiError(
                503, f"the request queue is full ({limit} waiting); try again later", "ServiceUnavailableError"
            ) from None


async def _stream(request: web.Request, stream: Stream, writer: Writer, *, usage: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    pending, ended = writer.first(), False
    while not ended:
        start, end, ended = await stream.take()
        done = stream.request
        pending += writer.chunk(response_text(done.seed, start, end), done.finish_reason if ended else None)
        if ended:
            pending += writer.last(tokens=done.tokens, cached=done.cached, usage=usage)
        try:
            await response.write(pending)
        except ConnectionError:
            return response  # the client has gone; leaving the stream aborts the request
        pending = b""
    return response


def _error(error: ApiError) -> web.Response:
    body: dict[str, Any] = error.body()
    return web.Response(status=error.status, text=json.dumps(body), content_type=_JSON)
