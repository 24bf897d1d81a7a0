"""Takes secrets out of objects and text before they leave the cluster.

Objects lose values of environment variables, flags and keys whose names speak of secrets, HTTP headers of probes and
hooks, and the copies that ``kubectl apply`` and field managers keep. Text (logs, events, and the objects' own once
written) loses what looks like a token, a key or a password. What is taken out reads :data:`REMOVED`.

It knows forms, not meanings: prompts that an engine was told to log, or a secret in a field of no telling name, stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REMOVED = "**removed**"

_NAME = re.compile(
    r"(?i)(pass(word|wd|phrase)|secret|token$|api[-_]?key|access[-_]?key|private[-_]?key|credential|authorization"
    r"|^pwd$|bearer|cookie|dsn$)"
)
_REFERENCES = re.compile(r"(?i)(ref|refs|name|from|secretkeyref|mount.*|serviceaccounttoken)$")
_DROPPED = frozenset({"managedFields"})
_NOTES = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
_SAID = "password|passwd|secret|secret[-_]?key|secret[-_]?access[-_]?key|token|api[-_]?key|access[-_]?key"
_TEXT = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----", REMOVED),
        (r"(?i)\b(bearer|basic)(\s+|%20)[A-Za-z0-9._~+/=-]{8,}", rf"\1 {REMOVED}"),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", REMOVED),
        (r"\b(hf|ghp|gho|ghs|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_-]{16,}", REMOVED),
        (r"\b(sk|pk|rk)-[A-Za-z0-9_-]{16,}", REMOVED),
        (r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", REMOVED),
        (r"(?<=://)[^/\s:@]{1,256}:[^/\s@]{1,256}(?=@)", REMOVED),
        (
            rf"""(?i)((?:{_SAID})["']?\s*[=:]\s*["']?)(?!\*\*removed)[^\s"',;&}}]{{6,}}""",
            rf"\1{REMOVED}",
        ),
    )
)


def objects(value: Any) -> Any:
    """A Kubernetes object, or a part of one, without what looks secret."""
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list | tuple):
        return _flags([objects(item) for item in value])
    return text(value) if isinstance(value, str) else value


def _mapping(value: Mapping[str, Any]) -> dict[str, Any]:
    named = str(value.get("name", ""))
    found: dict[str, Any] = {}
    for key, child in value.items():
        if key in _DROPPED or key in _NOTES:
            continue
        header = key == "value" and set(value) == {"name", "value"} and _NAME.search(named)
        secret = isinstance(child, str) and _NAME.search(key) and not _REFERENCES.search(key)
        if header or (secret and child != ""):
            found[key] = REMOVED
        elif key == "httpHeaders":
            found[key] = [{**item, "value": REMOVED} for item in child if isinstance(item, Mapping)]
        elif key in ("data", "stringData") and value.get("kind") == "Secret":
            found[key] = dict.fromkeys(child, REMOVED)
        else:
            found[key] = objects(child)
    return found


def _flags(items: list[Any]) -> list[Any]:
    """A list of arguments without the values of flags of a telling name."""
    found: list[Any] = []
    for before, item in zip([None, *items], items, strict=False):
        if not isinstance(item, str):
            found.append(item)
            continue
        flag, equals, _ = item.partition("=")
        if flag.startswith("-") and equals and _NAME.search(flag):
            found.append(f"{flag}={REMOVED}")
        elif isinstance(before, str) and before.startswith("-") and "=" not in before and _NAME.search(before):
            found.append(item if item.startswith("-") else REMOVED)
        else:
            found.append(item)
    return found


def text(value: str) -> str:
    """Text without what looks like a token, a key or a password."""
    for pattern, replacement in _TEXT:
        value = pattern.sub(replacement, value)
    return value
