"""What may be set about the forecaster, and what its program says to what may not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from warmfleet_forecasting.settings import load_settings
from warmfleet_runtime.settings import SettingsError

GOOD = {"WARMFLEET_OPERATOR_URL": "http://operator:8081/metrics"}


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "needs operatorUrl"),
        ({"WARMFLEET_HISTORY": "Prometheus"}, "needs prometheusUrl"),
        ({**GOOD, "WARMFLEET_REFIT_SECONDS": "3600"}, "validSeconds must be above refitSeconds"),
        (
            {**GOOD, "WARMFLEET_IDENTITY": "forecaster-3", "WARMFLEET_REPLICAS": "3"},
            "number 3, but there are 3 replicas",
        ),
        ({**GOOD, "WARMFLEET_SCRAPE_METRIC": "a metric"}, "scrapeMetric"),
        ({**GOOD, "WARMFLEET_FIT_PROCESSES": "0"}, "fitProcesses"),
        ({**GOOD, "WARMFLEET_TIME_ZONE": "Mars/Base"}, "timeZone.*'Mars/Base' is not an IANA zone, such as"),
        ({**GOOD, "WARMFLEET_TIME_ZONE": "../etc/passwd"}, "is not an IANA zone"),
    ],
)
def test_a_setting_that_cannot_be_is_named(environ: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_settings(environ)


def test_the_number_of_a_replica_is_the_end_of_its_name() -> None:
    assert load_settings({**GOOD, "WARMFLEET_IDENTITY": "a-forecaster-7", "WARMFLEET_REPLICAS": "8"}).ordinal == 7
    assert load_settings(GOOD).ordinal == 0


def test_the_program_ends_with_a_clear_error() -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("WARMFLEET_")}
    command = [sys.executable, "-m", "warmfleet_forecasting"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "needs operatorUrl; set it, or use Prometheus" in done.stderr
    assert "Traceback" not in done.stderr
