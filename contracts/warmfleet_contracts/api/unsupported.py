"""Fields of the v1alpha1 schema whose feature does not exist yet.

The schema is complete from the first day, so that a field never changes its meaning; but a field that nothing reads
must be refused, not ignored. Each entry is removed together with the change that builds its feature.
"""

from __future__ import annotations

from warmfleet_contracts.api.base import Rule

_TABLE: dict[str, tuple[Rule, ...]] = {
    "Variant": (
        Rule(
            "self.role == 'both'",
            "role: prefill and decode are not supported yet; use both",
            lambda s: s.role == "both",
        ),
    ),
    "Scaling": (),
    "KvCache": (),
}


def unsupported_rules(model: str) -> tuple[Rule, ...]:
    """The rules that refuse not-yet-built fields of ``model`` (class name)."""
    return _TABLE[model]
