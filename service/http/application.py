"""The state of one application: the parts that its routes and layers use."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route

from service.explaining.service import ExplainingService
from service.http.access import AccessControl
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
        readiness: whether requests would be answered now.
        access: API keys and the operators' address.
        metrics: Prometheus metrics.
        tracing: traces, if they are exported.
        drain: the end of the server.
        routes: all routes, for the methods of a path.
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
    routes: Sequence[Route]
    request_limits: RequestLimits
    url_rules: UrlRules
    request_timeout_seconds: float


def application_of(app: Starlette) -> ApplicationState:
    """Return the state of an application that ``create_app`` has made."""
    state: ApplicationState = app.state.application
    return state
