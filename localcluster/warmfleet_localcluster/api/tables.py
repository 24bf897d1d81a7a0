"""`Table` answers, so that kubectl prints what people know, and `PartialObjectMetadata` answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from warmfleet_localcluster.api.ages import age
from warmfleet_localcluster.api.objects import Object, dig
from warmfleet_localcluster.api.printers import PRINTERS, Column, Printer
from warmfleet_localcluster.api.resources import Resource

_META_VERSION = "meta.k8s.io/v1"
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\[\?\(@\.([\w.]+)==[\"']([^\"']*)[\"']\)\]|\[(\*)\]")


@dataclass(frozen=True, slots=True)
class View:
    """How a client wants objects presented, from its Accept header.

    Attributes:
        table: As rows of cells.
        partial: As metadata only.
    """

    table: bool = False
    partial: bool = False

    @classmethod
    def accepted(cls, accept: str) -> View:
        """Return the first presentation an Accept header asks for that is known here."""
        for media in accept.split(","):
            if "as=Table" in media:
                return cls(table=True)
            if "as=PartialObjectMetadata" in media:
                return cls(partial=True)
            if media.strip().startswith(("application/json", "*/*")):
                break
        return cls()


def _json_path(item: Any, path: str) -> Any:
    """Return what a simple JSONPath (fields, indexes, one equality filter per step) finds first."""
    for field, index, filter_field, wanted, star in _STEP.findall(path):
        if field:
            item = item.get(field) if isinstance(item, dict) else None
        elif isinstance(item, list) and (index or star):
            at = int(index or 0)
            item = item[at] if at < len(item) else None
        elif isinstance(item, list):
            item = next((e for e in item if str(dig(e, *filter_field.split("."))) == wanted), None)
        else:
            return None
    return item


def _custom_printer(resource: Resource) -> Printer:
    declared = resource.definition.get("additionalPrinterColumns")
    if not declared:
        declared = [{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]
    columns = tuple(
        Column(c["name"], c.get("type", "string"), c.get("priority", 0), c.get("description", "")) for c in declared
    )

    def cells(item: Object, now: datetime) -> list[Any]:
        found = []
        for column in declared:
            value = _json_path(item, column["jsonPath"])
            if column.get("type") == "date":
                value = age(value, now) if isinstance(value, str) else None
            elif isinstance(value, dict | list):
                value = str(value)
            found.append(value)
        return found

    return Printer(columns, cells)


def _plain_cells(item: Object, now: datetime) -> list[Any]:
    return [age(item["metadata"].get("creationTimestamp"), now)]


_PLAIN = Printer((Column("Age"),), _plain_cells)


def printer_for(resource: Resource) -> Printer:
    """Return the printer of a kind; kinds without one of their own show name and age."""
    if resource.crd:
        return _custom_printer(resource)
    return PRINTERS.get(resource.storage, _PLAIN)


def as_table(
    resource: Resource, items: Sequence[Object], meta: Object, *, now: datetime, include_object: str = "Metadata"
) -> Object:
    """Return objects as a `Table`.

    Args:
        resource: Their kind.
        items: The objects.
        meta: List metadata (resourceVersion, continue).
        now: For ages.
        include_object: The request's `includeObject`: None, Metadata or Object.
    """
    printer = printer_for(resource)
    columns = [Column("Name", "string", 0, "Name must be unique within a namespace.", "name"), *printer.columns]
    return {
        "kind": "Table",
        "apiVersion": _META_VERSION,
        "metadata": meta,
        "columnDefinitions": [
            {
                "name": column.name,
                "type": column.type,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            }
            for column in columns
        ],
        "rows": [
            {
                "cells": [item["metadata"]["name"], *printer.cells(item, now)],
                **_row_object(item, include_object),
            }
            for item in items
        ],
    }


def _row_object(item: Object, include: str) -> Object:
    if include == "None":
        return {}
    return {"object": item if include == "Object" else partial(item)}


def partial(item: Object) -> Object:
    """Return an object's metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": _META_VERSION, "metadata": item["metadata"]}
