"""Tests of the images: run by `make test-chart`, outside the network namespace, because one installs packages."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the folder is no package
