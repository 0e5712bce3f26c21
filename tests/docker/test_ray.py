"""The RayService manifest and its image, as far as they can be checked without KubeRay.

Its configuration is tested beside the code that reads it, in tests/service/cluster.
"""

import re
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.paths import DOCKER, ROOT

MANIFEST = yaml.safe_load((DOCKER / "ray" / "rayservice.yaml").read_text())
CLUSTER = MANIFEST["spec"]["rayClusterConfig"]
TEMPLATES = {
    "head": CLUSTER["headGroupSpec"]["template"],
    **{each["groupName"]: each["template"] for each in CLUSTER["workerGroupSpecs"]},
}


CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
(STAGE,) = re.findall(
    r"^FROM runtime AS ray\n(.*?)(?=^FROM )", (DOCKER / "Dockerfile").read_text(), re.M | re.S
)


def gibibytes(quantity: str) -> float:
    return float(quantity.removesuffix("Gi"))


def pod(template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **template}


@pytest.mark.parametrize("group", TEMPLATES)
def test_its_pods_are_what_kubernetes_allows(group: str) -> None:
    kubernetes_validate.validate(pod(TEMPLATES[group]), "1.29", strict=True)


@pytest.mark.parametrize("group", TEMPLATES)
def test_its_pods_are_confined_and_live_until_a_replica_has_stopped(group: str) -> None:
    spec = TEMPLATES[group]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == CONFINED
    assert spec["enableServiceLinks"] is False
    assert spec["terminationGracePeriodSeconds"] > 37
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_the_head_s_service_has_the_ports_that_kuberay_and_workers_call() -> None:
    # KubeRay gives the Service the ports of the container, if it lists any.
    (container,) = TEMPLATES["head"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    expected = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}
    assert expected.items() <= ports.items()


def test_only_the_head_with_its_autoscaler_has_a_token() -> None:
    assert CLUSTER["enableInTreeAutoscaling"] is True
    assert CLUSTER["autoscalerOptions"]["securityContext"] == CONFINED
    tokens = {
        name: each["spec"]["automountServiceAccountToken"] for name, each in TEMPLATES.items()
    }
    assert tokens.pop("head") is True
    assert tokens
    assert not any(tokens.values())


@pytest.mark.parametrize("group", TEMPLATES)
def test_shared_memory_holds_the_object_store(group: str) -> None:
    spec = TEMPLATES[group]["spec"]
    (container,) = spec["containers"]
    memory = gibibytes(container["resources"]["limits"]["memory"])
    (shared,) = [each["emptyDir"] for each in spec["volumes"] if each["name"] == "shared-memory"]
    # The share of Ray's object store by default.
    assert gibibytes(shared["sizeLimit"]) > 0.3 * memory


def test_its_image_has_the_program_of_kuberay_s_probes() -> None:
    assert re.search(r"apt-get install .*\bwget\b", STAGE)
    assert STAGE.rstrip().splitlines()[-1] == 'CMD ["ray", "start", "--head", "--block"]'


def test_its_image_finds_ray_in_login_shells_as_kuberay_starts_them() -> None:
    found = re.search(r"&& echo '(.*)' > /etc/profile\.d/\w+\.sh$", STAGE, re.M)
    assert found
    done = subprocess.run(
        ["bash", "-c", f'PATH=/usr/bin; {found[1]}; echo "$PATH"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "/opt/legrad/bin:/usr/bin\n"


def test_its_image_runs_the_command_that_kuberay_gives_it() -> None:
    # Arguments alone would go to `legrad`, and its health check knows no Ray.
    assert "\nENTRYPOINT []\n" in STAGE
    assert "\nHEALTHCHECK NONE\n" in STAGE
    assert re.findall(r"^USER (\S+)$", STAGE, re.M)[-1] == "10001:10001"


def test_its_version_of_ray_is_that_of_the_extra() -> None:
    extra = re.search(r'"ray\[[\w,]+\]>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
    if extra is None:
        pytest.skip("the extra is not there yet")
    assert CLUSTER["rayVersion"].startswith(f"{extra[1]}.")
