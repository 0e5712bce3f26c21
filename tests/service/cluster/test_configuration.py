"""The shipped configuration is right, and each kind of mistake in one is named before Ray sees it.

Ray is in an environment of its own, so that one program there checks all of them.
"""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import DOCKER, ROOT
from tests.support.ray_serve import ray_environment, shipped

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_PROGRAM = """
import json, sys
from service.cluster.configuration import mistakes
print(json.dumps([mistakes(each) for each in json.load(sys.stdin)]))
"""

Change = Callable[[dict[str, Any]], object]


def deployment(config: dict[str, Any]) -> dict[str, Any]:
    return config["applications"][0]["deployments"][0]  # type: ignore[no-any-return]


def variables(config: dict[str, Any]) -> dict[str, Any]:
    return config["applications"][0]["runtime_env"]["env_vars"]  # type: ignore[no-any-return]


def rename(found: dict[str, Any], old: str, new: str) -> None:
    found[new] = found.pop(old)


WRONG: dict[str, Change] = {
    "http_option: Ray Serve has no such key": lambda c: rename(c, "http_options", "http_option"),
    "http_options.keepalive_timeout_s: Ray": lambda c: rename(
        c["http_options"], "keep_alive_timeout_s", "keepalive_timeout_s"
    ),
    "applications[0].route_prefixes: Ray": lambda c: rename(
        c["applications"][0], "route_prefix", "route_prefixes"
    ),
    "deployments[0].max_ongoing_request: Ray": lambda c: deployment(c).update(
        max_ongoing_request=200
    ),
    "autoscaling_config.max_replica: Ray": lambda c: rename(
        deployment(c)["autoscaling_config"], "max_replicas", "max_replica"
    ),
    "ray_actor_options.num_gpu: Ray": lambda c: deployment(c)["ray_actor_options"].update(
        num_gpu=1
    ),
    "runtime_env.env_var: Ray": lambda c: rename(
        c["applications"][0]["runtime_env"], "env_vars", "env_var"
    ),
    "LEGRAD_MODEL: there is no such setting; is it LEGRAD_MODELS?": lambda c: rename(
        variables(c), "LEGRAD_MODELS", "LEGRAD_MODEL"
    ),
    "LEGRAD_MAX_IMAGES": lambda c: variables(c).update(LEGRAD_MAX_IMAGES="many"),
    "LEGRAD_ADMIN_PORT=9000": lambda c: variables(c).update(LEGRAD_ADMIN_PORT="9000"),
    "LEGRAD_MAX_CONNECTIONS: it has no effect": lambda c: variables(c).update(
        LEGRAD_MAX_CONNECTIONS="10"
    ),
    "RAY_SERVE_ENABLE_HA_PROXY=1": lambda c: variables(c).update(RAY_SERVE_ENABLE_HA_PROXY="1"),
    "GOMP_SPINCOUNT": lambda c: variables(c).pop("GOMP_SPINCOUNT"),
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": lambda c: c.pop("controller_options"),
    "max_ongoing_requests=5": lambda c: deployment(c).update(max_ongoing_requests=5),
    "graceful_shutdown_timeout_s=30": lambda c: deployment(c).update(
        graceful_shutdown_timeout_s=30
    ),
    "graceful_shutdown_timeout_s=60": lambda c: (
        deployment(c).update(graceful_shutdown_timeout_s=60),
        variables(c).update(LEGRAD_SHUTDOWN_DELAY_SECONDS="30"),
    ),
    "target_ongoing_requests=2": lambda c: deployment(c)["autoscaling_config"].pop(
        "target_ongoing_requests"
    ),
    "request_timeout_s": lambda c: c["http_options"].pop("request_timeout_s"),
    "'legrat' does not exist": lambda c: deployment(c).update(name="legrat"),
    "args": lambda c: c["applications"][0].update(args={"model": "starter"}),
    "none has the import_path": lambda c: c["applications"][0].update(import_path="other:app"),
    "autoscaling_config.max_replicas: Input should be": lambda c: deployment(c)[
        "autoscaling_config"
    ].update(max_replicas="x"),
    "autoscaling_config: Value error, max_replicas (8)": lambda c: deployment(c)[
        "autoscaling_config"
    ].update(min_replicas=9),
    'env_vars.LEGRAD_MAX_IMAGES: names and values should be texts; write LEGRAD_MAX_IMAGES: "4"': (
        lambda c: variables(c).update(LEGRAD_MAX_IMAGES=4)
    ),
    "env_vars.LEGRAD_SRGB_FOR_MODEL: names and values should be texts; write "
    'LEGRAD_SRGB_FOR_MODEL: "false"': lambda c: variables(c).update(LEGRAD_SRGB_FOR_MODEL=False),
    "deployments[0].ray_actor_options.runtime_env.env_vars.A: names and values should be "
    'texts; write A: ""': lambda c: deployment(c)["ray_actor_options"].update(
        runtime_env={"env_vars": {**variables(c), "A": None}}
    ),
    "controller_options.runtime_env.env_vars.B: names and values": lambda c: c[
        "controller_options"
    ]["runtime_env"]["env_vars"].update(B=1.5),
    "runtime_env.env_vars: write names and values": lambda c: c["applications"][0][
        "runtime_env"
    ].update(env_vars=None),
    "controller_options.runtime_env.env_vars: write names and values": lambda c: c[
        "controller_options"
    ]["runtime_env"].update(env_vars=None),
    "ray_actor_options.runtime_env.env_vars: write names and values": lambda c: deployment(c)[
        "ray_actor_options"
    ].update(runtime_env={"env_vars": ["A=1"]}),
    "deployments: 'legrad' is there 2 times": lambda c: c["applications"][0]["deployments"].append(
        deployment(c)
    ),
    "applications: Field required": lambda c: c.pop("applications"),
}


def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "ray/rayservice.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """The mistakes of each wrong configuration, and those of the shipped ones."""
    configs = {}
    for name, change in WRONG.items():
        configs[name] = copy.deepcopy(shipped())
        change(configs[name])
    configs["serve.yaml"] = shipped()
    configs["rayservice.yaml"] = yaml.safe_load(manifest()["spec"]["serveConfigV2"])
    configs["no configuration"] = ["applications"]  # type: ignore[assignment]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=ROOT,
        env=ray_environment(),
        input=json.dumps(list(configs.values())),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(configs, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("file", ["serve.yaml", "rayservice.yaml"])
def test_the_shipped_configurations_are_right(found: dict[str, list[str]], file: str) -> None:
    assert found[file] == []


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mistake_is_named(found: dict[str, list[str]], wrong: str) -> None:
    assert any(wrong in line for line in found[wrong]), found[wrong]


def test_a_number_in_place_of_a_text_is_the_only_mistake_that_is_told(
    found: dict[str, list[str]],
) -> None:
    (wrong,) = [name for name in WRONG if "LEGRAD_MAX_IMAGES: names" in name]
    assert len(found[wrong]) == 1, found[wrong]


def test_something_else_is_no_configuration(found: dict[str, list[str]]) -> None:
    assert "`applications:`" in found["no configuration"][0]


def test_the_manifest_deploys_the_same_as_the_file() -> None:
    inside, outside = yaml.safe_load(manifest()["spec"]["serveConfigV2"]), shipped()
    # In a pod the balancer comes from another address.
    assert inside["http_options"].pop("host") == "0.0.0.0"
    assert outside["http_options"].pop("host") == "127.0.0.1"
    assert inside == outside


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (None, 0, "can be deployed"),
        ("applications: [", 2, "cannot be read"),
        ("a: 1", 2, "a: Ray"),
        ("kind: RayService", 2, "spec.serveConfigV2 should hold"),
        ("kind: RayService\nspec: []", 2, "spec.serveConfigV2 should hold"),
        ("kind: RayService\nspec: {serveConfigV2: {a: 1}}", 2, "spec.serveConfigV2 should hold"),
        ("kind: RayService\nspec: {serveConfigV2: 'a: ['}", 2, "spec.serveConfigV2 is no YAML"),
    ],
)
def test_the_command_tells_by_its_exit_status(
    tmp_path: Path, content: str | None, status: int, said: str
) -> None:
    file = DOCKER / "ray/serve.yaml"
    if content is not None:
        file = tmp_path / "wrong.yaml"
        file.write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "service.cluster", str(file)],
        cwd=ROOT,
        env=ray_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
