"""Guards of the repository's own rules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
URL_OF_A_REGISTRY = re.compile(r"(?m)^\s*(--(extra-)?index-url|--find-links|-i\s)|https?://|@ file:")


def test_no_top_level_folder_is_a_package() -> None:
    packages = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    assert not packages, f"{packages}: a package of such a name would shadow a module, as operator would"


def test_the_standard_library_operator_is_not_shadowed() -> None:
    code = "import operator; print(operator.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert str(ROOT) not in found


def test_constraints_pin_exact_versions_and_hold_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not URL_OF_A_REGISTRY.search(text)
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert pins
    assert all("==" in line for line in pins)


@pytest.mark.parametrize("target", ["setup", "demo", "test", "test-controlplane", "crds"])
def test_the_make_targets_of_the_readme_exist(target: str) -> None:
    assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"))
