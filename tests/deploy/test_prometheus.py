"""The rules and dashboards of deploy, on a real Prometheus that scrapes the real service under all sorts of traffic."""

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.deploy import dashboards
from tests.deploy.monitored import FOLDER, Prometheus, Traffic, program, prometheus, service
from tests.docs.blocks import ROOT
from tests.e2e.serving import PATIENCE

RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
VARIABLES = {"$__rate_interval": "10s", "$instance": ".*", "$model": ".*"}
COMPARISON = re.compile(r"\s*(==|<|>)\s*[\d.]+")


@dataclass(frozen=True)
class Watched:
    """A service under traffic, and the Prometheus that scrapes it."""

    prometheus: Prometheus
    traffic: Traffic
    metrics_url: str

    def missing(self, queries: Sequence[tuple[str, str]]) -> list[str]:
        """Of queries with their names, those that never had data, after waiting for it."""
        deadline = time.monotonic() + PATIENCE
        while queries and time.monotonic() < deadline:
            self.traffic.check()
            queries = [(name, query) for name, query in queries if not has_data(self.prometheus.query(query))]
            time.sleep(0.2 if queries else 0.0)
        return [f"{name}: {query}" for name, query in queries]


@pytest.fixture(scope="module")
def watched(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with service(models) as (running, metrics_port):
        target = f"127.0.0.1:{metrics_port}"
        with prometheus(target, folder) as server, Traffic(running.url, pause=0.2) as traffic:
            yield Watched(server, traffic, f"http://{target}/metrics")


def queries_of_dashboards() -> list[tuple[str, str]]:
    """Each query, with where it is."""
    queries = []
    for file in sorted(dashboards.FOLDER.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for name, value in VARIABLES.items():
                    expression = expression.replace(name, value)
                queries.append((f"{file.stem}: {panel['title']}", expression))
    return queries


def has_data(series: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(each["value"][1])) for each in series)


def test_every_query_of_every_dashboard_has_data(watched: Watched) -> None:
    queries = queries_of_dashboards()
    assert len(queries) > 40
    assert watched.missing(queries) == []


def test_every_rule_is_evaluated_and_what_an_alert_compares_has_data(watched: Watched) -> None:
    server = watched.prometheus
    compared = [(rule["alert"], COMPARISON.sub("", rule["expr"])) for rule in ALERTS]
    assert watched.missing(compared) == []
    deadline = time.monotonic() + PATIENCE
    states: list[str] = []
    while "unknown" in states or not states:
        assert time.monotonic() < deadline
        states = [rule["health"] for group in server.get("rules")["groups"] for rule in group["rules"]]
    assert states == ["ok"] * len(RULES)
    # Some calls of the traffic fail at their deadline, and a busy machine may be slow; all else is well.
    active = {alert["labels"]["alertname"] for alert in server.get("alerts")["alerts"]}
    assert active <= {"CarryErrors", "CarrySlow", "CarryDown", "CarryNotReady"}


def test_promtool_finds_no_fault_in_the_metrics(watched: Watched) -> None:
    page = httpx2.get(watched.metrics_url, timeout=PATIENCE).content
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_each_alert_fires_when_it_should() -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    named = set(re.findall(r"Carry\w+", str(tests)))
    assert named == {rule["alert"] for rule in ALERTS}
    subprocess.run([program("promtool"), "test", "rules", "rules_test.yml"], cwd=FOLDER, check=True)


def test_the_configuration_is_valid() -> None:
    subprocess.run([program("promtool"), "check", "config", "prometheus.yml"], cwd=FOLDER, check=True)


def test_the_documentation_says_what_each_alert_means_and_what_to_do() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    _, _, section = page.partition("\n### Alerts\n")
    rows = re.findall(r"^\| `(Carry\w+)` \|", section, re.MULTILINE)
    assert rows == [rule["alert"] for rule in ALERTS]
    assert {rule["annotations"].keys() == {"summary", "description", "runbook"} for rule in ALERTS} == {True}
    assert {rule["annotations"]["runbook"] for rule in ALERTS} == {"docs/operating.md#alerts"}


def test_the_documentation_lists_all_metrics(watched: Watched) -> None:
    page = httpx2.get(watched.metrics_url, timeout=PATIENCE).text
    shown = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    _, _, section = (ROOT / "docs/operating.md").read_text().partition("\n## Metrics\n")
    section, _, _ = section.partition("\n### Alerts\n")
    documented = set(re.findall(r"`((?:carry|process)_\w+)", section))
    assert documented == shown


def test_the_dashboards_are_those_that_are_described() -> None:
    files = {file.stem: file.read_text() for file in dashboards.FOLDER.glob("*.json")}
    assert files == {uid: dashboards.text_of(uid) for uid in dashboards.DASHBOARDS}


@pytest.mark.parametrize("uid", dashboards.DASHBOARDS)
def test_a_dashboard_is_laid_out_without_gaps_or_overlaps(uid: str) -> None:
    board = dashboards.dashboard(uid)
    cells = [
        (x, y)
        for panel in board["panels"]
        for position in [panel["gridPos"]]
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == dashboards.COLUMNS - 1
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["type"] == "row" or panel["targets"] for panel in board["panels"])


def test_what_grafana_is_given_fits_together() -> None:
    """The provisioned data source is that of the dashboards' variable, and the folders are those that are mounted."""
    folder = ROOT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == dashboards.DATASOURCE["type"]
    assert source["isDefault"]  # the variable begins with the default one
    [provider] = yaml.safe_load((folder / "dashboards/carry.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
