"""The files that describe containers: what can be told of them without an engine or a cluster."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import trustme
import yaml
from compose_spec import PyCompose

from service.settings import Settings
from tests.support.paths import ROOT
from tests.support.running_balancer import configured_seconds, haproxy

DOCKER = ROOT / "docker"
COMPOSE_FILES = ("compose.yaml", "compose.keys.yaml")
MANIFESTS = sorted(
    path for path in (DOCKER / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml"
)


def with_defaults(text: str) -> str:
    """A compose file as it is read where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def services(name: str = "compose.yaml") -> dict[str, Any]:
    loaded = yaml.safe_load(with_defaults((DOCKER / name).read_text()))
    return dict(loaded["services"])


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [
        document
        for path in MANIFESTS
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == kind
    ]
    return dict(found)


def container() -> dict[str, Any]:
    (found,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_copies_only_what_its_context_holds() -> None:
    kept = {
        line.removeprefix("!").rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.M)
    copied = {name for copy in copies for name in copy.split()}
    assert copied == kept
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_files_are_what_the_specification_allows(name: str) -> None:
    compose = PyCompose.from_yaml(with_defaults((DOCKER / name).read_text()))
    if name == "compose.yaml":
        compose.validate()


def test_nothing_that_is_mounted_is_missing() -> None:
    mounted = [
        volume.partition(":")[0]
        for service in services().values()
        for volume in service["volumes"]
        if volume.startswith("./")
    ]
    assert mounted
    assert all((DOCKER / path).is_dir() for path in mounted)


def test_every_container_is_confined() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "mem_limit", "pids_limit"} <= set(service), name
        assert "healthcheck" in service or name.startswith("replica"), name
    context = container()["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]


def test_callers_reach_replicas_by_the_balancer_alone() -> None:
    published = {name for name, service in services().items() if "ports" in service}
    assert published == {"balancer", "grafana"}
    for name in published:
        assert all(port.startswith("127.0.0.1:") for port in services()[name]["ports"])


def test_every_setting_in_these_files_is_one_of_the_service() -> None:
    known = {f"LEGRAD_{name.upper()}" for name in Settings.model_fields}
    used = set(services()["replica-1"]["environment"])
    used |= set(services("compose.keys.yaml")["replica-1"]["environment"])
    used |= {variable["name"] for variable in container()["env"]}
    dockerfile = (DOCKER / "Dockerfile").read_text()
    used |= set(re.findall(r"(LEGRAD_[A-Z_]+)=", dockerfile))
    assert {name for name in used if name.startswith("LEGRAD_")} <= known


def test_an_operator_s_own_variables_are_passed_to_the_balancer() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    environment = compose["services"]["balancer"]["environment"]
    assert environment["BALANCER_ADDRESS_LIMIT"] == "${BALANCER_ADDRESS_LIMIT:-64}"
    # Empty, it names no third replica.
    assert environment["REPLICA_3"] == "${REPLICA_3:-}"


def test_every_variable_of_the_balancer_is_one_that_its_configuration_reads() -> None:
    read = {
        name
        for file in (DOCKER / "haproxy").glob("*.cfg")
        for pair in re.findall(r"\$\{(\w+)|defined\((\w+)\)", file.read_text())
        for name in pair
    }
    used = set(services()["balancer"]["environment"])
    chart = (DOCKER / "helm/legrad/templates/balancer-deployment.yaml").read_text()
    used |= set(re.findall(r"- name: ([A-Z_]+)\n", chart))
    assert len(used) > 8
    assert used <= read


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_a_third_replica_is_one_line_of_each_file(name: str) -> None:
    text = (DOCKER / name).read_text()
    uncommented = text.replace("  # replica-3: *replica\n", "  replica-3: *replica\n")
    assert uncommented != text
    PyCompose.from_yaml(with_defaults(uncommented))
    found = yaml.safe_load(uncommented)["services"]
    # Without the keys of the others it would open what they close.
    assert found["replica-3"] == found["replica-1"]


def test_prometheus_finds_every_service_that_it_scrapes_or_tells() -> None:
    config = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    targets = [
        target.partition(":")[0]
        for entry in (*config["scrape_configs"], *config["alerting"]["alertmanagers"])
        for group in entry["static_configs"]
        for target in group["targets"]
    ]
    assert set(targets) == {"replica-1", "replica-2", "balancer", "alertmanager"}
    for name in targets:
        assert "watchers" in services()[name]["networks"]


def test_nobody_gives_up_before_a_stopping_replica_has_answered() -> None:
    replica, balancer = services()["replica-1"], services()["balancer"]
    settings = replica["environment"]
    needed = float(settings["LEGRAD_SHUTDOWN_DELAY_SECONDS"]) + float(
        settings["LEGRAD_DRAIN_TIMEOUT_SECONDS"]
    )
    assert seconds(replica["stop_grace_period"]) > needed + 5
    deadline = float(settings["LEGRAD_REQUEST_TIMEOUT_SECONDS"])
    assert float(settings["LEGRAD_DRAIN_TIMEOUT_SECONDS"]) >= deadline
    silence = seconds(balancer["environment"]["BALANCER_ANSWER_TIMEOUT"])
    assert silence > deadline
    assert silence == configured_seconds("timeout server")
    # A connection that was kept may bring one more request just before it would have ended.
    last = configured_seconds("timeout http-keep-alive") + configured_seconds(
        "timeout http-request"
    )
    hard_stop = seconds(balancer["environment"]["BALANCER_HARD_STOP"])
    assert hard_stop == configured_seconds("hard-stop-after")
    assert hard_stop >= last + silence
    assert seconds(balancer["stop_grace_period"]) > hard_stop

    environment = {variable["name"]: variable["value"] for variable in container()["env"]}
    delay = float(environment["LEGRAD_SHUTDOWN_DELAY_SECONDS"])
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    needed = delay + float(environment["LEGRAD_DRAIN_TIMEOUT_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > needed + 5
    probe = container()["readinessProbe"]
    assert delay > probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_the_cluster_s_schema_allows(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, "1.29", strict=True)


def test_every_manifest_is_applied() -> None:
    applied = yaml.safe_load((DOCKER / "kubernetes" / "kustomization.yaml").read_text())
    assert sorted(applied["resources"]) == [path.name for path in MANIFESTS]


def test_only_the_readiness_of_a_pod_depends_on_its_model() -> None:
    paths = {
        probe: container()[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {
        "startupProbe": "/health/live",
        "readinessProbe": "/health/ready",
        "livenessProbe": "/health/live",
    }


@pytest.mark.parametrize(
    "variables",
    [
        {"REPLICA_3": ""},
        {"REPLICA_3": "127.0.0.1:8003"},
        {"REPLICAS": "localhost:8001", "REPLICA_SLOTS": "4"},
        {"BALANCER_ANSWER_TIMEOUT": "86410s", "BALANCER_HARD_STOP": "86450s"},
    ],
    ids=["two", "three", "by-name", "a-day"],
)
@pytest.mark.parametrize("files", [("haproxy.cfg",), ("haproxy.cfg", "tls.cfg")])
def test_the_balancer_s_configuration_is_valid(
    files: tuple[str, ...], variables: dict[str, str], tmp_path: Path
) -> None:
    certificate = tmp_path / "tls.pem"
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    arguments = [part for file in files for part in ("-f", str(DOCKER / "haproxy" / file))]
    done = subprocess.run(
        [haproxy(), "-c", "-dW", *arguments],
        env={
            "REPLICA_1": "127.0.0.1:8001",
            "REPLICA_2": "127.0.0.1:8002",
            "BALANCER_TLS_CERTIFICATE": str(certificate),
        }
        | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
