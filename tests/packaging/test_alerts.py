"""The alerts and the dashboard by Prometheus' own `promtool`: they parse, and alerts fire when they must."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from .environments import ROOT
from .test_deploying import program

RULES = ROOT / "examples/deploy/prometheus/busway.rules.yaml"

# Alert: series when all is well, series when it is not, labels of the alert then; a sample each 15 s.
SERIES: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "BuswayGone": (
        {'busway_info{instance="a"}': "1x80", 'busway_info{instance="b"}': "1x10"},
        {'busway_info{instance="a"}': "1x10"},
        {"severity": "critical"},
    ),
    "BuswayNoLeader": (
        {'busway_leader_known{instance="a"}': "1x80", 'busway_leader_known{instance="b"}': "0x80"},
        {'busway_leader_known{instance="a"}': "0x80", 'busway_leader_known{instance="b"}': "0x80"},
        {"severity": "critical"},
    ),
    "BuswaySeveralLeaders": (
        {'busway_node_leads{instance="a"}': "1x80", 'busway_node_leads{instance="b"}': "0x80"},
        {'busway_node_leads{instance="a"}': "1x80", 'busway_node_leads{instance="b"}': "1x80"},
        {"severity": "warning"},
    ),
    "BuswayCannotWrite": (
        {'busway_store_healthy{instance="a"}': "1x80"},
        {'busway_store_healthy{instance="a"}': "1x80", 'busway_store_healthy{instance="b"}': "0x80"},
        {"severity": "critical", "instance": "b"},
    ),
    "BuswayCommitsWait": (
        {
            'busway_commit_wait_seconds_bucket{instance="a", le="0.05"}': "0+10x80",
            'busway_commit_wait_seconds_bucket{instance="a", le="+Inf"}': "0+10x80",
        },
        {
            'busway_commit_wait_seconds_bucket{instance="a", le="0.05"}': "0+5x80",
            'busway_commit_wait_seconds_bucket{instance="a", le="0.5"}': "0+10x80",
            'busway_commit_wait_seconds_bucket{instance="a", le="+Inf"}': "0+10x80",
        },
        {"severity": "warning"},
    ),
    "BuswayNodeBehind": (
        {'busway_node_lag_commits{instance="b"}': "5x80"},
        {'busway_node_lag_commits{instance="b"}': "5000x80"},
        {"severity": "warning", "instance": "b"},
    ),
    "BuswayRunsWait": (
        {'busway_runs_oldest_seconds{instance="a", handler="invoice"}': "2x80"},
        {
            'busway_runs_oldest_seconds{instance="a", handler="invoice"}': "0+15x80",
            'busway_runs_oldest_seconds{instance="b", handler="invoice"}': "0+15x80",
        },
        {"severity": "warning", "handler": "invoice"},
    ),
    "BuswayRunsDie": (
        {'busway_runs{instance="a", handler="invoice", state="dead"}': "3x80"},
        {
            'busway_runs{instance="a", handler="invoice", state="dead"}': "0+1x80",
            'busway_runs{instance="b", handler="invoice", state="dead"}': "0+1x80",
        },
        {"severity": "warning", "handler": "invoice"},
    ),
    "BuswayAttemptsFail": (
        {
            'busway_attempt_seconds_count{handler="invoice", outcome="succeeded"}': "0+9x80",
            'busway_attempt_seconds_count{handler="invoice", outcome="failed"}': "0+1x80",
        },
        {
            'busway_attempt_seconds_count{handler="invoice", outcome="succeeded"}': "0+1x80",
            'busway_attempt_seconds_count{handler="invoice", outcome="failed"}': "0+9x80",
        },
        {"severity": "warning", "handler": "invoice"},
    ),
    "BuswayWorkersCrash": (
        {'busway_pool_delayed{instance="a", pool="process"}': "0x80"},
        {'busway_pool_delayed{instance="a", pool="process"}': "1x80"},
        {"severity": "critical", "instance": "a", "pool": "process"},
    ),
    "BuswaySubscriberBehind": (
        {'busway_subscribers_furthest_behind{instance="a"}': "100x80"},
        {'busway_subscribers_furthest_behind{instance="a"}': "20000x80"},
        {"severity": "warning", "instance": "a"},
    ),
    "BuswayLimitsReached": (
        {'busway_limits_reached_total{limit="key_rate"}': "0+1x80"},
        {'busway_limits_reached_total{limit="key_rate"}': "0+150x80"},
        {"severity": "info", "limit": "key_rate"},
    ),
    "BuswaySpansLost": (
        {'busway_trace_spans_total{instance="a", outcome="sent"}': "0+9x80"},
        {
            'busway_trace_spans_total{instance="a", outcome="sent"}': "0+9x80",
            'busway_trace_spans_total{instance="a", outcome="dropped"}': "0+9x80",
        },
        {"severity": "info", "instance": "a"},
    ),
    "BuswayLogLost": (
        {'busway_log_lines_dropped_total{instance="a"}': "7x80"},
        {'busway_log_lines_dropped_total{instance="a"}': "0+7x80"},
        {"severity": "warning", "instance": "a"},
    ),
    "BuswayCertificateExpires": (
        {'busway_tls_certificate_expiry_seconds{instance="a"}': "1000000x80"},
        {'busway_tls_certificate_expiry_seconds{instance="a"}': "90000x80"},
        {"severity": "warning", "instance": "a"},
    ),
}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


def test_prometheus_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    dashboard = json.loads((ROOT / "examples/deploy/grafana/busway.json").read_text(encoding="utf-8"))
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    recorded = [
        {"record": f"a:{n}", "expr": each["expr"].replace("$__rate_interval", "5m").replace("$handler", ".*")}
        for n, each in enumerate(targets)
    ]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": recorded}]}), encoding="utf-8")
    assert f"{len(targets)} rules found" in promtool("check", "rules", file)


def shown(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)


def test_each_alert_fires_when_something_is_wrong_and_only_then(tmp_path: Path) -> None:
    cases = []
    for rule in rules():
        well, wrong, labels = SERIES[rule["alert"]]
        notes = {name: shown(text, labels) for name, text in rule["annotations"].items()}
        fired = {"exp_labels": labels, "exp_annotations": notes}
        cases += [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {"eval_time": "20m", "alertname": rule["alert"], "exp_alerts": [fired] * fires}
                ],
            }
            for series, fires in ((well, 0), (wrong, 1))
        ]
    file = tmp_path / "alerts.yaml"
    about = {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": cases}
    file.write_text(yaml.safe_dump(about), encoding="utf-8")
    promtool("test", "rules", file)
