"""What a person may set about the forecaster: few keys, from a YAML file and ``WARMFLEET_*`` variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel
from warmfleet_contracts import bearer
from warmfleet_runtime.keys import KeyFiles
from warmfleet_runtime.settings import load

from warmfleet_forecasting.history.prometheus import DEFAULT_QUERY
from warmfleet_forecasting.history.scrape import METRIC

_PERIOD = Field(gt=0, le=86_400)
_ORDINAL = re.compile(r"-(\d{1,4})$")


class Settings(BaseModel):
    """Settings of one forecaster process. Durations are logical seconds unless they say real."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    namespace: Annotated[str, Field(max_length=63)] = ""
    """Watch only this namespace; empty: the whole cluster."""
    history: Literal["Recorder", "Prometheus"] = "Recorder"
    """Recorder: the operator's metrics are scraped and kept here, and Prometheus, when its URL is set, is asked once
    for the past. Prometheus: it is the only source."""
    operator_url: Annotated[str, Field(pattern="^https?://.+$|^$", max_length=512)] = ""
    """The operator's metrics, such as http://warmfleet-operator-pods:8081/metrics; empty: nothing is scraped."""
    metrics_token_folder: Annotated[str, Field(max_length=1024)] = ""
    """Folder with the token that opens ``/metrics`` of operator and forecaster; empty: none is shown nor asked for."""
    scrape_metric: Annotated[str, Field(pattern="^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=200)] = METRIC
    """Gauge (requests/s) or counter (name ending in _total) with the labels namespace and deployment."""
    scrape_seconds: Annotated[float, _PERIOD] = 15.0
    """Time between two scrapes."""
    database_path: Annotated[str, Field(min_length=1, max_length=1024)] = "/var/lib/warmfleet/history.sqlite"
    """File of the recorder; on a volume, or the past is lost with the pod."""
    retention_days: Annotated[float, Field(gt=0, le=400)] = 35.0
    """How long the recorder keeps what it knows."""
    prometheus_url: Annotated[str, Field(pattern="^https?://.+$|^$", max_length=512)] = ""
    """Base address of Prometheus, such as http://prometheus:9090."""
    prometheus_query: Annotated[str, Field(min_length=1, max_length=4096)] = DEFAULT_QUERY
    """PromQL of one deployment's arrivals in requests/s, with $namespace, $deployment and $step."""
    prometheus_counter: bool = False
    """The query selects raw counters; their rates are taken here."""
    prometheus_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Real seconds of one request."""
    prometheus_token_file: Annotated[str, Field(max_length=1024)] = ""
    """File with a bearer token; empty: none."""
    refit_seconds: Annotated[float, _PERIOD] = 600.0
    """Time between two forecasts of a deployment."""
    valid_seconds: Annotated[float, _PERIOD] = 1800.0
    """How long a forecast may be used; longer than refitSeconds."""
    fit_deadline_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Real seconds after which a fit is given up and its process replaced."""
    fit_processes: Annotated[int, Field(ge=1, le=32)] = 1
    """Processes that fit."""
    fit_memory_mib: Annotated[int, Field(ge=64, le=65_536)] = 400
    """A fitting process that holds more than this is replaced before its next fit."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "Etc/UTC"
    """IANA zone in which the traffic's days begin."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Forecasters that share the deployments."""
    identity: Annotated[str, Field(max_length=253)] = ""
    """This process's pod name, whose end is its number among the replicas; empty: number 0."""
    listen_address: str = "0.0.0.0"  # noqa: S104 - probes and metrics come from outside the pod
    """Address on which probes and metrics are served."""
    listen_port: Annotated[int, Field(ge=0, le=65_535)] = 8082
    """Port on which probes and metrics are served; 0: any free one."""
    stale_seconds: Annotated[float, _PERIOD] = 300.0
    """Age of the last sign of a loop's life at which the process counts as unhealthy."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """Least severe level that is logged."""

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{name!r} is not an IANA zone, such as Europe/Berlin") from error
        return name

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.history == "Prometheus" and not self.prometheus_url:
            raise ValueError("history: Prometheus needs prometheusUrl; set it, or use Recorder")
        if self.history == "Recorder" and not self.operator_url:
            raise ValueError("history: Recorder needs operatorUrl; set it, or use Prometheus")
        if self.valid_seconds <= self.refit_seconds:
            raise ValueError("validSeconds must be above refitSeconds, or forecasts expire before the next is made")
        if self.ordinal >= self.replicas:
            raise ValueError(
                f"identity {self.identity!r} is number {self.ordinal}, but there are {self.replicas} replicas"
            )
        return self

    def metrics_tokens(self) -> KeyFiles | None:
        """The token that opens ``/metrics``, and the one before it; None when none is asked for."""
        if not self.metrics_token_folder:
            return None
        folder = Path(self.metrics_token_folder)
        return KeyFiles(folder / bearer.KEY_ITEM, folder / bearer.PREVIOUS_ITEM)

    @property
    def ordinal(self) -> int:
        """This process's number among the replicas."""
        found = _ORDINAL.search(self.identity)
        return int(found[1]) if found else 0


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Settings of this process.

    Raises:
        SettingsError: A key or value is wrong.
    """
    return load(Settings, environ)
