"""What alerts and dashboards ask for is there: metrics that services have, with the labels that they have."""

import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from .rendering import CHART, COMPONENTS, ROOT, Document, render

# Of Prometheus itself, and of every cluster's kubelets.
FOREIGN = {"up", "kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}
# Put there by the ServiceMonitors, by Prometheus, and by kubelets.
LABELS = {"component", "namespace", "release", "le", "persistentvolumeclaim"}
ALERTS = {
    "AlmagestServiceDown",
    "AlmagestErrorRate",
    "AlmagestSlow",
    "AlmagestProjectionLag",
    "AlmagestProjectionParked",
    "AlmagestQueueDepth",
    "AlmagestPoolExhausted",
    "AlmagestCertificateExpiring",
    "AlmagestDiskOfLog",
    "AlmagestMoveStuck",
}
_SERIES = re.compile(r"\b([a-z_]+)\{")
_GROUPED = re.compile(r"\b(?:by|on) \(([a-z_, ]*)\)")
_MATCHED = re.compile(r"[{,]\s*([a-z_]+)(?:=~|!~|=|!=)\"")


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """From every series that a service has to its labels."""
    for component in COMPONENTS:
        importlib.import_module(f"{component.replace('-', '_')}.bootstrap")
    found: dict[str, set[str]] = {}
    for collector in list(REGISTRY._collector_to_names):
        labels: set[str] = set(getattr(collector, "_labelnames", ()))
        for metric in collector.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
            for suffix in suffixes:
                found[metric.name + suffix] = labels | LABELS
    return found


def _rules() -> list[Document]:
    (rule,) = render("small").of("PrometheusRule")
    return [one for group in rule["spec"]["groups"] for one in group["rules"]]


def _expressions() -> Iterator[tuple[str, str]]:
    """Where somebody asks Prometheus, and what."""
    for rule in _rules():
        yield rule["alert"], rule["expr"]
    for file in sorted((CHART / "files" / "dashboards").glob("*.json")):
        board: Any = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{file.stem}: ${variable['name']}", variable["query"].replace(", ", "{} ")
    for scaler in render("large").of("ScaledObject"):
        yield scaler["metadata"]["name"], scaler["spec"]["triggers"][0]["metadata"]["query"]


def test_every_series_is_one_that_a_service_has(metrics: dict[str, set[str]]) -> None:
    """An alert on a name that nobody has never fires."""
    asked = 0
    for where, expression in _expressions():
        series = set(_SERIES.findall(expression))
        assert series or "almagest_" in expression, where
        assert series - FOREIGN <= metrics.keys(), (where, series - FOREIGN - metrics.keys())
        known = set[str]().union(LABELS, *(metrics.get(name, set()) for name in series))
        grouped = {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")}
        assert grouped | set(_MATCHED.findall(expression)) <= known, where
        asked += 1
    assert asked > 40


def test_parentheses_are_closed() -> None:
    """As far as that can be told without a Prometheus."""
    for where, expression in _expressions():
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), where


def test_every_alert_is_agreed_and_says_what_to_do() -> None:
    """Each has a severity, a sentence, and a runbook of its name in docs/operations/runbooks."""
    rules = _rules()
    assert {rule["alert"] for rule in rules} == ALERTS
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")
        where = rule["annotations"]["runbook_url"].partition("/docs/")[2]
        assert where == f"operations/runbooks/{rule['alert']}.md"
        assert (ROOT / "docs" / where).exists(), where


def test_every_service_is_watched() -> None:
    """A ServiceMonitor chooses each by the name of a port that it has."""
    rendered = render("small")
    watched: set[str] = set()
    for monitor in rendered.of("ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        for service in rendered.of("Service"):
            ports = {port["name"] for port in service["spec"]["ports"]}
            chosen = monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            if chosen and endpoint["port"] in ports:
                watched.add(service["metadata"]["labels"]["app.kubernetes.io/component"])
    assert watched == set(COMPONENTS)


def test_dashboards_are_whole() -> None:
    """Each comes as a ConfigMap that is JSON, with a name of its own in Grafana."""
    boards = [
        json.loads(one)
        for name in render("small").of("ConfigMap")
        for key, one in name["data"].items()
        if ".json" in key
    ]
    assert len({board["uid"] for board in boards}) == len(boards) == 4
