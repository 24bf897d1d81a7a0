"""The Kubernetes extensions of CEL that the library does not bring: lists, regular expressions, URLs, quantities.

Missing altogether, because the parser does not know the syntax: optional selection (`self.?field`, `list[?0]`) and
back-quoted identifiers; also the IP, CIDR and named-format libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cel
from cel.stdlib import add_stdlib_to_context

_SUFFIXES: Mapping[str, Decimal] = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
    "P": Decimal("1e15"),
    "E": Decimal("1e18"),
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)$")


def parse_quantity(text: str) -> Decimal:
    """Return the number a Kubernetes quantity such as `1500m` or `2Gi` stands for.

    Raises:
        ValueError: The text is not a quantity.
    """
    found = _QUANTITY.match(text)
    if not found:
        raise ValueError(f"quantities must match the regular expression {_QUANTITY.pattern!r}, not {text!r}")
    try:
        number = Decimal(found[1])
    except InvalidOperation as error:
        raise ValueError(f"not a quantity: {text!r}") from error
    return number.scaleb(int(found[2])) if found[2] else number * _SUFFIXES[found[3] or ""]


def _number(value: Any) -> Decimal:
    return parse_quantity(value) if isinstance(value, str) else Decimal(str(value))


def _quantity(text: str) -> str:
    parse_quantity(text)
    return text


def _is_quantity(text: str) -> bool:
    return bool(_QUANTITY.match(text))


def _compare(left: Any, right: Any) -> int:
    a, b = _number(left), _number(right)
    return (a > b) - (a < b)


def _as_integer(value: Any) -> int:
    number = _number(value)
    if number != number.to_integral_value():
        raise ValueError(f"cannot convert quantity {value} to an integer")
    return int(number)


def _sign(value: Any) -> int:
    return _compare(value, 0)


def _index_of(container: Any, wanted: Any, offset: int = 0) -> int:
    if isinstance(container, str):
        return container.find(wanted, offset)
    return container.index(wanted) if wanted in container else -1


def _last_index_of(container: Any, wanted: Any) -> int:
    if isinstance(container, str):
        return container.rfind(wanted)
    return len(container) - 1 - container[::-1].index(wanted) if wanted in container else -1


def _is_sorted(items: Sequence[Any]) -> bool:
    return all(a <= b for a, b in pairwise(items))


def _sum(items: Sequence[Any]) -> Any:
    return sum(items)


def _min(items: Sequence[Any]) -> Any:
    return min(items)


def _max(items: Sequence[Any]) -> Any:
    return max(items)


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match[0] for match in re.finditer(pattern, text)]
    return found if limit < 0 else found[:limit]


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc) or text.startswith("/")


def _url(text: str) -> str:
    if not _is_url(text):
        raise ValueError(f"URL parse error during conversion from string: {text!r}")
    return text


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _hostname(url: str) -> str:
    return urlsplit(url).hostname or ""


def _port(url: str) -> str:
    port = urlsplit(url).port
    return "" if port is None else str(port)


def _format(template: str, values: Sequence[Any]) -> str:
    return re.sub(r"%[dsf]", "%s", template) % tuple(values)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "quantity": _quantity,
    "isQuantity": _is_quantity,
    "compareTo": _compare,
    "isGreaterThan": lambda a, b: _compare(a, b) > 0,
    "isLessThan": lambda a, b: _compare(a, b) < 0,
    "asInteger": _as_integer,
    "isInteger": lambda value: _number(value) == _number(value).to_integral_value(),
    "asApproximateFloat": lambda value: float(_number(value)),
    "add": lambda a, b: str(_number(a) + _number(b)),
    "sub": lambda a, b: str(_number(a) - _number(b)),
    "sign": _sign,
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "isSorted": _is_sorted,
    "sum": _sum,
    "min": _min,
    "max": _max,
    "find": _find,
    "findAll": _find_all,
    "format": _format,
    "isURL": _is_url,
    "url": _url,
    "getScheme": lambda url: urlsplit(url).scheme,
    "getHost": _host,
    "getHostname": _hostname,
    "getPort": _port,
    "getEscapedPath": lambda url: urlsplit(url).path,
    "getQuery": lambda url: parse_qs(urlsplit(url).query, keep_blank_values=True),
}


def new_context() -> cel.Context:
    """Return an evaluation context that knows all functions and no variable yet."""
    context = cel.Context()
    add_stdlib_to_context(context)
    for name, function in FUNCTIONS.items():
        context.add_function(name, function)
    return context
