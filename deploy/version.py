"""Checks that a release's version is the one written everywhere: ``python deploy/version.py 0.1.0``.

Needs nothing but Python: the release workflow runs it before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def versions() -> dict[str, str]:
    """Where a version is written, and which."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = (ROOT / "charts/warmfleet/Chart.yaml").read_text(encoding="utf-8")
    settings = (ROOT / "operator/warmfleet_operator/settings.py").read_text(encoding="utf-8")
    found = {"pyproject.toml": str(project["version"])}
    for key in ("version", "appVersion"):
        found[f"Chart.yaml {key}"] = _only(rf"^{key}: (\S+)$", chart)
    for source, text in (("Chart.yaml", chart), ("settings.py", settings)):
        for image, version in re.findall(r"ghcr\.io/warmfleet/([a-z-]+):([0-9][^\s\"]*)", text):
            found[f"{source} image {image}"] = version
    return found


def _only(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


def main(arguments: list[str]) -> int:
    """0 when all versions are the one given; 1 otherwise, naming those that are not."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python deploy/version.py VERSION\n")
        return 2
    wrong = {where: version for where, version in versions().items() if version != arguments[0]}
    for where, version in wrong.items():
        sys.stderr.write(f"{where} is {version}, not {arguments[0]}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
