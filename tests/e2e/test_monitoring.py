"""The dashboard and the alerts of `examples/deploy` beside what `/metrics` of a gateway at work has."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Shared
from .service import Service
from .test_metrics import HANDLERS

pytestmark = pytest.mark.one_node("what one process counts")

ROOT = Path(__file__).parents[2]
FILES = ROOT / "examples/deploy"
DASHBOARD = json.loads((FILES / "grafana/busway.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((FILES / "prometheus/busway.rules.yaml").read_text(encoding="utf-8"))["groups"]

OF_PROMETHEUS = {"instance", "job"}  # labels that it adds
ABSENT = {
    "busway_tls_certificate_expiry_seconds",
    "busway_trace_spans_total",
}  # optional parts
NAME = re.compile(r"\b(?:busway|process)_\w+")
SELECTOR = re.compile(rf"({NAME.pattern})(?:\{{([^}}]*)\}})?")
MATCHER = re.compile(r'(\w+)\s*(=~?|!=|!~)\s*"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
OVER_TIME = re.compile(r"(?:rate|delta|increase)\($")
GREATEST = re.compile(r"\b(?:max|min)(?: by \([^)]*\))? ?\($")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for group in RULES:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def of_the_cell() -> set[str]:
    """The metrics that `docs/running.md` says all nodes report alike."""
    text = (ROOT / "docs/running.md").read_text(encoding="utf-8")
    table = text.partition("metrics are those of the whole database")[2].partition("\nThe others")[0]
    names = set(re.findall(r"`(busway_\w+)`", table))
    assert len(names) > 4
    return names


Labels = dict[str, dict[str, set[str]]]


def seen(service: Service) -> Labels:
    """The samples of a gateway that has done something of everything: name, label, values."""
    for type_ in ("work", "die"):
        service.finished(service.publish(type_)["seq"])
    service.request("POST", "/v1/hooks/nobody", content=b"{}", headers={"Content-Type": "application/json"})
    found: Labels = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(service.get("/metrics").text):
        for sample in family.samples:
            values = found[sample.name]
            for label, value in sample.labels.items():
                values[label].add(value)
    return found


def test_each_expression_names_metrics_and_labels_that_exist(shared_service: Shared) -> None:
    known = seen(shared_service(HANDLERS))
    for title, expression in expressions():
        assert NAME.search(expression), title
        labels: set[str] = {*OF_PROMETHEUS}
        for name, selector in SELECTOR.findall(expression):
            if name in ABSENT:
                continue
            assert name in known, f"{title}: no {name}"
            labels |= known[name].keys()
            for label, operator, value in MATCHER.findall(selector):
                assert label in known[name], f"{title}: {name} has no label {label}"
                if operator == "=" or (operator == "=~" and "$" not in value):
                    pattern = re.escape(value) if operator == "=" else value
                    there = known[name][label]
                    assert any(re.fullmatch(pattern, each) for each in there), f"{title}: {value} of {there}"
        for group in GROUPED.findall(expression):
            assert {*group.replace(" ", "").split(",")} <= labels, f"{title}: by ({group})"


def test_what_all_nodes_report_alike_is_not_added_up() -> None:
    cell, seen_ = of_the_cell(), 0
    for title, expression in expressions():
        for found in NAME.finditer(expression):
            if found[0] in cell:
                seen_ += 1
                before = OVER_TIME.sub("", expression[: found.start()])
                assert GREATEST.search(before), f"{title}: take the greatest value of {found[0]}"
    assert seen_ > 8


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    named = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"}
    assert named == variables
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["targets"]
        assert all(target["legendFormat"] for target in panel["targets"])
        for target in panel["targets"]:
            for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                grouped = GROUPED.findall(target["expr"])
                assert not grouped or name in ",".join(grouped), f"{panel['title']}: no label {name}"
