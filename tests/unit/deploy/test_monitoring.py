"""Dashboards and alert rules use only exported metrics, and promtool accepts the rules."""

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tasks.metrics import METRICS, Metric
from tests.support.grafana import dashboards
from tests.support.paths import ROOT, anchors
from tests.support.programs import run_program

PROMETHEUS = ROOT / "deploy" / "prometheus"
_NAME = re.compile(r"\b(?:rmbg|celery)[_:]\w+")
_LABELS = re.compile(r"\b(?:by|without|on)\s*\(([^)]*)\)")
#: Labels that Prometheus adds, and those of the targets file.
_TARGET_LABELS = {"instance", "job", "service", "le", "alertname", "alertstate", "severity"}


def _series(metric: Metric) -> set[str]:
    """The names of a metric's time series."""
    ends = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
    return {metric.name + end for end in ends}


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules" / "rmbg.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _expressions() -> Iterator[tuple[str, str]]:
    """Where each expression stands, and itself."""
    for dashboard in dashboards():
        for panel in dashboard.panels:
            yield from ((f"{dashboard.uid}: {panel.title}", query.expr) for query in panel.queries)
    for rule in _rules():
        yield rule.get("alert") or rule["record"], rule["expr"]


def test_every_metric_and_label_asked_for_is_exported() -> None:
    assert len(dashboards()) == 4
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    exported = set().union(*map(_series, METRICS)) | recorded | {"up"}
    known = {label for metric in METRICS for label in metric.labels} | _TARGET_LABELS
    for where, expr in _expressions():
        assert (set(_NAME.findall(expr)) or {"up"}) <= exported, (where, expr)
        labels = {label.strip() for found in _LABELS.findall(expr) for label in found.split(",")}
        labels |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=|!=|=~)\s*\"", expr))
        assert labels - {""} <= known, (where, expr)


def test_every_alert_names_a_section_of_the_runbook_and_fires_in_a_test() -> None:
    known = anchors(ROOT / "docs" / "alerts.md")
    tests = (PROMETHEUS / "tests" / "rmbg_test.yml").read_text()
    alerts = {rule["alert"]: rule for rule in _rules() if "alert" in rule}
    assert len(alerts) > 10
    for name, rule in alerts.items():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (page, anchor in known) == ("docs/alerts.md", True), name
        assert name in tests


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "rules/rmbg.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "tests/rmbg_test.yml"),
    ],
)
def test_promtool_accepts_the_rules_and_runs_their_tests(command: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        missing = pytest.fail if os.environ.get("REQUIRE_PROMTOOL") else pytest.skip
        missing("promtool is missing; on Debian: apt install prometheus")
    done = run_program("promtool", *command, cwd=PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr
