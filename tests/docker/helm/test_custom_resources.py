"""Objects for operators, read by models that were generated from the operators' own definitions.

The models are in environments of their own: their pins do not fit into that of the tests.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.charts import VALUE_SETS, only, rendered
from tests.support.environments import python_with
from tests.support.protocol_clients import client_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Both read a list of objects and write a list of findings.
_PYDANTIC = """
import json, sys
from importlib import import_module

FOLDERS = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "monitoring.coreos.com/v1alpha1": "cloudcoil.models.prometheus_operator.v1alpha1",
}

def lost(given, kept, path):
    if isinstance(given, dict):
        for name, value in given.items():
            if not isinstance(kept, dict) or name not in kept:
                yield f"{path}.{name} is unknown"
            else:
                yield from lost(value, kept[name], f"{path}.{name}")
    elif isinstance(given, list):
        for number, pair in enumerate(zip(given, kept)):
            yield from lost(*pair, f"{path}[{number}]")
    elif given != kept:
        yield f"{path}: {given!r} is read as {kept!r}"

findings = []
for given in json.load(sys.stdin):
    kind = getattr(import_module(FOLDERS[given["apiVersion"]]), given["kind"])
    try:
        read = kind.model_validate(given)
    except ValueError as error:
        findings.append(str(error))
        continue
    kept = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
    findings += lost(given, kept, given["kind"])
print(json.dumps(findings))
"""
_KSERVE = """
import json, re, sys
import kserve.models
import kubernetes.client.models

SCALARS = {"str": str, "bool": bool, "int": int, "float": (int, float)}
findings = []

def read(value, kind, path):
    if found := re.fullmatch(r"list\\[(.*)\\]", kind):
        return [read(each, found[1], f"{path}[{number}]") for number, each in enumerate(value)]
    if found := re.fullmatch(r"dict\\(str, (.*)\\)", kind):
        return {name: read(each, found[1], f"{path}.{name}") for name, each in value.items()}
    if kind in SCALARS:
        if not isinstance(value, SCALARS[kind]):
            findings.append(f"{path}: {value!r} is no {kind}")
        return value
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client.models, kind, None)
    if model is None:
        return value
    names = {there: here for here, there in model.attribute_map.items()}
    fields = {}
    for name, each in value.items():
        if name in names:
            here = names[name]
            fields[here] = read(each, model.openapi_types[here], f"{path}.{name}")
        else:
            findings.append(f"{path}.{name} is unknown")
    try:
        return model(**fields)
    except ValueError as error:
        findings.append(f"{path}: {error}")

KINDS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
for given in json.load(sys.stdin):
    read(given, KINDS[given["kind"]], given["kind"])
print(json.dumps(findings))
"""
# Both autoscalers, every receiver, both kinds of monitors.
_SETS = VALUE_SETS | {
    "everything": VALUE_SETS["balancer"]
    | VALUE_SETS["keda"]
    | {
        "keys": {"secretName": "keys"},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "keySecret": {"name": "metrics-key"}},
            "rules": {"enabled": True},
            "alertmanager": {
                "enabled": True,
                "webhook": {"secretName": "hook"},
                "slack": {"secretName": "slack", "channel": "#alerts"},
            },
        },
    },
    "kserve-gpu-keda": VALUE_SETS["kserve"]
    | VALUE_SETS["gpu"]
    | VALUE_SETS["keda"]
    | {
        "monitoring": {"serviceMonitor": {"enabled": True}},
        "serviceAccountName": "buckets",
        "podLabels": {"team": "search"},
        "podAnnotations": {"sidecar.istio.io/inject": "false"},
    },
}


def findings(python: Path, script: str, objects: list[dict[str, Any]]) -> list[str]:
    done = subprocess.run(
        [python, "-c", script],
        input=json.dumps(objects),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def objects_of(*groups: str) -> list[dict[str, Any]]:
    """Every object of these API groups, of every set of values."""
    found = [
        each
        for values in _SETS.values()
        for each in rendered(values)
        if each["apiVersion"].split("/")[0] in groups
    ]
    assert found
    return found


def operators_python() -> Path:
    return python_with(
        "operators",
        ("cloudcoil-models-keda==2.16.1.0", "cloudcoil-models-prometheus-operator==0.80.1.0"),
    )


def test_keda_and_the_prometheus_operator_know_every_field() -> None:
    objects = objects_of("keda.sh", "monitoring.coreos.com")
    assert {each["kind"] for each in objects} == {
        "AlertmanagerConfig",
        "PodMonitor",
        "PrometheusRule",
        "ScaledObject",
        "ServiceMonitor",
    }
    for each in objects:
        if each["kind"] == "ScaledObject":
            # Of KEDA 2.17; the models are of 2.16.
            assert each["spec"]["fallback"].pop("behavior") == "currentReplicasIfHigher"
    assert findings(operators_python(), _PYDANTIC, objects) == []


def test_kserve_knows_every_field() -> None:
    objects = objects_of("serving.kserve.io")
    assert {each["kind"] for each in objects} == {"ServingRuntime", "InferenceService"}
    assert findings(client_python(), _KSERVE, objects) == []


def test_a_field_that_an_operator_does_not_know_is_found() -> None:
    scaled = only(rendered(VALUE_SETS["keda"]), "ScaledObject")
    del scaled["spec"]["fallback"]["behavior"]
    scaled["spec"]["pollingIntervall"] = 15
    assert "pollingIntervall" in str(findings(operators_python(), _PYDANTIC, [scaled]))
    service = only(rendered(VALUE_SETS["kserve"]), "InferenceService", "shop")
    service["spec"]["predictor"]["model"]["storageUrl"] = "s3://a"
    service["spec"]["predictor"]["minReplicas"] = "2"
    found = findings(client_python(), _KSERVE, [service])
    assert len(found) == 2
    assert "storageUrl" in str(found)
    assert "minReplicas" in str(found)


def test_a_gpu_is_given_up_before_the_next_pod_of_kserve_takes_it() -> None:
    objects = rendered(_SETS["kserve-gpu-keda"])
    strategies = [
        each["spec"]["predictor"]["deploymentStrategy"]["rollingUpdate"]
        for each in objects
        if each["kind"] == "InferenceService"
    ]
    assert strategies == [{"maxUnavailable": 1, "maxSurge": 0}] * 2


def test_pods_of_kserve_have_the_labels_and_annotations_of_pods() -> None:
    objects = rendered(_SETS["kserve-gpu-keda"])
    pods = [each["spec"]["predictor"] for each in objects if each["kind"] == "InferenceService"]
    assert [each["labels"] for each in pods] == [{"team": "search"}] * 2
    assert [each["annotations"] for each in pods] == [{"sidecar.istio.io/inject": "false"}] * 2


def test_kserve_scales_by_one_autoscaler_alone() -> None:
    objects = rendered(_SETS["kserve-gpu-keda"], name="legrad", namespace="shop")
    services = [each for each in objects if each["kind"] == "InferenceService"]
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["triggers"][0]["metadata"]["query"]
        for each in objects
        if each["kind"] == "ScaledObject"
    }
    assert scaled == {
        f"{name}-predictor": f'sum(legrad_queue_cost{{namespace="shop",service="{name}"}})'
        for name in ("shop", "shoes")
    }
    for each in services:
        annotations = each["metadata"]["annotations"]
        assert annotations["serving.kserve.io/autoscalerClass"] == "external"
        assert "scaleMetric" not in each["spec"]["predictor"]
    relabelings = only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert {"service"} <= {each["targetLabel"] for each in relabelings}
