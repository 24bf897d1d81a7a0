"""Reading the few small kinds that Helm 4, kubectl and recent client-go send as protobuf.

Only the wire format's two types used there (varint, length-delimited) and those kinds' own fields are known. The field
numbers are those of the published `generated.proto` files of `k8s.io/api` and `k8s.io/apimachinery`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

from warmfleet_localcluster.api.errors import unsupported_media
from warmfleet_localcluster.api.objects import Object

MAGIC = b"k8s\0"
"""First bytes of every protobuf body."""

_Fields = list[tuple[int, Any]]
_META_STRINGS = {1: "name", 2: "generateName", 3: "namespace", 5: "uid", 6: "resourceVersion"}
_META_MAPS = {11: "labels", 12: "annotations"}
_FINALIZERS = 14
_BARE = ("Namespace", "ServiceAccount", "Eviction", "TokenRequest", "SelfSubjectAccessReview")
"""Kinds that are complete, for this API's purposes, with their metadata (and an Eviction's grace period)."""
_KNOWN = f"Secret, ConfigMap, {', '.join(_BARE)}"
_MEDIA = "application/vnd.kubernetes.protobuf"


def decode(raw: bytes) -> Object:
    """Return the object in a protobuf body.

    Raises:
        ApiError: 415, another kind or a malformed message; clients then send JSON.
    """
    try:
        return _decode(raw)
    except (IndexError, KeyError, UnicodeDecodeError, StopIteration) as error:
        raise unsupported_media(f"malformed {_MEDIA} body: {error!r}; send JSON") from error


def _decode(raw: bytes) -> Object:
    envelope = dict(_fields(raw[len(MAGIC) :]))
    type_meta = {number: value.decode() for number, value in _fields(envelope[1])}
    kind = type_meta.get(2)
    if kind not in {"Secret", "ConfigMap", *_BARE}:
        raise unsupported_media(f"{_MEDIA} is only understood for {_KNOWN}, not {kind}; send JSON")
    fields = list(_fields(envelope.get(2, b"")))
    result: Object = {
        "apiVersion": type_meta.get(1, "v1"),
        "kind": kind,
        "metadata": _metadata(next((value for number, value in fields if number == 1), b"")),
    }
    if kind in _BARE:
        if kind == "Eviction" and 2 in dict(fields):
            result["deleteOptions"] = _delete_options(dict(fields)[2])
    elif kind == "Secret":
        result["data"] = _map(fields, 2, lambda value: base64.b64encode(value).decode())
        if secret_type := dict(fields).get(3):
            result["type"] = secret_type.decode()
    else:
        result["data"] = _map(fields, 2, bytes.decode)
    return result


def _delete_options(raw: bytes) -> Object:
    fields = dict(_fields(raw))
    return {"gracePeriodSeconds": fields[1]} if 1 in fields else {}


def _metadata(raw: bytes) -> Object:
    fields = list(_fields(raw))
    single = dict(fields)
    meta: Object = {name: single[number].decode() for number, name in _META_STRINGS.items() if single.get(number)}
    for number, name in _META_MAPS.items():
        if found := _map(fields, number, bytes.decode):
            meta[name] = found
    if finalizers := [value.decode() for number, value in fields if number == _FINALIZERS]:
        meta["finalizers"] = finalizers
    return meta


def _map(fields: _Fields, wanted: int, decode_value: Callable[[bytes], str]) -> dict[str, str]:
    entries = (dict(_fields(value)) for number, value in fields if number == wanted)
    return {entry[1].decode(): decode_value(entry.get(2, b"")) for entry in entries}


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        if tag & 7 == 0:
            value, position = _varint(raw, position)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, position = _varint(raw, position)
            if position + length > len(raw):
                raise unsupported_media(f"{_MEDIA}: the message is torn; send JSON")
            yield tag >> 3, raw[position : position + length]
            position += length
        else:
            raise unsupported_media(f"{_MEDIA}: unexpected wire type {tag & 7}; send JSON")


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = raw[position]
        position += 1
        result |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return result, position
