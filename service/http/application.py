"""The state of one application: the parts that its routes and layers use."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route

from service.explaining.service import ExplainingService
from service.http.access import AccessControl
from service.http.bodies import BodyThreads
from service.http.drain import Drain
from service.pool.model_pool import ModelPool
from service.pool.readiness import Readiness
from service.settings.url_policy import UrlRules
from service.settings.values import RequestLimits
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """The parts of one application.

    Attributes:
        explaining: the use case.
        pool: the served models.
        readiness: readiness of the server and of each model.
        access: access control by listening address, API key and scope.
        metrics: Prometheus metrics.
        tracing: spans, exported if a collector is configured.
        drain: state of the shutdown.
        body_threads: threads that parse large bodies.
        routes: all routes; errors look up the methods of a path in them.
        request_limits: limits on the content of one request.
        url_rules: the hosts from which pictures are fetched.
        request_timeout_seconds: longest deadline of a request.
    """

    explaining: ExplainingService
    pool: ModelPool
    readiness: Readiness
    access: AccessControl
    metrics: Metrics
    tracing: Tracing
    drain: Drain
    body_threads: BodyThreads
    routes: Sequence[Route]
    request_limits: RequestLimits
    url_rules: UrlRules
    request_timeout_seconds: float


def application_of(app: Starlette) -> ApplicationState:
    """Return the state of an application created by ``create_app``."""
    state: ApplicationState = app.state.application
    return state
