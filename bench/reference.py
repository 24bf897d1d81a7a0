"""Where the reference data is: real traces, and measured performance."""

from __future__ import annotations

import os
from pathlib import Path


def data_dir() -> Path:
    """The folder of the reference data.

    Raises:
        SystemExit: There is none.
    """
    named = os.environ.get("WARMFLEET_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "traces").is_dir():
        raise SystemExit(f"no traces in {folder}; set WARMFLEET_DATA to the folder that holds traces/ and perf/")
    return folder
