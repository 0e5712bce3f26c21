"""Values that the chart refuses: misspelt, of the wrong kind, or contradictory."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import helm_python as helm
import pytest
import yaml

from tests.support.charts import CHART, VALUE_SETS, rendered

_DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
_SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
SHOP = {"name": "shop", "storageUri": "s3://a/b"}
# Maps whose keys are the user's: labels, annotations, and what a parent chart shares.
_FREE = {
    "balancer.annotations",
    "global",
    "ingress.annotations",
    "monitoring.alertmanager.labels",
    "monitoring.dashboard.labels",
    "monitoring.rules.labels",
    "monitoring.serviceMonitor.labels",
    "nodeSelector",
    "podAnnotations",
    "podLabels",
    "service.annotations",
}


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema, by its path."""
    if schema.get("type") == "object":
        yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from objects(each, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from objects(schema["items"], f"{path}[]")


def misspelt(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The values once for each of their objects, which then has a name that nobody knows."""
    yield path or "top", values | {"replicsa": 3}
    for name, value in values.items():
        here = f"{path}.{name}".lstrip(".")
        if isinstance(value, dict) and here not in _FREE:
            for inner, changed in misspelt(value, here):
                yield inner, values | {name: changed}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(helm.HelmError) as caught:
        rendered(values)
    return str(caught.value)


def test_no_object_of_the_schema_takes_names_that_it_does_not_list() -> None:
    found = dict(objects(_SCHEMA))
    assert len(found) > 30
    open_ones = {
        path for path, each in found.items() if each.get("additionalProperties") is not False
    }
    assert open_ones == _FREE


@pytest.mark.parametrize(("path", "values"), list(misspelt(_DEFAULTS)))
def test_a_misspelt_name_is_refused_wherever_it_is(path: str, values: dict[str, Any]) -> None:
    assert "replicsa" in refusal(values), path


@pytest.mark.parametrize("chosen", VALUE_SETS)
def test_a_misspelt_name_in_a_documented_set_is_refused(chosen: str) -> None:
    for _, values in misspelt(VALUE_SETS[chosen]):
        assert "replicsa" in refusal(values)


def test_every_default_is_described_by_the_schema_and_the_other_way_round() -> None:
    # Without a default: any of the settings, any amount of a resource.
    optional = {"settings", "requests", "limits"}

    def names(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> None:
        listed = schema["properties"]
        assert set(values) == set(listed) - {"global"}, path
        for name, value in values.items():
            if isinstance(value, dict) and "properties" in listed[name] and name not in optional:
                names(value, listed[name], f"{path}.{name}")

    names(_DEFAULTS, _SCHEMA)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"settings": {"LEGRAD_MAX_BODY_BITES": 1}}, "LEGRAD_MAX_BODY_BITES"),
        ({"settings": {"LEGRAD_MODELS": "starter"}}, "LEGRAD_MODELS"),
        ({"settings": {"LEGRAD_API_KEYS": "[]"}}, "LEGRAD_API_KEYS"),
        ({"environment": [{"name": "LEGRAD_PORT", "value": "1"}]}, "environment"),
        ({"environment": [{"name": "A", "vale": "1"}]}, "vale"),
        ({"models": []}, "models"),
        ({"models": ["a,b"]}, "models"),
        ({"replicas": "2"}, "replicas"),
        ({"replicas": -1}, "replicas"),
        ({"image": {"tag": "a b"}}, "tag"),
        ({"image": {"digest": "sha256:1"}}, "digest"),
        ({"image": {"repository": "legrad:cpu"}}, "repository"),
        ({"times": {"shutdownDelay": 2}}, "shutdownDelay"),
        ({"times": {"drain": 0}}, "drain"),
        ({"times": {"drain": 1_000_000}}, "drain"),
        ({"disruptionBudget": {"maxUnavailable": "0%"}}, "maxUnavailable"),
        ({"disruptionBudget": {"maxUnavailable": "101%"}}, "maxUnavailable"),
        ({"autoscaling": {"kind": "KEDA"}}, "kind"),
        ({"balancer": {"addressLimit": 0}}, "addressLimit"),
        ({"resources": {"limits": {"memory": "4 GB"}}}, "memory"),
        ({"resources": {"limits": {"gpu": 1}}}, "gpu"),
        ({"networkPolicy": {"callerBlocks": ["10.0.0.1"]}}, "callerBlocks"),
        ({"networkPolicy": {"egress": [{"cidr": "10.0.0.0/8"}]}}, "port"),
        ({"tolerations": [{"key": "a", "operater": "Exists"}]}, "operater"),
        ({"kserve": {"enabled": True, "services": [{"name": "shop"}]}}, "storageUri"),
        (
            {"kserve": {"enabled": True, "services": [{"name": "Shop", "storageUri": "s3://a"}]}},
            "name",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_name(
    values: dict[str, Any], told: str
) -> None:
    assert told in refusal(values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"times": {"request": 120}}, "times.drain is less than times.request"),
        ({"times": {"drain": 29.5}}, "times.drain is less than times.request"),
        ({"autoscaling": {"minReplicas": 9}}, "autoscaling.minReplicas is more than"),
        (
            {"autoscaling": {"kind": "keda", "keda": {"fallbackReplicas": 1}}},
            "autoscaling.keda.fallbackReplicas must lie between",
        ),
        ({"gpu": {"enabled": True}}, "set autoscaling.kind to keda or none"),
        (
            {
                "keys": {"secretName": "keys"},
                "monitoring": {"serviceMonitor": {"enabled": True}},
            },
            "set monitoring.serviceMonitor.keySecret.name",
        ),
        (
            {"balancer": {"enabled": True}, "ingress": {"enabled": True, "host": "a.example"}},
            "balancer.enabled and ingress.enabled exclude each other",
        ),
        ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.host"),
        ({"service": {"type": "LoadBalancer"}}, "needs networkPolicy.callerBlocks"),
        (
            {"service": {"type": "NodePort"}, "balancer": {"enabled": True}},
            "needs networkPolicy.callerBlocks",
        ),
        ({"weights": {"create": True, "claimName": "a"}}, "exclude each other"),
        ({"weights": {"readOnly": True}}, "weights.readOnly needs weights.claimName"),
        (
            {"weights": {"create": True, "accessModes": ["ReadOnlyMany"]}},
            "a claim that nothing can be written to",
        ),
        (
            {"weights": {"create": True, "accessModes": ["ReadWriteOncePod"]}},
            "ReadWriteOncePod lets pods start on one node alone",
        ),
        (
            {
                "weights": {"create": True, "accessModes": ["ReadWriteOncePod"]},
                "autoscaling": {"kind": "none"},
            },
            "ReadWriteOncePod lets pods start on one node alone",
        ),
        (
            {"weights": {"create": True, "accessModes": ["ReadWriteOnce"]}},
            "ReadWriteOnce lets pods start on one node alone",
        ),
        (
            {
                "weights": {"create": True, "accessModes": ["ReadWriteOnce"]},
                "autoscaling": {"kind": "none"},
            },
            "ReadWriteOnce lets pods start on one node alone",
        ),
        (
            # Nobody could write on the nodes that only read.
            {"weights": {"create": True, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}},
            "ReadWriteOnce, ReadOnlyMany lets pods start on one node alone",
        ),
        ({"resources": {"requests": {"cpu": None}}}, "needs resources.requests.cpu"),
        ({"monitoring": {"alertmanager": {"enabled": True}}}, "alerts would go nowhere"),
        (
            {"monitoring": {"alertmanager": {"enabled": True, "slack": {"secretName": "a"}}}},
            "needs a channel",
        ),
        ({"kserve": {"enabled": True}}, "kserve.enabled needs at least one entry"),
        (
            {"kserve": {"services": [{"name": "shop", "storageUri": "s3://a/b"}]}},
            "kserve.services needs kserve.enabled",
        ),
        (
            {"kserve": {"enabled": True, "services": [SHOP, SHOP | {"storageUri": "s3://c/d"}]}},
            "kserve.services has the name shop twice",
        ),
        (
            VALUE_SETS["kserve"] | {"autoscaling": {"kind": "keda"}},
            "needs monitoring.serviceMonitor.enabled",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_the_remedy(
    values: dict[str, Any], told: str
) -> None:
    assert told in refusal(values)


@pytest.mark.parametrize(
    "values",
    [
        {"times": {"request": 120, "drain": 120}},
        {"disruptionBudget": {"maxUnavailable": "1%"}},
        {"disruptionBudget": {"maxUnavailable": "100%"}},
        {"service": {"type": "NodePort"}, "networkPolicy": {"callerBlocks": ["10.0.0.0/8"]}},
        {"service": {"type": "LoadBalancer"}, "networkPolicy": {"enabled": False}},
        # Prometheus then knows which queue is whose.
        VALUE_SETS["kserve"]
        | {"autoscaling": {"kind": "keda"}, "monitoring": {"serviceMonitor": {"enabled": True}}},
        {"kserve": {"enabled": True, "services": [SHOP]}, "autoscaling": {"kind": "keda"}},
        {
            "weights": {"create": True, "accessModes": ["ReadWriteOncePod"]},
            "autoscaling": {"kind": "none"},
            "replicas": 1,
        },
        {
            "weights": {"create": True, "accessModes": ["ReadWriteOnce"]},
            "autoscaling": {"minReplicas": 1, "maxReplicas": 1},
        },
        {"weights": {"create": True, "accessModes": ["ReadWriteOnce", "ReadWriteMany"]}},
        {"weights": {"create": True, "accessModes": ["ReadOnlyMany", "ReadWriteMany"]}},
    ],
)
def test_values_that_are_near_a_contradiction_and_none_are_taken(values: dict[str, Any]) -> None:
    assert rendered(values)


@pytest.mark.parametrize(
    "values",
    [
        {"balancer": {"enabled": True}},
        {"ingress": {"enabled": True, "host": "a.example"}},
        {"weights": {"create": True}},
        {"models": ["ViT-B-16/openai"]},
    ],
)
def test_kserve_refuses_what_it_would_ignore(values: dict[str, Any]) -> None:
    combined = copy.deepcopy(VALUE_SETS["kserve"]) | values
    assert "kserve.enabled excludes" in refusal(combined)
