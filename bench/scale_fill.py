"""Fills a cluster fast: copies of objects that the API server has made are put into etcd beside them.

20,000 pods through the API server, with a status from kwok for each, are 40,000 writes, on two cores a quarter of an
hour in which nothing is measured. So of each fleet one pod takes that way, and its siblings are copies of what came
out, weight for weight (defaults, ``managedFields``, status), with name, UID and address of their own. API server, kwok
and controllers learn of them as of any other object, from etcd.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import aiohttp

Json = dict[str, Any]
_URL = "http://127.0.0.1:2379/v3/kv/txn"
_BATCH = 64
"""Objects in one transaction: etcd takes 128 and 1.5 MB."""
_PARALLEL = 4
_PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Real seconds between attempts: etcd says so when its disk does not keep up."""
_FIRST_ADDRESS = 8 * 256
"""Of the pod network 10.244.0.0/16; below are the test's own, from 10.244.128.0 kwok's."""


def siblings(pod: Json, names: Iterable[str], addresses: Iterator[int]) -> Iterator[tuple[str, Json]]:
    """Copies of a running pod under other names: (key in etcd, object).

    Args:
        pod: As the API server has it.
        names: Of the copies.
        addresses: Numbers that nobody else uses.
    """
    for name in names:
        twin = copy.deepcopy(pod)
        meta, number = twin["metadata"], _FIRST_ADDRESS + next(addresses)
        if number >= 128 * 256:
            raise AssertionError("the pod network has no more addresses")
        meta["name"], meta["uid"] = name, str(uuid.uuid4())
        del meta["resourceVersion"]
        address = f"10.244.{number >> 8}.{number & 255}"
        twin["status"] |= {"podIP": address, "podIPs": [{"ip": address}]}
        yield f"/registry/pods/{meta['namespace']}/{name}", twin


def twins(node: Json, bodies: Iterable[Json]) -> Iterator[tuple[str, Json]]:
    """Copies of a ready node with names, labels and resources of their own: (key in etcd, object)."""
    for body in bodies:
        twin = copy.deepcopy(node)
        meta, name = twin["metadata"], body["metadata"]["name"]
        del meta["resourceVersion"]
        meta |= {"uid": str(uuid.uuid4()), "name": name}
        meta["labels"] = {**(meta.get("labels") or {}), **body["metadata"]["labels"]}
        twin["status"] |= body["status"]
        yield f"/registry/minions/{name}", twin


async def put(objects: Iterable[tuple[str, Json]]) -> None:
    """Put objects into etcd.

    Raises:
        RuntimeError: It refused, again and again.
    """
    todo = iter(objects)
    gate = asyncio.Semaphore(_PARALLEL)

    async def one(session: aiohttp.ClientSession, batch: list[tuple[str, Json]]) -> None:
        puts = [{"requestPut": {"key": _text(key), "value": _text(json.dumps(body))}} for key, body in batch]
        async with gate:
            for pause in (*_PAUSES, None):
                if (problem := await _refused(session, puts)) is None:
                    return
                if pause is None:
                    raise RuntimeError(f"etcd: {problem}")
                await asyncio.sleep(pause)

    async with aiohttp.ClientSession(trust_env=False) as session, asyncio.TaskGroup() as tasks:
        while batch := list(islice(todo, _BATCH)):
            tasks.create_task(one(session, batch))
            await asyncio.sleep(0)


async def _refused(session: aiohttp.ClientSession, puts: list[Json]) -> str | None:
    """Why a transaction failed; a put that was carried out may be repeated. None: it did not."""
    try:
        async with session.post(_URL, json={"success": puts}) as answer:
            return None if answer.status == 200 else f"{answer.status} {await answer.text()}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"


def _text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
