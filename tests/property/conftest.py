"""Profiles of the property tests: ``WARMFLEET_HYPOTHESIS_PROFILE=thorough`` for more examples."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))  # these folders are no packages
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "planning"))

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("default", max_examples=300, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("quick", max_examples=50, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("WARMFLEET_HYPOTHESIS_PROFILE", "default"))
