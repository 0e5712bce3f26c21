"""Program of an environment with Ray: a cluster of one node, told what to do over standard input.

Its argument is the number of cores. Each line of standard input is a JSON object, a configuration
of Ray Serve; the answer is a line of JSON. Tests use it, too.
"""

import json
import socket
import sys
import threading
from typing import Any

import ray
from ray import serve
from ray._private import parameter, services
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

_LISTEN_PORT = "dashboard_agent_listen_port"
_AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "runtime_env_agent_port",
    _LISTEN_PORT,
)
_PATIENCE_SECONDS = 600.0
_SETTLED = ("RUNNING", "DEPLOY_FAILED", "UNHEALTHY")


def main() -> None:
    """Run the cluster until standard input ends."""
    _choose_ports()
    ray.init(num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False)
    for line in sys.stdin:
        print(json.dumps(deploy(json.loads(line))), flush=True)
    serve.shutdown()
    ray.shutdown()


def _choose_ports() -> None:
    """Choose the ports of Ray's agents, which would have 15 s to choose and tell them.

    On a busy machine they take longer, and the start fails.
    """
    options = {name: _free_port() for name in _AGENT_PORTS}
    make_parameters, start_process = parameter.RayParams, services.start_ray_process

    def with_ports(*arguments: Any, **named: Any) -> Any:
        return make_parameters(*arguments, **named | options)

    def told(command: list[str], process: str, *arguments: Any, **named: Any) -> Any:
        # Ray tells its node manager the other ports, but not this one.
        if process == PROCESS_TYPE_RAYLET:
            command = [*command, f"--{_LISTEN_PORT}={options[_LISTEN_PORT]}"]
        return start_process(command, process, *arguments, **named)

    parameter.RayParams, services.start_ray_process = with_ports, told


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def deploy(config: dict[str, Any]) -> dict[str, str]:
    """Deploy a configuration as ``serve run`` does; return status and message once it settles."""
    schema = ServeDeploySchema.model_validate(config)
    serve.start(
        proxy_location=schema.proxy_location,
        http_options=schema.http_options.model_dump(),
        controller_options=schema.controller_options,
    )
    _get_global_client().deploy_apps(schema)
    (name,) = (application.name for application in schema.applications)
    pause = threading.Event()
    for _ in range(int(_PATIENCE_SECONDS / 0.2)):
        application = serve.status().applications.get(name)
        if application is None:
            pause.wait(0.2)
            continue
        if application.status in _SETTLED:
            break
        failed = [each for each in application.deployments.values() if "fail" in each.message]
        if failed:
            return {"status": "failing", "message": failed[0].message}
        pause.wait(0.2)
    if application is None:
        return {"status": "missing", "message": ""}
    return {"status": str(application.status.value), "message": application.message}


if __name__ == "__main__":
    main()
