"""HTTP in front of `EmbeddedApi`: paths to verbs, errors to Status objects, watches to chunked streams."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from warmfleet_localcluster.api import discovery, errors, openapi
from warmfleet_localcluster.api.deletion import DeleteOptions, delete, delete_all
from warmfleet_localcluster.api.embedded import EmbeddedApi
from warmfleet_localcluster.api.errors import ApiError, bad_request
from warmfleet_localcluster.api.events import present
from warmfleet_localcluster.api.eviction import evict
from warmfleet_localcluster.api.objects import Object
from warmfleet_localcluster.api.reading import list_objects, select, show
from warmfleet_localcluster.api.requestcounts import RequestKind
from warmfleet_localcluster.api.requests import Target, parse_target, read_body, verb_of, write_options
from warmfleet_localcluster.api.subresources import bind, patch_scale, put_scale, request_token, scale_of
from warmfleet_localcluster.api.tables import View
from warmfleet_localcluster.api.watch import WatchRequest, stream

_LOG = logging.getLogger(__name__)
_MAX_BODY_BYTES = 3 << 20
_SUCCESS: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

LogReader = Callable[[str, str, web.Request], Awaitable[web.StreamResponse]]
"""Answers `pods/log`: namespace, name, request. Raises ApiError."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One request on a resource, taken apart."""

    request: web.Request
    target: Target
    verb: str

    @property
    def view(self) -> View:
        return View.accepted(self.request.headers.get("Accept", ""))


class ApiServer:
    """The HTTP handlers.

    Args:
        api: The API to serve.
        log_reader: Answers `pods/log`; without one a pod's log is empty.
    """

    def __init__(self, api: EmbeddedApi, *, log_reader: LogReader | None = None) -> None:
        self._api = api
        self._log_reader = log_reader
        self._verbs: dict[str, Callable[[_Call], Awaitable[web.StreamResponse]]] = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{tail:.*}", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; refusals become Status objects."""
        try:
            return await self._route(request)
        except ApiError as error:
            headers = {"Retry-After": "1"} if error.code in {429, 503} else None
            return web.json_response(error.status(), status=error.code, headers=headers)
        except web.HTTPRequestEntityTooLarge:
            too_large = ApiError(413, "RequestEntityTooLarge", f"limit is {_MAX_BODY_BYTES} bytes")
            return web.json_response(too_large.status(), status=413)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request.path.split("/") if part]
        if (parts[0] if parts else "") in {"api", "apis"} and len(parts) > (2 if parts[0] == "api" else 3):
            return await self._resource(request, parts)
        return self._document(request, parts)

    # documents

    def _document(self, request: web.Request, parts: list[str]) -> web.Response:
        match parts:
            case ["healthz" | "readyz" | "livez", *_]:
                return web.Response(text="ok")
            case ["openapi", *rest]:
                return _found(self._openapi(rest))
            case ["api" | "apis" as root] if "as=APIGroupDiscoveryList" in request.headers.get("Accept", ""):
                body = json.dumps(discovery.aggregated(self._api.registry, core=root == "api")).encode()
                return web.Response(body=body, headers={"Content-Type": discovery.AGGREGATED})
            case ["api" | "apis", *_]:
                return _found(self._discovery(parts))
        fixed: dict[tuple[str, ...], Any] = {
            (): {"paths": ["/api", "/apis", "/healthz", "/openapi/v2", "/openapi/v3", "/version"]},
            ("version",): discovery.VERSION,
            ("debug", "requests"): self._api.requests.as_json(),
        }
        return _found(fixed.get(tuple(parts)))

    def _discovery(self, parts: list[str]) -> Object | None:
        registry = self._api.registry
        match parts:
            case ["api"]:
                return discovery.core_versions()
            case ["apis"]:
                return discovery.group_list(registry)
            case ["apis", group]:
                return discovery.group(registry, group)
            case ["api", version]:
                return discovery.resource_list(registry, "", version)
            case _:
                return discovery.resource_list(registry, parts[1], parts[2])

    def _openapi(self, parts: list[str]) -> Object | None:
        registry = self._api.registry
        match parts:
            case ["v2"]:
                return openapi.swagger(registry)
            case ["v3"]:
                return openapi.index(registry)
            case ["v3", "api", version]:
                return openapi.document(registry, "", version)
            case ["v3", "apis", group, version]:
                return openapi.document(registry, group, version)
            case _:
                return None

    # resources

    async def _resource(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        target = parse_target(self._api.registry, parts)
        verb = verb_of(request.method, target, request.query)
        agent = request.headers.get("User-Agent", "")
        self._api.requests.add(RequestKind(verb, target.resource.plural, target.subresource, agent))
        if self._api.faults.delay_seconds > 0:
            await asyncio.sleep(self._api.faults.delay_seconds)
        self._api.faults.check(verb, target.resource.plural, target.subresource)
        return await self._verbs[verb](_Call(request, target, verb))

    async def _get(self, call: _Call) -> web.StreamResponse:
        target = call.target
        item = self._api.get(target.resource, target.namespace, target.name or "")
        if target.subresource == "scale":
            return _json(scale_of(target.resource, item))
        if target.subresource == "log":
            if self._log_reader is None:
                return web.Response(text="")
            return await self._log_reader(target.namespace or "", target.name or "", call.request)
        if target.subresource in {"eviction", "binding", "token"}:
            raise errors.method_not_allowed("GET")
        return _json(show(self._api, target.resource, item, call.request.query, call.view))

    async def _list(self, call: _Call) -> web.StreamResponse:
        target = call.target
        return _json(list_objects(self._api, target.resource, target.namespace, call.request.query, call.view))

    async def _watch(self, call: _Call) -> web.StreamResponse:
        target = call.target
        watch = WatchRequest.parse(target.resource, target.namespace, target.name, call.request.query, call.view)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(call.request)
        try:
            await stream(self._api, watch, response.write)
            await response.write_eof()
        except ConnectionResetError:
            _LOG.debug("a watch of %s was closed by its client", target.resource.plural)
        return response

    async def _create(self, call: _Call) -> web.StreamResponse:
        target, body = call.target, await read_body(call.request)
        if target.subresource:
            return self._create_sub(call, body)
        if target.name is not None:
            raise errors.method_not_allowed("POST")
        if target.resource.plural == "selfsubjectaccessreviews":
            return _json({**(body or {}), "status": {"allowed": True}}, 201)
        options = write_options(call.request.query, call.request.headers.get("User-Agent", ""))
        item = self._api.create(target.resource, target.namespace, body, options)
        return self._written(call, item, options.warnings, 201)

    def _create_sub(self, call: _Call, body: Any) -> web.Response:
        target = call.target
        resource, namespace, name = target.resource, target.namespace, target.name or ""
        match target.subresource:
            case "eviction":
                if body is not None and not isinstance(body, dict):
                    raise bad_request("the body must be an Eviction")
                evict(self._api, resource, namespace, name, body, call.request.query)
            case "binding":
                bind(self._api, resource, namespace, name, body)
            case "token":
                return _json(request_token(self._api, resource, namespace, name, body), 201)
            case _:
                raise errors.method_not_allowed("POST")
        return _json({**_SUCCESS, "code": 201}, 201)

    async def _update(self, call: _Call) -> web.StreamResponse:
        target, body = call.target, await read_body(call.request)
        resource, name = target.resource, target.name or ""
        options = write_options(call.request.query, call.request.headers.get("User-Agent", ""))
        if target.subresource == "scale":
            old = self._api.get(resource, target.namespace, name)
            return _json(put_scale(self._api, resource, old, body, options))
        _only_status(target, "PUT")
        item = self._api.replace(
            resource, target.namespace, name, body, subresource=target.subresource, options=options
        )
        return self._written(call, item, options.warnings)

    async def _patch(self, call: _Call) -> web.StreamResponse:
        target, patch = call.target, await read_body(call.request)
        resource, name, media = target.resource, target.name or "", call.request.content_type
        options = write_options(call.request.query, call.request.headers.get("User-Agent", ""))
        if patch is None:
            raise bad_request("a patch must not be empty")
        if target.subresource == "scale":
            old = self._api.get(resource, target.namespace, name)
            return _json(patch_scale(self._api, resource, old, patch, media, options))
        _only_status(target, "PATCH")
        item, created = self._api.patch(
            resource, target.namespace, name, patch, media, subresource=target.subresource, options=options
        )
        return self._written(call, item, options.warnings, 201 if created else 200)

    def _written(self, call: _Call, item: Object, warnings: list[str], status: int = 200) -> web.Response:
        response = _json(show(self._api, call.target.resource, item, call.request.query, call.view), status)
        for warning in warnings:
            text = warning.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{text}"')
        return response

    async def _delete(self, call: _Call) -> web.StreamResponse:
        target = call.target
        if target.subresource:
            raise errors.method_not_allowed("DELETE")
        options = DeleteOptions.from_request(await read_body(call.request), call.request.query)
        item, gone = delete(self._api, target.resource, target.namespace, target.name or "", options)
        if gone and target.resource.storage != ("", "pods"):
            details = {
                "name": item["metadata"]["name"],
                "group": target.resource.group,
                "kind": target.resource.plural,
                "uid": item["metadata"]["uid"],
            }
            return _json({**_SUCCESS, "details": details})
        return _json(present(target.resource, item))

    async def _delete_collection(self, call: _Call) -> web.StreamResponse:
        target, query = call.target, call.request.query
        options = DeleteOptions.from_request(await read_body(call.request), query)
        items = select(self._api, target.resource, target.namespace, query)
        deleted = delete_all(self._api, target.resource, items, options)
        return _json(
            {
                "kind": f"{target.resource.kind}List",
                "apiVersion": target.resource.group_version,
                "metadata": {"resourceVersion": str(self._api.store.rv)},
                "items": [present(target.resource, item) for item in deleted],
            }
        )


def _json(body: Any, status: int = 200) -> web.Response:
    raw = json.dumps(body, separators=(",", ":")).encode()
    return web.Response(body=raw, status=status, content_type="application/json")


def _found(body: Any) -> web.Response:
    if body is None:
        raise errors.unknown_path()
    return _json(body)


def _only_status(target: Target, method: str) -> None:
    if target.subresource not in {"", "status"}:
        raise errors.method_not_allowed(method)


async def serve(
    api: EmbeddedApi, host: str = "127.0.0.1", port: int = 0, *, log_reader: LogReader | None = None
) -> web.AppRunner:
    """Start serving an API.

    Args:
        api: The API.
        host: A loopback address; there is no authentication.
        port: TCP port, 0 for any free one (`server_url` tells which).
        log_reader: Answers `pods/log`.

    Returns:
        The runner; `await runner.cleanup()` ends it.
    """
    # open watches never end by themselves: do not wait for them on shutdown
    runner = web.AppRunner(ApiServer(api, log_reader=log_reader).application(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


def server_url(runner: web.AppRunner) -> str:
    """Return the URL a started server listens on."""
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"
