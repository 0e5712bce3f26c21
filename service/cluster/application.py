"""The Ray Serve application; its import path is ``service.cluster.application:build``.

Ray builds it in a process with the environment variables of the application, so that the options
of the deployment follow from the same settings as the replicas.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve

from service.cluster.replica import Replica
from service.cluster.values import (
    DRAIN_LOOP_SECONDS,
    NAME,
    least_ongoing_requests,
    most_ongoing_requests,
    read_settings,
    shutdown_seconds,
)
from service.settings import Settings
from service.settings.native_libraries import NATIVE_VARIABLES


class NoArguments(BaseModel):
    """The application takes no ``args``: all settings are environment variables."""

    model_config = ConfigDict(extra="forbid")


def build(args: NoArguments) -> Any:  # noqa: ARG001
    """Build the application.

    Args:
        args: the ``args`` of the configuration file; none are known.

    Returns:
        A Ray Serve application of one deployment.

    Raises:
        InvalidOptionError: see :func:`service.cluster.values.read_settings`.
    """
    settings = read_settings()
    deployment = serve.deployment(name=NAME, **options(settings))
    return deployment(serve.ingress()(Replica)).bind()


def options(settings: Settings) -> dict[str, Any]:
    """Return the options of the deployment that follow from the settings."""
    return {
        "max_ongoing_requests": most_ongoing_requests(settings),
        # In each proxy, while no replica has room. Beyond it the answer is 429, not a long wait.
        "max_queued_requests": settings.max_requests_in_progress,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": 1,
            "target_ongoing_requests": least_ongoing_requests(settings),
        },
        "graceful_shutdown_wait_loop_s": DRAIN_LOOP_SECONDS,
        "graceful_shutdown_timeout_s": shutdown_seconds(settings),
        # A new replica is ready before an old one stops.
        "max_surge_percent": 100,
        "ray_actor_options": {"num_cpus": 1, "runtime_env": {"env_vars": NATIVE_VARIABLES}},
    }
