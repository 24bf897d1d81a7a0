"""What a Secret with a key of ours looks like: the key, the one before it, and when it was made."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from warmfleet_contracts import bearer, labels
from warmfleet_runtime.clock import Clock

from warmfleet_operator.specs.common import Object
from warmfleet_operator.state import parse

ROTATED = f"{labels.DOMAIN}/rotated-at"
"""Annotation of such a Secret: when its key was made."""
_STAMP = "%Y-%m-%dT%H:%M:%SZ"


def made_key() -> str:
    """A new key."""
    return secrets.token_urlsafe(32)


def encoded(items: Mapping[str, str | None]) -> Object:
    """Items as ``data`` of a Secret, or of a patch, where None removes one."""
    return {name: None if text is None else base64.b64encode(text.encode()).decode() for name, text in items.items()}


def item(live: Object, name: str) -> str:
    """An item of a Secret; empty when it is not there or not text."""
    try:
        return base64.b64decode(str(parse.mapping(live.get("data")).get(name) or ""), validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ""


def keys(live: Object) -> tuple[str, ...]:
    """The usable keys of a Secret, the newest first, whoever wrote it; none when the newest is not usable."""
    found = [item(live, name).strip() for name in (bearer.KEY_ITEM, bearer.PREVIOUS_ITEM)]
    return tuple(filter(bearer.usable, found)) if bearer.usable(found[0]) else ()


def rotated(live: Object) -> str:
    """The stamp on a Secret; empty when there is none."""
    return parse.texts(parse.mapping(live.get("metadata")).get("annotations")).get(ROTATED, "")


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a key is too old, and the next one.

    Attributes:
        clock: Time.
        seconds: Age at which a key is replaced; 0: never.
        make: Makes a key.
    """

    clock: Clock
    seconds: float = 0.0
    make: Callable[[], str] = made_key

    def due(self, stamp: str) -> bool:
        """Whether a key with this stamp has to be replaced; one without a readable stamp has."""
        if self.seconds <= 0:
            return False
        try:
            made = datetime.strptime(f"{stamp}+0000", f"{_STAMP}%z")
        except ValueError:
            return True
        return (self.clock.wall() - made).total_seconds() >= self.seconds

    def stamp(self) -> dict[str, str]:
        """The annotation on a key made now."""
        return {ROTATED: self.clock.wall().strftime(_STAMP)}

    def data(self, before: tuple[str, ...]) -> Object:
        """A new key, and the newest of those before it."""
        return encoded({bearer.KEY_ITEM: self.make(), **dict(zip((bearer.PREVIOUS_ITEM,), before, strict=False))})
