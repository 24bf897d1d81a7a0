"""Reading another program's Prometheus text: bounded, picky, and only the families that are wanted.

Parsing is prometheus_client's. It costs 20 us per line, and of an engine's 600 lines a reader wants 80, so
lines are filtered by name first: 2.4 ms instead of 12 ms per scrape.

A family may be spelled ``vllm:x`` or ``vllm_x`` (collectors replace the colon); both are the same here.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

MAX_BYTES = 4 * 1024 * 1024
"""Default bound on an exposition: six times a busy engine's."""
MAX_SAMPLES = 10_000
"""Default bound on the wanted samples: a fifth of a second of parsing, during which nothing else is done."""

_NAME = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?=[{\s])")
_SUFFIXES = ("_bucket", "_count", "_sum")
_SHOWN = 80

Labels = tuple[tuple[str, str], ...]


class MetricsError(ValueError):
    """The text is not a Prometheus exposition, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The wanted samples of one scrape.

    Attributes:
        families: Value by sample name (colons replaced) and sorted labels.
    """

    families: Mapping[str, Mapping[Labels, float]]

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the one sample with these labels (it may have more); None when absent or not a number.

        Raises:
            MetricsError: More than one sample has these labels.
        """
        found = self._select(name, labels)
        if len(found) > 1:
            raise MetricsError(f"{name}{labels or ''}: {len(found)} samples where one was expected")
        return next((v for v in found.values() if not math.isnan(v)), None)

    def total(self, name: str, **labels: str) -> float | None:
        """The sum over all samples with these labels; None when there is none or one is not a number."""
        found = self._select(name, labels)
        total = sum(found.values())
        return None if not found or math.isnan(total) else total

    def label(self, name: str, label: str) -> str | None:
        """A label of the first sample of a family, as ``*_info`` families carry facts; None when absent."""
        for labels in self.families.get(_plain(name), {}):
            return dict(labels).get(label)
        return None

    def bucket_counts(self, name: str) -> tuple[tuple[float, float], ...] | None:
        """(upper bound, cumulative count) of a histogram, summed over label sets, ascending; None when absent.

        Raises:
            MetricsError: A bound is not a number, a count falls, or the ``+Inf`` bucket is missing.
        """
        counts: dict[float, float] = {}
        for labels, count in self.families.get(f"{_plain(name)}_bucket", {}).items():
            try:
                bound = float(dict(labels)["le"])
            except (KeyError, ValueError):
                raise MetricsError(f"{name}_bucket: label le is not a number in {dict(labels)}") from None
            counts[bound] = counts.get(bound, 0.0) + count
        if not counts:
            return None
        buckets = tuple(sorted(counts.items()))
        values = [count for _, count in buckets]
        if buckets[-1][0] != math.inf or not all(a <= b for a, b in zip([0.0, *values], values, strict=False)):
            raise MetricsError(f"{name}_bucket: counts must not fall and must end with le=+Inf, got {buckets[:5]} ...")
        return buckets

    def _select(self, name: str, labels: Mapping[str, str]) -> dict[Labels, float]:
        wanted = set(labels.items())
        return {k: v for k, v in self.families.get(_plain(name), {}).items() if wanted <= set(k)}


def parse(text: str, *, wanted: Iterable[str], max_bytes: int = MAX_BYTES, max_samples: int = MAX_SAMPLES) -> Samples:
    """Parse an exposition.

    Args:
        text: Prometheus text format.
        wanted: Sample names to keep, with ``_total`` for counters; a histogram's base name keeps its buckets, count
            and sum.
        max_bytes: Refuse more than this.
        max_samples: Refuse more wanted samples than this.

    Raises:
        MetricsError: Too large, too many, or a line is not a sample; the message names the line.
    """
    if len(text) > max_bytes:
        raise MetricsError(f"metrics: {len(text)} characters, more than the {max_bytes} allowed")
    names = {_plain(name) for name in wanted}
    names |= {name + suffix for name in names for suffix in _SUFFIXES}
    lines = list(itertools.islice(_filtered(text, names), max_samples + 1))
    if len(lines) > max_samples:
        raise MetricsError(f"metrics: more than the {max_samples} wanted samples allowed")
    try:
        return _collect([line for _, line in lines])
    except (ValueError, OverflowError):  # a whole number of hundreds of digits is no float
        raise MetricsError(_blame(lines)) from None


def _plain(name: str) -> str:
    return name.replace(":", "_")


def _filtered(text: str, names: set[str]) -> Iterable[tuple[int, str]]:
    known: dict[str, bool] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#") or line.isspace():
            continue
        match = _NAME.match(line)
        if match is None:
            raise MetricsError(f"metrics line {number} is not a sample: {line[:_SHOWN]!r}")
        name = match[1]
        keep = known.get(name)
        if keep is None:
            keep = known[name] = _plain(name) in names
        if keep:
            yield number, line


def _collect(lines: list[str]) -> Samples:
    families: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            families.setdefault(_plain(sample.name), {})[labels] = float(sample.value)
    return Samples(families)


def _blame(lines: list[tuple[int, str]]) -> str:
    for number, line in lines:
        try:
            _collect([line])
        except (ValueError, OverflowError) as error:
            return f"metrics line {number} cannot be read ({error}): {line[:_SHOWN]!r}"
    return "metrics: lines contradict each other"
