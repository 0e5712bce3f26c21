"""Values of the Ray Serve deployment that follow from the settings of the service."""

import os
from collections.abc import Container, Mapping

from pydantic import ValidationError

from legrad_engine.errors import InvalidOptionError
from service.settings import Settings
from service.settings.cores import picture_processes
from service.settings.mistakes import in_lines

# As behind every balancer of this project: to refuse interrupted requests, and to stop workers.
_END_SECONDS = 5.0
# Ray looks for requests in progress this often before it stops a replica.
DRAIN_LOOP_SECONDS = 2.0
# Requests in progress beyond `LEGRAD_MAX_REQUESTS_IN_PROGRESS` that reach a replica, so that it
# refuses them itself: the room for callers that hold little, health checks, metrics.
_ROOM_SHARE = 1 / 8
_ROOM_BESIDE = 32
# One batch is computed while the next one fills.
_BATCHES_IN_PROGRESS = 2

NAME = "legrad"
"""Name of the deployment, under which a configuration file overrides its options."""

IMPORT_PATH = "service.cluster.application:build"
"""The application, in a configuration file."""

PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Variable of Ray's proxies: the function that returns middleware for them."""

MIDDLEWARE_PATH = "service.cluster.proxy:middlewares"
"""The value of that variable."""

# Ray then lets each replica listen on every interface, on a port of its own.
_LISTENING_REPLICAS = (
    "RAY_SERVE_ENABLE_HA_PROXY",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED",
)
# Settings of the sockets of `legrad serve`.
_SOCKET_SETTINGS = (
    "host",
    "port",
    "uds",
    "admin_host",
    "max_connections",
    "head_timeout_seconds",
    "idle_timeout_seconds",
    "send_timeout_seconds",
)


def least_ongoing_requests(settings: Settings) -> int:
    """Return the fewest requests in progress that keep a replica's batches full."""
    return _BATCHES_IN_PROGRESS * settings.cpu_batch_images


def most_ongoing_requests(settings: Settings) -> int:
    """Return ``max_ongoing_requests``: more than the replica admits, so that it refuses itself.

    Ray's default of 5 would leave the batcher with at most five images at a time, and requests
    beyond it would wait in Ray's proxy, where no deadline and no fair share counts.
    """
    admitted = max(settings.max_requests_in_progress, least_ongoing_requests(settings))
    return round(admitted * (1 + _ROOM_SHARE)) + _ROOM_BESIDE


def least_shutdown_seconds(settings: Settings) -> float:
    """Return the time that a replica needs to stop: delay, drain and end."""
    return settings.shutdown_delay_seconds + settings.drain_timeout_seconds + _END_SECONDS


def shutdown_seconds(settings: Settings) -> float:
    """Return ``graceful_shutdown_timeout_s``, after which Ray kills a replica."""
    return least_shutdown_seconds(settings) + DRAIN_LOOP_SECONDS


def read_settings() -> Settings:
    """Return the settings of the environment, checked for Ray Serve.

    Raises:
        InvalidOptionError: a variable is wrong, or cannot hold under Ray Serve.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise InvalidOptionError("\n".join(in_lines(error, {}))) from error
    check_settings(settings)
    check_mode(os.environ)
    return settings


def check_settings(settings: Settings) -> None:
    """Refuse settings that cannot hold under Ray Serve.

    Raises:
        InvalidOptionError: the operators' address is set, but Ray owns the sockets.
    """
    if settings.admin_port is not None:
        raise InvalidOptionError(
            f"LEGRAD_ADMIN_PORT={settings.admin_port}: Ray Serve owns the sockets, so that no "
            "request could come in at this port, and loading and metrics would be reachable for "
            "nobody. Unset it, and give the service keys: docs/access.md.",
            field="admin_port",
        )


def ineffective_fields(given: Container[str]) -> list[str]:
    """Return the variables that have no effect, because sockets are Ray's.

    Args:
        given: names of the fields of the settings that are set.
    """
    return [f"LEGRAD_{field.upper()}" for field in _SOCKET_SETTINGS if field in given]


def check_mode(variables: Mapping[str, str]) -> None:
    """Refuse modes of Ray Serve in which replicas listen themselves, past every balancer.

    Args:
        variables: environment variables of the cluster.

    Raises:
        InvalidOptionError: such a mode is on.
    """
    for name in _LISTENING_REPLICAS:
        if variables.get(name, "0") == "1":
            raise InvalidOptionError(
                f"{name}=1: in this mode each replica listens on every interface (0.0.0.0), "
                "whatever http_options.host says, without the typed errors of "
                "service.cluster.proxy. Unset it, and put docker/haproxy in front of Ray's "
                "proxies: docs/scaling.md."
            )


def check_deployment(settings: Settings, ongoing: float, shutdown: float) -> None:
    """Check options of the deployment against the settings.

    Args:
        settings: settings of the replica.
        ongoing: the deployment's ``max_ongoing_requests``.
        shutdown: the deployment's ``graceful_shutdown_timeout_s``, in seconds.

    Raises:
        InvalidOptionError: batches would stay small, or Ray would kill a replica that drains.
    """
    if ongoing < least_ongoing_requests(settings):
        raise InvalidOptionError(
            f"max_ongoing_requests={ongoing:g}: batches of LEGRAD_MAX_BATCH_IMAGES="
            f"{settings.cpu_batch_images} need {least_ongoing_requests(settings)} requests in "
            "progress, one batch in the model and one that fills. Remove the option from the "
            f"deployment, which then has {most_ongoing_requests(settings)}.",
            field="max_ongoing_requests",
        )
    if shutdown < least_shutdown_seconds(settings):
        raise InvalidOptionError(
            f"graceful_shutdown_timeout_s={shutdown:g}: a replica needs "
            f"{least_shutdown_seconds(settings):g} s to stop, LEGRAD_SHUTDOWN_DELAY_SECONDS, "
            "LEGRAD_DRAIN_TIMEOUT_SECONDS and 5 s; Ray would kill it with requests in progress. "
            "Remove the option from the deployment, or raise it.",
            field="graceful_shutdown_timeout_s",
        )


def with_assigned_cores(settings: Settings, cores: float) -> Settings:
    """Return settings with as many picture processes as a replica's own cores are enough for.

    The machine's other cores belong to other replicas.

    Args:
        settings: settings of the environment.
        cores: cores that Ray has given to this replica; less than one tells nothing.
    """
    if settings.picture_processes is not None or cores < 1:
        return settings
    return settings.model_copy(update={"picture_processes": picture_processes(cores)})
