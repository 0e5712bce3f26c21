"""The dashboard's file is what Grafana needs; what its queries mean is tested with Prometheus."""

import itertools
from typing import Any

import yaml

from tests.support.dashboards import DASHBOARD, RULES, panels, with_variables
from tests.support.paths import DOCKER

_DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_ROWS = [
    "Traffic and errors",
    "Latency",
    "Queue and batches",
    "Cache",
    "Memory and processor",
    "Models and workers",
    "Explanations themselves",
    "Balancer",
]


def test_the_dashboard_has_its_rows_and_variables() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("legrad", "LeGrad")
    assert "id" not in DASHBOARD
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == _ROWS
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "model"]
    assert variables["datasource"]["query"] == "prometheus"


def test_every_panel_has_a_title_a_query_and_an_id_of_its_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            with_variables(target["expr"])


def test_everything_is_asked_of_the_chosen_data_source() -> None:
    for panel in panels():
        assert panel["datasource"] == _DATA_SOURCE, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == _DATA_SOURCE, panel["title"]
    for variable in DASHBOARD["templating"]["list"][1:]:
        assert variable["datasource"] == _DATA_SOURCE


def test_panels_lie_beside_each_other_within_the_grid() -> None:
    def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
        return all(
            one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
            for start, length in (("x", "w"), ("y", "h"))
        )

    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places)
    assert not [pair for pair in itertools.combinations(places, 2) if overlap(*pair)]


def test_quantiles_are_taken_of_rates_over_what_grafana_finds_sensible() -> None:
    for panel in panels():
        for target in panel["targets"]:
            if "histogram_quantile" in target["expr"]:
                assert "rate(" in target["expr"]
                assert "[$__rate_interval]" in target["expr"]


def test_grafana_is_told_of_the_folder_and_of_prometheus() -> None:
    def provisioned(path: str) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load(
            (DOCKER / "grafana/provisioning" / path).read_text()
        )
        assert content["apiVersion"] == 1
        return content

    (source,) = provisioned("datasources/prometheus.yml")["datasources"]
    assert source["type"] == "prometheus"
    scraped = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]
    (alerts,) = provisioned("datasources/alertmanager.yml")["datasources"]
    assert (alerts["type"], alerts["jsonData"]["implementation"]) == ("alertmanager", "prometheus")
    assert alerts["uid"] != source["uid"]
    (provider,) = provisioned("dashboards/legrad.yml")["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_every_alert_says_what_it_means_and_where_to_read_on() -> None:
    page = (DOCKER.parent / "docs/operations.md").read_text()
    headings = {line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")}
    alerts = {rule["alert"]: rule for rule in RULES if "alert" in rule}
    assert headings >= set(alerts)
    tested = (DOCKER / "prometheus/alerts_test.yml").read_text()
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        # Once where it fires, at least.
        assert f"#{name.lower()}\n" in tested, name
