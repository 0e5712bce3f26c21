"""The Grafana dashboard and the alerts of this repository, with the metrics that they query."""

import json
import re
from typing import Any

import yaml

from tests.support.paths import DOCKER

DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana/dashboards/legrad.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]

_STRING = r'"[^"]*"'
_SELECTOR = re.compile(r"\b([a-z_]+(?::[a-z0-9_]+)+|[a-z]+_[a-z_]+|up)\b(?!\s*\()({[^}]*})?")
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
# Words of the language that look like names.
_WORDS = {"group_left"}


def panels() -> list[dict[str, Any]]:
    """Return every panel that is not the title of a row."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def panel_queries() -> list[str]:
    """Return every query of every panel, as Grafana sends it for all instances and models."""
    return [with_variables(target["expr"]) for panel in panels() for target in panel["targets"]]


def with_variables(expression: str, interval: str = "1m") -> str:
    """Return a query with the values of Grafana's variables."""
    for name, value in {"rate_interval": interval, "instance": ".*", "model": ".*"}.items():
        expression = expression.replace(f"$__{name}", value).replace(f"${name}", value)
    assert "$" not in expression, expression
    return expression


def selectors(expression: str) -> set[str]:
    """Return every metric of a query, with its label matchers."""
    bare = _GROUPING.sub("", expression)
    return {name + matchers for name, matchers in _SELECTOR.findall(bare) if name not in _WORDS}


def grouping_labels(expression: str) -> set[str]:
    """Return every label that a query groups or joins by, except ``le``."""
    without_strings = re.sub(_STRING, "", expression)
    named = ",".join(_GROUPING.findall(without_strings))
    return {label.strip() for label in named.split(",") if label.strip()} - {"le"}
