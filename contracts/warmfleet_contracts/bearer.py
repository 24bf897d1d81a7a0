"""Who may speak to an agent: bearer tokens made from one key per namespace.

::

    bearer(pod) = base64url( HMAC-SHA256( key, "warmfleet agent " + version + " " + pod UID ) )

The key is the item :data:`KEY_ITEM` of the Secret :data:`SECRET_NAME` in the workers' namespace. The operator makes and
rotates it; the agents read it from a projected volume at each request, so that a rotation needs no restart. The key
itself never crosses the network: a token that somebody has overheard, or that went to a reused address, is good for one
pod. For as long as kubelets need to refresh their volumes, the key before is in :data:`PREVIOUS_ITEM`, and both sides
take it too.

Whoever reads ``/metrics`` of operator, forecaster and agents presents one token for them all, which is the item
:data:`KEY_ITEM` of the Secret :data:`METRICS_SECRET_NAME` in the operator's own namespace. Agents know only its
:func:`digest`, which the operator puts beside their key: whoever may read the Secrets of a fleet's namespace
cannot read the metrics of others with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

SECRET_NAME = "warmfleet-agents"  # noqa: S105 - a name
"""Name of the Secret in each namespace with workers; the operator's rights end at this name."""
METRICS_SECRET_NAME = "warmfleet-metrics"  # noqa: S105 - a name
"""Name of the Secret in the operator's namespace with the token of whoever reads ``/metrics``."""
KEY_ITEM = "token"
PREVIOUS_ITEM = "previous"
DIGEST_ITEM = "metrics"
"""Item of :data:`SECRET_NAME`: digest of the token that opens ``/metrics``; without it nothing is asked for."""
PREVIOUS_DIGEST_ITEM = "metrics-previous"
MIN_KEY = 16
"""Characters of the shortest key that is used."""
MAX_KEY = 512
"""Characters of the longest key that is used."""
_SCHEME = "bearer"
_CONTEXT = b"warmfleet agent v1 "


def usable(key: str) -> bool:
    """Whether a text can be a key: printable ASCII of a sane length."""
    return MIN_KEY <= len(key) <= MAX_KEY and key.isascii() and key.isprintable()


def bearer(key: str, pod_uid: str) -> str:
    """The token for one pod.

    Args:
        key: The namespace's key.
        pod_uid: UID of the pod.
    """
    digest = hmac.new(key.encode(), _CONTEXT + pod_uid.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def digest(token: str) -> str:
    """What agents know of the token that opens their ``/metrics``."""
    return hashlib.sha256(token.encode()).hexdigest()


def presented(header: str | None) -> str:
    """The token in an ``Authorization`` header; empty when there is none."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == _SCHEME else ""


def matches(token: str, accepted: Iterable[str]) -> bool:
    """Whether a token is one of those accepted, in a time that depends on neither."""
    given = token.encode("utf-8", errors="replace")
    found = False
    for one in accepted:
        found |= bool(one) and hmac.compare_digest(given, one.encode("utf-8", errors="replace"))
    return found
