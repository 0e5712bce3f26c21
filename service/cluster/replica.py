"""One replica of the deployment: its start, and its health."""

import os
from typing import TYPE_CHECKING

import ray
import structlog
from ray import serve
from starlette.types import ASGIApp

from legrad_engine.importing import frozen_after
from service.cluster.values import (
    MIDDLEWARE_PATH,
    PROXY_CALLBACK,
    check_deployment,
    ineffective_fields,
    least_ongoing_requests,
    read_settings,
    with_assigned_cores,
)
from service.settings import Settings, unknown_variables
from service.settings.native_libraries import NATIVE_VARIABLES
from service.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from service.cluster.running import RunningApplication

_log = structlog.get_logger("legrad.service")


class Replica:
    """The deployment's class; Ray calls its methods on one event loop."""

    _application: "RunningApplication"

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Start the application, and return it once it would answer a request.

        Ray sends requests to a replica as soon as it has this application.

        Raises:
            InvalidOptionError: settings or options of the deployment cannot hold.
            ServiceError: the default model cannot be loaded; Ray starts the replica again.
        """
        settings = read_settings()
        configure_logs(settings.log_level, settings.log_format)
        deployment = serve.get_replica_context()._deployment_config
        check_deployment(
            settings, deployment.max_ongoing_requests, deployment.graceful_shutdown_timeout_s
        )
        _warn(settings, deployment.autoscaling_config)
        # Only here, because the process that builds the application needs no torch.
        with frozen_after():
            from service.cluster.running import RunningApplication

        cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)
        self._application = RunningApplication(with_assigned_cores(settings, cores))
        await self._application.start()
        return self._application

    async def check_health(self) -> None:
        """Raise an error if requests would not be answered.

        Ray has no readiness: this is its only way to keep requests away. It replaces a replica
        after three failures in a row.

        Raises:
            NotReadyError: the replica is not ready.
        """
        self._application.readiness.require()


def _warn(settings: Settings, autoscaling: object) -> None:
    """Log what has no effect, or another one than an operator may expect."""
    for name, similar in unknown_variables(os.environ).items():
        _log.warning("unknown setting", variable=name, similar=similar)
    for name in ineffective_fields(settings.model_fields_set):
        _log.warning("setting without effect under Ray Serve, which owns sockets", variable=name)
    for name in NATIVE_VARIABLES:
        if name not in os.environ:
            _log.warning("native libraries have their defaults", variable=name)
    if os.environ.get(PROXY_CALLBACK) != MIDDLEWARE_PATH:
        _log.warning(
            "lost replicas give callers bare errors",
            variable=PROXY_CALLBACK,
            remedy=f"set it to {MIDDLEWARE_PATH}, as docker/ray/serve.yaml does",
        )
    target = getattr(autoscaling, "target_ongoing_requests", None)
    if target is not None and target < settings.cpu_batch_images:
        _log.warning(
            "more replicas are started before batches are full",
            target_ongoing_requests=target,
            remedy=f"set it to {least_ongoing_requests(settings)}",
        )
