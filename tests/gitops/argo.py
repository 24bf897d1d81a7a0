"""Runs Argo CD's Lua scripts as Argo CD does: Lua 5.1, the object as ``obj``, nothing of ``os`` and ``io``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lupa import lua51

_HIDDEN = ("os", "io", "require", "dofile", "loadfile", "load", "package", "debug", "python")


def run(script: str, body: dict[str, Any]) -> Any:
    """What the script returns, as plain Python; LuaError when it fails."""
    runtime = lua51.LuaRuntime(unpack_returned_tuples=True, register_eval=False, register_builtins=False)
    names = runtime.globals()
    names["obj"] = _table(runtime, body)
    for name in _HIDDEN:
        names[name] = None
    return plain(runtime.execute(script))


def health(kind: Path, body: dict[str, Any]) -> dict[str, str]:
    """Status and message of an object by the ``health.lua`` of a kind's folder."""
    found = run((kind / "health.lua").read_text(encoding="utf-8"), body)
    return {str(key): str(value) for key, value in found.items()}


def _table(runtime: lua51.LuaRuntime, value: Any) -> Any:
    if isinstance(value, dict):
        return runtime.table_from({key: _table(runtime, each) for key, each in value.items() if each is not None})
    if isinstance(value, list):
        return runtime.table_from([_table(runtime, each) for each in value])
    return value


def plain(value: Any) -> Any:
    """A Lua value as dicts, lists and scalars; a table of 1..n is a list, an empty one a dict."""
    if lua51.lua_type(value) != "table":
        return value
    found = {key: plain(each) for key, each in value.items()}
    if found and sorted(map(str, found)) == sorted(str(n) for n in range(1, len(found) + 1)):
        return [found[n] for n in range(1, len(found) + 1)]
    return found
