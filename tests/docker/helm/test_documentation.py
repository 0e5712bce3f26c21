"""Every command of Helm in the documentation, carried out by its library as far as it goes."""

import argparse
import shlex
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from tests.support.charts import CHART, VALUE_SETS, rendered
from tests.support.documents import blocks, pages
from tests.support.paths import DOCKER, DOCS, ROOT


def commands() -> list[str]:
    return [
        command
        for page in pages()
        for block in blocks(page)
        if block.language == "console"
        for command in block.commands
        if command.startswith("helm ")
    ]


def parsed(command: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="helm", exit_on_error=False)
    parser.add_argument("action", choices=["install", "upgrade", "template"])
    parser.add_argument("release")
    parser.add_argument("chart")
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--namespace", "-n", default="default")
    parser.add_argument("--create-namespace", action="store_true")
    parser.add_argument("--values", "-f", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    return parser.parse_args(shlex.split(command)[1:])


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two sets of values, as Helm combines them: maps are merged, everything else is replaced."""
    combined = dict(under)
    for name, value in over.items():
        both_maps = isinstance(value, dict) and isinstance(combined.get(name), dict)
        combined[name] = merged(combined[name], value) if both_maps else value
    return combined


@pytest.mark.parametrize("command", commands())
def test_a_command_installs_what_a_cluster_takes(command: str) -> None:
    options = parsed(command)
    assert ROOT / options.chart == CHART
    values: dict[str, Any] = {}
    for path in options.values:
        values = merged(values, yaml.safe_load((ROOT / path).read_text()))
    for text in options.set:
        values = merged(values, helm.parse_set_string(text))
    objects = rendered(values, name=options.release, namespace=options.namespace)
    assert {each["kind"] for each in objects} & {"Deployment", "InferenceService"}
    for each in objects:
        if each["apiVersion"] in ("v1", "apps/v1") or each["apiVersion"].endswith(".k8s.io/v1"):
            kubernetes_validate.validate(each, "1.29", strict=True)


def test_the_documentation_has_commands_for_the_chart() -> None:
    named = " ".join(commands())
    assert len(commands()) >= 5
    assert all(f"values/{name}.yaml" in named for name in ("gpu", "keys", "keda", "balancer"))


def test_every_set_of_values_is_listed_on_the_page() -> None:
    page = (DOCS / "deployment.md").read_text()
    assert [name for name in VALUE_SETS if name != "default" and f"`{name}.yaml`" not in page] == []


def test_the_values_on_the_page_are_those_of_the_set() -> None:
    shown = [
        yaml.safe_load(block.text)
        for block in blocks(DOCS / "deployment.md")
        if block.language == "yaml" and block.text.startswith("kserve:")
    ]
    assert shown == [VALUE_SETS["kserve"]]


def test_receivers_on_the_page_are_read_by_alertmanager_s_configuration() -> None:
    (shown,) = [
        yaml.safe_load(block.text)
        for block in blocks(DOCS / "deployment.md")
        if block.language == "yaml" and block.text.startswith("receivers:")
    ]
    own = yaml.safe_load((DOCKER / "alertmanager/alertmanager.yml").read_text())
    assert [each["name"] for each in shown["receivers"]] == [own["route"]["receiver"]]
