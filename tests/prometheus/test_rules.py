"""The alerts, judged by Prometheus' own tool: each fires on what it is for, and none on a fleet that is well."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_programs import PrometheusPrograms

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "charts" / "warmfleet" / "rules" / "warmfleet.yaml"
MINUTES = 70
"""Longer than most waits."""
LONG = {"ForecastDistrusted": 25 * 60}
"""Minutes of those that wait longer."""

OF = 'namespace="prod",deployment="chat"'
SELF = 'namespace="warmfleet-system",pod="o-1"'
Series = dict[str, str]

WELL: Series = {
    f"warmfleet_operator_leader{{{SELF}}}": "1+0x{n}",
    'warmfleet_operator_leader{namespace="warmfleet-system",pod="o-2"}': "0+0x{n}",
    f"warmfleet_operator_last_decision_timestamp_seconds{{{SELF}}}": "0+60x{n}",
    'warmfleet_operator_last_decision_timestamp_seconds{namespace="warmfleet-system",pod="o-2"}': "NaN+0x{n}",
    f'warmfleet_operator_ticks_total{{{SELF},outcome="decided"}}': "0+12x{n}",
    f'warmfleet_operator_ticks_total{{{SELF},outcome="error"}}': "0+0x{n}",
    f'warmfleet_operator_watch_age_seconds{{{SELF},resource="pods"}}': "30+0x{n}",
    f'warmfleet_operator_api_requests_total{{{SELF},verb="GET",resource="pods",code="200"}}': "0+30x{n}",
    f'warmfleet_operator_api_requests_total{{{SELF},verb="GET",resource="pods",code="500"}}': "0+1x{n}",
    f"warmfleet_operator_act_failures_total{{{OF}}}": "0+0x{n}",
    f"warmfleet_operator_stalled{{{OF}}}": "0+0x{n}",
    f'warmfleet_operator_workers{{{OF},variant="a",phase="Ready"}}': "3+0x{n}",
    f'warmfleet_operator_workers{{{OF},variant="b",phase="Ready"}}': "1+0x{n}",
    f"warmfleet_operator_desired_workers{{{OF}}}": "4+0x{n}",
    f"warmfleet_operator_slo_attainment_ratio{{{OF}}}": "0.995+0x{n}",
    f"warmfleet_operator_slo_target_ratio{{{OF}}}": "0.99+0x{n}",
    f"warmfleet_operator_demand_requests_per_second{{{OF}}}": "100+0x{n}",
    f"warmfleet_operator_rejected_requests_per_second{{{OF}}}": "0.5+0x{n}",
    f"warmfleet_operator_silent_workers{{{OF}}}": "0+0x{n}",
    f"warmfleet_agent_unauthorized_requests_total{{{OF}}}": "0+1x{n}",
    f'warmfleet_operator_drain_seconds_count{{{OF},outcome="completed"}}': "0+1x{n}",
    f'warmfleet_operator_scale_event_hit_ratio{{{OF},direction="in",when="before"}}': "0.5+0x{n}",
    f'warmfleet_operator_scale_event_hit_ratio{{{OF},direction="in",when="after"}}': "0.45+0x{n}",
    f'warmfleet_operator_scale_event_hit_ratio{{{OF},direction="out",when="before"}}': "0.5+0x{n}",
    f'warmfleet_operator_scale_event_hit_ratio{{{OF},direction="out",when="after"}}': "0.2+0x{n}",
    'warmfleet_forecaster_assigned{namespace="warmfleet-system"}': "1+0x{n}",
    'warmfleet_forecaster_overdue_seconds{namespace="warmfleet-system"}': "60+0x{n}",
    f"warmfleet_forecaster_trusted{{{OF}}}": "1+0x{n}",
}
"""A fleet that is well, minute by minute."""

ILL: dict[str, tuple[Series, str]] = {
    "OperatorDown": ({name: "" for name in WELL if "operator_leader" in name}, ""),
    "NoSingleLeader": ({f"warmfleet_operator_leader{{{SELF}}}": "0+0x{n}"}, 'namespace="warmfleet-system"'),
    "DecisionsStale": ({f"warmfleet_operator_last_decision_timestamp_seconds{{{SELF}}}": "100+0x{n}"}, SELF),
    "DecisionErrors": (
        {f'warmfleet_operator_ticks_total{{{SELF},outcome="error"}}': "0+1x{n}"},
        'namespace="warmfleet-system"',
    ),
    "WatchStale": (
        {f'warmfleet_operator_watch_age_seconds{{{SELF},resource="pods"}}': "400+0x{n}"},
        'namespace="warmfleet-system",resource="pods"',
    ),
    "ApiErrors": (
        {f'warmfleet_operator_api_requests_total{{{SELF},verb="GET",resource="pods",code="500"}}': "0+5x{n}"},
        'namespace="warmfleet-system"',
    ),
    "ActionsFail": ({f"warmfleet_operator_act_failures_total{{{OF}}}": "0+1x{n}"}, OF),
    "Stalled": ({f"warmfleet_operator_stalled{{{OF}}}": "1+0x{n}"}, OF),
    "CapacityShort": (
        {f'warmfleet_operator_limited{{{OF},reason="CapacityExhausted"}}': "1+0x{n}"},
        f'{OF},reason="CapacityExhausted"',
    ),
    "WorkersMissing": (
        {
            f'warmfleet_operator_workers{{{OF},variant="a",phase="Ready"}}': "",
            f'warmfleet_operator_workers{{{OF},variant="b",phase="Ready"}}': "",
        },
        OF,
    ),
    "SloMissed": ({f"warmfleet_operator_slo_attainment_ratio{{{OF}}}": "0.95+0x{n}"}, OF),
    "RequestsRejected": ({f"warmfleet_operator_rejected_requests_per_second{{{OF}}}": "2+0x{n}"}, OF),
    "AgentsSilent": ({f"warmfleet_operator_silent_workers{{{OF}}}": "1+0x{n}"}, OF),
    "UnauthorizedRequests": ({f"warmfleet_agent_unauthorized_requests_total{{{OF}}}": "0+5x{n}"}, OF),
    "DrainsForced": ({f'warmfleet_operator_drain_seconds_count{{{OF},outcome="forced"}}': "0+1x{n}"}, OF),
    "CacheLost": (
        {f'warmfleet_operator_scale_event_hit_ratio{{{OF},direction="in",when="after"}}': "0.3+0x{n}"},
        f'{OF},direction="in"',
    ),
    "ForecasterDown": ({'warmfleet_forecaster_assigned{namespace="warmfleet-system"}': ""}, ""),
    "ForecastsOverdue": (
        {'warmfleet_forecaster_overdue_seconds{namespace="warmfleet-system"}': "3000+0x{n}"},
        'namespace="warmfleet-system"',
    ),
    "ForecastDistrusted": ({f"warmfleet_forecaster_trusted{{{OF}}}": "0+0x{n}"}, OF),
}
"""What makes each alert fire, as changes to a fleet that is well, and the labels it then has."""

PARTIAL = {f'warmfleet_operator_workers{{{OF},variant="a",phase="Ready"}}': "2+0x{n}"}


def alerts() -> list[dict[str, Any]]:
    return list(yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"])


def case(name: str, changes: Series, firing: list[str]) -> dict[str, Any]:
    """A test of promtool's: which alerts fire at the end."""
    series = {**WELL, **changes}
    minutes = LONG.get(name, MINUTES)
    found = [{"series": s, "values": v.format(n=minutes)} for s, v in series.items() if v]
    samples = [{"labels": f'ALERTS{{alertstate="firing",{labels}}}', "value": 1} for labels in firing]
    query = {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minutes}m", "exp_samples": samples}
    return {"name": name, "interval": "1m", "input_series": found, "promql_expr_test": [query]}


def expected(name: str) -> str:
    severity = next(a["labels"]["severity"] for a in alerts() if a["alert"] == f"Warmfleet{name}")
    labels = ILL[name][1]
    return f'alertname="Warmfleet{name}",severity="{severity}"' + (f",{labels}" if labels else "")


def run(programs: PrometheusPrograms, folder: Path, cases: list[dict[str, Any]]) -> str:
    """What promtool says against the cases; empty when they hold."""
    file = folder / "rules.test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}))
    done = subprocess.run([programs.promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_each_alert_fires_on_what_it_is_for_and_no_other_does(programs: PrometheusPrograms, tmp_path: Path) -> None:
    cases = [case(name, changes, [expected(name)]) for name, (changes, _) in ILL.items()]
    cases.append(case("some are missing", PARTIAL, [expected("WorkersMissing")]))
    assert run(programs, tmp_path, [case("all is well", {}, []), *cases]) == ""


def test_promtool_does_judge(programs: PrometheusPrograms, tmp_path: Path) -> None:
    assert "FAILED" in run(programs, tmp_path, [case("wrong", ILL["Stalled"][0], [])])


def test_the_rules_are_valid_and_every_one_is_tried(programs: PrometheusPrograms) -> None:
    checked = subprocess.run(
        [programs.promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert {a["alert"] for a in alerts()} == {f"Warmfleet{name}" for name in ILL}


def test_summaries_name_the_fleet(programs: PrometheusPrograms, tmp_path: Path) -> None:
    rule = next(a for a in alerts() if a["alert"] == "WarmfleetSloMissed")
    annotations = {**rule["annotations"], "summary": "prod/chat serves 95% of its requests within the SLO"}
    one = case("summary", ILL["SloMissed"][0], [expected("SloMissed")])
    labels = {"severity": "critical", "namespace": "prod", "deployment": "chat"}
    one["alert_rule_test"] = [
        {
            "eval_time": f"{MINUTES}m",
            "alertname": "WarmfleetSloMissed",
            "exp_alerts": [{"exp_labels": labels, "exp_annotations": annotations}],
        }
    ]
    assert run(programs, tmp_path, [one]) == ""


@pytest.mark.parametrize("rule", alerts(), ids=lambda r: r["alert"])
def test_every_alert_has_a_runbook(rule: dict[str, Any]) -> None:
    page = ROOT / "docs" / "runbooks" / rule["annotations"]["runbook_url"].rpartition("/")[2]
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {rule['alert']}\n")
    assert "## What to do" in text
