"""The chart, rendered for every documented set of values."""

import json
from collections.abc import Iterator
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.support.charts import (
    CHART,
    VALUE_SETS,
    container,
    only,
    rendered,
    rendered_files,
    variables,
)
from tests.support.paths import DOCKER
from tests.support.running_balancer import configured_seconds

_KUBERNETES = ("1.29", "1.32")
_DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
_SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
# Objects of operators, which test_custom_resources.py checks by their own models.
_OPERATORS = ("keda.sh", "monitoring.coreos.com", "serving.kserve.io")


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in objects:
        if each["kind"] == "Deployment":
            yield each["spec"]["template"]["spec"]


@pytest.mark.parametrize("chosen", VALUE_SETS)
def test_helm_has_no_complaint(chosen: str) -> None:
    report = helm.lint(CHART, VALUE_SETS[chosen], strict=True)
    assert report["errors"] == []
    # Severity 1 is advice: a chart should have an icon.
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("chosen", VALUE_SETS)
def test_the_cluster_s_own_objects_are_what_its_schema_allows(chosen: str) -> None:
    objects = rendered(VALUE_SETS[chosen])
    own = [each for each in objects if each["apiVersion"].split("/")[0] not in _OPERATORS]
    assert own
    for each in own:
        for version in _KUBERNETES:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("chosen", VALUE_SETS)
def test_every_pod_is_confined_as_the_restricted_standard_asks(chosen: str) -> None:
    objects = rendered(VALUE_SETS[chosen])
    runtimes = [each["spec"] for each in objects if each["kind"] == "ServingRuntime"]
    found = [*pods(objects), *runtimes]
    assert found
    for pod in found:
        for each in pod["containers"]:
            context = pod.get("securityContext", {}) | each["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] > 0
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in each["resources"]["limits"]
            assert {"cpu", "memory"} <= set(each["resources"]["requests"])
            assert {"readinessProbe", "livenessProbe"} <= set(each)
            assert set(_mounted(each)) == {volume["name"] for volume in pod["volumes"]}
    for pod in (*pods(objects), *_predictors(objects)):
        assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("chosen", VALUE_SETS)
def test_every_selector_finds_the_pods_that_it_means(chosen: str) -> None:
    objects = rendered(VALUE_SETS[chosen], name="prod")
    templates = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in objects
        if each["kind"] == "Deployment"
    }
    for each in objects:
        if each["kind"] == "Deployment":
            selector = each["spec"]["selector"]["matchLabels"]
            assert _selected(templates, selector) == [each["metadata"]["name"]]
    for each in objects:
        if each["kind"] == "Service":
            assert len(_selected(templates, each["spec"]["selector"])) == 1
        if each["kind"] in ("PodDisruptionBudget", "NetworkPolicy") and templates:
            key = "selector" if each["kind"] == "PodDisruptionBudget" else "podSelector"
            selected = _selected(templates, each["spec"][key]["matchLabels"])
            assert selected == [each["metadata"]["name"]]


@pytest.mark.parametrize("chosen", VALUE_SETS)
def test_every_setting_is_one_of_the_service_and_every_value_is_understood(
    chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(VALUE_SETS[chosen])
    containers = [each for pod in pods(objects) for each in pod["containers"]] + [
        each
        for runtime in objects
        if runtime["kind"] == "ServingRuntime"
        for each in runtime["spec"]["containers"]
    ]
    (service,) = [each for each in containers if each["name"] != "haproxy"]
    settings = {
        name: value for name, value in variables(service).items() if name.startswith("LEGRAD_")
    }
    assert set(settings) <= {f"LEGRAD_{name.upper()}" for name in Settings.model_fields}
    # Mounted in a container, not here.
    settings.pop("LEGRAD_API_KEYS_FILE", None)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert Settings().port in (8000, 8080)


@pytest.mark.parametrize("request_seconds", [0.5, 90, 86_400])
def test_nobody_gives_up_before_a_stopping_replica_has_answered(request_seconds: float) -> None:
    times = {"request": request_seconds, "shutdownDelay": 15, "drain": 86_400}
    objects = rendered({"times": times, "balancer": {"enabled": True}})
    environment = variables(container(objects, "legrad"))
    assert environment["LEGRAD_REQUEST_TIMEOUT_SECONDS"] == str(request_seconds)
    delay = float(environment["LEGRAD_SHUTDOWN_DELAY_SECONDS"])
    drain = float(environment["LEGRAD_DRAIN_TIMEOUT_SECONDS"])
    pod = only(objects, "Deployment", "legrad")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > delay + drain + 5
    balancer = variables(container(objects, "legrad-balancer"))
    answer = float(balancer["BALANCER_ANSWER_TIMEOUT"].removesuffix("s"))
    assert answer > request_seconds
    # A connection that was kept may bring one more request just before it would have ended.
    last = configured_seconds("timeout http-keep-alive") + configured_seconds(
        "timeout http-request"
    )
    hard_stop = float(balancer["BALANCER_HARD_STOP"].removesuffix("s"))
    assert hard_stop >= last + answer
    in_front = only(objects, "Deployment", "legrad-balancer")["spec"]["template"]["spec"]
    # HAProxy is stopped after the 5 s of preStop.
    assert in_front["terminationGracePeriodSeconds"] > 5 + hard_stop


@pytest.mark.parametrize("request_seconds", [0.5, 90, 86_400])
def test_an_ingress_waits_longer_than_a_request_and_leaves_its_size_to_the_service(
    request_seconds: float,
) -> None:
    times = {"request": request_seconds, "drain": 86_400}
    found = only(rendered(VALUE_SETS["ingress"] | {"times": times}), "Ingress")["metadata"]
    rules = {name.split("/")[1]: value for name, value in found["annotations"].items()}
    # A number without a unit is all that the controller takes.
    assert int(rules["proxy-read-timeout"]) > request_seconds
    assert rules["proxy-body-size"] == "0"


@pytest.mark.parametrize("chosen", VALUE_SETS)
def test_a_replica_accepts_requests_until_its_probe_has_noticed(chosen: str) -> None:
    probe = next(iter(_services(rendered(VALUE_SETS[chosen]))))["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    least = _SCHEMA["properties"]["times"]["properties"]["shutdownDelay"]["minimum"]
    assert least > noticed


def test_numbers_are_written_as_the_service_reads_them() -> None:
    given = {
        "LEGRAD_MAX_BODY_BYTES": 512_000_000,
        "LEGRAD_MAX_WAIT_MS": 2.5,
        "LEGRAD_SRGB_FOR_MODEL": False,
        "LEGRAD_URL_HOSTS": "pictures.example.org",
        "LEGRAD_TRACE_CACHE_BYTES": 0,
    }
    environment = variables(container(rendered({"settings": given})))
    assert {name: environment[name] for name in given} == {
        "LEGRAD_MAX_BODY_BYTES": "512000000",
        "LEGRAD_MAX_WAIT_MS": "2.5",
        "LEGRAD_SRGB_FOR_MODEL": "false",
        "LEGRAD_URL_HOSTS": "pictures.example.org",
        "LEGRAD_TRACE_CACHE_BYTES": "0",
    }


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteOncePod"])
def test_a_claim_for_one_node_is_given_up_before_the_next_pod_takes_it(mode: str) -> None:
    values = {
        "weights": {"create": True, "accessModes": [mode]},
        "autoscaling": {"kind": "none"},
        "replicas": 1,
    }
    strategy = only(rendered(values), "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 1, "maxSurge": 0}


def test_a_gpu_is_reserved_for_each_replica_and_fed_by_one_thread() -> None:
    found = container(rendered(VALUE_SETS["gpu"]))
    assert found["image"].endswith(":cuda")
    assert found["resources"]["limits"]["nvidia.com/gpu"] == "1"
    environment = variables(found)
    assert environment["LEGRAD_DEVICE"] == "cuda"
    assert "LEGRAD_COMPUTE_THREADS" not in environment
    two = container(rendered(VALUE_SETS["gpu"] | {"gpu": {"enabled": True, "count": 2}}))
    assert two["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert variables(two)["LEGRAD_DEVICE"] == "all"


def test_keys_are_mounted_as_a_folder_that_follows_the_secret_and_prometheus_has_its_own() -> None:
    objects = rendered(VALUE_SETS["keys"])
    found = container(objects)
    path = variables(found)["LEGRAD_API_KEYS_FILE"]
    (mount,) = [each for each in found["volumeMounts"] if path.startswith(each["mountPath"] + "/")]
    assert "subPath" not in mount
    (volume,) = [
        each
        for each in only(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
        if each["name"] == mount["name"]
    ]
    assert volume["secret"] == {"secretName": "legrad-keys"}
    (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials == {"name": "legrad-metrics-key", "key": "key"}


def test_weights_come_from_the_claim_and_are_looked_up_nowhere_else() -> None:
    objects = rendered(VALUE_SETS["weights"])
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "weights"]
    claim = {"claimName": "checkpoints", "readOnly": True}
    assert volume["persistentVolumeClaim"] == claim
    assert variables(container(objects))["HF_HUB_OFFLINE"] == "1"
    blocks = [to for rule in only(objects, "NetworkPolicy")["spec"]["egress"] for to in rule["to"]]
    assert not [each for each in blocks if "ipBlock" in each]
    made = rendered(VALUE_SETS["hub"])
    (volume,) = [
        each
        for each in only(made, "Deployment")["spec"]["template"]["spec"]["volumes"]
        if each["name"] == "weights"
    ]
    name = only(made, "PersistentVolumeClaim")["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == name


def test_a_controller_is_told_to_restart_the_balancer_for_a_renewed_certificate() -> None:
    found = only(rendered(VALUE_SETS["balancer"]), "Deployment", "legrad-balancer")
    (secret,) = [
        each["secret"]["secretName"]
        for each in found["spec"]["template"]["spec"]["volumes"]
        if "secret" in each
    ]
    annotations = found["metadata"]["annotations"]
    assert annotations == {"secret.reloader.stakater.com/reload": secret}


def test_keda_scales_by_the_queue_and_does_not_take_a_silent_prometheus_for_an_empty_one() -> None:
    objects = rendered(VALUE_SETS["keda"])
    found = only(objects, "ScaledObject")["spec"]
    assert found["scaleTargetRef"]["name"] == only(objects, "Deployment")["metadata"]["name"]
    (trigger,) = found["triggers"]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["query"] == "sum(legrad_queue_cost)"
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert found["minReplicaCount"] <= found["fallback"]["replicas"] <= found["maxReplicaCount"]
    # Two autoscalers would undo each other's work.
    assert not [each for each in objects if each["kind"] == "HorizontalPodAutoscaler"]
    assert "replicas" not in only(objects, "Deployment")["spec"]
    scraped = VALUE_SETS["keda"] | {"monitoring": {"serviceMonitor": {"enabled": True}}}
    objects = rendered(scraped, name="prod", namespace="shop")
    (trigger,) = only(objects, "ScaledObject")["spec"]["triggers"]
    expected = 'sum(legrad_queue_cost{namespace="shop",service="prod-legrad"})'
    assert trigger["metadata"]["query"] == expected
    (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert {"targetLabel": "service", "replacement": "prod-legrad"} in endpoint["relabelings"]


def test_callers_reach_replicas_by_the_balancer_alone() -> None:
    objects = rendered(VALUE_SETS["balancer"])
    policy = only(objects, "NetworkPolicy", "legrad")["spec"]["ingress"]
    labels = only(objects, "Deployment", "legrad-balancer")["spec"]["template"]["metadata"]
    assert policy[0]["from"] == [{"podSelector": {"matchLabels": labels["labels"]}}]
    assert policy[0]["ports"] == [{"port": "http"}]
    assert [rule["ports"] for rule in policy[1:]] == [[{"port": "admin"}]]
    balancer = variables(container(objects, "legrad-balancer"))
    assert balancer["BALANCER_ADDRESS_LIMIT"] == "256"
    service = only(objects, "Service", "legrad")["spec"]
    # Otherwise every caller would have the address of a node, and share its limit.
    assert service["externalTrafficPolicy"] == "Local"
    assert [port["port"] for port in service["ports"]] == [443]
    replicas = only(objects, "Service", "legrad-replicas")
    assert replicas["spec"]["clusterIP"] == "None"
    assert balancer["REPLICAS"] == "legrad-replicas.shop.svc.cluster.local:8000"


def test_the_alerts_and_the_dashboard_are_those_that_are_tested_elsewhere() -> None:
    objects = rendered(VALUE_SETS["monitoring"], namespace="shop")
    groups = yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())["groups"]
    for group in groups:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["labels"]["namespace"] = "shop"
    assert only(objects, "PrometheusRule")["spec"]["groups"] == groups
    data = only(objects, "ConfigMap")["data"]
    dashboard = (DOCKER / "grafana/dashboards/legrad.json").read_text()
    assert json.loads(data["legrad.json"]) == json.loads(dashboard)


def test_alerts_go_where_those_of_the_compose_file_go() -> None:
    spec = only(rendered(VALUE_SETS["monitoring"]), "AlertmanagerConfig")["spec"]
    own = yaml.safe_load((DOCKER / "alertmanager/alertmanager.yml").read_text())
    assert spec["route"] == {
        "receiver": own["route"]["receiver"],
        "groupBy": own["route"]["group_by"],
        "groupWait": own["route"]["group_wait"],
        "groupInterval": own["route"]["group_interval"],
        "repeatInterval": own["route"]["repeat_interval"],
    }
    (receiver,) = spec["receivers"]
    assert receiver["webhookConfigs"][0]["urlSecret"] == {"name": "legrad-alerts", "key": "url"}

    def written(matcher: dict[str, str]) -> str:
        return f'{matcher["name"]} {matcher["matchType"]} "{matcher["value"]}"'

    assert [
        {
            "source_matchers": list(map(written, rule["sourceMatch"])),
            "target_matchers": list(map(written, rule["targetMatch"])),
            "equal": rule["equal"],
        }
        for rule in spec["inhibitRules"]
    ] == own["inhibit_rules"]


def test_names_follow_the_release_and_fit_where_names_are_short() -> None:
    for release in ("legrad", "prod", "p" * 53):
        objects = rendered(VALUE_SETS["balancer"], name=release)
        names = {each["metadata"]["name"] for each in objects}
        assert all(len(name) <= 63 and not name.endswith("-") for name in names), names
    assert {"prod-legrad"} <= {
        each["metadata"]["name"] for each in rendered(VALUE_SETS["default"], name="prod")
    }


def test_the_notes_tell_what_is_missing() -> None:
    notes = rendered_files({})["NOTES.txt"]
    assert "No keys are required" in notes
    assert "balancer.enabled" in notes
    forgotten = rendered_files({"balancer": {"enabled": True}})["NOTES.txt"]
    assert "trustedProxies is empty" in forgotten
    assert "trustedProxies" not in rendered_files(VALUE_SETS["balancer"])["NOTES.txt"]


def _mounted(each: dict[str, Any]) -> list[str]:
    return [mount["name"] for mount in each["volumeMounts"]]


def _predictors(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["predictor"] for each in objects if each["kind"] == "InferenceService"]


def _services(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in objects:
        if each["kind"] == "ServingRuntime":
            yield from each["spec"]["containers"]
        elif each["kind"] == "Deployment" and not each["metadata"]["name"].endswith("-balancer"):
            yield from each["spec"]["template"]["spec"]["containers"]


def _selected(templates: dict[str, dict[str, str]], selector: dict[str, str]) -> list[str]:
    return [name for name, labels in templates.items() if selector.items() <= labels.items()]
